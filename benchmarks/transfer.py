"""What training for transfer is worth: latency that a policy was trained for, physics that it was trained for, the
control loop's own times.

    taskset -c 1 python benchmarks/transfer.py            the first two; some ten minutes
    taskset -c 1 python benchmarks/transfer.py --quick    a fraction of the steps; nothing is saved
    taskset -c 1 python benchmarks/transfer.py --loop     the third: a minute each at 50 and 200 Hz

Latency: PPO on Pendulum-v1 by its preset, three seeds, once as it is and once with ``action_delay=0:3``. Each policy
then acts through the control loop of ``steersman deploy`` (the clock alone is made up, so that it does not wait) on a
simulator whose observations come late. A step is 50 ms, and what is late comes in whole steps: 20 ms are one.

Physics: the same with ``randomize=mass:0.5:2+length:0.6:1.5`` against none, over a grid of both, as a picture. The
robust policy of the second kind also sees its last observations and actions, by which it can tell what it moves.

The loop: what ``steersman deploy RUN --env Pendulum-v1 --hz 50 --seconds 60`` reports, and the same at 200 Hz.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

import steersman

TASK, PERIOD, SEEDS = "Pendulum-v1", 0.05, 3
DELAYS = "action_delay=0:3"
RANGES, HISTORY = "randomize=mass:0.5:2+length:0.6:1.5", "observation_history=5"
TRAINED = {
    "plain": TASK,
    "delays": f"{TASK},{DELAYS}",
    "physics": f"{TASK},{RANGES}",
    "physics, history": f"{TASK},{RANGES},{HISTORY}",
}
LATENCIES = (0.0, 0.02, 0.1, 0.15, 0.2)  # seconds
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


def train(folder: Path, name: str, scale: float) -> float:
    began = time.perf_counter()
    steps = {"steps": int(600_000 * scale)} if scale < 1 else {}
    quiet: Any = {"evaluate_every": 0, "evaluation_episodes": 1}
    steersman.train("ppo", TRAINED[name], out=folder / name, seeds=SEEDS, seed=1, **steps, **quiet)
    return time.perf_counter() - began


def late(run: Path, seed: int, latency: float, episodes: int) -> list[float]:
    """Returns of whole episodes through the control loop, with observations so late."""
    from steersman.deploy.control_loop import ControlLoop
    from steersman.deploy.loading import load
    from steersman.deploy.plant import Plant

    policy, clock = load(run, backend="numpy", seed_index=seed), Clock()
    plant = Plant(TASK, hz=1 / PERIOD, latency=latency, seed=100 + seed)
    loop = ControlLoop(policy, plant.read, plant.write, hz=1 / PERIOD, hold=1.0, clock=clock, sleep=clock.sleep)
    loop.run(turns=200 * episodes)
    return plant.returns


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

    plain = grids["plain"]
    panels = [("plain", plain, None)]
    for name in ("physics", "physics, history"):
        panels += [(name, grids[name], None), (f"{name} - plain", grids[name] - plain, "gain")]
    titles = {"plain": "trained at mass 1, length 1", "physics": "trained on random physics"}
    titles |= {"physics, history": "the same, seeing its last 5 steps"}
    figure, axes = plt.subplots(1, 5, figsize=(17, 3.9), layout="constrained", sharey=True)
    low = min(float(x.min()) for x in grids.values())
    most = max(float(np.abs(x).max()) for _, x, kind in panels if kind)
    edges = [np.sqrt(x[:-1] * x[1:]) for x in (LENGTHS, MASSES)]
    edges = [np.concatenate([[e[0] ** 2 / e[1]], e, [e[-1] ** 2 / e[-2]]]) for e in edges]
    for axis, (name, values, kind) in zip(axes, panels, strict=True):
        how: Any = (
            {"cmap": "RdBu", "vmin": -most, "vmax": most} if kind else {"cmap": "viridis", "vmin": low, "vmax": 0}
        )
        drawn = axis.pcolormesh(*edges, values, **how)
        axis.set(xscale="log", yscale="log", xlabel="length, m")
        base = name.removesuffix(" - plain")
        axis.set_title(f"{'less the first: ' if kind else ''}{titles[base]}", fontsize=9)
        axis.add_patch(plt.Rectangle((0.6, 0.5), 0.9, 1.5, fill=False, linestyle="--", color="black", linewidth=1))
        axis.plot(1, 1, "kx")
        axis.set_xticks([0.5, 1, 1.5], ["0.5", "1", "1.5"])
        axis.set_yticks([0.5, 1, 2], ["0.5", "1", "2"])
        axis.minorticks_off()
        figure.colorbar(drawn, ax=axis)
    axes[0].set_ylabel("mass, kg")
    figure.suptitle(
        "Return on Pendulum-v1 by mass and length, mean of three seeds. Dashed: what was trained on", fontsize=11
    )
    figure.savefig(IMAGE, dpi=110)


def latencies(folder: Path, names: tuple[str, ...], episodes: int, random: float) -> dict[str, Any]:
    rows = {}
    for name in names:
        table = [[float(np.mean(late(folder / name, s, x, episodes))) for x in LATENCIES] for s in range(SEEDS)]
        kept = [[(r - random) / (row[0] - random) for r in row] for row in table]
        rows[name] = {"returns": table, "kept": kept}
        print(name, *(f"{x * 1000:.0f} ms: {np.mean([r[i] for r in table]):.0f}" for i, x in enumerate(LATENCIES)))
    return rows


def physics(folder: Path, members: int, picture: bool) -> dict[str, Any]:
    grids, each = {}, {}
    for name in ("plain", "physics", "physics, history"):
        environment = f"{TASK},{HISTORY}" if "history" in name else TASK
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
        arguments = ["deploy", str(run), "--env", TASK, "--hz", str(hz), "--seconds", str(seconds), "--json"]
        told[str(hz)] = common.run_json([*common.STEERSMAN, *arguments])
        told[str(hz)].pop("returns")
        print(hz, told[str(hz)], flush=True)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the steps; nothing is saved")
    parser.add_argument("--loop", action="store_true", help="the control loop's times alone")
    args = parser.parse_args()
    result: dict[str, Any] = {"provenance": common.provenance()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if args.loop:
            train(folder, "plain", 0.2)
            result["loop"] = loop(folder, 5.0 if args.quick else 60.0)
        else:
            scale, episodes = (0.05, 2) if args.quick else (1.0, 20)
            for name in TRAINED:
                print(name, f"trained in {train(folder, name, scale):.0f} s", flush=True)
            random = -1208.0  # a random policy's return, of benchmarks/defaults.py
            result["latencies"] = list(LATENCIES)
            result["late"] = latencies(folder, ("plain", "delays"), episodes, random)
            result["physics"] = physics(folder, 4 * episodes, not args.quick)
    if not args.quick:
        common.save("control-loop" if args.loop else "transfer", result)


if __name__ == "__main__":
    main()
