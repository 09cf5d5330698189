"""What each memory learns: tasks that need one, whose best returns with and without memory are known.

    python benchmarks/memory.py                    every case that is not there yet
    python benchmarks/memory.py chain-20 --only gru tcn
    python benchmarks/memory.py delays             the return of each memory over the delay, and its picture
    python benchmarks/memory.py qmdp               what QMDP's policy is worth on the tiger, exactly

PPO where a case names no other algorithm, no presets, five seeds side by side in one program (on host environments one
after another), each played by 500 episodes of its deterministic policy (the tiger 5,000). ``stored`` tells whether
PPO's sequences begin with the carry that acting had there, or with an empty one. Where a case evaluates on the way, the
best policy of each seed is played anew, in episodes that did not choose it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np

import steersman
from steersman.agents.parts import remembering
from steersman.agents.policy_gradient import ppo
from steersman.run.evaluate import evaluate_run
from steersman.tabular.planning.pomdp_planning import qmdp
from steersman.tabular.pomdp import POMDP
from steersman.tabular.problems.pomdp_classics import tiger

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
SWING = CONTROL | {"gamma": 0.95, "num_epochs": 10, "scale_rewards": True}
BALANCE = CONTROL | {"unroll_length": 128, "num_epochs": 10, "gamma": 0.98, "gae_lambda": 0.9, "anneal_clip": True}
R2D2 = {"num_envs": 8, "hidden_sizes": (64,), "learning_rate": 1e-3, "double": True, "exploration_fraction": 0.3}
# DQN's preset for CartPole-v1, but narrower and longer, of 32 short sequences a batch
R2D2_BALANCE = {
    "num_envs": 4,
    "unroll_length": 8,
    "update_ratio": 0.25,
    "learning_rate": 1e-3,
    "anneal_learning_rate": True,
    "batch_size": 32,  # sequences
    "sequence_length": 24,
    "memory_size": 32,
    "gamma": 0.997,
    "double": True,
    "n_step": 3,
    "n_step_correction": "none",
    "target_period": 1,
    "tau": 0.01,
    "exploration_fraction": 0.16,
    "exploration_end": 0.1,
    "max_grad_norm": 1.0,
    "hidden_sizes": (64,),
    "layer_norm": True,
    **PLAIN,
}
SOFT = {
    "num_envs": 1,
    "unroll_length": 2,
    "update_ratio": 0.5,
    "replay_capacity": 20_000,  # with one environment and several seeds, XLA copies it before every chunk of updates
    "batch_size": 16,  # sequences
    "memory_size": 32,
    "sequence_length": 24,
    "hidden_sizes": (64,),
    "gamma": 0.95,
    "learning_rate": 1e-3,
    "learning_starts": 1_000,
}
TIGER = {
    "gamma": 0.95,
    "memory_size": 32,
    "unroll_length": 128,
    "entropy_coefficient": 0.1,  # with less, some seeds listen for ever
    "scale_rewards": True,
    "anneal_learning_rate": True,
    "evaluation_episodes": 5_000,  # a door that hides the tiger is rare, and dear
}
POPGYM = {"seeds": 2, "num_envs": 16, "unroll_length": 128, "num_epochs": 10}


class Case(NamedTuple):
    """A task, with the memories to try on it."""

    environment: str
    steps: int
    memories: tuple[str, ...]
    settings: Mapping[str, Any] = MappingProxyType({})  # on top of SETTINGS, if it is PPO
    threshold: float | None = None  # the return to reach
    without: float | None = None  # the best return without memory
    algorithm: str = "ppo"
    number: str = "return"  # what is called return here: an entry of info's where it is not the sum of rewards


CHAIN, PENDULUM = "memory/chain-20", "PendulumNoVel-v1"
CASES = {
    "chain-20": Case(CHAIN, 300_000, (*ALL, "window", "none"), {}, 0.95, 0.0),
    "chain-20, sequences of 16": Case(CHAIN, 300_000, ("gru", "lru"), {"sequence_length": 16}, 0.95, 0.0),
    "chain-20, sequences of 16, not stored": Case(
        CHAIN, 300_000, ("gru", "lru"), {"sequence_length": 16, "stored": False}, None, 0.0
    ),
    "chain-20, plain gates and poles": Case(CHAIN, 300_000, ("gru", "lstm", "lru"), {"memory_slow": False}, None, 0.0),
    "chain-20, previous action unseen": Case(CHAIN, 300_000, ("gru",), {"previous_action": False}, None, 0.0),
    "chain-60": Case("memory/chain-60", 1_000_000, ("gru", "lru"), LONG, 0.9, 0.0),
    "chain-100": Case("memory/chain-100", 1_000_000, ("gru", "lru"), LONG, None, 0.0),
    "tmaze-10": Case("memory/tmaze-10", 300_000, ("gru", "lru"), {}, 3.8, 1.95),
    "repeat-4": Case("memory/repeat-4", 300_000, ("gru", "lru", "window"), {"memory_context": 8}, None, -0.5),
    "CartPoleNoVel-v1": Case("CartPoleNoVel-v1", 300_000, ("gru", "window", "none"), BALANCE, 475.0),
    "CartPoleNoVel-v1 at 100k": Case("CartPoleNoVel-v1", 100_000, ("gru", "lstm"), BALANCE),
    "PendulumNoVel-v1": Case(PENDULUM, 300_000, ("gru", "window", "none"), SWING, -300.0),
    "PendulumNoVel-v1, SAC": Case(PENDULUM, 20_000, ("gru", "none"), SOFT, -300.0, algorithm="sac"),
    "chain-20, R2D2": Case(CHAIN, 100_000, ("gru",), R2D2, 0.95, 0.0, "dqn"),
    "chain-20, R2D2, not stored": Case(CHAIN, 100_000, ("gru",), R2D2 | {"stored_carry": False}, None, 0.0, "dqn"),
    "chain-20, R2D2 at 20k": Case(CHAIN, 20_000, ("gru",), R2D2, None, 0.0, "dqn"),
    "chain-20, R2D2 at 20k, not stored": Case(
        CHAIN, 20_000, ("gru",), R2D2 | {"stored_carry": False}, None, 0.0, "dqn"
    ),
    "chain-20, R2D2 at 20k, no burn-in": Case(CHAIN, 20_000, ("gru",), R2D2 | {"burn_in": 0}, None, 0.0, "dqn"),
    "chain-20, R2D2 at 20k, burn-in of 20": Case(CHAIN, 20_000, ("gru",), R2D2 | {"burn_in": 20}, None, 0.0, "dqn"),
    "CartPoleNoVel-v1, R2D2": Case(
        "CartPoleNoVel-v1", 200_000, ("gru",), R2D2_BALANCE | {"evaluate_every": 10_000}, 475.0, algorithm="dqn"
    ),
    "tiger": Case("pomdp/tiger", 1_000_000, ("gru",), TIGER, 17.0, number="discounted_return"),
    "tiger, on the belief": Case(
        "pomdp/tiger,belief=true", 1_000_000, ("none",), TIGER, 18.5, number="discounted_return"
    ),
    "popgym PositionOnlyCartPoleEasy": Case("popgym/PositionOnlyCartPoleEasy", 1_000_000, ("gru",), POPGYM, 0.95),
    "popgym RepeatPreviousEasy": Case("popgym/RepeatPreviousEasy", 1_000_000, ("gru",), POPGYM, 0.9),
}
DELAYS = (5, 10, 20, 40, 80)


def zeroed(*args: Any) -> Any:
    """Minibatches whose sequences begin with an empty carry."""
    batch, recall = remembering.shuffled_sequences(*args)
    return batch, recall._replace(carry=jax.tree.map(jnp.zeros_like, recall.carry))


def measured(case: Case, memory: str) -> dict[str, Any]:
    """The return of each seed, and steps per second of all of them together."""
    given = {**SETTINGS, **case.settings} if case.algorithm == "ppo" else dict(case.settings)
    if given.get("memory_context") and memory in ("gru", "lstm", "lru"):
        del given["memory_context"]
    ppo.shuffled_sequences = remembering.shuffled_sequences if given.pop("stored", True) else zeroed
    log = [] if case.number == "return" else [case.number]
    run = {"steps": case.steps, "memory": memory, "evaluation_episodes": 500, "evaluate_every": 0, "log_info": log}
    settings = {"seeds": SEEDS, **run, **given}
    means = lambda episodes: np.reshape(episodes, (settings["seeds"], -1)).mean(1).tolist()
    with tempfile.TemporaryDirectory() as folder:
        result = steersman.train(case.algorithm, case.environment, preset=False, out=f"{folder}/run", **settings)
        found = result.evaluation
        assert found is not None
        row = {"memory": memory, "returns": means(found.logged[case.number].values if log else found.returns)}
        if settings["evaluate_every"]:  # the best policy on the way, played anew
            row["best"] = means(evaluate_run(f"{folder}/run", best=True, episodes=500).returns)
    return row | {"steps_per_second": round(result.summary["steps_per_second"])}


def picture(rows: list[dict[str, Any]]) -> None:
    """The return of each memory over the delay, for the documents."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for i, memory in enumerate(dict.fromkeys(row["memory"] for row in rows)):
        own = [row for row in rows if row["memory"] == memory]
        means = [sum(row["returns"]) / len(row["returns"]) for row in own]
        beside = 1.02 ** (i - 2.5)  # or those that learn the same would hide each other
        axes.plot([row["delay"] * beside for row in own], means, marker="o", label=memory)
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
            case = Case(f"memory/chain-{delay}", 300_000, (memory,), {"unroll_length": 128})
            row = {"delay": delay, **measured(case, memory)}
            saved["rows"].append(row)
            common.save("memory-delays", {"rows": saved["rows"], "provenance": common.provenance()})
            print(row, flush=True)
    picture(saved["rows"])


