"""Inverse dynamics, distance and future return beside exact answers.

    python benchmarks/heads.py                     all of it, some minutes
    python benchmarks/heads.py --only distance     one part; the others stay as they were saved

inverse    R2 of the action on episodes that were held out, 10,000 random steps; and where actions are not carried out
distance   rank correlation with the exact shortest paths, all pairs of states that were seen, 10,000 random steps
planner    goal/point in the plane, 100 episodes: share of the last ten steps at the goal, iCEM with a short horizon, by
           itself and with the learned distance as its terminal value
future     the exact V of the random policy, and how often what came lay below each quantile, in episodes of its own
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path

from steersman import envs
from steersman.envs import classic
from steersman.envs.goals import point, reached
from steersman.models.data import held_out, of_rollout
from steersman.models.distance import DistanceConfig, distance
from steersman.models.future import FutureConfig, future, to_go
from steersman.models.inverse import InverseConfig, inverse
from steersman.models.report import spearman
from steersman.planning import icem, score_of
from steersman.run.loops.host_rollout import unroll_host
from steersman.tabular.planning.dynamic_programming import evaluate
from steersman.tabular.problems.builders import from_text
from steersman.tabular.problems.classics import dyna_maze, gridworld_5x5, russell_norvig
from steersman.types import HostEnvs, Rollout
from steersman.unroll import Acting, random_policy, unroll
from steersman.vector import vectorize

SEEDS = 3
ROOMS = """
#############
#S    #     #
#     #     #
#           #
#     #     #
#     #     #
### ##### ###
#     #     #
#     #     #
#     #     #
#           #
#    G#     #
#############
"""


def played(env: Any, copies: int, steps: int, seed: int) -> Rollout:
    """Random play in a compiled environment, [steps, copies]."""
    made, key = vectorize(env, copies), jax.random.key(seed)

    def play() -> Rollout:
        acting = Acting(*made.reset(key), jnp.ones((copies,), bool), ())
        return unroll(random_policy(env.spec), made, acting, jax.random.fold_in(key, 1), steps)[1]

    return jax.jit(play)()


def played_on_host(name: str, copies: int, steps: int, seed: int) -> tuple[Any, Rollout]:
    made = envs.make(name, copies)
    assert isinstance(made, HostEnvs)
    policy = random_policy(made.spec)
    try:
        acting = Acting((), made.reset(seed), np.ones(copies, bool), ())
        play = unroll_host(lambda state, *seen: policy(*seen), made, steps)
        return made.spec, jax.tree.map(np.array, play((), acting, jax.random.key(seed))[1]._replace(carry=()))
    finally:
        made.close()


def ceiling(rollout: Rollout) -> float:
    """The R2 of the best guess on the episodes of Pendulum that are held out: the torque that the change in speed
    tells, and where the speed is cut off at its limit, the middle of all torques that drive it there."""
    data = of_rollout(rollout)
    apart = np.asarray(held_out(data, InverseConfig().held_out_share))
    before, after, action = (
        np.asarray(x, np.float64)[apart] for x in (data.rows.obs, data.rows.next_obs, data.rows.action)
    )
    told, action, cut = (after[:, 2] - before[:, 2] - 0.75 * before[:, 1]) / 0.3, action[:, 0], abs(after[:, 2]) >= 8
    best = np.where(cut, (np.sign(after[:, 2]) + np.clip(told, -1, 1)) / 2, told)
    return float(1 - np.square(action - best).mean() / action.var())


def of_inverse() -> dict[str, Any]:
    pendulum = classic.make("Pendulum-v1")
    swung = played(pendulum, 50, 200, 0)
    strangers = jax.random.uniform(jax.random.key(9), swung.action.shape, jnp.float32, -1, 1)
    reacher, reached_out = played_on_host("Reacher-v5", 10, 1000, 0)
    cases = {
        "Pendulum-v1": (pendulum.spec, swung),
        "Pendulum-v1, actions not carried out": (pendulum.spec, swung._replace(action=strangers)),
        "Reacher-v5": (reacher, reached_out),
    }
    found = {}
    for name, (spec, rollout) in cases.items():
        model = inverse(InverseConfig(), spec)
        fit = jax.jit(
            lambda rollout, key, model=model: model.fit(model.init(key, rollout), of_rollout(rollout), key)[1]
        )
        found[name] = [float(fit(rollout, jax.random.key(seed))["inverse/r2"]) for seed in range(SEEDS)]
        print(name, found[name], flush=True)
    found["ceiling"] = ceiling(swung)
    print("the best guess on Pendulum-v1", found["ceiling"], flush=True)
    return found


def of_distance() -> dict[str, Any]:
    found = {}
    for name, mdp in {"dyna_maze": dyna_maze(), "four rooms": from_text(ROOMS)}.items():
        rollout = played(mdp, 50, 400 if name == "four rooms" else 200, 0)
        model = distance(DistanceConfig(longest=40), mdp.spec, reached=lambda state, goal: state == goal)
        data = of_rollout(rollout)
        edges = sum(
            mdp.policy_matrix(np.eye(mdp.num_actions)[np.full(mdp.num_states, a)])[0] for a in range(mdp.num_actions)
        )
        exact = shortest_path(csr_matrix(edges > 0), unweighted=True)
        s, g = (x.reshape(-1).astype(np.int32) for x in np.indices(exact.shape))
        seen = np.isin(np.arange(len(exact)), np.asarray(data.rows.next_obs))
        asked = np.isfinite(exact[s, g]) & ~mdp.terminal[s] & seen[s] & seen[g]

        @jax.jit
        def all_pairs(rollout, key, model=model, s=s, g=g):
            M, metrics = model.fit(model.init(key, rollout), of_rollout(rollout), key)
            return jax.vmap(lambda s, g: model.steps(M, s, g))(s, g), metrics

        rows = []
        for seed in range(SEEDS):
            d, metrics = all_pairs(rollout, jax.random.key(seed))
            d, true = np.asarray(d)[asked], exact[s, g][asked]
            error = float(np.abs(d - true).mean())
            rows.append({"spearman": spearman(d, true), "error": error, "excess": float(metrics["distance/excess"])})
            print(name, rows[-1], flush=True)
        found[name] = {"states": int(seen.sum()), "farthest": float(exact[s, g][asked].max()), "each": rows}
    return found


def of_planner() -> dict[str, Any]:
    env = point(2)
    rollout = played(env, 200, 100, 0)
    model = distance(DistanceConfig(longest=50), env.spec, reached=reached)
    key = jax.random.key(0)
    M, _ = jax.jit(model.fit)(model.init(key, rollout), of_rollout(rollout), key)
    values = {"none": None, "distance": lambda obs: -model.steps(M, obs, obs["desired_goal"])}
    found: dict[str, Any] = {}
    for horizon in (5, 10):
        planner = icem(env.spec.action_space, horizon=horizon, population=64, iterations=3, elites=8)
        for name, value in values.items():

            def episode(key, planner=planner, value=value):
                def step(now, key):
                    state, warm = now
                    plan_key, step_key = jax.random.split(key)
                    plan = planner.plan(score_of(env, state, value=value), warm, plan_key)
                    state, seen = env.step(state, plan.action, step_key)
                    return (state, plan.warm), seen.reward

                return jax.lax.scan(step, (env.reset(key)[0], planner.begin()), jax.random.split(key, 50))[1]

            rewards = np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(1), 100)))
            row = {"at_goal": float((rewards[:, -10:] == 0).mean()), "return": float(rewards.sum(1).mean())}
            found.setdefault(str(horizon), {})[name] = row
            print("goal/point", horizon, name, row, flush=True)
    return found


def of_future() -> dict[str, Any]:
    found = {}
    for name, mdp in {"gridworld_5x5": gridworld_5x5(), "russell_norvig": russell_norvig(0.95)}.items():
        rollout, fresh = played(mdp, 100, 200, 0), of_rollout(played(mdp, 200, 300, 1))
        uniform = np.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions)
        exact = evaluate(mdp, uniform).value
        asked = ~mdp.terminal
        paid, left, _ = (np.asarray(x) for x in to_go(fresh, mdp.gamma))
        whole, at = left < 1e-3, np.asarray(fresh.rows.obs)
        for target in ("td", "monte_carlo"):
            model = future(replace(FutureConfig(), gamma=mdp.gamma, target=target), mdp.spec)

            @jax.jit
            def table(rollout, key, model=model, mdp=mdp):
                M, _ = model.fit(model.init(key, rollout), of_rollout(rollout), key)
                return jax.vmap(lambda s: model.quantiles(M, s))(jnp.arange(mdp.num_states, dtype=jnp.int32))

            theta = np.asarray(table(rollout, jax.random.key(0)))
            low, high = theta[:, 1], theta[:, -2]
            share = 0.5 * sum(below[whole].mean(0) for below in (paid[:, None] < theta[at], paid[:, None] <= theta[at]))
            tau = (2 * np.arange(len(share)) + 1) / (2 * len(share))
            row = {
                "error": float(np.abs(theta.mean(1) - exact)[asked].max()),
                "range": [float(exact[asked].min()), float(exact[asked].max())],
                "inside": float(((low <= exact) & (exact <= high))[asked].mean()),
                "calibration": float(np.abs(share - tau).max()),
                "mean_calibration": float(np.abs(share - tau).mean()),
            }
            found[f"{name}, {target}"] = row
            print(name, target, row, flush=True)
    return found


PARTS = {"inverse": of_inverse, "distance": of_distance, "planner": of_planner, "future": of_future}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS), help="one part; the others stay as they were saved")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    result = common.load("heads", args.out) or {}
    for name in [args.only] if args.only else PARTS:
        result[name] = PARTS[name]()
        result["provenance"] = common.provenance()
        common.save("heads", result, args.out)


if __name__ == "__main__":
    main()
