"""How near one SAC update comes to the arithmetic limit, and what was tried to get nearer.

    python benchmarks/sac_update.py            (a minute or two; run it with nothing else on the machine)
    python benchmarks/sac_update.py --quick    fewer repetitions; nothing is saved

HalfCheetah's sizes, batch 256, 256 x 256 networks, twin critics. The limit is the time that the update's matrix
products alone take at the rate of a [256, 256] x [256, 256] float32 product on the same cores, measured in the same
process. Every variant is a process of its own, twice, the better one counts:

- steersman: the library's learner, one update from a batch drawn out of replay, as in training;
- the others are SAC in sixty lines of plain JAX, without replay, to see what each choice costs. ``batched``: the twin
  critics as one batched product; ``two critics``: one product each; ``W x``: weights [out, in] applied to one
  observation and vmapped, so that the batch comes last; ``joined``: the actor's passes at s and s' as one of twice the
  size; ``ravelled``: Adam and targets over one vector of all parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import common

D, A, H, N, K = 17, 6, 256, 256, 2  # observation, action, width, batch, critics
VARIANTS = ["steersman", "batched", "two critics", "W x", "joined", "ravelled"]


def products() -> float:
    """Floating-point operations of the matrix products of one update."""
    forward = lambda i, o: 2 * N * (i * H + H * H + H * o)
    inputs = lambda i, o: 2 * N * (H * H + H * o)  # gradients with respect to hidden layers
    actor, critic = (D, 2 * A), (D + A, 1)
    target = forward(*actor) + K * forward(*critic)
    critics = K * (2 * forward(*critic) + inputs(*critic))
    policy = 2 * forward(*actor) + inputs(*actor) + K * (forward(*critic) + inputs(*critic) + 2 * N * A * H)
    return target + critics + policy


def rate(run: Any, repeat: int) -> float:
    """The best of five: calls per second."""
    best = 0.0
    for _ in range(5):
        tick = time.perf_counter()
        run(repeat)
        best = max(best, repeat / (time.perf_counter() - tick))
    return best


def product_rate(repeat: int) -> float:
    import jax
    import jax.numpy as jnp

    multiply = jax.jit(lambda x: (x @ x) * 1e-3).lower(jnp.ones((H, H))).compile()

    def run(n: int) -> None:
        x = jnp.ones((H, H))
        for _ in range(n):
            x = multiply(x)
        jax.block_until_ready(x)

    return rate(run, repeat) * 2 * H**3


def ours() -> tuple[Any, Any]:
    import jax
    import numpy as np
    from gymnasium import spaces

    from steersman.agents.off_policy.sac import SACConfig, sac
    from steersman.run.disk.spec_json import transitions_like
    from steersman.types import EnvSpec

    box = spaces.Box(-1, 1, (A,))
    spec = EnvSpec("sizes of HalfCheetah", spaces.Box(-np.inf, np.inf, (D,)), box, box)
    agent = sac(SACConfig(replay_capacity=100_000), spec)
    shapes = transitions_like(spec, (2_000, 1))
    rng = np.random.default_rng(0)

    def fill(s: Any) -> Any:
        return rng.normal(size=s.shape).astype(s.dtype) if s.dtype == np.float32 else np.zeros(s.shape, s.dtype)

    rollout = jax.tree.map(fill, shapes)
    state = jax.jit(agent.init)(jax.random.key(0), rollout)
    one = jax.tree.map(lambda x: x[:1], rollout)
    return lambda s: agent.update(s, one, jax.random.key(1))[0], state


def plain(variant: str) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    transposed = variant == "W x"

    def linear(key: Any, i: int, o: int) -> Any:
        shape = (o, i) if transposed else (i, o)
        return jax.random.normal(key, shape) / i**0.5, jnp.zeros(o)

    def make(key: Any, *widths: int) -> Any:
        keys = jax.random.split(key, len(widths) - 1)
        return [linear(k, i, o) for k, i, o in zip(keys, widths[:-1], widths[1:], strict=True)]

    def mlp(layers: Any, x: Any) -> Any:
        def one(x: Any) -> Any:
            for j, (w, b) in enumerate(layers):
                x = (w @ x if transposed else x @ w) + b
                x = jax.nn.relu(x) if j + 1 < len(layers) else x
            return x

        return jax.vmap(one)(x)

    def q(critics: Any, s: Any, a: Any) -> Any:
        x = jnp.concatenate([s, a], -1)
        if variant == "two critics":
            return jnp.stack([mlp(jax.tree.map(lambda w, k=k: w[k], critics), x)[:, 0] for k in range(K)])
        return jax.vmap(mlp, (0, None))(critics, x)[..., 0]

    def act(actor: Any, s: Any, key: Any) -> Any:
        loc, log_std = jnp.split(mlp(actor, s), 2, -1)
        log_std = jnp.clip(log_std, -20, 2)
        noise = jax.random.normal(key, loc.shape)
        u = loc + jnp.exp(log_std) * noise
        slope = 2 * (0.6931 - u - jax.nn.softplus(-2 * u))
        return jnp.tanh(u), (-0.5 * noise**2 - log_std - 0.9189 - slope).sum(-1)

    def adam(params: Any, gradient: Any, moments: Any) -> Any:
        m, v, t = moments
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
        scale = 3e-4 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v) + 1e-8), params, m, v), (m, v, t)

    start = lambda params: (jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))
    actor = make(jax.random.key(0), D, H, H, 2 * A)
    critics = jax.vmap(lambda key: make(key, D + A, H, H, 1))(jax.random.split(jax.random.key(1), K))
    flat = variant == "ravelled"
    unravel = [ravel_pytree(x)[1] if flat else (lambda y: y) for x in (actor, critics)]
    ravel = (lambda x: ravel_pytree(x)[0]) if flat else (lambda x: x)
    r = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
    batch = r(2, N, D), jnp.tanh(r(3, N, A)), r(4, N), r(5, N, D)

    def update(state: Any) -> Any:
        actor, critics, targets, actor_moments, critic_moments, key = state
        of_actor, of_critics = unravel
        s, a, reward, s_next = batch
        key, one, two = jax.random.split(key, 3)
        if variant == "joined":
            both, pull = jax.vjp(lambda p: act(p, jnp.concatenate([s, s_next]), one), actor)
            a_next, log_next = both[0][N:], both[1][N:]
        else:
            a_next, log_next = act(of_actor(actor), s_next, one)
        y = reward + 0.99 * (q(of_critics(targets), s_next, a_next).min(0) - 0.2 * log_next)
        critic_loss = lambda p: 0.5 * jnp.square(q(of_critics(p), s, a) - y).mean(1).sum()
        critics, critic_moments = adam(critics, jax.grad(critic_loss)(critics), critic_moments)
        if variant == "joined":
            slope = jax.grad(lambda x: -q(critics, s, x).min(0).mean())(both[0][:N])
            rest = jnp.concatenate([jnp.full(N, 0.2 / N), jnp.zeros(N)])
            gradient = pull((jnp.concatenate([slope, jnp.zeros_like(slope)]), rest))[0]
        else:

            def actor_loss(p: Any) -> Any:
                action, log_prob = act(of_actor(p), s, two)
                return (0.2 * log_prob - q(of_critics(critics), s, action).min(0)).mean()

            gradient = jax.grad(actor_loss)(actor)
        actor, actor_moments = adam(actor, gradient, actor_moments)
        targets = jax.tree.map(lambda t, c: t + 0.005 * (c - t), targets, critics)
        return actor, critics, targets, actor_moments, critic_moments, key

    actor, critics = ravel(actor), ravel(critics)
    copied = jax.tree.map(jnp.copy, critics)
    return update, (actor, critics, copied, start(actor), start(critics), jax.random.key(6))


def child(variant: str, cores: int, repeat: int) -> None:
    """Measure one variant and print its result."""
    if hasattr(os, "sched_setaffinity"):  # XLA takes its number of threads from the cores that it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    update, state = ours() if variant == "steersman" else plain(variant)
    program = jax.jit(update, donate_argnums=0).lower(state).compile()
    held = [state]

    def run(n: int) -> None:
        for _ in range(n):
            held[0] = program(held[0])
        jax.block_until_ready(held[0])

    run(10)
    print(json.dumps({"updates_per_second": rate(run, repeat), "product_rate": product_rate(3 * repeat)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", choices=VARIANTS)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--repeat", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="a trial of the machinery; saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.cores[0], args.repeat)
    origin, found = common.provenance(), {}
    repeat = 20 if args.quick else args.repeat
    for cores in args.cores:
        for variant in args.variants:
            command = [sys.executable, str(Path(__file__)), "--child", variant]
            command += ["--cores", str(cores), "--repeat", str(repeat)]
            runs = [common.run_json(command) for _ in range(1 if args.quick else 2)]
            speed, product = (max(r[k] for r in runs) for k in ("updates_per_second", "product_rate"))
            fraction = speed * products() / product
            found[f"{variant}, {cores}"] = {
                "variant": variant,
                "cores": cores,
                "updates_per_second": speed,
                "product_gflops": product / 1e9,
                "fraction": fraction,
            }
            print(f"{variant:12} {cores} core(s): {speed:6.1f} updates/s, {fraction:.2f} of the limit", flush=True)
    result = {"gflop_per_update": products() / 1e9, "target": 0.75, "variants": found, "provenance": origin}
    if args.out or not args.quick:
        common.save("sac-update", result, args.out)


if __name__ == "__main__":
    main()
