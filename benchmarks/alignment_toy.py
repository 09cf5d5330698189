"""PPO, RLOO and GRPO against an optimum that is known: every answer to every prompt enumerated.

    python benchmarks/alignment_toy.py             all methods, five seeds each; half an hour of one core
    python benchmarks/alignment_toy.py rloo ppo    some of them; the others' results stay

Five tokens, answers of up to four, 341 to each of three prompts; a decoder of 19,000 random weights is the reference,
and J = E[r] - beta KL(pi || ref), beta 1/4, has its optimum at pi* ~ ref exp(r / beta). 800 updates of 128 answers.
Where a method's own optimum is another one, it is found too: by expected gradients, of a table with a row of logits for
every text so far, and the distance of what was trained to that is said.
"""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np

from steersman.agents.language.common import Trainer
from steersman.agents.language.grpo import GRPOConfig, grpo
from steersman.agents.language.on_policy import Sampled, policy
from steersman.agents.language.ppo import TextPPOConfig, ppo
from steersman.agents.language.rloo import RLOOConfig, rloo
from steersman.language import enumerated as known
from steersman.language.generation import generate
from steersman.theory.alignment import groups
from steersman.theory.alignment.preferences import k2, k3

BETA, UPDATES, SEEDS, GROUP = 0.25, 800, 5, 8
ALL = known.answers(5, known.LONGEST, known.END)
SHARED: dict[str, Any] = {
    "learning_rate": 2e-3,
    "warmup": 0.0,
    "beta": BETA,
    "group": GROUP,
    "batch_size": 16,
    "chunk": 0,
}


class Case(NamedTuple):
    """A method with its settings, and the fixed point of its expected gradient."""

    make: Any
    config: Any
    kl: str = "reward"
    scale: str = "none"
    reduction: str = "answer"


def of_grpo(**settings: Any) -> Case:
    config = GRPOConfig(**SHARED | settings)
    return Case(grpo, config, config.kl, config.switches.advantage_scale, config.switches.reduction)


CASES = {
    "rloo": Case(rloo, RLOOConfig(**SHARED)),
    "ppo": Case(ppo, TextPPOConfig(**SHARED)),
    "grpo": of_grpo(),
    "grpo, k2": of_grpo(kl="k2"),
    "grpo, k3": of_grpo(kl="k3"),
    "grpo, k3_ratio": of_grpo(kl="k3_ratio"),
    "grpo, divided by the group's deviation": of_grpo(advantage_scale="group"),
    "the same, k2": of_grpo(advantage_scale="group", kl="k2"),
    "grpo as published: variant grpo, k3": of_grpo(variant="grpo", kl="k3"),
}


def trained(case: Case, reference: Any, updates: int, seeds: int) -> tuple[Any, Any]:
    """-> (parameters, a metric's row for each update), each with a leading axis of seeds."""
    learn: Trainer = case.make(case.config, updates)
    config = case.config

    def step(learner: Any, key: jax.Array) -> tuple[Any, Any]:
        chosen, drawn, shuffled = jax.random.split(key, 3)
        prompt = jnp.asarray(known.PROMPTS)[jax.random.randint(chosen, (config.batch_size,), 0, 3)]
        prompt = jnp.repeat(prompt, config.group, axis=0)
        answers = generate(
            policy(config, reference, learner.params), prompt, jnp.ones_like(prompt, bool),
            jax.random.split(drawn, config.answers), max_new=known.LONGEST, stop=(known.END,),
        )  # fmt: skip
        reward = known.probe_reward(prompt, answers.tokens, answers.mask)
        return learn.update(learner, reference, Sampled(answers, reward), shuffled)

    def one(seed: jax.Array) -> tuple[Any, Any]:
        start, rest = jax.random.split(jax.random.key(seed))
        learner, told = jax.lax.scan(step, learn.init(reference, start), jax.random.split(rest, updates))
        return learner.params, told

    return jax.jit(jax.vmap(one))(jnp.arange(seeds))


