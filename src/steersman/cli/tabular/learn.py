"""What ``steersman tabular learn`` offers: runs of many seeds in one compiled program, beside the exact answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from steersman.cli.tabular.solve import Table, curves, known, mdp_called, state_rows
from steersman.errors import UsageError
from steersman.tabular.learning import behaviour, control, dyna, multistep, prediction
from steersman.tabular.learning.episodes import sample_episodes
from steersman.tabular.mdp import MDP
from steersman.tabular.planning import criteria, dynamic_programming

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
    method: str = "q-learning",
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
    ``steps`` instead of ``episodes`` for tasks that never end. ``n``, ``lambda_`` and ``planning_steps`` matter to the
    methods that have them. Raises UsageError for unknown names and for tasks that never end without ``steps``.
    """
    settings = {"n": n, "lambda_": lambda_, "planning_steps": planning_steps}
    known("learner", method, (*LEARNERS, *PREDICTORS))
    mdp = mdp_called(name, gamma)
    endless = not mdp.terminal.any() and mdp.max_episode_steps is None
    if endless and (steps is None or method in PREDICTORS):
        how = f"Solve it: steersman tabular solve {name}"
        how += (
            ""
            if method in PREDICTORS
            else ", or learn for a number of steps, --steps 100000: r-learning is made for it"
        )
        raise UsageError(f"{mdp.name} never ends, so it has no episodes to learn from. {how}")
    if method in PREDICTORS:
        return _predict(mdp, method, PREDICTORS[method](**settings), episodes, seeds, seed, alpha)
    learner = LEARNERS[method](**settings)
    length = {"episodes": episodes} if steps is None else {"steps": steps}
    run = partial(
        control.learn, mdp, learner, behaviour.epsilon_greedy(epsilon), gamma=mdp.gamma, alpha=alpha, **length
    )
    out = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(seed), seeds))
    q = np.asarray(out.q, np.float64).mean(0)
    returns, lengths = np.asarray(out.returns), np.asarray(out.lengths)
    tail = slice(-max(1, returns.shape[1] // 10), None)
    last = returns[:, tail].mean(1)
    what = "return" if steps is None else "reward a step"
    facts: dict[str, Any] = {
        "method": f"{learner.name}, alpha {alpha:g}, epsilon {epsilon:g}",
        "runs": f"{seeds} of {episodes} episodes" if steps is None else f"{seeds} of {steps} steps",
        f"{what}, last tenth": float(last.mean()),
        "standard error over seeds": float(last.std(ddof=1) / np.sqrt(seeds)) if seeds > 1 else float("nan"),
    }
    if steps is None:
        facts["steps an episode, last tenth"] = float(lengths[:, tail].mean())
    title = f"{mdp.name}, gamma {mdp.gamma:g}"
    greedy = q.argmax(-1).astype(np.int32)
    if method == "r-learning":
        best = criteria.average_reward(criteria.restarting(mdp) if mdp.terminal.any() else mdp, tol=1e-6)
        facts |= {"optimal average reward": best.gain, "learned": float(np.asarray(out.arrays.gain).mean())}
        exact, column = best.bias, "optimal relative value"
    else:
        exact, column = dynamic_programming.policy_iteration(mdp).value, "optimal value"
        facts |= {
            "optimal value of the start": float(mdp.start @ exact),
            "greedy value of the start, learned": float(mdp.start @ q.max(-1)),
        }
    rows = [(*row, float(v)) for row, v in zip(state_rows(mdp, q.max(-1), greedy), exact, strict=True)]
    x, shown = np.arange(1, returns.shape[1] + 1), returns
    if steps is not None:  # rewards of single steps say little: means over a hundredth of the run
        width = max(1, steps // 100)
        shown = returns[:, : steps // width * width].reshape(seeds, -1, width).mean(-1)
        x = (np.arange(shown.shape[1]) + 1) * width
    draw = partial(
        curves, {learner.name: shown}, x, "episode" if steps is None else "step", what, f"{learner.name}, {title}"
    )
    return Table(
        title, facts, ("state", "value", "action", column), rows, mdp, q.max(-1), greedy, {learner.name: returns}, draw
    )


def _predict(mdp: MDP, method: str, learner: Callable, episodes: int, seeds: int, seed: int, alpha: float) -> Table:
    """Values of the uniform policy from episodes, and their error as episodes go by."""
    uniform = np.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions)
    exact = dynamic_programming.evaluate(mdp, uniform)
    drawn = sample_episodes(mdp, uniform, jax.random.key(seed), episodes, runs=seeds, max_steps=1000)
    zeros = np.zeros(mdp.num_states, np.float32)
    found = np.asarray(jax.jit(jax.vmap(lambda e: learner(e, zeros, alpha, mdp.gamma)))(drawn), np.float64)
    going = ~mdp.terminal
    rms = np.sqrt(((found - exact.value)[..., going] ** 2).mean(-1))  # [seeds, episodes]
    value = found[:, -1].mean(0)
    facts = {
        "method": f"{method}, alpha {alpha:g}, of the policy that takes every action alike",
        "runs": f"{seeds} of {episodes} episodes",
        "RMS error over the states, at the end": float(rms[:, -1].mean()),
        "value of the start": float(mdp.start @ exact.value),
        "learned": float(mdp.start @ value),
    }
    title = f"{mdp.name}, gamma {mdp.gamma:g}"
    policy = exact.q.argmax(-1).astype(np.int32)
    rows = [(row[0], row[1], float(v)) for row, v in zip(state_rows(mdp, value, policy), exact.value, strict=True)]
    draw = partial(curves, {method: rms}, np.arange(1, episodes + 1), "episode", "RMS error", f"{method}, {title}")
    return Table(title, facts, ("state", "value", "exact value"), rows, mdp, value, policy, {method: rms}, draw)
