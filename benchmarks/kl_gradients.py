"""The expected gradient of each form of the KL term, against that of KL(pi || ref), by enumeration of all answers.

python benchmarks/kl_gradients.py        seconds; no sampling, no training

A decoder of two layers and five tokens, one of which ends an answer; all 341 answers of up to four tokens to each of
three prompts; a reference and a policy of random weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import common
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from steersman.language.config import DecoderConfig
from steersman.language.decoder import Decoder, initial, token_log_probs
from steersman.theory.alignment.preferences import k1, k2, k3

CONFIG = DecoderConfig(vocab_size=5, width=32, layers=2, heads=4, kv_heads=2, head_size=8, hidden_size=64, context=16)
LONGEST, PROMPTS = 4, np.array([[1, 2], [3, 1], [4, 4]], np.int32)
still = jax.lax.stop_gradient


def answers() -> tuple[np.ndarray, np.ndarray]:
    """Tokens int32 [N, 4] and mask bool [N, 4]; token 0 ends an answer, and one of four tokens ends by itself."""
    found = [s for n in range(LONGEST + 1) for s in itertools.product(range(1, 5), repeat=n)]
    length = np.array([min(len(s) + 1, LONGEST) for s in found])
    tokens = np.array([[*s, *[0] * (LONGEST - len(s))] for s in found], np.int32)
    return tokens, np.arange(LONGEST) < length[:, None]


TOKENS, MASK = answers()


def log_probs(model: Decoder, prompt: np.ndarray) -> jax.Array:
    """[N, 4], of every answer to a prompt."""
    before = np.broadcast_to(prompt, (len(TOKENS), 2))
    text, mask = np.concatenate([before, TOKENS], 1), np.pad(MASK, ((0, 0), (2, 0)), constant_values=True)
    return token_log_probs(model, text, mask, 2)


def to_go(x: jax.Array) -> jax.Array:
    return jnp.cumsum(x[:, ::-1], 1)[:, ::-1]


Term = Callable[[jax.Array, jax.Array], jax.Array]  # (log-probs, log-ratios), each [N, 4] -> a loss of each answer, [N]
FORMS: dict[str, Term] = {
    "k1 in the reward, summed over the answer": lambda lp, d: still(k1(d.sum(1))) * lp.sum(1),
    "k1 in the reward, from each token on": lambda lp, d: (still(to_go(k1(d))) * lp).sum(1),
    "k2 of the whole answer, as a loss": lambda lp, d: k2(d.sum(1)),
    "k2 of each token, as a loss": lambda lp, d: k2(d).sum(1),
    "k3 times the ratio, of each token": lambda lp, d: (jnp.exp(lp - still(lp)) * k3(d)).sum(1),
    "k3 of each token, as a loss": lambda lp, d: k3(d).sum(1),
    "k1 of each token, as a loss": lambda lp, d: k1(d).sum(1),
}


def measured() -> dict[str, dict[str, float]]:
    ref = initial(CONFIG, jax.random.key(0), scale=0.35)
    other = initial(CONFIG, jax.random.key(7), scale=0.35)
    policy = jax.tree.map(lambda a, b: a + 0.5 * (b if a.ndim > 1 else 0.0), ref, other)

    def mean(model: Decoder, of: Term, forward: bool = False) -> jax.Array:
        total = 0.0
        for prompt in PROMPTS:
            lp, lr = log_probs(model, prompt), log_probs(ref, prompt)
            weight = jnp.exp((lr if forward else still(lp)).sum(1))
            total = total + (weight * of(lp, lp - lr)).sum() / len(PROMPTS)
        return total

    exact = lambda lp, d: jnp.exp(lp.sum(1) - still(lp.sum(1))) * d.sum(1)
    slope = lambda of, forward=False: np.asarray(ravel_pytree(jax.grad(mean)(policy, of, forward))[0], float)
    right, reverse = slope(exact), slope(lambda lp, d: -d.sum(1), True)
    cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    out = {}
    for name, form in FORMS.items():
        g = slope(form)
        out[name] = {
            "relative_error": float(np.linalg.norm(g - right) / np.linalg.norm(right)),
            "size": float(np.linalg.norm(g) / np.linalg.norm(right)),
            "cosine": cosine(g, right),
            "cosine_to_KL(ref || pi)": cosine(g, reverse),
        }
        print(f"{name:42s}", *(f"{k} {v:.4g}" for k, v in out[name].items()), flush=True)
    return out


if __name__ == "__main__":
    common.save("kl-gradients", {"provenance": common.provenance(), "forms": measured()})
