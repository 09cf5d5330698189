"""Whether limits hold, and what they cost: the gridworld whose answer is known, small tasks, and robots.

    python benchmarks/constraints.py                        every row that is not there yet
    python benchmarks/constraints.py gridworld-0.3 --only ppo cpo
    python benchmarks/constraints.py speed                  PPO with one limit beside PPO without, compiled
    python benchmarks/constraints.py gridworld-1.0 --quick  a trial of seconds that saves nothing

The policies of the gridworld are worth what the tabular side computes from their probabilities, at every row of the
log; shown is the mean over the last half of the run, for the optimum is stochastic and single policies swing around it.
Other rows are of 100 episodes of each seed's deterministic policy, beside the same agent without a limit, and of the
last 100 episodes of training, which explore: those the price is moved by. Robots are beside published numbers instead.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np

import steersman
from steersman.envs.safe.tasks import hazards
from steersman.errors import UsageError
from steersman.nets.actor_critic import ActorCritic
from steersman.run.events import Trained
from steersman.tabular.planning.constrained import solve_constrained
from steersman.tabular.planning.objectives import visitation
from steersman.theory.constraints import PID

PLAIN = {"normalize_observations": False, "scale_rewards": False}
GRID: dict[str, Any] = {
    "num_envs": 32,
    "unroll_length": 32,
    "hidden_sizes": (64,),
    "gamma": 0.95,
    "gae_lambda": 0.95,
    "cost_criterion": "discounted",
    "cost_gamma": 0.95,
    "preset": False,
    **PLAIN,
}
EPOCHS = {"num_epochs": 4, "num_minibatches": 4, "learning_rate": 3e-3}
POINT = {"num_envs": 16, "unroll_length": 128, "num_epochs": 10, "num_minibatches": 8, "gamma": 0.98, "gae_lambda": 0.8}
POINT |= {"pid_gains": (1.0, 0.2, 0.0)}  # 75 of its updates see an episode end: the price has to be found sooner
# From replay a gradient step every fourth step will do, and half of the steps: 600 episodes to find the price by.
SMALL = {"num_envs": 8, "update_ratio": 0.25, "hidden_sizes": (64, 64), "batch_size": 128, "learning_rate": 1e-3}
SMALL |= {"steps": 150_000, "gamma": 0.98, "cost_gamma": 0.98, "replay_capacity": 100_000, "learning_starts": 2000}
# The preset's rollouts of 32 steps end one episode of 500: its cost would move the price alone.
POLE = {"unroll_length": 128, "num_minibatches": 16, "pid_gains": (1.0, 0.1, 0.0)}
# Episodes of 1,000 steps end every fourth update, all eight at once: the price is moved 122 times in a run.
ROBOT = {"num_envs": 8, "unroll_length": 256, "hidden_sizes": (64, 64), "activation": "tanh", "log_std_init": -1.0}
ROBOT |= {"normalize_observations": True, "scale_rewards": True, "preset": False}
CLIPPED = {"num_epochs": 10, "num_minibatches": 32, "learning_rate": 3e-4, "clip": 0.1, "anneal_learning_rate": True}
CLIPPED |= {"pid_gains": (1.0, 0.1, 0.0)}
# Whole episodes of every environment in each update, so that CPO's limit is not met by what policies before it cost.
REGION = {"max_kl": 0.03, "unroll_length": 1000}
# name -> (algorithm, settings of its own)
GRID_ROWS = {
    "ppo": ("ppo", EPOCHS),
    "ppo, dual": ("ppo", EPOCHS | {"multiplier": "dual"}),
    # 32 steps end some 150 episodes: noise would decide which update recovers, and be what a recovery follows.
    "cpo": ("cpo", {"unroll_length": 128}),
}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {"ppo": ("ppo", {}), "cpo": ("cpo", {}), "sac": ("sac", {})}


class Case(NamedTuple):
    environment: str
    steps: int
    limit: float
    rows: dict[str, tuple[str, dict[str, Any]]]
    settings: dict[str, Any] = {}  # noqa: RUF012
    seeds: int = 5
    published: str = ""  # return of others within the limit, with their steps
    free: bool = True  # is measured too
    random: float = 0.0  # return of random actions, where returns are negative


def only(*names: str, **settings: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    return {name: (ROWS[name][0], ROWS[name][1] | settings.get(name, {})) for name in names}


CASES = {
    "gridworld-0.3": Case("safe/gridworld", 250_000, 0.3, GRID_ROWS, GRID),
    "gridworld-1.0": Case("safe/gridworld", 250_000, 1.0, GRID_ROWS, GRID),
    "gridworld-5.0": Case("safe/gridworld", 250_000, 5.0, {"ppo": GRID_ROWS["ppo"]}, GRID),
    "gridworld-0.05": Case("safe/gridworld", 250_000, 0.05, {"ppo": GRID_ROWS["ppo"]}, GRID),
    "pendulum": Case("safe/pendulum", 300_000, 1.0, only("ppo", "sac", sac={"steps": 40_000}), random=-1208.0),
    # Within 0.5 m nobody has to be asked to stay.
    "cartpole": Case("safe/cartpole,limit=0.1", 300_000, 25.0, only("ppo", ppo=POLE)),
    "point-goal": Case("safe/point-goal", 300_000, 7.5, only("ppo", "sac", ppo=POINT, sac=SMALL)),
    **{  # what else could be had
        f"point-goal-{limit:g}": Case("safe/point-goal", 300_000, limit, only("ppo", ppo=POINT), {}, 3, free=False)
        for limit in (2.5, 5.0, 10.0)
    },
    "HalfCheetah": Case(
        "safe/HalfCheetah-v5",
        1_000_000,
        25.0,
        only("ppo", "cpo", ppo=CLIPPED, cpo=REGION),
        ROBOT | {"gamma": 0.98, "gae_lambda": 0.92},
        3,
        "ppo 2946 +- 306, cpo 2786 at 10M",
        free=False,
    ),
    "Hopper": Case(
        "safe/Hopper-v5",
        1_000_000,
        25.0,
        only("ppo", "cpo", ppo=CLIPPED | {"clip": 0.2}, cpo=REGION),
        ROBOT | {"gamma": 0.99, "gae_lambda": 0.95},
        3,
        "ppo 962 +- 753, cpo 1714 at 10M",
        free=False,
    ),
    "HalfCheetah-300k": Case("safe/HalfCheetah-v5", 300_000, 25.0, only("sac"), {}, 3, "sac 2834 at 1M", free=False),
}


def inside(tree: Any, kind: type) -> Any:
    """The first part of a state that is of this kind; None where there is none."""
    is_one = lambda x: isinstance(x, kind)
    return next((x for x in jax.tree.leaves(tree, is_leaf=is_one) if is_one(x)), None)


class Exactly:
    """A callback: what each seed's policy is worth and costs, discounted, at every row of the log after the half."""

    def __init__(self) -> None:
        self.problem = hazards()
        self.probabilities = jax.jit(lambda net, states: jax.nn.softmax(jax.vmap(net)(states)[0].logits))
        self.found: list[list[tuple[float, float]]] = []  # [rows][seeds] of (J_r, J_c)
        self.integral: list[list[float]] = []

    def __call__(self, event: Any) -> None:
        if not isinstance(event, Trained) or event.row is None or event.steps <= event.total // 2:
            return
        states = [event.training.policy(i).state for i in range(len(event.training.seeds))]
        self.found.append([self.worth(inside(state, ActorCritic)) for state in states])
        pids = [inside(state, PID) for state in states]
        if all(pid is not None for pid in pids):
            self.integral.append([float(pid.integral[0]) for pid in pids])

    def worth(self, network: Any) -> tuple[float, float]:
        mdp = self.problem.mdp
        policy = np.asarray(self.probabilities(network, jnp.arange(mdp.num_states)), np.float64)
        policy /= policy.sum(-1, keepdims=True)
        visits = visitation(mdp, policy, normalise=False)[:, None] * policy
        return float((visits * mdp.paid).sum()), float((visits * self.problem.costs[0]).sum())


