"""Exact and sampled answers on finite problems: MDPs, POMDPs and constrained MDPs, planning, prediction and control.

Names are imported on first use, so ``import steersman.tabular`` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "MDP": "mdp",
    "from_arrays": "problems.builders",
    "from_gymnasium": "problems.builders",
    "from_pairs": "problems.pairs",
    "from_successors": "problems.builders",
    "from_table": "problems.builders",
    "from_text": "problems.builders",
    "problem": "problems.classics",
    "random_mdp": "problems.classics",
    "evaluate": "planning.dynamic_programming",
    "modified_policy_iteration": "planning.dynamic_programming",
    "policy_iteration": "planning.dynamic_programming",
    "value_iteration": "planning.dynamic_programming",
    "gauss_seidel": "planning.asynchronous",
    "prioritized_sweeping": "planning.asynchronous",
    "average_reward": "planning.criteria",
    "finite_horizon": "planning.criteria",
    "linear_program": "planning.criteria",
    "restarting": "planning.criteria",
    "advantages": "planning.objectives",
    "average_reward_of": "planning.objectives",
    "average_value": "planning.objectives",
    "policy_gradient": "planning.objectives",
    "start_value": "planning.objectives",
    "stationary": "planning.objectives",
    "trajectory_log_prob": "planning.objectives",
    "visitation": "planning.objectives",
    "sample_episodes": "learning.episodes",
    "importance_sampling": "learning.prediction",
    "lambda_return": "learning.prediction",
    "monte_carlo": "learning.prediction",
    "n_step_td": "learning.prediction",
    "td0": "learning.prediction",
    "td_lambda": "learning.prediction",
    "true_online_td_lambda": "learning.prediction",
    "learn": "learning.control",
    "double_q_learning": "learning.control",
    "expected_sarsa": "learning.control",
    "q_learning": "learning.control",
    "r_learning": "learning.control",
    "sarsa": "learning.control",
    "n_step_sarsa": "learning.multistep",
    "sarsa_lambda": "learning.multistep",
    "tree_backup": "learning.multistep",
    "watkins_q_lambda": "learning.multistep",
    "dyna_q": "learning.dyna",
    "dyna_q_plus": "learning.dyna",
    "sarsa_lambda_linear": "learning.linear",
    "tile_coder": "learning.linear",
    "POMDP": "pomdp",
    "BeliefEnv": "pomdp",
    "ObservedEnv": "pomdp",
    "hallway": "problems.pomdp_classics",
    "pomdp_problem": "problems.pomdp_classics",
    "tiger": "problems.pomdp_classics",
    "read_pomdp": "problems.cassandra",
    "fast_informed_bound": "planning.pomdp_planning",
    "pbvi": "planning.pomdp_planning",
    "qmdp": "planning.pomdp_planning",
    "ConstrainedMDP": "planning.constrained",
    "lagrangian": "planning.constrained",
    "solve_constrained": "planning.constrained",
}

__all__ = sorted(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
