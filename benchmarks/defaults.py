"""Defaults on environments that no preset knows, beside Stable-Baselines3's defaults.

    python benchmarks/defaults.py ppo                        all environments, budgets and seeds that are not there yet
    python benchmarks/defaults.py ppo --only Hopper-v5 tasks:kiln --seeds 0
    python benchmarks/defaults.py ppo --peer                 the peer's side, in its own environment (see peers.py)
    python benchmarks/defaults.py ppo --show                 the table, from what is there

Presets are off. Both libraries step as many copies of an environment for as many steps; after each budget the
deterministic policy of each seed plays 100 episodes. Defaults were chosen on the first half of the environments and are
judged on the second; what a random policy gets is the zero of the gaps. Every run is written as soon as it is there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import common
import gymnasium
import peers

CONTENDERS = common.HERE / "contenders"
COPIES = 8
ON_POLICY = {
    "chosen on": ("tasks:cart_target", "Reacher-v5", "CartPole-v1", "tasks:sorter", "InvertedPendulum-v5", "LunarLander-v3"),
    "judged on": (
        "tasks:kiln",
        "Pusher-v5",
        "Acrobot-v1",
        "Pendulum-v1",
        "InvertedDoublePendulum-v5",
        "Hopper-v5",
    ),
}
CONTINUOUS = {
    "chosen on": ("tasks:cart_target", "Reacher-v5"),
    "judged on": ("tasks:kiln", "Pendulum-v1", "InvertedDoublePendulum-v5"),
}
DISCRETE = {
    "chosen on": ("CartPole-v1", "LunarLander-v3"),
    "judged on": ("Acrobot-v1", "tasks:tanks", "MountainCar-v0"),
}
BUDGETS = (50_000, 200_000)
PLANS: dict[str, tuple[dict[str, tuple[str, ...]], tuple[int, ...]]] = {
    "ppo": (ON_POLICY, BUDGETS),
    "a2c": (ON_POLICY, BUDGETS),
    "dqn": (DISCRETE, BUDGETS),
    "sac": (CONTINUOUS, (5_000, 15_000)),
    "td3": (CONTINUOUS, (5_000, 15_000)),
}


def compiled(environment: str) -> bool:
    """Whether ours is a program here, and the peer's the original that it is a twin of."""
    return environment in ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0")


def ours(algorithm: str, environment: str, seed: int, budgets: tuple[int, ...]) -> dict[str, float]:
    """budget -> the mean return of a training of its own."""
    import steersman

    found = {}
    for steps in budgets:
        settings = {"steps": steps, "seed": seed, "num_envs": COPIES, "evaluation_episodes": 100}
        result = steersman.train(algorithm, environment, preset=False, **settings)
        assert result.evaluation is not None
        found[str(steps)] = result.evaluation.mean
    return found


def peer(algorithm: str, environment: str, seed: int, budgets: tuple[int, ...]) -> dict[str, float]:
    """As ``ours``, by the peer; one training passes through all budgets where its settings do not depend on them."""
    script = [peers.python_of("sb3"), str(CONTENDERS / "defaults_sb3.py"), algorithm, environment]
    more = ["--seed", str(seed), "--copies", str(COPIES), "--budgets", *map(str, budgets)]
    return {steps: row["mean"] for steps, row in common.run_json([*script, *more], timeout=7200).items()}


def at_random(environment: str, episodes: int = 100) -> float:
    """The mean return of uniformly random actions."""
    env = peer_environment(environment)
    env.action_space.seed(0)
    total = 0.0
    for episode in range(episodes):
        env.reset(seed=episode)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, over = total + float(reward), terminated or truncated
    return total / episodes


def peer_environment(name: str) -> gymnasium.Env:
    if name.startswith("tasks:"):
        import tasks

        return getattr(tasks, name.removeprefix("tasks:"))()
    return gymnasium.make(name)


