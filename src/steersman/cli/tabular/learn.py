"""What ``steersman tabular learn`` offers: runs of many seeds in one compiled program, beside the exact answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from steersman.cli.tabular.solve import Table, curves, known, mdp_called, state_rows
from steersman.errors import UsageError
from steersman.tabular.learning import behaviour, control, dyna, multistep, prediction
from steersman.tabular.learning.episodes import sample_episodes
from steersman.tabular.mdp import MDP
from steersman.tabular.pictures import maps, pictures
from steersman.tabular.planning import criteria, dynamic_programming

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    "r-learning": lambda **s: control.r_learning(),
}


PREDICTORS: dict[str, Callable[..., Callable]] = {
    "monte-carlo": lambda **s: prediction.monte_carlo,
    "td0": lambda **s: prediction.td0,
    "n-step-td": lambda n, **s: partial(prediction.n_step_td, n=n),
    "lambda-return": lambda lambda_, **s: partial(prediction.lambda_return, lambda_=lambda_),
    "td-lambda": lambda lambda_, **s: partial(prediction.td_lambda, lambda_=lambda_),
    "true-online-td-lambda": lambda lambda_, **s: partial(prediction.true_online_td_lambda, lambda_=lambda_),
}


def names() -> dict[str, tuple[str, ...]]:
    """Every method by name."""
    return {"learn to act by": tuple(LEARNERS), "learn values by": tuple(PREDICTORS)}


def learn(
    name: str,
    methods: str | Sequence[str] = "q-learning",
    *,
    episodes: int = 500,
    steps: int | None = None,
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

    Control methods learn to act; prediction methods learn the values of the policy that takes every action alike.
    Several of one kind learn side by side, from the same seeds. ``steps`` instead of ``episodes`` for tasks that never
    end. ``n``, ``lambda_`` and ``planning_steps`` matter to the methods that have them. Raises UsageError for unknown
    names, for methods of both kinds, and for tasks that never end without ``steps``.
    """
    methods = [methods] if isinstance(methods, str) else list(dict.fromkeys(methods))
    settings = {"n": n, "lambda_": lambda_, "planning_steps": planning_steps}
    for method in methods:
        known("learner", method, (*LEARNERS, *PREDICTORS))
    predicting = {method in PREDICTORS for method in methods}
    if len(predicting) != 1:
        raise UsageError(
            f"{', '.join(methods) or 'No method'}: name one or more methods that learn to act, or that learn values; "
            "their curves do not share an axis."
        )
    mdp = mdp_called(name, gamma)
    endless = not mdp.terminal.any() and mdp.max_episode_steps is None
    if endless and (steps is None or predicting == {True}):
        how = f"Solve it: steersman tabular solve {name}"
        if predicting == {False}:
            how += ", or learn for a number of steps, --steps 100000: r-learning is made for it"
        raise UsageError(f"{mdp.name} never ends, so it has no episodes to learn from. {how}")
    title = f"{mdp.name}, gamma {mdp.gamma:g}"
    if predicting == {True}:
        chosen = {method: PREDICTORS[method](**settings) for method in methods}
        return _predict(mdp, title, chosen, episodes, seeds, seed, alpha)
    chosen = {method: LEARNERS[method](**settings) for method in methods}
    length = {"episodes": episodes} if steps is None else {"steps": steps}
    return _control(mdp, title, chosen, length, seeds, seed, alpha, epsilon)