def worth_of_qmdp(pomdp: POMDP) -> float:
    """The discounted return of acting by argmax_a b . Q(., a) from the start: the linear system over all the beliefs
    that this policy comes to."""
    q, m = qmdp(pomdp), pomdp.mdp
    beliefs, number, rows, rewards = [m.start], {tuple(m.start.round(9)): 0}, [], []
    while len(rows) < len(beliefs):
        belief = beliefs[len(rows)]
        action = int(np.argmax(belief @ q))
        chances = pomdp.predict(belief, action) @ pomdp.observation[action]
        row = {}
        for o in np.flatnonzero(chances > 1e-12):
            after, chance = pomdp.update(belief, action, int(o))
            at = number.setdefault(tuple(after.round(9)), len(beliefs))
            if at == len(beliefs):
                beliefs.append(after)
            row[at] = row.get(at, 0.0) + chance
        rows.append(row)
        rewards.append(pomdp.reward(belief)[action])
    moves = np.array([[row.get(j, 0.0) for j in range(len(beliefs))] for row in rows])
    return float(np.linalg.solve(np.eye(len(beliefs)) - m.gamma * moves, np.array(rewards))[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="names of cases, or delays")
    parser.add_argument("--only", nargs="*", default=[], help="memories")
    args = parser.parse_args()
    if args.cases == ["delays"]:
        delays(args.only)
        return
    saved = common.load("memory") or {"cases": {}}
    if args.cases == ["qmdp"]:
        print(found := worth_of_qmdp(tiger()))
        common.save("memory", {**saved, "qmdp": found, "provenance": common.provenance()})
        return
    for name in args.cases or CASES:
        case = CASES[name]
        shown = {k: v for k, v in case._asdict().items() if k != "memories"} | {"settings": dict(case.settings)}
        kept = saved["cases"].setdefault(name, {"rows": []})
        kept |= shown
        for memory in case.memories:
            if (args.only and memory not in args.only) or any(row["memory"] == memory for row in kept["rows"]):
                continue
            kept["rows"].append(measured(case, memory))
            common.save("memory", {**saved, "provenance": common.provenance()})
            print(name, kept["rows"][-1], flush=True)


if __name__ == "__main__":
    main()