def key(row: dict[str, Any]) -> tuple[str, int]:
    return row["environment"], row["seed"]


def rows_of(name: str, folder: Path | None) -> dict[tuple[str, int], dict[str, Any]]:
    found = common.load(name, folder)
    return {key(row): row for row in found["rows"]} if found else {}


def table(algorithm: str, folder: Path | None) -> str:
    """A line for each environment and budget, and what they come to."""
    mine, theirs = rows_of(f"defaults-{algorithm}", folder), rows_of(f"defaults-{algorithm}-sb3", folder)
    halves, budgets = PLANS[algorithm]
    random = (common.load("defaults-random", folder) or {"returns": {}})["returns"]
    lines = [f"{'':11}{'environment':27}{'steps':>8}{'random':>9}{'ours':>10}{'SB3':>10}{'gap':>7}  each of ours | of SB3"]
    for half, environments in halves.items():
        ratios, above = [], 0
        for environment in environments:
            for steps in map(str, budgets):
                a = [r["returns"][steps] for k, r in sorted(mine.items()) if k[0] == environment and steps in r["returns"]]
                b = [r["returns"][steps] for k, r in sorted(theirs.items()) if k[0] == environment and steps in r["returns"]]
                if not a or not b or environment not in random:
                    continue
                ours_mean, peer_mean, zero = statistics.mean(a), statistics.mean(b), random[environment]
                ratios.append((ours_mean - zero) / max(peer_mean - zero, 1e-9))
                above += ours_mean >= peer_mean
                each = f"{' '.join(f'{x:.4g}' for x in a)} | {' '.join(f'{x:.4g}' for x in b)}"
                numbers = f"{zero:9.4g}{ours_mean:10.4g}{peer_mean:10.4g}{ratios[-1]:7.2f}"
                lines.append(f"{half:11}{environment:27}{int(steps):8,}{numbers}  {each}")
        if ratios:
            large = sum(r >= 1.5 for r in ratios)
            lines.append(
                f"{half}: at or above in {above} of {len(ratios)}, by 1.5 times the gap in {large}, least gap "
                f"{min(ratios):.2f}\n"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", choices=PLANS)
    parser.add_argument("--only", nargs="+", metavar="ENVIRONMENT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peer", action="store_true", help="train the peer, not ours")
    parser.add_argument("--show", action="store_true", help="print the table and train nothing")
    parser.add_argument("--again", action="store_true", help="train what is there already too")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    sys.path.insert(0, str(CONTENDERS))  # of ``tasks``, here and in our workers
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(CONTENDERS), os.environ.get("PYTHONPATH"))))
    halves, budgets = PLANS[args.algorithm]
    environments = args.only or [name for half in halves.values() for name in half]
    if args.show:
        return print(table(args.algorithm, args.out))
    random = common.load("defaults-random", args.out) or {"provenance": common.provenance(), "returns": {}}
    for environment in environments:
        if environment not in random["returns"]:
            random["returns"][environment] = at_random(environment)
            common.save("defaults-random", random, args.out)
    name = f"defaults-{args.algorithm}" + ("-sb3" if args.peer else "")
    rows = {} if args.again else rows_of(name, args.out)
    for seed in args.seeds:
        for environment in environments:
            if (environment, seed) in rows:
                continue
            origin, train = common.provenance(), peer if args.peer else ours
            returns = train(args.algorithm, environment, seed, budgets)
            print(f"{name} {environment} seed {seed}: {returns}", flush=True)
            rows = rows_of(name, args.out) | rows
            rows[environment, seed] = {
                "environment": environment,
                "seed": seed,
                "compiled": compiled(environment) and not args.peer,
                "returns": returns,
                "provenance": origin,
            }
            common.save(name, {"copies": COPIES, "rows": [rows[k] for k in sorted(rows)]}, args.out)
    print(table(args.algorithm, args.out))


if __name__ == "__main__":
    main()
