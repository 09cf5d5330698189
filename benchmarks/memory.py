"""What each memory learns: tasks that need one, whose best returns with and without memory are known.

    python benchmarks/memory.py                    every case that is not there yet
    python benchmarks/memory.py chain-20 --only gru tcn
    python benchmarks/memory.py delays             the return of each memory over the delay, and its picture

PPO, no presets, five seeds side by side in one program, each played by 500 episodes of its deterministic policy.
``stored`` tells whether sequences begin with the carry that acting had there, or with an empty one.
"""

from __future__ import annotations

import argparse
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

import steersman
from steersman.agents.parts import remembering
from steersman.agents.policy_gradient import ppo

SEEDS = 5
PLAIN = {"normalize_observations": False, "scale_rewards": False}
SETTINGS: dict[str, Any] = {
    "num_envs": 32,
    "unroll_length": 64,
    "num_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 1e-3,
    "entropy_coefficient": 0.01,
    "hidden_sizes": (64,),
    **PLAIN,
}
ALL = ("gru", "lstm", "lru", "tcn")
LONG = {"unroll_length": 128, "gamma": 0.999}
CONTROL = {"num_envs": 16, "entropy_coefficient": 0.0, "normalize_observations": True, "anneal_learning_rate": True}
BALANCE = CONTROL | {"unroll_length": 128, "num_epochs": 10, "gamma": 0.98, "gae_lambda": 0.9, "anneal_clip": True}
# name -> (environment, steps, memories, settings, the return to reach, the best without memory)
CASES: dict[str, tuple[str, int, tuple[str, ...], dict[str, Any], float | None, float | None]] = {
    "chain-20": ("memory/chain-20", 300_000, (*ALL, "window", "none"), {}, 0.95, 0.0),
    "chain-20, sequences of 16": ("memory/chain-20", 300_000, ("gru", "lru"), {"sequence_length": 16}, 0.95, 0.0),
    "chain-20, sequences of 16, not stored": (
        "memory/chain-20",
        300_000,
        ("gru", "lru"),
        {"sequence_length": 16, "stored": False},
        None,
        0.0,
    ),
    "chain-20, plain gates and poles": (
        "memory/chain-20",
        300_000,
        ("gru", "lstm", "lru"),
        {"memory_slow": False},
        None,
        0.0,
    ),
    "chain-20, previous action unseen": ("memory/chain-20", 300_000, ("gru",), {"previous_action": False}, None, 0.0),
    "chain-60": ("memory/chain-60", 1_000_000, ("gru", "lru"), LONG, 0.9, 0.0),
    "tmaze-10": ("memory/tmaze-10", 300_000, ("gru", "lru"), {}, 3.8, 1.95),
    "repeat-4": ("memory/repeat-4", 300_000, ("gru", "lru", "window"), {"memory_context": 8}, None, -0.5),
    "CartPoleNoVel-v1": ("CartPoleNoVel-v1", 300_000, ("gru", "window", "none"), BALANCE, 475.0, None),
    "PendulumNoVel-v1": (
        "PendulumNoVel-v1",
        300_000,
        ("gru", "window", "none"),
        CONTROL | {"gamma": 0.95, "num_epochs": 10, "scale_rewards": True},
        -300.0,
        None,
    ),
}
DELAYS = (5, 10, 20, 40, 80)


def zeroed(*args: Any) -> Any:
    """Minibatches whose sequences begin with an empty carry."""
    batch, recall = remembering.shuffled_sequences(*args)
    return batch, recall._replace(carry=jax.tree.map(jnp.zeros_like, recall.carry))


def measured(environment: str, memory: str, steps: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The return of each seed, and steps per second of all of them together."""
    given = {**SETTINGS, **settings}
    if given.get("memory_context") and memory in ("gru", "lstm", "lru"):
        del given["memory_context"]
    ppo.shuffled_sequences = remembering.shuffled_sequences if given.pop("stored", True) else zeroed
    run = {"steps": steps, "seeds": SEEDS, "memory": memory, "evaluation_episodes": 500, "evaluate_every": 0}
    result = steersman.train("ppo", environment, preset=False, **run, **given)
    assert result.evaluation is not None
    episodes = np.reshape(result.evaluation.returns, (SEEDS, -1))
    returns = episodes.mean(1).tolist()
    return {"memory": memory, "returns": returns, "steps_per_second": round(result.summary["steps_per_second"])}


def picture(rows: list[dict[str, Any]]) -> None:
    """The return of each memory over the delay, for the documents."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for memory in dict.fromkeys(row["memory"] for row in rows):
        own = [row for row in rows if row["memory"] == memory]
        means = [sum(row["returns"]) / len(row["returns"]) for row in own]
        axes.plot([row["delay"] for row in own], means, marker="o", label=memory)
    axes.set(xscale="log", xlabel="steps between the cue and the question", ylabel="mean return", ylim=(-0.15, 1.08))
    axes.set_xticks(DELAYS, [str(n) for n in DELAYS])
    axes.minorticks_off()
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.legend(frameon=False, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(common.ROOT / "docs" / "img" / "memory-delays.png", dpi=140)


def delays(only: list[str]) -> None:
    """300,000 steps for each memory and delay; saved as they come."""
    saved = common.load("memory-delays") or {"rows": []}
    for memory in (*ALL, "window", "none"):
        for delay in DELAYS:
            had = any(r["memory"] == memory and r["delay"] == delay for r in saved["rows"])
            if had or (only and memory not in only):
                continue
            row = {"delay": delay, **measured(f"memory/chain-{delay}", memory, 300_000, {"unroll_length": 128})}
            saved["rows"].append(row)
            common.save("memory-delays", {"rows": saved["rows"], "provenance": common.provenance()})
            print(row, flush=True)
    picture(saved["rows"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="names of cases, or delays")
    parser.add_argument("--only", nargs="*", default=[], help="memories")
    args = parser.parse_args()
    if args.cases == ["delays"]:
        delays(args.only)
        return
    saved = common.load("memory") or {"cases": {}}
    for name in args.cases or CASES:
        environment, steps, memories, settings, threshold, without = CASES[name]
        case = saved["cases"].setdefault(name, {"rows": []})
        case |= {"environment": environment, "steps": steps, "settings": settings}
        case |= {"threshold": threshold, "without": without}
        for memory in memories:
            if (args.only and memory not in args.only) or any(row["memory"] == memory for row in case["rows"]):
                continue
            case["rows"].append(measured(environment, memory, steps, settings))
            common.save("memory", {"cases": saved["cases"], "provenance": common.provenance()})
            print(name, case["rows"][-1], flush=True)


if __name__ == "__main__":
    main()
