"""What the gradient of a convolutional network takes on CPUs: by our matrix products, and by XLA's convolutions.

    python benchmarks/convolutions.py             the three networks; two minutes on a core
    python benchmarks/convolutions.py --quick     one round; nothing is saved

Per step of gradient descent on one batch: compiled by itself; inside ``lax.scan``, where agents take theirs; and inside
it for two sets of weights at once (``--seeds 2``).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import common
import jax
import jax.numpy as jnp

from steersman.nets.layers import conv

NETWORKS: dict[str, tuple[Callable[..., Any], tuple[int, int, int], int]] = {  # -> trunk, image, batch
    "minatar": (conv.minatar, (10, 10, 4), 128),
    "nature": (conv.nature, (4, 84, 84), 64),
    "impala": (conv.ImpalaCNN, (4, 84, 84), 16),
}
LENGTH = 2  # steps in a scan
FORMS = {"products": conv._by_products, "xla": conv._by_xla}


def descend(params: Any, images: jax.Array) -> Any:
    gradient = jax.grad(lambda p: jax.vmap(p)(images).sum())(params)
    return jax.tree.map(lambda p, g: p - 1e-9 * g, params, gradient)


def scanned(params: Any, images: jax.Array) -> Any:
    return jax.lax.scan(lambda p, _: (descend(p, images), None), params, length=LENGTH)[0]


def milliseconds(function: Callable[..., Any], *args: Any, rounds: int) -> float:
    """The median time of a call after the first, which compiles."""
    compiled, taken = jax.jit(function), []
    for _ in range(rounds + 1):
        tick = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        taken.append(1000 * (time.perf_counter() - tick))
    return statistics.median(taken[1:])


def measure(name: str, rounds: int) -> dict[str, Any]:
    """-> milliseconds of a step, of each form in each place."""
    make, shape, batch = NETWORKS[name]
    images = jax.random.randint(jax.random.key(0), (batch, *shape), 0, 2).astype(jnp.uint8)
    one = make(shape, key=jax.random.key(1))
    two = jax.tree.map(lambda x: jnp.stack([x, -x]), one)
    result: dict[str, Any] = {"batch": batch}
    for form, function in FORMS.items():
        jax.clear_caches()  # else the programs of the other form serve this one
        with mock.patch.object(conv, "_by_products", function):
            result[form] = {
                "alone": milliseconds(descend, one, images, rounds=rounds),
                "in a scan": milliseconds(scanned, one, images, rounds=rounds) / LENGTH,
                "two, in a scan": milliseconds(jax.vmap(scanned, (0, None)), two, images, rounds=rounds) / LENGTH,
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round; nothing is saved")
    args = parser.parse_args()
    result: dict[str, Any] = {"networks": {}, "provenance": common.provenance()}
    for name in NETWORKS:
        result["networks"][name] = measure(name, 1 if args.quick else 5)
        print(name, result["networks"][name], flush=True)
    if not args.quick:
        common.save("convolutions", result)


if __name__ == "__main__":
    main()