def _control(
    mdp: MDP,
    title: str,
    learners: dict[str, control.Learner],
    length: dict[str, int],
    seeds: int,
    seed: int,
    alpha: float,
    epsilon: float,
) -> Table:
    """What the methods were paid while they learned, and what they would do now."""
    ((unit, count),) = length.items()
    what = "return" if unit == "episodes" else "reward a step"
    common = {"runs": f"{seeds} of {count} {unit}, alpha {alpha:g}, epsilon {epsilon:g}"}
    facts, series, lengths, values, policies = dict(common), {}, {}, {}, {}
    bias = None  # of the optimal policy of the average reward
    for method, learner in learners.items():
        run = partial(
            control.learn, mdp, learner, behaviour.epsilon_greedy(epsilon), gamma=mdp.gamma, alpha=alpha, **length
        )
        out = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(seed), seeds))
        q = np.asarray(out.q, np.float64).mean(0)
        values[learner.name], policies[learner.name] = q.max(-1), q.argmax(-1).astype(np.int32)
        returns = series[learner.name] = np.asarray(out.returns)
        lengths[learner.name] = np.asarray(out.lengths)
        tail = slice(-max(1, returns.shape[1] // 10), None)
        last = returns[:, tail].mean(1)
        found: dict[str, Any] = {
            f"{what}, last tenth": float(last.mean()),
            "standard error over seeds": float(last.std(ddof=1) / np.sqrt(seeds)) if seeds > 1 else float("nan"),
        }
        if unit == "episodes":
            found["steps an episode, last tenth"] = float(lengths[learner.name][:, tail].mean())
        if method == "r-learning":
            best = criteria.average_reward(criteria.restarting(mdp) if mdp.terminal.any() else mdp, tol=1e-6)
            found |= {"optimal average reward": best.gain, "learned": float(np.asarray(out.arrays.gain).mean())}
            bias = best.bias
        else:
            found["greedy value of the start, learned"] = float(mdp.start @ q.max(-1))
        if maps.has_paths(mdp):
            path = maps.greedy_path(mdp, policies[learner.name])
            found["greedy way"] = f"{len(path) - 1} steps" if mdp.terminal[path[-1]] else "comes to no end"
        facts |= found if len(learners) == 1 else {f"{learner.name}: {k}": v for k, v in found.items()}
    if len(learners) == 1:
        facts = {"method": next(iter(series))} | facts
    if bias is not None and len(learners) == 1:
        exact, column = bias, "optimal relative value"
    else:
        exact, column = dynamic_programming.policy_iteration(mdp).value, "optimal value"
        facts["optimal value of the start"] = float(mdp.start @ exact)
    width = max(1, count // (50 if unit == "episodes" else 100))
    curve = series
    if unit == "episodes" and len({float(r) for returns in series.values() for r in np.unique(returns)}) == 1:
        curve, what = lengths, "steps an episode"  # a maze pays its goal alone, so the return tells nothing
    about = what if width == 1 else f"{what}, mean over {width} {unit}"
    shown = {label: pictures.smoothed(returns, width)[1] for label, returns in curve.items()}
    x = (np.arange(count // width) + 1) * width
    draw = partial(
        _picture, mdp, shown, x, unit.removesuffix("s"), about, title, policies if maps.has_paths(mdp) else {}
    )
    columns, rows = _rows(mdp, values, policies, exact, column)
    last = next(reversed(values))
    return Table(title, facts, columns, rows, mdp, values[last], policies[last], series, draw)


def _rows(
    mdp: MDP,
    values: Mapping[str, np.ndarray],
    policies: Mapping[str, np.ndarray],
    exact: np.ndarray,
    column: str,
) -> tuple[tuple[str, ...], list[tuple]]:
    """A row a state: value and action by each method, and the exact value."""
    alone = len(values) == 1
    columns = [name if alone else f"{name}, {label}" for label in values for name in ("value", "action")]
    tables = [state_rows(mdp, values[label], policies[label]) for label in values]
    rows = [
        (lines[0][0], *(cell for line in lines for cell in line[1:]), float(v))
        for lines, v in zip(zip(*tables, strict=True), exact, strict=True)
    ]
    return ("state", *columns, column), rows


def _picture(
    mdp: MDP,
    series: Mapping[str, np.ndarray],
    x: np.ndarray,
    xlabel: str,
    ylabel: str,
    title: str,
    policies: Mapping[str, np.ndarray],
) -> Figure:
    """The curves, and of a gridworld the ways that the greedy policies take, under them in the same colours."""
    title = f"{' and '.join(series)}: {title}" if len(series) < 3 else title
    if not policies:
        return curves(dict(series), x, xlabel, ylabel, title)
    assert mdp.grid is not None
    rows, columns = len(mdp.grid.rows), len(mdp.grid.rows[0])
    map_height = min(4.5, max(1.2, 5.8 * rows / columns))
    figure = pictures.new_figure(6.8, 4.0 + map_height)
    upper, lower = figure.subplots(2, 1, height_ratios=[3.7, map_height])
    pictures.draw_curves(upper, series, x, trim=0.02)
    pictures.style(upper, xlabel, ylabel, title)
    maps.draw_paths(lower, mdp, policies)
    lower.set_title("where the learned values lead, without exploration", loc="left", fontsize=9)
    return figure


def _predict(
    mdp: MDP, title: str, learners: dict[str, Callable], episodes: int, seeds: int, seed: int, alpha: float
) -> Table:
    """Values of the uniform policy from episodes, and their error as episodes go by."""
    uniform = np.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions)
    exact = dynamic_programming.evaluate(mdp, uniform)
    drawn = sample_episodes(mdp, uniform, jax.random.key(seed), episodes, runs=seeds, max_steps=1000)
    zeros = np.zeros(mdp.num_states, np.float32)
    going = ~mdp.terminal
    facts: dict[str, Any] = {
        "policy": "the one that takes every action alike",
        "runs": f"{seeds} of {episodes} episodes, alpha {alpha:g}",
    }
    series, values = {}, {}
    for method, learner in learners.items():
        run = lambda e, f=learner: f(e, zeros, alpha, mdp.gamma)
        found = np.asarray(jax.jit(jax.vmap(run))(drawn), np.float64)
        series[method] = np.sqrt(((found - exact.value)[..., going] ** 2).mean(-1))  # [seeds, episodes]
        values[method] = found[:, -1].mean(0)
        ours = {
            "RMS error over the states, at the end": float(series[method][:, -1].mean()),
            "learned value of the start": float(mdp.start @ values[method]),
        }
        facts |= ours if len(learners) == 1 else {f"{method}: {k}": v for k, v in ours.items()}
    if len(learners) == 1:
        facts = {"method": next(iter(series))} | facts
    facts["value of the start"] = float(mdp.start @ exact.value)
    policy = exact.q.argmax(-1).astype(np.int32)
    columns = ("state", *(["value"] if len(learners) == 1 else [f"value, {method}" for method in learners]))
    tables = [state_rows(mdp, value, policy) for value in values.values()]
    rows = [
        (lines[0][0], *(line[1] for line in lines), float(v))
        for lines, v in zip(zip(*tables, strict=True), exact.value, strict=True)
    ]
    named = f"{' and '.join(series)}: {title}" if len(series) < 3 else title
    draw = partial(curves, series, np.arange(1, episodes + 1), "episode", "RMS error", named)
    last = next(reversed(values))
    return Table(title, facts, (*columns, "exact value"), rows, mdp, values[last], policy, series, draw)
