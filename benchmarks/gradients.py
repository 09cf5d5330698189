"""The sampled policy gradient of every rung beside the exact one, and its variance.

    python benchmarks/gradients.py              8192 rollouts of each rung
    python benchmarks/gradients.py --quick      512; saved only where --out says

On a finite problem with a table for a policy, the gradient is known exactly. Every rung's own loss is differentiated
on the same independent rollouts, all begun anew; the critics are given the exact values, so what is measured is the
estimator and not how well a critic has learned. For each rung:

- bias: the mean of the sampled gradients less the exact expectation, in standard errors (the largest of all entries),
- variance: the trace of one rollout's covariance over the squared norm of the exact gradient.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np

from steersman.agents.policy_gradient import common as policy_gradient
from steersman.agents.policy_gradient.a2c import A2CConfig
from steersman.agents.policy_gradient.a2c import estimator as a2c_estimator
from steersman.agents.policy_gradient.actor_critic import ActorCriticConfig, Networks, eligibility, errors
from steersman.agents.policy_gradient.impala import ImpalaConfig
from steersman.agents.policy_gradient.impala import estimator as impala_estimator
from steersman.agents.policy_gradient.reinforce import ReinforceConfig
from steersman.agents.policy_gradient.reinforce import estimator as reinforce_estimator
from steersman.agents.policy_gradient.trpo import surrogate
from steersman.nets.table import Table
from steersman.tabular.mdp import MDP
from steersman.tabular.planning import dynamic_programming, objectives
from steersman.tabular.problems import builders
from steersman.types import Agent, Rollout
from steersman.unroll import begin, unroll
from steersman.vector import vectorize

STATES, LENGTH, MEMBERS = 4, 16, 4


def corridor(gamma: float = 1.0) -> MDP:
    """Four rooms and an exit. Every action may lead on, skip a room or leave, so episodes take 1 to 4 steps."""
    p = np.zeros((STATES + 1, 2, STATES + 1))
    for s in range(STATES):
        on, skip = min(s + 1, STATES), min(s + 2, STATES)
        for a, (next_, skips, leaves) in enumerate(((0.7, 0.1, 0.2), (0.3, 0.3, 0.4))):
            p[s, a, on] += next_
            p[s, a, skip] += skips
            p[s, a, STATES] += leaves
    p[STATES, :, STATES] = 1.0
    reward = np.array([[1.0, 2.0], [3.0, 1.0], [0.5, 2.5], [4.0, 1.0], [0.0, 0.0]])
    start = np.array([0.6, 0.4, 0.0, 0.0, 0.0])
    made = builders.from_arrays(p, reward, start=start, gamma=gamma, terminal=[STATES], name="corridor")
    return replace(made, max_episode_steps=STATES)


THETA = np.array([[0.3, -0.2], [0.0, 0.5], [-0.4, 0.1], [0.2, 0.2], [0.0, 0.0]])


class Rung(NamedTuple):
    """A way to estimate the gradient: ``gradient`` of a rollout, [S, A]; ``counted``: how often its steps are."""

    name: str
    gradient: Callable[[Table, Rollout, jax.Array], jax.Array]
    whole: bool = False  # learns from whole episodes only


def of_loss(config: Any, estimate: policy_gradient.Estimate) -> Callable[..., jax.Array]:
    loss = policy_gradient.policy_gradient_loss(config, estimate)
    return lambda table, rollout, key: -jax.grad(lambda t: loss(t, rollout)[0])(table).logits


def rungs(gamma: float, q: np.ndarray) -> list[Rung]:
    """Bottom to top. q [S, A]: the exact action values, the q-critic's."""

    def of_reinforce(**settings: Any) -> Callable[..., jax.Array]:
        config = ReinforceConfig(gamma=gamma, value_coefficient=0.0, **settings)
        return of_loss(config, reinforce_estimator(config, STATES))

    def of_a2c(**settings: Any) -> Callable[..., jax.Array]:
        config = A2CConfig(gamma=gamma, value_coefficient=0.0, **settings)
        return of_loss(config, a2c_estimator(config))

    def of_trpo(table: Table, rollout: Rollout, key: jax.Array) -> jax.Array:
        _, v_tm1, v_t = policy_gradient.evaluate(table, rollout)
        advantage = policy_gradient.lambda_targets(rollout, v_t, gamma, 0.95) - v_tm1
        return jax.grad(lambda t: surrogate(policy_gradient.evaluate(t, rollout)[0], rollout, advantage))(table).logits

    def of_online(critic: str) -> Callable[..., jax.Array]:
        config = ActorCriticConfig(gamma=gamma, critic=critic, value_coefficient=0.0)
        table_q = jnp.asarray(q, jnp.float32)

        def gradient(table: Table, rollout: Rollout, key: jax.Array) -> jax.Array:
            networks = Networks(table, (lambda s, a: table_q[s, a]) if critic == "q" else None)
            steps = jax.tree.map(lambda x: x.reshape(LENGTH * MEMBERS, *x.shape[2:]), rollout)
            err = errors(config, networks, steps, key)

            def mean(logits: jax.Array) -> jax.Array:
                here = networks._replace(policy=Table(logits, table.values))
                up = jax.vmap(lambda o, a, e: eligibility(config, here, o, a, e))
                return up(steps.obs, steps.action, err).mean()

            return jax.grad(mean)(table.logits)

        return gradient

    impala_config = ImpalaConfig(gamma=gamma, value_coefficient=0.0)
    return [
        Rung("REINFORCE, whole return", of_reinforce(returns="whole", baseline="none"), True),
        Rung("REINFORCE, reward-to-go", of_reinforce(baseline="none"), True),
        Rung("REINFORCE, constant baseline", of_reinforce(baseline="constant"), True),
        Rung("REINFORCE, value baseline", of_reinforce(baseline="value"), True),
        Rung("online actor-critic, q as given", of_online("q")),
        Rung("A2C, lambda 1", of_a2c(gae_lambda=1.0)),
        Rung("IMPALA, fresh data", of_loss(impala_config, impala_estimator(impala_config))),
        Rung("TRPO's first gradient, lambda 0.95", of_trpo),
        Rung("A2C, lambda 0.5", of_a2c(gae_lambda=0.5)),
        Rung("online actor-critic, TD error", of_online("v")),
    ]


