"""The expected gradient of each form of the KL term, against that of KL(pi || ref), by enumeration of all answers.

python benchmarks/kl_gradients.py        seconds; no sampling, no training

A decoder of two layers and five tokens, one of which ends an answer; all 341 answers of up to four tokens to each of
three prompts; a reference and a policy of random weights.
"""

from __future__ import annotations

from collections.abc import Callable

import common
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from steersman.language import enumerated as known
from steersman.language.decoder import Decoder, initial
from steersman.theory.alignment.preferences import k1, k2, k3

ALL = known.answers(5, known.LONGEST, known.END)
still = jax.lax.stop_gradient


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
    ref = initial(known.PROBE, jax.random.key(0), scale=0.35)
    other = initial(known.PROBE, jax.random.key(7), scale=0.35)
    policy = jax.tree.map(lambda a, b: a + 0.5 * (b if a.ndim > 1 else 0.0), ref, other)

    def mean(model: Decoder, term: Term, forward: bool = False) -> jax.Array:
        total = 0.0
        for prompt in known.PROMPTS:
            lp, lr = (known.log_probs(of, prompt, ALL) for of in (model, ref))
            weight = jnp.exp((lr if forward else still(lp)).sum(1))
            total = total + (weight * term(lp, lp - lr)).sum() / len(known.PROMPTS)
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
