"""Networks of the user's own: what is wrong is said when the agent is made; what is no array just works."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents import ALGORITHMS
from steersman.envs import make_env
from steersman.errors import UsageError
from steersman.nets.actor_critic import ActorCritic
from steersman.nets.actors import Actor
from steersman.nets.critics import Critic
from steersman.nets.value import QNetwork
from steersman.run.disk.spec_json import transitions_like
from steersman.theory.distributions import Categorical, DiagGaussian

CART, PENDULUM = make_env("CartPole-v1").spec, make_env("Pendulum-v1").spec
DICT = replace(CART, observation_space=spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3)))
ACTION_VALUES = ("dqn", "pqn")
POLICY_VALUE = ("ppo", "a2c", "impala", "reinforce", "actor_critic", "trpo")
PAIRS = ("ddpg", "td3", "sac", "tqc", "mbpo")
POLICIES = ("bc", "iql")


class Own(eqx.Module):
    """Equinox's own parts, whose activations are leaves, and a plain number."""

    body: eqx.nn.MLP
    value: eqx.nn.MLP
    scale: float
    gives: object = eqx.field(static=True)

    def __init__(self, gives=lambda logits, value: (Categorical(logits), value), *, sees=4, actions=2, key):
        self.body = eqx.nn.MLP(sees, actions, 8, 1, activation=lambda x: jax.nn.relu(x), key=key)
        self.value, self.scale, self.gives = eqx.nn.MLP(sees, "scalar", 8, 1, key=key), 0.5, gives

    def __call__(self, obs):
        return self.gives(self.scale * self.body(obs), self.value(obs))


def own(*args, **kwargs):
    return lambda key, spec: Own(*args, key=key, **kwargs)


def agent(name, network, spec, **settings):
    algorithm = ALGORITHMS[name]
    return algorithm.factory(algorithm.config(**settings), spec, network=network)


def pair(key, spec, **options):
    return Actor(spec, hidden_sizes=(4,), key=key), Critic(spec, hidden_sizes=(4,), key=key, **options)


def in_words(name, network, spec=CART, **settings):
    with pytest.raises(UsageError) as caught:
        agent(name, network, spec, **settings)
    return str(caught.value)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in ("crossq", "pets")])
def test_every_algorithm_looks_at_the_door(name):
    spec, settings = PENDULUM if name in PAIRS else CART, {}
    if name == "cpo":
        spec, settings = replace(CART, cost_names=("cost",)), {"cost_limit": (1.0,)}
    for network, says in (
        (lambda key, spec: None, "gives None"),
        (Own(key=jax.random.key(0)), "it is an Own that is made already.*Write lambda key, spec: Own"),
        (Own, "Own cannot be called with .key, spec.: too many positional.*Write lambda key, spec: Own"),
        (lambda spec: None, "it cannot be called with .key, spec.: .*Write lambda key, spec: MODULE"),
        (3, "it is an int"),
        (lambda key, spec: {}["lost"], "it failed when it was made: KeyError: 'lost' .*test_own_networks.py, line"),
    ):
        with pytest.raises(UsageError, match=f"cannot train your network: .*{says}.*Give a function .key, spec. ->"):
            agent(name, network, spec, **settings)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (own(lambda logits, value: logits), "it gives an array of shape (2,), not a pair (distribution, value)"),
        (own(lambda logits, value: Categorical(logits)), "it gives a Categorical, not a pair"),
        (own(lambda logits, value: (logits, value)), "its policy is an array of shape (2,), which has no sample"),
        (own(lambda logits, value: (Categorical(logits), logits[:1])), "its value has shape (1,); it must be (), one"),
        (own(lambda logits, value: (Categorical(logits), 1.0)), "its value is a float, not an array"),
        (own(lambda logits, value: (Categorical(logits), jnp.argmax(logits))), "its value is of int32; it must be"),
        (own(actions=3), "its policy has logits of shape (3,); CartPole-v1 has 2 actions, so (2,)"),
        (own(lambda logits, value: (DiagGaussian(logits, logits), value)), "its policy's actions have shape (2,)"),
        (own(sees=5), "it failed on one observation of shape (4,): TypeError: dot_general requires contracting"),
    ],
)
def test_a_policy_and_a_value(network, says):
    said = in_words("ppo", network)
    assert said.startswith(f"PPO cannot train your network: {says}")
    assert said.endswith("where the module is obs -> (distribution, value).")


