"""Training speed beside the peers': interleaved runs in one invocation, so that ratios mean something.

    python benchmarks/speed.py                              all scenarios, 5 rounds (half an hour on 2 cores)
    python benchmarks/speed.py cartpole-host --rounds 3     one of them
    python benchmarks/speed.py --quick                      seconds per run: a trial of the machinery, nothing is saved

A round measures every contender once, each in a process of its own, in turn: A B C, A B C ... A peer is measured with
each number of threads, and the number that gives it the best median is the one it is compared with, round by round.
Compilation is left out for everyone and reported apart. Before any ratio is formed, the settings that each library
reports back are compared: sizes, counts of parameters, coefficients must be the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import peers

COEFFICIENTS = {
    "hidden_sizes": [64, 64],
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip": 0.2,
    "value_coefficient": 0.5,
    "entropy_coefficient": 0.0,
    "max_grad_norm": 0.5,
}
SIXTY_FOUR = {"num_envs": 64, "rollout_length": 128, "epochs": 4, "minibatch_size": 1024}
COMPILED = {"environment": "CartPole-v1"} | SIXTY_FOUR | COEFFICIENTS
EIGHT = {"num_envs": 8, "rollout_length": 256, "epochs": 4, "minibatch_size": 256}
HOST = {"environment": "gymnasium/CartPole-v1"} | EIGHT | COEFFICIENTS
A2C = {k: v for k, v in COMPILED.items() if k not in ("epochs", "minibatch_size", "clip")}
A2C |= {"algorithm": "a2c", "rollout_length": 8, "learning_rate": 7e-4, "gae_lambda": 1.0}
SAC = {
    "algorithm": "sac",
    "environment": "HalfCheetah-v5",
    "num_envs": 1,
    "rollout_length": 1,
    "update_ratio": 1,
    "minibatch_size": 256,
    "hidden_sizes": [256, 256],
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "tau": 0.005,
    "replay_capacity": 100_000,
    "learning_starts": 1_000,
}
DQN = {
    "algorithm": "dqn",
    "environment": "gymnasium/CartPole-v1",
    "num_envs": 1,
    "rollout_length": 1,
    "update_ratio": 1,
    "minibatch_size": 128,
    "hidden_sizes": [64, 64],
    "learning_rate": 5e-4,
    "gamma": 0.99,
    "target_period": 250,
    "epsilon": 0.1,
    "max_grad_norm": 10.0,
    "replay_capacity": 100_000,
    "learning_starts": 1_000,
}
SCRIPTS = {"steersman": "train_steersman", "sb3": "train_sb3", "sbx": "train_sb3"}  # others: train_rejax

# What the settings cannot show; printed under the table.
NOTES = {
    "all": "Separate 64x64 tanh networks for policy and value, Adam, advantages normalised per minibatch, no "
    "normalisation of observations or rewards, constant learning rate, float32, nothing written to disk.",
    "steersman": "Evaluates V at the true successor of every step, in one batch; sb3 and sbx only where the clock cut "
    "an episode, rejax never. One XLA device per core; episode statistics kept.",
    "sb3": "DummyVecEnv with Monitor, as make_vec_env builds it (SubprocVecEnv where processes are named); timed after "
    "two rollouts.",
    "sbx": "As sb3. Policy and value each have their own gradient, Adam and norm.",
    "rejax": "gymnax's CartPole. Evaluation replaced by nothing. Clips gradients element by element, clips the value "
    "loss, one optimiser each for policy and value; no option turns these off.",
}
SAC_NOTES = {
    "all": "256x256 ReLU networks, twin critics, temperature learned, Adam, one visit to the learner after every step "
    "of the environments, float32, nothing written to disk.",
    "steersman": "Sequential: no overlap of simulator and learner. Episode statistics kept.",
    "sb3": "DummyVecEnv with Monitor, as make_vec_env builds it; timed after the first updates.",
    "sbx": "As sb3.",
}
DQN_NOTES = {
    "all": "64x64 ReLU networks, Adam, Huber loss, constant epsilon, one environment, one update of a batch of 128 "
    "after every step, float32, nothing written to disk.",
    "steersman": "Host: sequential, no overlap of simulator and learner; 1 core: as under `taskset -c 0`. Compiled "
    "twin: the same in one program. "
    "Episode statistics kept.",
    "sb3": "DummyVecEnv with Monitor, as make_vec_env builds it; timed after the first updates.",
    "sbx": "As sb3; it does not clip gradients, and has no option for it.",
}
A2C_NOTES = {
    "all": "Separate 64x64 tanh networks for policy and value, Adam (sb3 with use_rms_prop=False), no normalisation of "
    "advantages, observations or rewards, constant learning rate, float32, nothing written to disk.",
    "steersman": NOTES["steersman"],
    "sb3": NOTES["sb3"],
}
NOTES_OF = {"sac": SAC_NOTES, "dqn": DQN_NOTES, "a2c": A2C_NOTES}


@dataclass(frozen=True)
class Contender:
    """Who is measured, how, and over how many environment steps (about 10 s of them)."""

    name: str
    variant: str
    steps: int
    options: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.name}, {self.variant}" if self.variant else self.name

    def python(self) -> str:
        """The interpreter of its environment; ends the program if it is not there."""
        if self.name == "steersman":
            return sys.executable
        return peers.python_of("rejax" if self.name.startswith("rejax") else "sb3")

    def measure(self, shape: dict[str, Any], scale: float) -> dict[str, Any]:
        script = common.HERE / "contenders" / f"{SCRIPTS.get(self.name, 'train_rejax')}.py"
        steps = max(int(self.steps * scale), 4 * shape["num_envs"] * shape["rollout_length"])
        library = ["--library", self.name] if self.name in ("sb3", "sbx") else []
        options = ["--shape", json.dumps(shape), "--steps", str(steps), *library, *self.options]
        return common.run_json([self.python(), str(script), *options])


def threads(name: str, steps: int, *options: str) -> tuple[Contender, ...]:
    """A peer with one and with two threads; JAX's are the cores the process may use."""
    word = "thread" if name == "sb3" else "core"
    return tuple(Contender(name, f"{n} {word}{'s' * (n > 1)}", steps, ("--threads", str(n), *options)) for n in (1, 2))