def optimum(case: Case, log_ref: np.ndarray, reward: jax.Array, updates: int = 4000, drawn: int = 256) -> jax.Array:
    """Where the method comes to rest that has logits for every text so far that a decoder can tell from others:
    log-probabilities [3, N].

    Gradients are expected ones, over all answers; of advantages that a group's deviation divides, over groups that are
    drawn, the last quarter of the policies averaged.
    """
    # A text of one token again and again: rotary attention averages equal values, so the decoder cannot count it, and
    # all of these have one row.
    state = lambda text: text[:1] if len(set(text)) == 1 else text
    texts = [[state((*x, *row[:t])) for row in ALL.tokens.tolist() for t in range(4)] for x in known.PROMPTS.tolist()]
    rows = {text: i for i, text in enumerate(sorted({text for some in texts for text in some}))}
    at = np.array([[rows[text] for text in some] for some in texts]).reshape(len(texts), -1, known.LONGEST)
    length = ALL.mask.sum(1)
    weight = 1.0 / length if case.reduction == "sequence" else np.ones(len(length))
    mask, weight = jnp.asarray(ALL.mask), jnp.asarray(weight, jnp.float32)
    grid = np.zeros((len(rows), 5), np.float32)  # the reference's logits: of each token, what goes on so, summed
    for p, i in {(place, row) for place in range(len(at)) for row in at[place].ravel()}:
        t = int((at[p] == i).any(0).argmax())
        for token in range(5):
            goes = (at[p, :, t] == i) & (ALL.tokens[:, t] == token) & ALL.mask[:, t]
            grid[i, token] = np.log(np.maximum(np.exp(log_ref[p]) @ goes, 1e-30))
    tokens = lambda z: jnp.where(mask, jax.nn.log_softmax(z)[at, ALL.tokens], 0.0)  # [3, N, C]
    ref = tokens(jnp.asarray(grid))
    still = jax.lax.stop_gradient

    def expected_advantage(log_p: jax.Array, earned: jax.Array, key: jax.Array) -> jax.Array:
        """[3, N], as weights beside the probabilities: sum_n of it times d log p(n) is the expected gradient."""
        if case.scale == "none":
            return jnp.exp(log_p) * (earned - jnp.sum(jnp.exp(log_p) * earned, -1, keepdims=True))
        total = jnp.cumsum(jnp.exp(log_p), -1)
        u = jax.random.uniform(key, (len(log_p), drawn * GROUP))
        y = jnp.minimum(jax.vmap(jnp.searchsorted)(total, u), log_p.shape[-1] - 1)
        got = jax.vmap(lambda r, i: groups.standardised(r[i], GROUP))(earned, y)
        return jax.vmap(lambda i, a: jnp.zeros(log_p.shape[-1]).at[i].add(a))(y, got) / y.shape[-1]

    def loss(z: jax.Array, key: jax.Array) -> jax.Array:
        each = tokens(z)
        apart, log_p = each - ref, each.sum(-1)
        earned = reward - BETA * apart.sum(-1) if case.kl == "reward" else reward
        total = -jnp.sum(still(expected_advantage(log_p, earned, key)) * weight * log_p)
        p = still(jnp.exp(log_p)) * weight
        if case.kl == "k2":
            total += BETA * jnp.sum(p * k2(apart.sum(-1)))
        elif case.kl == "k3":
            total += BETA * jnp.sum(p * k3(apart).sum(-1))
        elif case.kl == "k3_ratio":
            total += BETA * jnp.sum(p * (jnp.exp(each - still(each)) * k3(apart)).sum(-1))
        return total

    def step(carry: Any, now: Any) -> tuple[Any, None]:
        z, m, v, mean = carry
        i, key = now
        g = jax.grad(loss)(z, key)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        done = (i + 1) / updates
        size = 0.05 * jnp.minimum(1.0, 2.0 * (1.0 - done)) + 1e-4
        z = z - size * (m / (1 - 0.9 ** (i + 1.0))) / (jnp.sqrt(v / (1 - 0.999 ** (i + 1.0))) + 1e-12)
        late = 4.0 / updates * (done > 0.75)
        return (z, m, v, mean + late * jnp.exp(tokens(z).sum(-1))), None

    z = jnp.asarray(grid)
    steps = (jnp.arange(updates, dtype=jnp.float32), jax.random.split(jax.random.key(0), updates))
    (z, *_, mean), _ = jax.jit(lambda c: jax.lax.scan(step, c, steps))((z, 0 * z, 0 * z, jnp.zeros(reward.shape)))
    return tokens(z).sum(-1) if case.scale == "none" else jnp.log(jnp.maximum(mean, 1e-30))


def measure(name: str, updates: int = UPDATES, seeds: int = SEEDS) -> dict[str, Any]:
    case, reference = CASES[name], known.probe_reference(jax.random.key(0))
    reward = known.probe_rewards(ALL)
    log_ref = known.probe_log_probs(reference, ALL)
    begun = time.perf_counter()
    params, told = jax.block_until_ready(trained(case, reference, updates, seeds))
    seconds = time.perf_counter() - begun
    model = lambda p: policy(case.config, reference, p)
    log_p = jax.jit(jax.vmap(lambda p: known.probe_log_probs(model(p), ALL)))(params)
    where = lambda log_p: {k: float(v) for k, v in known.standing(log_p, log_ref, reward, BETA)._asdict().items()}
    own = optimum(case, np.asarray(log_ref), reward)
    stands = [where(x) for x in log_p]
    found = {
        "seeds": stands,
        "mean": {k: float(np.mean([s[k] for s in stands])) for k in stands[0]},
        "its own optimum": where(own),
        "variation to its own optimum": [float(known.variation(x, own)) for x in log_p],
        "largest gap of log-probs": float(told["log_prob_gap"].max()),
        "updates": updates,
        "seconds, all seeds": seconds,
    }
    told = "  ".join(f"{k} {v:.4f}" for k, v in found["mean"].items())
    print(f"{name:42s} {told}  own {np.mean(found['variation to its own optimum']):.3f}  {seconds:.0f} s", flush=True)
    return found


if __name__ == "__main__":
    names = sys.argv[1:] or [*CASES]
    reference = known.probe_reference(jax.random.key(0))
    log_ref, reward = known.probe_log_probs(reference, ALL), known.probe_rewards(ALL)
    best = known.standing(known.gibbs(log_ref, reward, BETA), log_ref, reward, BETA)
    before = known.standing(log_ref, log_ref, reward, BETA)
    results = (common.load("alignment-toy") or {}).get("methods", {})
    for name in names:
        results[name] = measure(name)
        common.save(
            "alignment-toy",
            {
                "provenance": common.provenance(),
                "reference": {k: float(v) for k, v in before._asdict().items()},
                "optimum": {k: float(v) for k, v in best._asdict().items()},
                "methods": {name: results[name] for name in CASES if name in results},
            },
        )