def test_a_value_for_each_cost():
    spec, limits = replace(CART, cost_names=("speed", "heat")), {"cost_limit": (1.0, 2.0)}
    said = in_words("ppo", own(), spec, **limits)
    assert "its value, of the reward and of each cost, has shape (); it must be (3,)" in said
    three = own(lambda logits, value: (Categorical(logits), jnp.stack([value] * 3)))
    agent("ppo", three, spec, **limits)
    assert "its value has shape (3,); it must be ()" in in_words("ppo", three, spec)


def test_where_it_fails_and_on_what():
    said = in_words("a2c", own(), DICT)
    assert "it failed on one observation of shape {'a': (2,), 'b': ()}: " in said
    assert "test_own_networks.py, line" in said


def test_a_policy_over_continuous_actions():
    wide = lambda size: own(lambda out, value: (DiagGaussian(out[:size], out[:size]), value), sees=3, actions=4)
    agent("ppo", wide(1), PENDULUM)
    said = in_words("ppo", wide(2), PENDULUM)
    assert "its policy's actions have shape (2,); those of Pendulum-v1 have (1,), 1 numbers" in said


def test_values_of_actions():
    mlp = lambda size: lambda key, spec: eqx.nn.MLP(4, size, 8, 1, key=key)
    for name in ACTION_VALUES:
        agent(name, mlp(2), CART)
        assert "with 2 actions of CartPole-v1, has shape (3,); it must be (2,)" in in_words(name, mlp(3))
    said = in_words("dqn", mlp(2), distribution="quantile", num_atoms=7)
    assert "it must be (2, 7)" in said
    assert "obs -> q [2, 7]" in said
    deaf = lambda key, spec: lambda obs: obs[:2]
    assert "positional argument" in in_words("dqn", deaf, noisy=True)
    agent("dqn", lambda key, spec: QNetwork(spec, noisy=True, key=key), CART, noisy=True)


def test_pairs():
    for name in PAIRS:
        options = {"outputs": 25} if name == "tqc" else {}
        agent(name, lambda key, spec, options=options: pair(key, spec, **options), PENDULUM)
        assert "not a pair (actor, critic)" in in_words(name, own(), PENDULUM)
        wide = lambda key, spec: pair(key, spec, outputs=3)
        assert "its critic's output has shape (3,); it must be" in in_words(name, wide, PENDULUM)
    blunt = lambda key, spec: (Actor(spec, deterministic=True, key=key), Critic(spec, key=key))
    assert "its actor gives a Deterministic; it is to give a steersman.theory" in in_words("sac", blunt, PENDULUM)
    agent("td3", blunt, PENDULUM)
    agent("sac", pair, CART)  # discrete: a critic of observations


def test_policies_alone():
    for name in POLICIES:
        agent(name, lambda key, spec: Actor(spec, key=key), CART)
        said = in_words(name, lambda key, spec: ActorCritic(spec, key=key))
        assert "its policy is a tuple of 2, which has no sample" in said


def test_a_divergence_where_it_is_asked_for():
    class Plain:
        def __init__(self, logits):
            self.sample, self.log_prob, self.entropy, self.mode = (
                getattr(Categorical(logits), name) for name in ("sample", "log_prob", "entropy", "mode")
            )

    network = own(lambda logits, value: (Plain(logits), value))
    agent("ppo", network, CART)
    assert "its policy is a Plain, which has no kl" in in_words("ppo", network, objective="penalty")
    assert "its policy is a Plain, which has no kl" in in_words("trpo", network)


def test_leaves_that_are_no_arrays_are_left_alone():
    made = agent("a2c", own(), CART, unroll_length=2, normalize_observations=False, scale_rewards=False)
    rollout = transitions_like(CART, (2, 3))
    key = jax.random.key(0)
    states = [made.init(key, rollout) for _ in range(2)]  # each with lambdas of its own
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(states[0]))
    after, _ = jax.eval_shape(made.update, states[0], rollout, key)
    assert jax.tree.structure(after) == jax.tree.structure(states[1])
    policy, value = states[0].params(np.ones(4, np.float32))
    right = Own(key=key)
    np.testing.assert_array_equal(policy.logits, 0.5 * right.body(jnp.ones(4)))
    np.testing.assert_array_equal(value, right.value(jnp.ones(4)))
