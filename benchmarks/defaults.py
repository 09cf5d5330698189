"""Defaults beside Stable-Baselines3's defaults.

    python benchmarks/defaults.py ppo                        all environments, budgets and seeds that are not there yet
    python benchmarks/defaults.py ppo --only Hopper-v5 tasks:kiln --seeds 0
    python benchmarks/defaults.py ppo --peer                 the peer's side, in its own environment (see peers.py)
    python benchmarks/defaults.py ppo --show                 the table, from what is there

Presets are off. Both libraries step as many copies of an environment for as many steps; after each budget the
deterministic policy of each seed plays 100 episodes. Defaults are chosen on the first half of the environments and
judged on the second (``table.py`` says how far PPO's judges were unseen); what a random policy gets is the zero of
the gaps. Every run is written as soon as it is there.
"""

from __future__ import annotations

import argparse
import itertools
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
    "chosen on": (
        "tasks:cart_target",
        "Reacher-v5",
        "CartPole-v1",
        "tasks:sorter",
        "LunarLander-v3",
        "Hopper-v5",
        "Pusher-v5",
        "Pendulum-v1",
        "LunarLanderContinuous-v3",
        "Swimmer-v5",
    ),
    "judged on": (
        "tasks:kiln",
        "tasks:tanks",
        "Acrobot-v1",
        "InvertedDoublePendulum-v5",
        "Walker2d-v5",
        "HalfCheetah-v5",
    ),
}
# Written down, and committed, before any agent had been trained on one of them here.
FIXED_FIRST = {
    "fixed first": (
        "InvertedPendulum-v5",
        "Ant-v5",
        "BipedalWalker-v3",
        "MountainCarContinuous-v0",
        "HumanoidStandup-v5",
        "FrozenLake-v1",
    ),
}
CONTINUOUS = {
    "chosen on": ("tasks:cart_target", "Pendulum-v1"),
    "judged on": ("tasks:kiln", "InvertedDoublePendulum-v5", "Reacher-v5"),
}
# Nothing of TRPO's, DDPG's, TQC's and CrossQ's defaults was chosen on any environment: they follow the others'.
TRUST_REGION = {"judged on": ("tasks:kiln", "tasks:tanks", "Acrobot-v1", "InvertedDoublePendulum-v5")}
DISCRETE = {
    "chosen on": ("CartPole-v1", "LunarLander-v3"),
    "judged on": ("Acrobot-v1", "tasks:tanks", "MountainCar-v0"),
}
BUDGETS = (50_000, 200_000)
PLANS: dict[str, tuple[dict[str, tuple[str, ...]], tuple[int, ...]]] = {
    "ppo": (ON_POLICY | FIXED_FIRST, BUDGETS),
    "a2c": (ON_POLICY, BUDGETS),
    "dqn": (DISCRETE, BUDGETS),
    "sac": (CONTINUOUS, (5_000, 10_000)),
    "td3": (CONTINUOUS, (5_000, 10_000)),
    "trpo": (TRUST_REGION, (50_000,)),
    "ddpg": (CONTINUOUS, (5_000, 10_000)),
    "tqc": (CONTINUOUS, (5_000,)),
    "crossq": (CONTINUOUS, (5_000,)),
}


def compiled(environment: str) -> bool:
    """Whether ours is a program here, and the peer's the original that it is a twin of."""
    return environment in ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0")


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


def rows_of(name: str, folder: Path | None = None) -> dict[tuple[str, int], dict[str, Any]]:
    """The runs of a result file, by environment and seed."""
    found = common.load(name, folder)
    return {(row["environment"], row["seed"]): row for row in found["rows"]} if found else {}


def compared(algorithm: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """A row for each environment and budget that both sides have played."""
    mine, theirs = rows_of(f"defaults-{algorithm}", folder), rows_of(f"defaults-{algorithm}-sb3", folder)
    halves, budgets = PLANS[algorithm]
    zeros = (common.load("defaults-random", folder) or {"returns": {}})["returns"]
    found = []
    for half, environments in halves.items():
        for environment, steps in itertools.product(environments, map(str, budgets)):
            a, b = (
                [row["returns"][steps] for (name, _), row in sorted(rows.items()) if name == environment]
                for rows in (mine, theirs)
            )
            if a and b:
                zero, ours, peer = zeros[environment], statistics.mean(a), statistics.mean(b)
                row = {"half": half, "environment": environment, "steps": int(steps), "random": zero}
                # Ours over the peer's, which may be below chance, or no better: 99 stands for any multiple above.
                gap = min(1 + (ours - peer) / max(abs(peer - zero), 1e-9), 99.0)
                found.append(row | {"ours": ours, "peer": peer, "gap": gap, "each": a, "peer each": b})
    return found


def verdict(rows: list[dict[str, Any]]) -> str:
    """What rows come to."""
    above, large = (
        sum(test(r) for r in rows) for test in (lambda r: r["ours"] >= r["peer"], lambda r: r["gap"] >= 1.5)
    )
    least = min(r["gap"] for r in rows)
    return f"at or above in {above} of {len(rows)}, by 1.5 times the gap in {large}, the least gap {least:.2f} times"


def show(algorithm: str, folder: Path | None) -> None:
    rows = compared(algorithm, folder)
    for r in rows:
        each = [" ".join(f"{x:.4g}" for x in r[k]) for k in ("each", "peer each")]
        numbers = "".join(f"{r[k]:11.4g}" for k in ("random", "ours", "peer")) + f"{r['gap']:8.2f}"
        print(f"{r['half']:11}{r['environment']:27}{r['steps']:8,}{numbers}   {each[0]} | {each[1]}")
    for half in PLANS[algorithm][0]:
        if some := [r for r in rows if r["half"] == half]:
            print(f"{half}: {verdict(some)}")


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
        return show(args.algorithm, args.out)
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
    show(args.algorithm, args.out)


if __name__ == "__main__":
    main()