def visits_and_openings(mdp: MDP, pi: np.ndarray) -> tuple[np.ndarray, float]:
    """Of one environment that restarts at every end: expected visits [S] in a rollout, and the expected number of its
    episodes that begin early enough to be learned from whole. At step t it is in rho_0 P^t."""
    transitions = np.einsum("sa,sat->st", pi, mdp.dense())
    restart = transitions.copy()
    restart[:, -1] = 0.0
    restart += transitions[:, -1:] * mdp.start
    at, visits, begun = mdp.start, np.zeros(len(mdp.start)), 1.0
    for t in range(LENGTH):
        visits += at
        if t < LENGTH - STATES:
            begun += at @ transitions[:, -1]  # an end at step t opens an episode at t + 1
        at = at @ restart
    return visits, begun


def exact(mdp: MDP, pi: np.ndarray, whole: bool) -> np.ndarray:
    """The expectation of a rung's gradient on one rollout, [S, A]: visits x pi x A_pi over the steps of a rollout, the
    visits being those of all steps, or of the episodes that are learned from whole."""
    visits, begun = visits_and_openings(mdp, pi)
    if whole:
        visits = begun * objectives.visitation(replace(mdp, gamma=1.0), pi, normalise=False)
    return visits[:, None] * pi * objectives.advantages(mdp, pi) / LENGTH


def sample(mdp: MDP, table: Table, gradients: dict[str, Callable[..., jax.Array]], num: int) -> dict[str, np.ndarray]:
    """``num`` gradients [num, S, A] by each of some ways, all on the same rollouts, each rollout begun anew."""
    made = vectorize(mdp, MEMBERS)
    agent = Agent(lambda *_: None, lambda _: (), policy_gradient.act, lambda *_: None)
    state = policy_gradient.LearnerState(table, (), jnp.zeros((), jnp.int32))

    @jax.jit
    def one(key: jax.Array) -> dict[str, jax.Array]:
        reset, play, update = jax.random.split(key, 3)
        acting = begin(agent, made, reset)
        _, rollout, _ = unroll(partial(agent.act, state, explore=True), made, acting, play, LENGTH)
        return {name: gradient(table, rollout, update) for name, gradient in gradients.items()}

    found = jax.lax.map(one, jax.random.split(jax.random.key(0), num), batch_size=256)
    return jax.tree.map(np.asarray, found)


def compare(found: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Gradients [num, S, A] beside the exact one -> (bias in standard errors, relative variance)."""
    num = len(found)
    error = found.std(0, ddof=1) / np.sqrt(num)
    seen = error > 0  # a state never visited has no gradient, and none is expected
    assert (np.abs(right[~seen]) < 1e-9).all()
    z = np.abs(found.mean(0) - right)[seen] / error[seen]
    return float(z.max()), float(found.var(0, ddof=1).sum() / np.square(right).sum())


def table_of(mdp: MDP) -> Table:
    """The policy of THETA, with its exact values."""
    value = dynamic_programming.evaluate(mdp, objectives.softmax_policy(THETA), method="direct").value
    return Table(jnp.asarray(THETA, jnp.float32), jnp.asarray(value, jnp.float32))


def measure(num: int, gamma: float = 1.0) -> list[dict[str, Any]]:
    """One row per rung."""
    mdp, pi = corridor(gamma), objectives.softmax_policy(THETA)
    table, q = table_of(mdp), dynamic_programming.evaluate(mdp, pi, method="direct").q
    climb = rungs(gamma, q)
    found = sample(mdp, table, {rung.name: rung.gradient for rung in climb}, num)
    rows = []
    for rung in climb:
        bias, variance = compare(found[rung.name], exact(mdp, pi, rung.whole))
        rows.append({"rung": rung.name, "bias_in_standard_errors": bias, "variance": variance})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="512 rollouts; saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    num = 512 if args.quick else 8192
    origin = common.provenance()
    rows = measure(num)
    for row in rows:
        print(f"{row['rung']:<36} bias {row['bias_in_standard_errors']:.2f} SE   variance {row['variance']:.3f}")
    if args.out or not args.quick:
        result = {"rollouts": num, "steps": LENGTH * MEMBERS, "entries": int(THETA[:-1].size), "rungs": rows}
        common.save("gradients", result | {"provenance": origin}, args.out)


if __name__ == "__main__":
    main()
