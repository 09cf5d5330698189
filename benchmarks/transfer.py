"""What training for transfer is worth: latency that a policy was trained for, physics that it was trained for, the
control loop's own times.

    taskset -c 1 python benchmarks/transfer.py pendulum    latency and physics; some ten minutes
    taskset -c 1 python benchmarks/transfer.py cartpole    latency; some two minutes
    taskset -c 1 python benchmarks/transfer.py fast        latency of a pole of 6 cm at 200 Hz; some two minutes
    taskset -c 1 python benchmarks/transfer.py loop        the control loop, a minute each at 50 and 200 Hz
    ... --quick                                            a fraction of the steps; nothing is saved

Latency: PPO by its preset, three seeds, once as it is and once with ``action_delay=0:3``. Each policy then acts through
the control loop of ``steersman deploy`` (the clock alone is made up, so that it does not wait) on a simulator whose
observations come late, by whole steps. A step of CartPole is 20 ms, one of Pendulum 50, so that 20 ms are one step too,
and little beside the time in which either falls. The same pole, 6 cm long and held by 200 actions a second, falls four
times as fast: its policies are trained with ``action_delay=0:5``, up to 25 ms. The length was chosen on another seed.

Physics: Pendulum with ``randomize=mass:0.5:2+length:0.6:1.5`` against none, over a grid of both, as a picture; and with
the last observations and actions seen as well, by which a policy could tell what it moves.

The loop: what ``steersman deploy RUN --env Pendulum-v1 --hz 50 --seconds 60`` reports, and the same at 200 Hz.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np

import steersman


class Task(NamedTuple):
    environment: str
    period: float  # seconds of a step
    limit: int  # steps of an episode
    steps: int  # to train for
    random: float  # a random policy's return
    latencies: tuple[float, ...]  # seconds
    trained: dict[str, str]  # what is put after the environment's name


RANGES, HISTORY, SEEDS = "randomize=mass:0.5:2+length:0.6:1.5", "observation_history=5", 3
DELAYS = {"plain": "", "delays": ",action_delay=0:3"}
LONGER = DELAYS | {"delays": ",action_delay=0:5"}
SHORT_POLE = "CartPole-v1,length=0.03,dt=0.005"
PHYSICS = {"physics": f",{RANGES}", "physics, history": f",{RANGES},{HISTORY}"}
TASKS = {
    "pendulum": Task("Pendulum-v1", 0.05, 200, 600_000, -1208, (0.0, 0.02, 0.1, 0.15, 0.2), DELAYS | PHYSICS),
    "cartpole": Task("CartPole-v1", 0.02, 500, 200_000, 22, (0.0, 0.02, 0.04, 0.06, 0.08), DELAYS),
    "fast": Task(SHORT_POLE, 0.005, 500, 200_000, 22, (0.0, 0.01, 0.02, 0.03), LONGER),
}
MASSES, LENGTHS = np.geomspace(0.4, 2.5, 11), np.geomspace(0.5, 1.8, 11)
IMAGE = common.ROOT / "docs" / "img" / "transfer.png"


class Clock:
    """Time that passes only while one sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def train(folder: Path, task: Task, name: str, scale: float) -> None:
    began, environment = time.perf_counter(), task.environment + task.trained[name]
    how: Any = {"seeds": SEEDS, "seed": 1, "evaluate_every": 0, "evaluation_episodes": 1}
    steersman.train("ppo", environment, out=folder / name, steps=int(task.steps * scale), **how)
    print(environment, f"trained in {time.perf_counter() - began:.0f} s", flush=True)


def late(run: Path, task: Task, seed: int, latency: float, episodes: int) -> list[float]:
    """Returns of whole episodes through the control loop, with observations so late."""
    from steersman.deploy.control_loop import ControlLoop
    from steersman.deploy.loading import load
    from steersman.deploy.plant import Plant

    policy, clock, hz = load(run, backend="numpy", seed_index=seed), Clock(), 1 / task.period
    plant = Plant(task.environment, hz=hz, latency=latency, seed=100 + seed)
    loop = ControlLoop(policy, plant.read, plant.write, hz=hz, hold=1.0, clock=clock, sleep=clock.sleep)
    while len(plant.returns) < episodes:
        loop.run(turns=task.limit)
    return plant.returns[:episodes]


def grid(run: Path, seed: int, environment: str, members: int) -> np.ndarray:
    """Mean return [mass, length] of ``members`` episodes in each cell."""
    import jax
    import jax.numpy as jnp

    from steersman import envs, load

    policy = load(run, seed_index=seed)
    made = lambda mass, length: envs.make_env(environment, mass=mass, length=length)
    agent, state = policy.agent, policy.state

    def episode(mass: Any, length: Any, key: Any) -> Any:
        env = made(mass, length)
        start, key = jax.random.split(key)
        inside, obs = env.reset(start)

        def step(carried: Any, t: Any) -> Any:
            inside, obs, memory = carried
            own = jax.random.fold_in(key, t)
            batch = jax.tree.map(lambda x: x[None], obs)
            action, memory, _ = agent.act(state, memory, batch, jnp.zeros((1,), bool), own, explore=False)
            inside, seen = env.step(inside, action[0], own)
            return (inside, seen.final_obs, memory), seen.reward

        carried = inside, obs, agent.begin(1)
        return jax.lax.scan(step, carried, jnp.arange(200))[1].sum()

    over_cells = jax.vmap(episode, (0, 0, None))
    mass, length = (x.ravel().astype(np.float32) for x in np.meshgrid(MASSES, LENGTHS, indexing="ij"))
    keys = jax.random.split(jax.random.key(1000 + seed), members)
    returns = jax.jit(jax.vmap(over_cells, (None, None, 0)))(mass, length, keys)
    return np.asarray(returns).mean(0).reshape(len(MASSES), len(LENGTHS))