@dataclass(frozen=True)
class Scenario:
    shape: dict[str, Any]
    contenders: tuple[Contender, ...]
    targets: dict[str, float]  # peer -> the ratio that steersman is to reach; "VARIANT of ours, peer" for our others


SCENARIOS = {
    "cartpole-compiled": Scenario(
        COMPILED,
        (Contender("steersman", "", 2_500_000), *threads("sb3", 250_000), *threads("rejax", 1_500_000)),
        {"sb3": 10.0, "rejax": 1.6},
    ),
    "cartpole-seeds2": Scenario(
        COMPILED,
        (
            Contender("steersman", "2 seeds", 3_500_000, ("--seeds", "2")),
            *threads("rejax", 1_500_000),
            *threads("rejax vmap of 2 seeds", 1_500_000, "--seeds", "2"),
        ),
        {"rejax": 2.2},
    ),
    "cartpole-host": Scenario(
        HOST,
        (
            Contender("steersman", "", 400_000),
            Contender("steersman", "1 worker", 500_000, ("--workers", "1")),
            *threads("sb3", 90_000),
            *threads("sbx", 90_000),
        ),
        {"sb3": 4.0, "sbx": 4.0, "1 worker, sb3": 4.0, "1 worker, sbx": 4.0},
    ),
    "a2c-cartpole-compiled": Scenario(
        A2C,
        (Contender("steersman", "", 5_000_000), *threads("sb3", 250_000)),
        {"sb3": 15.0},
    ),
    "halfcheetah-host": Scenario(
        HOST | {"environment": "HalfCheetah-v5"},
        (
            Contender("steersman", "", 130_000),
            Contender("steersman", "1 worker", 170_000, ("--workers", "1")),
            *threads("sb3", 60_000),
            Contender("sb3", "8 processes", 60_000, ("--threads", "1", "--processes")),
        ),
        {"sb3": 2.5, "1 worker, sb3": 2.5},
    ),
    "dqn-cartpole": Scenario(
        DQN,
        (
            Contender("steersman", "", 20_000),
            Contender("steersman", "1 core", 25_000, ("--cores", "1")),
            Contender("steersman", "compiled twin", 40_000, ("--compiled",)),
            Contender("steersman", "compiled twin, 1 core", 40_000, ("--compiled", "--cores", "1")),
            *threads("sb3", 3_000),
            *threads("sbx", 2_000),
        ),
        {
            "sb3": 6.0,
            "sbx": 10.0,
            "1 core, sb3": 6.0,
            "1 core, sbx": 10.0,
            "compiled twin, sb3": 15.0,
            "compiled twin, 1 core, sb3": 15.0,
        },
    ),
    "sac-halfcheetah": Scenario(
        SAC,
        (
            Contender("steersman", "", 3_000),
            *threads("sb3", 1_000),
            *threads("sbx", 1_500),
        ),
        {"sb3": 2.5, "sbx": 1.8},
    ),
    "sac-halfcheetah-ratio20": Scenario(
        SAC | {"update_ratio": 20},
        (
            Contender("steersman", "", 150),
            *threads("sb3", 60),
            *threads("sbx", 80),
        ),
        {"sb3": 2.5, "sbx": 1.8},
    ),
    "sac-halfcheetah-8": Scenario(
        SAC | {"num_envs": 8},
        (
            Contender("steersman", "", 3_000),
            *threads("sb3", 1_000),
            *threads("sbx", 1_500),
        ),
        {"sb3": 2.5, "sbx": 1.8},
    ),
}


