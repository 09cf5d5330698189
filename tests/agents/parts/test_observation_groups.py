"""Which entries the policy and the value see, and what is said where that cannot be."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents import ALGORITHMS
from steersman.agents.off_policy import common
from steersman.agents.parts.observation_groups import as_deployed, groups_of
from steersman.errors import UsageError
from steersman.nets.memory.remembering import begin
from steersman.run.disk.spec_json import transitions_like
from steersman.types import EnvSpec

BOX, ACT, CHOICE = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)), spaces.Discrete(3)
PARTS = spaces.Dict(goal=BOX, hidden=spaces.Box(-1, 1, (3,)), state=BOX)
MASKED = spaces.Dict(hidden=BOX, state=BOX, action_mask=spaces.Box(0, 1, (3,), np.int8))
SPEC = EnvSpec("Place", PARTS, ACT, ACT)
SMALL = {"hidden_sizes": (4,), "normalize_observations": False, "scale_rewards": False}


def config(algorithm="ppo", **settings):
    return ALGORITHMS[algorithm].config(**SMALL, **settings)


def made(algorithm="ppo", spec=SPEC, network=None, **settings):
    return ALGORITHMS[algorithm].factory(config(algorithm, **settings), spec, network=network)


def shapes(agent, spec):
    return jax.eval_shape(agent.init, jax.random.key(0), transitions_like(spec, (2, 1)))


def drawn(agent, spec):
    """Weights of some size: to draw them here takes less time than to compile the agent's own."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), shapes(agent, spec))


@pytest.mark.parametrize(
    ("asked", "sees"),
    [
        (("state",), {"state"}),
        (("state,goal",), {"state", "goal"}),
        (("goal", "state", "goal"), {"state", "goal"}),
        (("all but hidden",), {"state", "goal"}),
        (("all", "but", "goal", "hidden"), {"state"}),
        (("all but goal, hidden",), {"state"}),
    ],
)
def test_how_a_group_is_written(asked, sees):
    policy, value = groups_of(config(policy_sees=asked), SPEC)
    assert {*policy.observation_space.spaces} == sees
    assert value is SPEC  # none given: all


@pytest.mark.parametrize(
    ("settings", "space", "says"),
    [
        ({"policy_sees": ("stat",)}, PARTS, "no entry 'stat'. Did you mean state?"),
        ({"value_sees": ("all but stat",)}, PARTS, "no entry 'stat'"),
        ({"policy_sees": ("",)}, PARTS, "leaves nothing to see"),
        ({"value_sees": ("all but state,goal,hidden",)}, PARTS, "leaves nothing to see"),
        ({"policy_sees": ("state",)}, BOX, "no entries to choose from"),
        ({"value_sees": ("state,action_mask",)}, MASKED, "no value sees it"),
        ({"policy_sees": ("state", "action_mask")}, MASKED, "the policy obeys it in any case"),
        ({"value_sees": ("inner",)}, spaces.Dict(inner=MASKED, state=BOX), "at the top of the observation"),
        ({"policy_sees": ("state",), "share_trunk": True}, PARTS, "Set share_trunk to False"),
        ({"policy_sees": ("state",), "memory": "gru"}, PARTS, "Set share_memory to False"),
    ],
)
def test_what_cannot_be_is_said(settings, space, says):
    with pytest.raises(UsageError, match=says):
        made(spec=replace(SPEC, observation_space=space), **settings)


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_a_network_of_ones_own_has_no_groups(algorithm):
    with pytest.raises(UsageError, match="yours reads of the observation what it reads"):
        made(algorithm, network=lambda key, spec: None, policy_sees=("state",))


def test_groups_that_are_the_same_may_share():
    for shared in ({"share_trunk": True}, {"memory": "gru"}):
        agent = made(policy_sees=("state",), value_sees=("all but goal,hidden",), **shared)
        encoder = shapes(agent, SPEC).params
        encoder = encoder.torsos["known"].encoder if "memory" in shared else encoder.policy_encoder
        assert encoder.keys == ("state",)


