"""Exact and sampled answers on finite problems: MDPs, POMDPs and constrained MDPs, planning, prediction and control.

Names are imported on first use, so ``import steersman.tabular`` stays light.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "MDP": "mdp",
    "from_arrays": "builders",
    "from_gymnasium": "builders",
    "from_successors": "builders",
    "from_table": "builders",
    "from_text": "builders",
    "problem": "classics",
    "random_mdp": "classics",
    "evaluate": "planning",
    "modified_policy_iteration": "planning",
    "policy_iteration": "planning",
    "value_iteration": "planning",
    "gauss_seidel": "asynchronous",
    "prioritized_sweeping": "asynchronous",
    "average_reward": "criteria",
    "finite_horizon": "criteria",
    "linear_program": "criteria",
    "restarting": "criteria",
    "advantages": "objectives",
    "average_reward_of": "objectives",
    "average_value": "objectives",
    "policy_gradient": "objectives",
    "start_value": "objectives",
    "stationary": "objectives",
    "trajectory_log_prob": "objectives",
    "visitation": "objectives",
    "sample_episodes": "episodes",
    "importance_sampling": "prediction",
    "lambda_return": "prediction",
    "monte_carlo": "prediction",
    "n_step_td": "prediction",
    "td0": "prediction",
    "td_lambda": "prediction",
    "true_online_td_lambda": "prediction",
    "learn": "control",
    "double_q_learning": "control",
    "expected_sarsa": "control",
    "q_learning": "control",
    "r_learning": "control",
    "sarsa": "control",
    "n_step_sarsa": "multistep",
    "sarsa_lambda": "multistep",
    "tree_backup": "multistep",
    "watkins_q_lambda": "multistep",
    "dyna_q": "dyna",
    "dyna_q_plus": "dyna",
    "sarsa_lambda_linear": "linear",
    "tile_coder": "linear",
    "POMDP": "pomdp",
    "BeliefEnv": "pomdp",
    "ObservedEnv": "pomdp",
    "hallway": "pomdp_classics",
    "pomdp_problem": "pomdp_classics",
    "tiger": "pomdp_classics",
    "read_pomdp": "cassandra",
    "fast_informed_bound": "pomdp_planning",
    "pbvi": "pomdp_planning",
    "qmdp": "pomdp_planning",
    "ConstrainedMDP": "constrained",
    "lagrangian": "constrained",
    "solve_constrained": "constrained",
}

__all__ = sorted(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
