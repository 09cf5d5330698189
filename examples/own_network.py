"""A network of your own: a factory (key, spec) -> module, the module mapping one observation to (policy, value).

Run it: python examples/own_network.py
"""

import tempfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import steersman
from steersman.nets.heads import PolicyHead, ValueHead
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.types import EnvSpec

WIDTH = 64


class Residual(eqx.Module):
    """One trunk with a skip connection. Every leaf is an array of numbers; sizes and functions are not leaves."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    policy_head: PolicyHead  # gives the distribution that fits the action space
    value_head: ValueHead

    def __init__(self, key: jax.Array, spec: EnvSpec):
        keys = jax.random.split(key, 4)
        (size,) = spec.observation_space.shape
        self.first = orthogonal_linear(size, WIDTH, keys[0])
        self.second = orthogonal_linear(WIDTH, WIDTH, keys[1])
        self.policy_head = PolicyHead(WIDTH, spec.action_space, key=keys[2])
        self.value_head = ValueHead(WIDTH, key=keys[3])

    def __call__(self, obs: jax.Array):
        x = jnp.tanh(self.first(obs))
        x = x + jnp.tanh(self.second(x))
        return self.policy_head(x), self.value_head(x)


def main(steps: int = 100_000, **settings) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        result = steersman.train("ppo", "CartPole-v1", steps=steps, network=Residual, out=run, **settings)
        policy = steersman.load(run, network=Residual)  # a run folder holds numbers, not code: give the factory again
    obs = np.array([0.0, 0.0, 0.1, 0.0], np.float32)
    assert policy(obs) == result.policy(obs)
    print(f"mean return {result.evaluation.mean:.1f}; a pole leaning right is answered with action {policy(obs)}")
    return result.evaluation.mean


if __name__ == "__main__":
    main()
