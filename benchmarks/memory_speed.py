"""What a memory costs, and how fast one trains beside sb3-contrib's RecurrentPPO: interleaved rounds in one invocation.

    python benchmarks/memory_speed.py              3 rounds (a quarter of an hour on 2 cores)
    python benchmarks/memory_speed.py --quick      1 short round; nothing is saved

PPO on a compiled environment with each memory and without, of the same shapes; then on Gymnasium's CartPole-v1 with an
LSTM, beside the peer's with the same number of environments, rollout, epochs, minibatches and widths. Each run is a
process of its own, without compilation; only ratios within a round are read.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import common
import peers

SHAPE = {"num_envs": 16, "unroll_length": 128, "num_epochs": 4, "num_minibatches": 4, "memory_size": 64, "hidden": [64]}
HOST = SHAPE | {"num_envs": 8}
MEMORIES = ("none", "gru", "lstm", "lru", "tcn", "window")
TARGETS = {"gru": 1 / 6, "lru": 1 / 3, "peer": 5.0}


def one(memory: str, environment: str, steps: int, shape: dict[str, Any]) -> None:
    """Steps per second of ``steersman.train``, from the end of its first chunk to the end of its last."""
    import jax

    import steersman
    from steersman.run.events import Trained

    marks: list[tuple[float, int]] = []

    def mark(event: Any) -> None:
        if isinstance(event, Trained):
            marks.append((time.perf_counter(), event.steps))

    hidden = (64, 64) if memory == "none" else tuple(shape["hidden"])  # the layer before a memory is one too
    settings = {k: v for k, v in shape.items() if k != "hidden"} | {"hidden_sizes": hidden, "memory": memory}
    settings |= {"previous_action": False, "normalize_observations": False, "scale_rewards": False}
    settings |= {"evaluate_every": 0, "evaluation_episodes": 0, "steps": steps, "preset": False}
    result = steersman.train("ppo", environment, callbacks=[mark], **settings)
    (began, first), (ended, last) = marks[0], marks[-1]
    size = sum(x.size for x in jax.tree.leaves(result.policy.state.params))
    print(json.dumps({"steps_per_second": (last - first) / (ended - began), "parameters": size}))


def rate(memory: str, environment: str, steps: int, shape: dict[str, Any]) -> dict[str, Any]:
    given = ["--one", memory, environment, str(steps), json.dumps(shape)]
    return common.run_json([sys.executable, __file__, *given])


def peer(steps: int, threads: int) -> dict[str, Any]:
    script = [peers.python_of("sb3"), str(common.HERE / "contenders" / "recurrent_sb3.py")]
    return common.run_json([*script, "--shape", json.dumps(HOST), "--steps", str(steps), "--threads", str(threads)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        memory, environment, steps, shape = args.one
        one(memory, environment, int(steps), json.loads(shape))
        return
    scale = 10 if args.quick else 1
    rounds: list[dict[str, float]] = []
    parameters: dict[str, int] = {}
    for _ in range(1 if args.quick else args.rounds):
        found = {name: rate(name, "CartPoleNoVel-v1", 1_000_000 // scale, SHAPE) for name in MEMORIES}
        found["host lstm"] = rate("lstm", "gymnasium/CartPole-v1", 100_000 // scale, HOST)
        found |= {f"peer, {n} threads": peer(20_000 // scale, n) for n in (1, 2)}
        rounds.append({name: x["steps_per_second"] for name, x in found.items()})
        parameters |= {name: x["parameters"] for name, x in found.items()}
        print(rounds[-1], flush=True)
    fastest = max((name for name in rounds[0] if name.startswith("peer")), key=lambda n: sum(r[n] for r in rounds))
    ratios = {name: [r[name] / r["none"] for r in rounds] for name in MEMORIES[1:]}
    ratios["peer"] = [r["host lstm"] / r[fastest] for r in rounds]
    summary = {name: {"median": statistics.median(x), "min": min(x), "max": max(x)} for name, x in ratios.items()}
    print(json.dumps(common.rounded(summary), indent=1))
    if not args.quick:
        result = {"rounds": rounds, "ratios": summary, "targets": TARGETS, "parameters": parameters, "shape": SHAPE}
        common.save("memory-speed", result | {"provenance": common.provenance()})


if __name__ == "__main__":
    main()
