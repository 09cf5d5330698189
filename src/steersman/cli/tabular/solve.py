"""What ``steersman tabular`` offers, as plain functions: they take names and numbers and return tables as data.

No printing and no files here; the command line shows a :class:`Table` and saves its figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from steersman.errors import UsageError, nearest
from steersman.tabular.mdp import MDP, state_name
from steersman.tabular.planning import asynchronous, criteria, dynamic_programming
from steersman.tabular.problems.classics import PROBLEMS, problem
from steersman.tabular.problems.pomdp_classics import POMDPS, pomdp_problem

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
    draw: Callable[[], Figure]


PLANNERS: dict[str, Callable[..., dynamic_programming.Solution]] = {
    "value-iteration": dynamic_programming.value_iteration,
    "policy-iteration": dynamic_programming.policy_iteration,
    "modified-policy-iteration": dynamic_programming.modified_policy_iteration,
    "gauss-seidel": asynchronous.gauss_seidel,
    "prioritized-sweeping": asynchronous.prioritized_sweeping,
    "linear-program": criteria.linear_program,
}

OTHERS = ("average-reward", "uniform-policy")  # other criteria: answers that are not optimal discounted values
POMDP_PLANNERS = ("pbvi", "qmdp", "fast-informed-bound")

DRAWINGS = ("value", "occupancy", "backup")


def names() -> dict[str, tuple[str, ...]]:
    """Every problem and method by name."""
    return {
        "problems": (*PROBLEMS, *POMDPS),
        "solve by": (*PLANNERS, *OTHERS),
        "solve a POMDP by": POMDP_PLANNERS,
        "draw": DRAWINGS,
    }


def known(kind: str, name: str, among: Iterable[str]) -> str:
    among = tuple(among)
    if name not in among:
        raise UsageError(
            " ".join(
                filter(None, (f"No {kind} is called {name!r}.", nearest(name, among), f"Known: {', '.join(among)}."))
            )
        )
    return name


def _is_pomdp(name: str) -> bool:
    return name in POMDPS or name.lower().endswith(".pomdp")


def mdp_called(name: str, gamma: float | None) -> MDP:
    if _is_pomdp(name):
        raise UsageError(f"{name} is seen only in part: steersman tabular solve {name} plans in it.")
    settings = {} if gamma is None else {"gamma": gamma}
    if name.lower().endswith(".mdp"):
        return pomdp_problem(name, **settings).mdp
    if name not in PROBLEMS and "-v" not in name:
        known = (*PROBLEMS, *POMDPS)
        raise UsageError(f"No tabular problem is called {name!r}. {nearest(name, known)} Known: {', '.join(known)}.")
    return problem(name, **settings)


def solve(name: str, method: str | None = None, *, gamma: float | None = None, tol: float | None = None) -> Table:
    """Solve a named problem ("dyna-maze", "FrozenLake-v1", "tiger", a .POMDP file) by a named planner; a row a state.

    Without a method: policy iteration to 1e-8, or point-based value iteration to 1e-2. Raises UsageError with the
    nearest names when either is unknown.
    """
    if _is_pomdp(name):
        return _solve_pomdp(name, method or "pbvi", gamma, 1e-2 if tol is None else tol)
    method, tol = known("planner", method or "policy-iteration", (*PLANNERS, *OTHERS)), 1e-8 if tol is None else tol
    mdp = mdp_called(name, gamma)
    title = f"{mdp.name}, gamma {mdp.gamma:g}"
    if method == "average-reward":
        mdp = criteria.restarting(mdp) if mdp.terminal.any() else mdp
        plan = criteria.average_reward(mdp, tol=tol)
        title = f"{name}, reward per step"
        value, policy, column = plan.bias, plan.policy, "relative value"
        facts = {
            "method": "relative value iteration", "average reward": plan.gain, "error bound": plan.bound,
            "iterations": plan.iterations, "converged": plan.converged,
        }  # fmt: skip
    elif method == "uniform-policy":
        uniform = np.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions)
        answer = dynamic_programming.evaluate(mdp, uniform, tol=tol)
        value, policy, column = answer.value, answer.q.argmax(-1).astype(np.int32), "value"
        facts = {
            "method": "evaluation of the policy that takes every action alike",
            "value of the start": float(mdp.start @ value), "error bound": answer.bound,
            "action shown": "the best next one",
        }  # fmt: skip
    else:
        found = PLANNERS[method](mdp, tol=tol)
        value, policy, column = found.value, found.policy, "value"
        facts = {
            "method": found.method,
            "value of the start": float(mdp.start @ found.value),
            "error bound": found.bound,
            "policy's loss at most": found.loss,
            "iterations": found.iterations,
            "converged": found.converged,
        }
    rows = state_rows(mdp, value, policy)
    return Table(
        title, facts, ("state", column, "action"), rows, mdp, value, policy, {}, _map(mdp, value, policy, title)
    )


def _solve_pomdp(name: str, method: str, gamma: float | None, tol: float) -> Table:
    from steersman.tabular.pictures import pictures
    from steersman.tabular.planning import pomdp_planning

    known("planner of a POMDP", method, POMDP_PLANNERS)
    pomdp = pomdp_problem(name, **({} if gamma is None else {"gamma": gamma}))
    m = pomdp.mdp
    actions = m.action_names or tuple(str(a) for a in range(m.num_actions))
    states = pomdp.state_names or tuple(str(s) for s in range(m.num_states))
    title = f"{m.name}, gamma {m.gamma:g}"
    facts: dict[str, Any] = {
        "states, actions, observations": f"{m.num_states}, {m.num_actions}, {pomdp.num_observations}"
    }
    if method == "pbvi":
        plan = pomdp_planning.pbvi(pomdp, tol=tol, max_iterations=100 if m.num_states > 20 else 1000)
        facts |= {
            "method": "point-based value iteration", "value of the start, at least": plan.lower, "at most": plan.upper,
            "iterations": plan.iterations, "vectors": len(plan.alphas), "first action": actions[plan.act(m.start)],
            "converged": plan.gap <= tol,
        }  # fmt: skip
        certain = [plan.value(b) for b in np.eye(m.num_states)]
        chosen = np.array([plan.act(b) for b in np.eye(m.num_states)], np.int32)
        if m.num_states == 2:
            draw = partial(pictures.alpha_vectors, plan, actions, title=title, xlabel=f"P({states[0]})")
        else:
            draw = partial(pictures.bounds_by_iteration, plan, title=title)
    else:
        bound = pomdp_planning.qmdp(pomdp) if method == "qmdp" else pomdp_planning.fast_informed_bound(pomdp)
        certain, chosen = bound.max(-1), bound.argmax(-1).astype(np.int32)
        best = int((m.start @ bound).argmax())
        facts |= {
            "method": method, "value of the start, at most": float((m.start @ bound).max()),
            "first action": actions[best],
        }  # fmt: skip
        draw = partial(_value_line, certain, title, "value when certain of the state")
    rows = [(states[s], float(certain[s]), actions[chosen[s]]) for s in range(m.num_states)]
    columns = ("if certain of state", "value", "action")
    return Table(title, facts, columns, rows, m, np.asarray(certain), chosen, {}, draw)


def drawing(
    name: str,
    what: str = "value",
    *,
    gamma: float | None = None,
    method: str = "v_star",
    state: int | str | None = None,
    action: int | str = 0,
    steps: int = 3,
) -> Figure:
    """A picture of a named problem: its optimal "value" map, the "occupancy" of its optimal policy, or a "backup".

    ``method`` ("v_star", "td-lambda" ...), ``state`` (a number, "row,column" of a gridworld; none: the likeliest
    start), ``action`` (a number or a name) and ``steps`` are the backup's.
    """
    from steersman.tabular.pictures import backup_diagrams, maps
    from steersman.tabular.planning import objectives

    known("drawing", what, DRAWINGS)
    mdp = mdp_called(name, gamma)
    if what == "backup":
        method = known("backup", method.replace("-", "_"), backup_diagrams.BACKUPS)
        states = [state_name(mdp, s).strip("()").replace(" ", "") for s in range(mdp.num_states)]
        where = int(mdp.start.argmax()) if state is None else _index("state", str(state).strip("() "), states)
        taken = _index("action", str(action), [*mdp.action_names] or [str(a) for a in range(mdp.num_actions)])
        return backup_diagrams.backup_diagram(mdp, where, method=method, action=taken, steps=steps)
    best = dynamic_programming.policy_iteration(mdp)
    if what == "value":
        return _map(mdp, best.value, best.policy, f"{mdp.name}, gamma {mdp.gamma:g}: optimal values")()
    visits = objectives.visitation(mdp, best.policy, normalise=False)
    title = f"{mdp.name}, gamma {mdp.gamma:g}: visits of the optimal policy"
    if mdp.grid is None:
        return _value_line(visits, title, "expected discounted visits")
    return maps.occupancy_map(mdp, visits, title=title)


def _index(kind: str, said: str, names: Sequence[str]) -> int:
    """A state or an action by its number or its name."""
    if said.lstrip("-").isdigit():
        return int(said)
    if said.replace(" ", "") not in names:
        raise UsageError(
            f"No {kind} is called {said!r}. {nearest(said, names)} They are numbered 0 to {len(names) - 1}, or named "
            f"as {', '.join(names[:4])} ..."
        )
    return names.index(said.replace(" ", ""))


def picture(table: Table) -> Figure:
    """The learning curve of a learned table, the value map of a solved gridworld, else its values as a line."""
    return table.draw()


def _map(mdp: MDP, value: np.ndarray, policy: np.ndarray, title: str) -> Callable[[], Figure]:
    from steersman.tabular.pictures import maps

    if mdp.grid is None:
        return partial(_value_line, value, title)
    return partial(maps.value_map, mdp, value, policy, title=title)


def _value_line(value: np.ndarray, title: str, ylabel: str = "value") -> Figure:
    return curves({"value": np.asarray(value)[None]}, np.arange(len(value)), "state", ylabel, title)


def curves(series: dict[str, np.ndarray], x: np.ndarray, xlabel: str, ylabel: str, title: str) -> Figure:
    from steersman.tabular.pictures import pictures

    return pictures.curves(series, x=x, xlabel=xlabel, ylabel=ylabel, title=title, trim=0.02)


def state_rows(mdp: MDP, value: np.ndarray, policy: np.ndarray) -> list[tuple]:
    actions = mdp.action_names or tuple(str(a) for a in range(mdp.num_actions))
    label = lambda s: str(s) if state_name(mdp, s) == str(s) else f"{s} {state_name(mdp, s)}"
    return [
        (label(s), float(value[s]), "end" if mdp.terminal[s] else actions[policy[s]]) for s in range(mdp.num_states)
    ]
