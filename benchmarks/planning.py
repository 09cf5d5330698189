"""How much there is to get: planners in the true environments, beside what is known to be best; and their speed.

    python benchmarks/planning.py             every task, iLQR, and 5 rounds of speed
    python benchmarks/planning.py --only Pendulum-v1 speed
    python benchmarks/planning.py --quick     small; saved only where --out says

Pendulum's optimum is by dynamic programming over its whole horizon on a grid, played from the planners' own starts. The
speed is that of one plan of the same cross-entropy method on the same model: compiled, called from Python once a step;
in plain numpy; and in plain torch, where --torch names a Python that has it. Rounds alternate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from steersman import envs
from steersman.planning import cem, icem, ilqr, planner_in, score_of
from steersman.run.policies.ceiling import ceiling
from steersman.vector import vectorize

TASKS = {  # -> (settings, what the mean return is to reach)
    "Pendulum-v1": ({}, None),  # 5 percent of the optimum
    "MountainCarContinuous-v0": ({"episodes": 10}, 95.0),
    "CartPole-v1": ({}, 500.0),
    "Acrobot-v1": ({}, -85.0),
}
SEED = 2_000_000
SIZES = {"horizon": 30, "population": 128, "iterations": 3, "elites": 8}  # of the race
STEP = 0.05


def starts(episodes: int) -> np.ndarray:
    """Angles and speeds that ``ceiling`` starts Pendulum in, [episodes, 2]."""
    reset_key, _ = jax.random.split(jax.random.key(SEED))
    state, _ = vectorize(envs.make_env("Pendulum-v1"), episodes).reset(reset_key)
    return np.stack([np.asarray(state.env.env.theta), np.asarray(state.env.env.theta_dot)], 1).astype(np.float64)


class Grid:
    """Pendulum's optimal values, with t steps to go, between the points of a grid of angles and speeds."""

    def __init__(self, angles: int = 181, speeds: int = 181, actions: int = 15, horizon: int = 200):
        self.angles, self.speeds, self.horizon = angles, speeds, horizon
        mesh = (
            np.linspace(-np.pi, np.pi, angles, endpoint=False),
            np.linspace(-8, 8, speeds),
            np.linspace(-2, 2, actions),
        )
        reward, *after = pendulum(*np.meshgrid(*mesh, indexing="ij"))
        corners = self.corners(*after)
        self.values = [np.zeros((angles, speeds), np.float32)]
        for _ in range(horizon):
            ahead = reward.astype(np.float32) + sum(w * self.values[-1][i, j] for i, j, w in corners)
            self.values.append(ahead.max(-1))

    def corners(self, angle: np.ndarray, speed: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The four grid points about each point, and their bilinear weights."""
        x, y = (angle + np.pi) % (2 * np.pi) / (2 * np.pi) * self.angles, (speed + 8) / 16 * (self.speeds - 1)
        i, j = np.floor(x).astype(int), np.clip(np.floor(y).astype(int), 0, self.speeds - 2)
        a, b = (x - i).astype(np.float32), (y - j).astype(np.float32)
        shares = ((0, 0, (1 - a) * (1 - b)), (0, 1, (1 - a) * b), (1, 0, a * (1 - b)), (1, 1, a * b))
        return [((i + right) % self.angles, j + up, weight) for right, up, weight in shares]

    def play(self, angle: np.ndarray, speed: np.ndarray) -> np.ndarray:
        """Returns of episodes that choose, of 81 torques, the best by these values."""
        total, torques, rows = np.zeros(len(angle)), np.linspace(-2, 2, 81)[None], np.arange(len(angle))
        for left in range(self.horizon - 1, -1, -1):
            reward, *after = pendulum(angle[:, None], speed[:, None], torques)
            best = (reward + sum(w * self.values[left][i, j] for i, j, w in self.corners(*after))).argmax(1)
            total, angle, speed = total + reward[rows, best], after[0][rows, best], after[1][rows, best]
        return total


def pendulum(angle: Any, speed: Any, torque: Any) -> tuple[Any, Any, Any]:
    """Gymnasium's Pendulum-v1 in numpy: (reward, angle', speed')."""
    off = (angle + np.pi) % (2 * np.pi) - np.pi
    reward = -(off**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = np.clip(speed + (15 * np.sin(angle) + 3 * torque) * STEP, -8, 8)
    return reward, angle + speed * STEP, speed


def refined(episodes: int) -> dict[str, float]:
    """Whole episodes that iCEM has played, and iLQR has bettered over their whole length."""
    env = envs.make_env("Pendulum-v1")
    made = vectorize(env, episodes)
    plans = planner_in(env, icem(env.spec.action_space, horizon=30, population=32, iterations=2, elites=8))
    better = ilqr(env, horizon=200, iterations=30)
    reset_key, key = jax.random.split(jax.random.key(SEED))

    @jax.jit
    def episode(state: Any, key: jax.Array):
        first = state.env

        def step(now, key):
            state, warm = now
            plan = jax.vmap(plans.plan)(state.env, warm, jax.random.split(key, episodes))
            state, seen = made.step(state, plan.action)
            return (state, plan.warm), (plan.action, seen.reward)

        warm = jax.tree.map(lambda x: jnp.broadcast_to(x, (episodes, *x.shape)), plans.begin())
        _, (actions, rewards) = jax.lax.scan(step, (state, warm), jax.random.split(key, 200))
        found = jax.vmap(better.plan)(first, jnp.swapaxes(actions, 0, 1), jax.random.split(key, episodes))
        return rewards.sum(0).mean(), found.value.mean()

    before, after = episode(made.reset(reset_key)[0], key)
    return {"icem": float(before), "ilqr": float(after)}


# Speed: one plan of the same method, H 30, 128 sequences, 3 iterations.


def compiled() -> Callable[[], None]:
    env = envs.make_env("Pendulum-v1")
    planner = cem(env.spec.action_space, **SIZES)
    plan = jax.jit(lambda state, warm, key: planner.plan(score_of(env, state), warm, key))
    state, key, now = env.reset(jax.random.key(0))[0], jax.random.key(1), [planner.begin(), 0]

    def once() -> None:
        found = plan(state, now[0], jax.random.fold_in(key, now[1]))
        now[0], now[1] = found.warm, now[1] + 1
        np.asarray(found.action)

    return once


PLAIN = """
def make(xp, normal, top, clip):
    mean = [xp.zeros((30,))]

    def once():
        center, std = mean[0], xp.ones((30,)) * 0.5
        for _ in range(3):
            actions = clip(center + std * normal(128, 30), -1, 1)
            actions[0] = center
            angle, speed, total = xp.ones((128,)), xp.zeros((128,)), xp.zeros((128,))
            for t in range(30):
                torque = 2 * actions[:, t]
                off = (angle + 3.141592653589793) % 6.283185307179586 - 3.141592653589793
                total = total - (off**2 + 0.1 * speed**2 + 0.001 * torque**2)
                speed = clip(speed + (15 * xp.sin(angle) + 3 * torque) * 0.05, -8, 8)
                angle = angle + speed * 0.05
            elite = actions[top(total)]
            center, std = 0.1 * center + 0.9 * elite.mean(0), clip(0.1 * std + 0.9 * elite.std(0), 0.02, 9)
        mean[0] = xp.concatenate([center[1:], xp.zeros((1,))])

    return once
"""
TORCH = """
import json, sys, time, torch
torch.set_num_threads(1)
torch.set_grad_enabled(False)
once = make(torch, torch.randn, lambda v: torch.topk(v, 8).indices, torch.clamp)
once()
begun = time.perf_counter()
for _ in range(int(sys.argv[1])):
    once()
print(json.dumps({"seconds": time.perf_counter() - begun}))
"""


def numpy_loop() -> Callable[[], None]:
    scope: dict[str, Any] = {}
    exec(PLAIN, scope)
    draw = np.random.default_rng(0)
    normal = lambda n, h: draw.standard_normal((n, h), np.float32)
    return scope["make"](np, normal, lambda v: np.argpartition(-v, 8)[:8], np.clip)


def rate(once: Callable[[], None], plans: int) -> float:
    once()
    begun = time.perf_counter()
    for _ in range(plans):
        once()
    return plans / (time.perf_counter() - begun)


def speed(rounds: int, plans: int, torch: str | None) -> dict[str, list[float]]:
    contenders: dict[str, Callable[[], float]] = {
        "steersman": lambda: rate(ours, 10 * plans),
        "numpy": lambda: rate(plain, plans),
    }
    ours, plain = compiled(), numpy_loop()
    if torch:
        command = [torch, "-c", PLAIN + TORCH, str(plans)]
        contenders["torch"] = lambda: plans / json.loads(subprocess.check_output(command))["seconds"]
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(rounds):
        for name, run in contenders.items():
            found[name].append(run())
        print(f"round {i + 1}: " + ", ".join(f"{n} {x[-1]:,.0f} plans/s" for n, x in found.items()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="tasks, ilqr, speed; all where it is not given")
    parser.add_argument("--torch", help="a Python that has torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small; saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    wanted, origin = args.only or [*TASKS, "ilqr", "speed"], common.provenance()
    result = common.load("planning", args.out) or {"tasks": {}}
    episodes = 2 if args.quick else 20
    optimum = None
    if {"Pendulum-v1", "ilqr"} & set(wanted):
        optimum = float(Grid().play(*starts(episodes).T).mean())
        print(f"Pendulum-v1: the optimum from these starts is {optimum:.1f}", flush=True)
    for name in [n for n in TASKS if n in wanted]:
        settings, target = TASKS[name]
        found = ceiling(
            name, **{"episodes": episodes, **settings, **({"episodes": 2} if args.quick else {})}, seed=SEED
        )
        row: dict[str, Any] = {**found.summary(), "target": target if name != "Pendulum-v1" else 1.05 * optimum}
        row |= {"optimum": optimum if name == "Pendulum-v1" else None, "provenance": origin}
        result["tasks"][name] = row
        print(f"{name}: {found.evaluation!r}, {found.milliseconds_per_step:.2f} ms a step", flush=True)
    if "ilqr" in wanted:
        result["ilqr"] = {**refined(episodes), "optimum": optimum, "provenance": origin}
        print(f"iLQR: {result['ilqr']}", flush=True)
    if "speed" in wanted:
        rates = speed(1 if args.quick else args.rounds, 20 if args.quick else 100, args.torch)
        ratios = {
            name: [a / b for a, b in zip(rates["steersman"], rates[name], strict=True)]
            for name in rates
            if name != "steersman"
        }
        result["speed"] = {"plans_per_second": rates, "ratios": ratios, "sizes": SIZES, "provenance": origin}
        print({name: statistics.median(x) for name, x in ratios.items()}, flush=True)
    if args.out or not args.quick:
        common.save("planning", result, args.out)


if __name__ == "__main__":
    main()