def exact(case: Case, name: str, steps: int, seeds: int) -> dict[str, Any]:
    """A row of the gridworld: means and spreads in time over the last half, for each seed."""
    algorithm, own = case.rows[name]
    watch = Exactly()
    run: dict[str, Any] = {"steps": steps, "seeds": seeds, "evaluate_every": 0, "evaluation_episodes": 0}
    settings: dict[str, Any] = case.settings | own | {"cost_limit": (case.limit,)}
    result = steersman.train(algorithm, case.environment, callbacks=[watch], **run, **settings)
    worth = np.array(watch.found)
    row = {"rewards": worth[..., 0].mean(0).tolist(), "costs": worth[..., 1].mean(0).tolist()}
    row["costs_std_in_time"] = worth[..., 1].std(0).tolist()
    late = result.history[len(result.history) // 2 :]
    for metric in ("multiplier", "recovery"):
        if metric in late[-1]:
            row[metric] = np.mean([np.broadcast_to(x[metric], seeds) for x in late], 0).tolist()
    if watch.integral and settings.get("multiplier") != "dual":  # reward per cost, as the linear program's
        row["integral"] = (np.mean(watch.integral, 0) / case.limit).tolist()
    return row


def played(case: Case, name: str, steps: int, seeds: int, limit: bool) -> dict[str, Any]:
    """The mean return and cost of each seed."""
    algorithm, own = case.rows[name]
    algorithm = "trpo" if algorithm == "cpo" and not limit else algorithm
    steps = min(steps, own.get("steps", steps))
    run: dict[str, Any] = {"steps": steps, "seeds": seeds, "evaluate_every": 0, "evaluation_episodes": 100}
    settings: dict[str, Any] = case.settings | own | run | ({"cost_limit": (case.limit,)} if limit else {})
    result = steersman.train(algorithm, case.environment, **settings)
    played = result.evaluation
    assert played is not None
    means = lambda x: np.reshape(x, (seeds, -1)).mean(1).tolist()
    row = {"rewards": means(played.returns), "costs": means(played.costs)}
    last = {"rewards": "return_100", "costs": "cost_100"}
    row["steps"] = steps
    row["training"] = {k: np.broadcast_to(result.history[-1][v], seeds).tolist() for k, v in last.items()}
    return row | {"steps_per_second": round(result.summary["steps_per_second"])}


def best(case: Case) -> dict[str, Any]:
    """What the linear program says of a gridworld's limit."""
    try:
        found = solve_constrained(hazards(limit=case.limit))
    except UsageError as error:
        return {"infeasible": str(error)}
    return {"reward": found.value, "cost": float(found.costs[0]), "multiplier": float(found.multipliers[0])}


def speed(rounds: int, steps: int) -> dict[str, Any]:
    """Steps per second of PPO with one limit over those without, in turn: the median of the rounds."""
    rates: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(rounds):
        for label, limit in (("without", ()), ("with", (1.0,))):
            run: dict[str, Any] = {"steps": steps, "evaluate_every": 0, "evaluation_episodes": 0}
            result = steersman.train("ppo", "safe/pendulum", cost_limit=limit, **run)
            rates[label].append(result.summary["steps_per_second"])
    ratios = [a / b for a, b in zip(rates["with"], rates["without"], strict=True)]
    ends = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return {"steps_per_second": rates, "ratio": ends, "target": 0.8}


def row_of(case: Case, name: str, quick: bool) -> dict[str, Any]:
    steps, seeds = (min(case.steps, 20_000), 2) if quick else (case.steps, case.seeds)
    if case.environment == "safe/gridworld":
        return {"row": name, **exact(case, name, steps, seeds)}
    row = {"row": name, **played(case, name, steps, seeds, True)}
    return row if not case.free else row | {"free": played(case, name, steps, seeds, False)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"{', '.join(CASES)}, or speed")
    parser.add_argument("--only", nargs="*", default=[], help="rows")
    parser.add_argument("--quick", action="store_true", help="two seeds, few steps, nothing saved")
    args = parser.parse_args()
    for name in args.cases or [*CASES, "speed"]:
        if name == "speed":
            found = speed(2 if args.quick else 5, 20_000 if args.quick else 200_000)
            print(name, found["ratio"], flush=True)
            if not args.quick:
                keep({**saved_rows(), "speed": found})
            continue
        made = CASES[name]
        for label in made.rows:
            there = any(row["row"] == label for row in saved_rows()["cases"].get(name, {"rows": []})["rows"])
            if (there and not args.quick) or (args.only and label not in args.only):
                continue
            row = row_of(made, label, args.quick)
            print(name, row, flush=True)
            if args.quick:
                continue
            saved = saved_rows()  # as it is now: others may have written theirs meanwhile
            case = saved["cases"].setdefault(name, {"rows": []})
            case |= {"environment": made.environment, "steps": made.steps, "limit": made.limit}
            case |= {"published": made.published, "random": made.random}
            case |= {"best": best(made)} if made.environment == "safe/gridworld" else {}
            case["rows"].append(row)
            keep(saved)


def saved_rows() -> dict[str, Any]:
    return common.load("constraints") or {"cases": {}}


def keep(saved: dict[str, Any]) -> None:
    common.save("constraints", saved | {"provenance": common.provenance()})


if __name__ == "__main__":
    main()