def draw(grids: dict[str, np.ndarray]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plain, robust = grids["plain"], grids["physics"]
    panels = {"trained at mass 1, length 1": plain, "trained on random physics": robust}
    panels["what random physics brings"] = robust - plain
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained", sharey=True)
    low, most = float(min(plain.min(), robust.min())), float(np.abs(robust - plain).max())
    edges = [np.sqrt(x[:-1] * x[1:]) for x in (LENGTHS, MASSES)]
    edges = [np.concatenate([[e[0] ** 2 / e[1]], e, [e[-1] ** 2 / e[-2]]]) for e in edges]
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        change: Any = {"cmap": "RdBu", "vmin": -most, "vmax": most}
        returns: Any = {"cmap": "viridis", "vmin": low, "vmax": 0}
        drawn = axis.pcolormesh(*edges, values, **(change if axis is axes[-1] else returns))
        axis.set(xscale="log", yscale="log", xlabel="length, m", title=title)
        axis.add_patch(plt.Rectangle((0.6, 0.5), 0.9, 1.5, fill=False, linestyle="--", color="black", linewidth=1))
        axis.plot(1, 1, "kx")
        axis.set_xticks([0.5, 1, 1.5], ["0.5", "1", "1.5"])
        axis.set_yticks([0.5, 1, 2], ["0.5", "1", "2"])
        axis.minorticks_off()
        figure.colorbar(drawn, ax=axis)
    axes[0].set_ylabel("mass, kg")
    figure.suptitle("Return on Pendulum-v1, mean of three seeds. Cross: trained at. Dashed: trained over", fontsize=11)
    figure.savefig(IMAGE, dpi=100)


def latencies(folder: Path, task: Task, episodes: int) -> dict[str, Any]:
    rows = {}
    for name in DELAYS:
        returns = lambda seed, latency: late(folder / name, task, seed, latency, episodes)  # noqa: B023
        table = [[float(np.mean(returns(seed, x))) for x in task.latencies] for seed in range(SEEDS)]
        kept = [[(r - task.random) / (row[0] - task.random) for r in row] for row in table]
        rows[name] = {"returns": table, "kept": kept}
        means = zip(task.latencies, np.mean(table, 0), strict=True)
        print(name, *(f"{x * 1000:.0f} ms: {mean:.0f}" for x, mean in means), flush=True)
    return rows


def physics(folder: Path, members: int, picture: bool) -> dict[str, Any]:
    grids, each = {}, {}
    for name in ("plain", "physics", "physics, history"):
        environment = f"Pendulum-v1,{HISTORY}" if "history" in name else "Pendulum-v1"
        by_seed = np.stack([grid(folder / name, s, environment, members) for s in range(SEEDS)])
        grids[name], each[name] = by_seed.mean(0), by_seed
    if picture:
        draw(grids)
    inside = np.ix_((MASSES >= 0.5) & (MASSES <= 2), (LENGTHS >= 0.6) & (LENGTHS <= 1.5))
    told: dict[str, Any] = {"masses": MASSES.tolist(), "lengths": LENGTHS.tolist(), "rows": {}}
    for name, values in grids.items():
        told["rows"][name] = {
            "nominal": float(values[len(MASSES) // 2, np.argmin(np.abs(LENGTHS - 1))]),
            "within": float(values[inside].mean()),
            "within, each seed": [float(x[inside].mean()) for x in each[name]],
            "worst within": float(values[inside].min()),
            "all": float(values.mean()),
            "grid": values.tolist(),
        }
        print(name, {k: round(v, 1) for k, v in told["rows"][name].items() if isinstance(v, float)})
    return told


def loop(folder: Path, seconds: float) -> dict[str, Any]:
    """A minute in real time at each rate, by the command itself."""
    run, told = folder / "plain", {}
    for hz in (50, 200):
        arguments = ["deploy", str(run), "--env", "Pendulum-v1", "--hz", str(hz), "--seconds", str(seconds), "--json"]
        told[str(hz)] = common.run_json([*common.STEERSMAN, *arguments])
        told[str(hz)].pop("returns")
        print(hz, told[str(hz)], flush=True)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*TASKS, "loop"))
    parser.add_argument("--quick", action="store_true", help="a twentieth of the steps; nothing is saved")
    args = parser.parse_args()
    result: dict[str, Any] = {"provenance": common.provenance()}
    scale, episodes = (0.05, 2) if args.quick else (1.0, 20)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if args.part == "loop":
            train(folder, TASKS["pendulum"], "plain", 0.2)
            result["loop"] = loop(folder, 5.0 if args.quick else 60.0)
        else:
            task = TASKS[args.part]
            for name in task.trained:
                train(folder, task, name, scale)
            result |= {"environment": task.environment, "period": task.period, "latencies": list(task.latencies)}
            result["trained"] = task.trained["delays"].removeprefix(",")
            result["late"] = latencies(folder, task, episodes)
            if args.part == "pendulum":
                result["physics"] = physics(folder, 4 * episodes, not args.quick)
    if not args.quick:
        common.save("control-loop" if args.part == "loop" else f"transfer-{args.part}", result)


if __name__ == "__main__":
    main()