def differences(settings: dict[str, dict[str, Any]]) -> list[str]:
    """The settings that are not what most contenders have; none, or the comparison is not one."""
    found = []
    for key in next(iter(settings.values())):
        usual = Counter(round(float(s[key]), 9) for s in settings.values()).most_common(1)[0][0]
        found += [f"{who}: {key} {s[key]}, not {usual:g}" for who, s in settings.items() if abs(s[key] - usual) > 1e-8]
    return found


def run(name: str, rounds: int, scale: float) -> dict[str, Any]:
    """Measure a scenario; -> its result."""
    scenario = SCENARIOS[name]
    measured: dict[str, list[dict[str, Any]]] = {c.label: [] for c in scenario.contenders}
    for i in range(rounds):
        for contender in scenario.contenders:
            one = contender.measure(scenario.shape, scale)
            measured[contender.label].append(one)
            speed = f"{one['steps_per_second']:>9,.0f} steps/s over {one['seconds']:4.1f} s"
            print(f"{name} {i + 1}/{rounds}  {contender.label:<32}{speed}, compiling {one['compile_seconds']:.1f} s")
            sys.stdout.flush()
    rates = {label: [m["steps_per_second"] for m in all_] for label, all_ in measured.items()}
    settings = {label: all_[0]["settings"] for label, all_ in measured.items()}
    if wrong := differences(settings):
        raise SystemExit(f"{name} compares unlike things:\n  " + "\n  ".join(wrong))
    ratios = {}
    own = [c for c in scenario.contenders if c.name == "steersman"]
    for ours in own:
        for peer in dict.fromkeys(c.name for c in scenario.contenders if c.name != "steersman"):
            labels = [c.label for c in scenario.contenders if c.name == peer]
            best = max(labels, key=lambda label: statistics.median(rates[label]))
            each = [a / b for a, b in zip(rates[ours.label], rates[best], strict=True)]
            name_of = peer if ours is own[0] else f"{ours.variant}, {peer}"
            target = scenario.targets.get(name_of)
            ratios[name_of] = {
                "against": best if ours is own[0] else f"{best}, by our {ours.variant}",
                "median": statistics.median(each),
                "min": min(each),
                "max": max(each),
                "target": target,
            }
            of = "" if target is None else f"   target {target}"
            print(f"{name}: {statistics.median(each):.2f} times {ratios[name_of]['against']}{of}", flush=True)
    ours = own[0].label
    notes = NOTES_OF.get(scenario.shape.get("algorithm", ""), NOTES)
    return {
        "scenario": name,
        "shape": scenario.shape,
        "settings": settings[ours],
        "notes": {k: v for k, v in notes.items() if k in ("all", "steersman", *scenario.targets)},
        "ratios": ratios,
        "steps_per_second": rates,
        "compile_seconds": {
            label: statistics.median(m["compile_seconds"] for m in all_) for label, all_ in measured.items()
        },
        "summary_steps_per_second": [m["summary_steps_per_second"] for m in measured[ours]],
        "peer_versions": {label: all_[0]["versions"] for label, all_ in measured.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="2 short rounds; saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    names = args.scenarios or list(SCENARIOS)
    if unknown := set(names) - set(SCENARIOS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Scenarios: {', '.join(SCENARIOS)}")
    for contender in (c for name in names for c in SCENARIOS[name].contenders):
        contender.python()
    rounds = args.rounds or (2 if args.quick else 5)
    for name in names:
        origin = common.provenance()
        result = run(name, rounds, 0.15 if args.quick else 1.0)
        if args.out or not args.quick:
            common.save(f"speed-{name}", result | {"provenance": origin}, args.out)


if __name__ == "__main__":
    main()
