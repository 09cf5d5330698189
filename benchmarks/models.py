"""What settles the defaults of learned models: the loss, the floor of the variance and the schedule, on one data set.

    python benchmarks/models.py                 both parts
    python benchmarks/models.py --only error    the one-step error of the defaults

Pendulum-v1: 2,000 steps of a random policy to learn from; 4,000 others, never learned from, to be tried on. Each number
is the root mean square error of the mean of five members, in standard deviations of the entry's change, or of the
reward. Five fits each, from other weights and with other minibatches, on the same data. ``learned``: the bounds of the
log-variance are parameters, which a weight of 0.01 pulls together, as Chua et al. (2018) have it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp

from steersman.envs import classic
from steersman.models import ensemble as ensembles
from steersman.models.data import of_rollout
from steersman.models.held_out import tested
from steersman.types import Key, Rollout
from steersman.unroll import Acting, random_policy, unroll
from steersman.vector import vectorize

STEPS, TRIED, FITS, PULL = 2_000, 4_000, 5, 0.01
LIKELIHOODS = {"likelihood": 0.0, "beta 0.5": 0.5}
FLOORS = (-10.0, -8.0, "learned")
SAID = ("nrmse", "nrmse_0", "nrmse_1", "nrmse_2", "nrmse_reward", "nll", "coverage90", "fit_steps")
SMALL = (64, 64)


def played(steps: int, seed: int) -> Rollout:
    """Random play, [steps, 1]."""
    env = classic.make("Pendulum-v1")
    envs, key = vectorize(env, 1), jax.random.key(seed)
    acting = Acting(*envs.reset(key), jnp.ones((1,), bool), ())
    return jax.jit(lambda: unroll(random_policy(env.spec), envs, acting, jax.random.fold_in(key, 1), steps)[1])()


class Trial(NamedTuple):
    """What differs between the likelihoods of the ablation; traced, so that one program serves all."""

    beta: Any
    floor: Any
    learned: Any  # 1: the bounds are parameters, from ``floor`` on


@jax.custom_vjp
def pulled(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x, whose gradient has ``weight`` added to it."""
    return x


pulled.defvjp(lambda x, weight: (x, weight), lambda weight, gradient: (gradient + weight, jnp.zeros_like(weight)))


class Bounded(ensembles.Member):
    """A member whose bounds of the log-variance are leaves, that learn or stand still."""

    bounds: jax.Array  # [2, D]: the least and the greatest
    learned: jax.Array

    def __init__(self, trial: Trial, inputs: int, size: int, logits: int, config: Any, *, key: Key):
        super().__init__(inputs, size, logits, config, key=key)
        ends = jnp.stack([trial.floor, ensembles.LARGEST_LOG_VARIANCE])[:, None]
        self.bounds, self.learned = jnp.broadcast_to(ends, (2, size)), trial.learned

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        out = self.head(self.trunk(x))
        mean, raw, logits = jnp.split(out, [self.size, 2 * self.size])
        pull = PULL / 256 * jnp.array([[-1.0], [1.0]])  # of each row of a minibatch
        free = pulled(self.bounds, jnp.broadcast_to(pull, self.bounds.shape))
        still = jax.lax.stop_gradient(self.bounds)
        low, high = still + jax.lax.stop_gradient(self.learned) * (free - still)
        below = high - jax.nn.softplus(high - raw)
        return mean, low + jax.nn.softplus(below - low), logits


def fits(config: ensembles.EnsembleConfig, learn: Rollout, test: Rollout) -> dict[str, jax.Array]:
    """Of ``FITS`` fits: what ``tested`` says of each. To be traced."""
    model, data = ensembles.ensemble(config, classic.make("Pendulum-v1").spec), of_rollout(learn)

    def one(key: Key) -> dict[str, jax.Array]:
        begin, go, draw = jax.random.split(key, 3)
        state, metrics = model.fit(model.init(begin, learn), data, go)
        return metrics | tested(model, state, test, draw)

    found = jax.vmap(one)(jax.random.split(jax.random.key(0), FITS))
    return {name: found[f"model/{name}"] for name in SAID}


def ablation(learn: Rollout, test: Rollout) -> list[dict[str, Any]]:
    """Every loss, floor and schedule."""
    rows, plain = [], ensembles.Member

    def add(loss: str, floor: Any, schedule: str, found: dict[str, jax.Array]) -> None:
        row = {"loss": loss, "floor": floor, "schedule": schedule} | {k: v.tolist() for k, v in found.items()}
        rows.append(row)
        mean, worst = sum(row["nrmse"]) / FITS, max(row["nrmse"])
        print(f"{loss:<11} {floor!s:<8} {schedule:<9} {mean:.4f} worst {worst:.4f}", flush=True)

    for schedule in ("cosine", "constant"):
        config = ensembles.EnsembleConfig(model_hidden_sizes=SMALL, model_schedule=schedule)

        def likelihood(trial: Trial, config: Any = config) -> dict[str, Any]:
            ensembles.Member = partial(Bounded, trial)
            return fits(replace(config, nll_beta=trial.beta), learn, test)

        program = jax.jit(likelihood)
        for loss, beta in LIKELIHOODS.items():
            for floor in FLOORS:
                learned = floor == "learned"
                trial = Trial(*jnp.array([beta, -10.0 if learned else floor, learned], jnp.float32))
                add(loss, floor, schedule, program(trial))
        ensembles.Member = plain
        squares = replace(config, probabilistic=False)
        add("squares", None, schedule, jax.jit(lambda config=squares: fits(config, learn, test))())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["error", "ablation"], help="one part; the other stays as it was saved")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    result = (common.load("models", args.out) or {}) | {"steps": STEPS, "tried": TRIED, "fits": FITS}
    result[f"{args.only}_provenance" if args.only else "provenance"] = common.provenance()
    learn, test = played(STEPS, 0), played(TRIED, 1)
    if args.only != "error":
        result["ablation"] = ablation(learn, test)
    if args.only != "ablation":
        found = jax.jit(lambda: fits(ensembles.EnsembleConfig(), learn, test))()
        result["error"] = {name: x.tolist() for name, x in found.items()}
        print(result["error"], flush=True)
    common.save("models", result, args.out)


if __name__ == "__main__":
    main()
