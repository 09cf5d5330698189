"""What ``steersman tabular`` offers, as plain functions: they take names and numbers and return tables as data.

No printing and no files here; the command line shows a :class:`Table` and saves its figure.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from steersman.errors import UsageError, nearest
from steersman.tabular import asynchronous, behaviour, control, criteria, dyna, multistep, planning
from steersman.tabular.classics import PROBLEMS, problem
from steersman.tabular.mdp import MDP

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Table(NamedTuple):
    """An answer: headline facts, columns and rows, and what a picture needs."""

    title: str
    facts: dict[str, Any]
    columns: tuple[str, ...]
    rows: list[tuple]
    mdp: MDP
    value: np.ndarray  # [S], or of learning: the greedy value of the mean table
    policy: np.ndarray  # [S]
    curves: dict[str, np.ndarray]  # name -> [seeds, episodes]; empty for a solution


PLANNERS: dict[str, Callable[..., planning.Solution]] = {
    "value-iteration": planning.value_iteration,
    "policy-iteration": planning.policy_iteration,
    "modified-policy-iteration": planning.modified_policy_iteration,
    "gauss-seidel": asynchronous.gauss_seidel,
    "prioritized-sweeping": asynchronous.prioritized_sweeping,
    "linear-program": criteria.linear_program,
}

LEARNERS: dict[str, Callable[..., control.Learner]] = {
    "sarsa": lambda **s: control.sarsa(),
    "expected-sarsa": lambda **s: control.expected_sarsa(),
    "q-learning": lambda **s: control.q_learning(),
    "double-q-learning": lambda **s: control.double_q_learning(),
    "n-step-sarsa": lambda n, **s: multistep.n_step_sarsa(n),
    "tree-backup": lambda n, **s: multistep.tree_backup(n),
    "sarsa-lambda": lambda lambda_, **s: multistep.sarsa_lambda(lambda_),
    "watkins-q-lambda": lambda lambda_, **s: multistep.watkins_q_lambda(lambda_),
    "dyna-q": lambda planning_steps, **s: dyna.dyna_q(planning_steps),
    "dyna-q-plus": lambda planning_steps, **s: dyna.dyna_q_plus(planning_steps),
}


def names() -> dict[str, tuple[str, ...]]:
    """Every problem, planner and learner by name."""
    return {"problems": tuple(PROBLEMS), "planners": tuple(PLANNERS), "learners": tuple(LEARNERS)}


def _chosen(kind: str, name: str, among: dict[str, Any]) -> Any:
    if name not in among:
        raise UsageError(f"No {kind} is called {name!r}. {nearest(name, among)} Known: {', '.join(among)}.")
    return among[name]


def _problem(name: str, gamma: float | None) -> MDP:
    return problem(name) if gamma is None else problem(name, gamma=gamma)


def solve(name: str, method: str = "policy-iteration", *, gamma: float | None = None, tol: float = 1e-8) -> Table:
    """Solve a named problem ("dyna-maze", "FrozenLake-v1") by a named planner; one row a state.

    Raises UsageError with the nearest names when either is unknown.
    """
    plan = _chosen("planner", method, PLANNERS)
    mdp = _problem(name, gamma)
    found = plan(mdp, tol=tol)
    facts = {
        "method": found.method,
        "value of the start": float(mdp.start @ found.value),
        "error bound": found.bound,
        "policy's loss at most": found.loss,
        "iterations": found.iterations,
        "converged": found.converged,
    }
    rows = _rows(mdp, found.value, found.policy)
    return Table(
        f"{mdp.name}, gamma {mdp.gamma:g}",
        facts,
        ("state", "value", "action"),
        rows,
        mdp,
        found.value,
        found.policy,
        {},
    )


def learn(
    name: str,
    method: str = "q-learning",
    *,
    episodes: int = 500,
    seeds: int = 10,
    seed: int = 0,
    alpha: float = 0.1,
    epsilon: float = 0.1,
    gamma: float | None = None,
    n: int = 4,
    lambda_: float = 0.9,
    planning_steps: int = 10,
) -> Table:
    """Learn a named problem from experience, ``seeds`` runs in one compiled program; compared with the exact answer.

    ``n``, ``lambda_`` and ``planning_steps`` matter to the methods that have them. Raises UsageError for unknown names
    and problems that never end.
    """
    learner = _chosen("learner", method, LEARNERS)(n=n, lambda_=lambda_, planning_steps=planning_steps)
    mdp = _problem(name, gamma)
    if not mdp.terminal.any() and mdp.max_episode_steps is None:
        raise UsageError(
            f"{mdp.name} never ends, so it has no episodes to learn from. Solve it: steersman tabular solve {name}"
        )
    run = partial(
        control.learn, mdp, learner, behaviour.epsilon_greedy(epsilon), gamma=mdp.gamma, alpha=alpha, episodes=episodes
    )
    out = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(seed), seeds))
    q = np.asarray(out.q, np.float64).mean(0)
    returns, lengths = np.asarray(out.returns), np.asarray(out.lengths)
    tail = slice(-max(1, episodes // 10), None)
    exact = planning.policy_iteration(mdp)
    greedy = q.argmax(-1).astype(np.int32)
    facts = {
        "method": f"{learner.name}, alpha {alpha:g}, epsilon {epsilon:g}",
        "episodes": f"{episodes} x {seeds} seeds",
        "return, last tenth": float(returns[:, tail].mean()),
        "standard error over seeds": float(returns[:, tail].mean(1).std(ddof=1) / np.sqrt(seeds))
        if seeds > 1
        else float("nan"),
        "steps an episode, last tenth": float(lengths[:, tail].mean()),
        "optimal value of the start": float(mdp.start @ exact.value),
        "greedy value of the start, learned": float(mdp.start @ q.max(-1)),
    }
    title = f"{mdp.name}, gamma {mdp.gamma:g}"
    columns = ("state", "value", "action", "optimal value")
    rows = [(*row, float(v)) for row, v in zip(_rows(mdp, q.max(-1), greedy), exact.value, strict=True)]
    return Table(title, facts, columns, rows, mdp, q.max(-1), greedy, {learner.name: returns})


def picture(table: Table) -> Figure:
    """The learning curve of a learned table, the value map of a solved gridworld, else its values as a line."""
    from steersman.tabular import pictures

    if table.curves:
        return pictures.curves(table.curves, title=table.title)
    if table.mdp.grid is not None:
        return pictures.value_map(table.mdp, table.value, table.policy, title=table.title)
    return pictures.curves(
        {"value": table.value[None]}, x=np.arange(len(table.value)), xlabel="state", ylabel="value", title=table.title
    )


def _rows(mdp: MDP, value: np.ndarray, policy: np.ndarray) -> list[tuple]:
    actions = mdp.action_names or tuple(str(a) for a in range(mdp.num_actions))
    cells = None if mdp.grid is None else mdp.grid.cells
    label = lambda s: str(s) if cells is None or s >= len(cells) else f"{s} ({cells[s][0]}, {cells[s][1]})"
    return [
        (label(s), float(value[s]), "end" if mdp.terminal[s] else actions[policy[s]]) for s in range(mdp.num_states)
    ]