def noisy(obs, *names):
    rng = np.random.default_rng(1)
    return obs | {name: jnp.asarray(rng.standard_normal(obs[name].shape), jnp.float32) for name in names}


def test_all_entries_named_are_the_same_program_as_none():
    like = transitions_like(SPEC, (2, 1))
    given = {}, {"policy_sees": ("goal,state,hidden",)}, {"policy_sees": ("state",)}
    plain, named, other = (str(jax.make_jaxpr(made(**more).init)(jax.random.key(0), like)) for more in given)
    assert plain == named != other


def test_the_value_of_ppo_sees_more_than_its_policy():
    net = drawn(made(policy_sees=("state",), value_sees=("all but goal",)), SPEC).params
    obs = {"goal": jnp.ones(2), "hidden": jnp.ones(3), "state": jnp.ones(2)}
    (policy, value), (same, other) = net(obs), net(noisy(obs, "hidden"))
    np.testing.assert_array_equal(policy.loc, same.loc)
    assert value != other
    assert value == net(noisy(obs, "goal"))[1]
    assert not np.array_equal(policy.loc, net(noisy(obs, "state"))[0].loc)


def test_the_critics_of_sac_see_more_than_its_actor_and_the_actor_obeys_the_mask():
    spec = EnvSpec("Place", MASKED, CHOICE, CHOICE)
    state = drawn(made("sac", spec, policy_sees=("state",), replay_capacity=8), spec).learner
    obs = {"hidden": jnp.ones(2), "state": jnp.ones(2), "action_mask": jnp.array([1, 0, 1], jnp.int8)}
    actor, other = state.actor.params, noisy(obs, "hidden")
    logits = actor(obs).logits
    np.testing.assert_array_equal(logits, actor(other).logits)
    assert logits[1] < -1e6 < logits[0]
    batched = lambda obs: jax.tree.map(lambda x: x[None], obs)
    q = [common.values(state.critics.params, batched(o)) for o in (obs, other)]
    assert (q[0] != q[1]).all()


def test_memories_that_are_apart_see_their_groups():
    net = drawn(made(policy_sees=("state",), memory="gru", memory_size=4, share_memory=False), SPEC).params
    obs = {"goal": jnp.ones(2), "hidden": jnp.ones(3), "state": jnp.ones(2)}
    carry = jax.tree.map(lambda x: x[0], begin(net, 1))
    (kept, seen), (other_kept, other) = net.step(carry, obs), net.step(carry, noisy(obs, "hidden", "goal"))
    np.testing.assert_array_equal(seen["policy"], other["policy"])
    assert (seen["value"] != other["value"]).all()
    jax.tree.map(np.testing.assert_array_equal, kept["policy"], other_kept["policy"])
    np.testing.assert_array_equal(net(seen)[0].loc, net(other)[0].loc)


def test_an_agent_as_it_is_deployed_needs_no_more_than_its_policy_sees():
    settings = {"policy_sees": ("state", "goal")}
    whole = made(**settings)
    agent, spec = as_deployed(whole, config(**settings), SPEC)
    assert (set(spec.observation_space.spaces), spec.unseen) == ({"goal", "state"}, ("hidden",))
    state, first, key = drawn(whole, SPEC), jnp.ones(5, bool), jax.random.key(1)
    obs = {"goal": jnp.ones((5, 2)), "state": jnp.ones((5, 2)), "hidden": jnp.ones((5, 3))}
    action, _, extras = whole.act(state, (), obs, first, key)
    less, _, same_extras = agent.act(state, (), {k: obs[k] for k in ("state", "goal")}, first, key)
    np.testing.assert_array_equal(action, less)
    np.testing.assert_array_equal(extras["log_prob"], same_extras["log_prob"])
    assert as_deployed(whole, config(), SPEC) == (whole, SPEC)
