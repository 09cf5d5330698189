"""Networks of your own for every family: what each asks of a factory (key, spec), for one observation.

Run it: python examples/own_networks.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium.spaces import Discrete

import steersman
from steersman.nets.heads import PolicyHead, ValueHead
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.mlp import MLP
from steersman.theory.distributions import Deterministic, TanhGaussian


class Net(eqx.Module):
    """All numbers of what is given -> two layers -> a head -> what ``read`` makes of it."""

    trunk: MLP
    head: eqx.Module
    read: object = eqx.field(static=True)  # a function of the module, no lambda: it is compared

    def __init__(self, key, inputs, head, read=None):
        first, last = jax.random.split(key)
        self.trunk = MLP(inputs, (64, 64), activation="relu", key=first)
        self.head, self.read = head(64, last), read

    def __call__(self, *given):
        out = self.head(self.trunk(jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(given)])))
        return out if self.read is None else self.read(out)


def sizes(spec):  # numbers of an observation (a Box), and of an action
    actions = spec.action_space
    return spec.observation_space.shape[0], int(actions.n) if isinstance(actions, Discrete) else actions.shape[0]


def linear(outputs):
    return lambda inputs, key: orthogonal_linear(inputs, outputs, key)


def squashed(out):
    mean, log_std = jnp.split(out, 2)
    return TanhGaussian(mean, jnp.clip(log_std, -20, 2))


def exact(out):
    return Deterministic(jnp.tanh(out))


def action_values(key, spec):  # pqn, dqn: obs -> q [A]
    return Net(key, sizes(spec)[0], linear(sizes(spec)[1]))


def soft(key, spec):  # sac: (obs -> distribution over flat actions in [-1, 1], (obs, action) -> [1]); tqc: -> [atoms]
    obs, action = sizes(spec)
    return Net(key, obs, linear(2 * action), squashed), Net(key, obs + action, linear(1))


def firm(key, spec):  # td3, ddpg: the actor gives its action, the critic is as above; they are copied for the targets
    obs, action = sizes(spec)
    return Net(key, obs, linear(action), exact), Net(key, obs + action, linear(1))


def imitator(key, spec):  # bc, iql: obs -> distribution over the space's actions; PolicyHead knows which
    return Net(key, sizes(spec)[0], lambda inputs, key: PolicyHead(inputs, spec.action_space, key=key))


class Privileged(eqx.Module):  # the policy-gradient agents: obs -> (distribution, value); here on own_rover's Dict
    policy: Net
    value: Net

    def __init__(self, key, spec):
        first, last = jax.random.split(key)
        self.policy = Net(first, 6, lambda inputs, key: PolicyHead(inputs, spec.action_space, key=key))
        self.value = Net(last, 7, lambda inputs, key: ValueHead(inputs, key=key))

    def __call__(self, obs):
        seen = {name: part for name, part in obs.items() if name != "friction"}
        return self.policy(seen), self.value(obs)  # only the critic sees the friction


def main(steps: int = 5_000, **settings) -> float:
    result = steersman.train("sac", "Pendulum-v1", steps=steps, network=soft, **settings)
    print(f"mean return {result.evaluation.mean:.1f}; a random policy gets -1200")
    return result.evaluation.mean


if __name__ == "__main__":
    main()
