"""What an agent takes over from another: by the shapes of every algorithm's state, and by numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs
from steersman.agents import ALGORITHMS
from steersman.agents.parts.warm_start import begun_from, taken_over
from steersman.errors import UsageError
from steersman.types import Rollout
from steersman.unroll import begin, random_policy, unroll

WRAPPED = {"normalize_observations": True, "scale_rewards": True, "lag": 2, "trace_lambda": 0.5}
PLACES = {name: envs.make(name, 2) for name in ("CartPole-v1", "Pendulum-v1", "safe/cartpole")}
NOT_TAKEN = ("optimiser", "steps", "updates", "kl_coefficient", "memory", "traces", "returns", "constraint")


def made(name, **settings):
    """-> (an agent of the algorithm, the environments it serves)"""
    fields = ALGORITHMS[name].config.__dataclass_fields__
    small = {"hidden_sizes": (8,), "unroll_length": 4, "replay_capacity": 64, "learning_starts": 8, "batch_size": 4}
    small |= {"unroll_length": 1000} if name == "reinforce" else {}  # it wants whole episodes
    small |= {"cost_limit": (1.0,)} if name == "cpo" else {}
    config = ALGORITHMS[name].config(**{k: v for k, v in {**small, **settings}.items() if k in fields})
    for place in PLACES.values():
        try:
            return ALGORITHMS[name].factory(config, place.spec, budget=1000), place
        except UsageError:
            continue
    raise AssertionError(f"{name} serves none of {list(PLACES)}")


def first_rollout(agent, place, key) -> Rollout:
    acting = begin(agent, place, key)
    _, rollout, _ = unroll(random_policy(place.spec), place, acting, key, 4)
    return rollout


def state_like(agent, place):
    return jax.eval_shape(lambda key: agent.init(key, first_rollout(agent, place, key)), jax.random.key(0))


def named(tree):
    name = partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def filled(like, number):
    return jax.tree.map(lambda x: np.full(x.shape, number, x.dtype), like)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_takes_over_what_is_learned_and_nothing_else(name):
    agent, place = made(name, **WRAPPED)
    like = state_like(agent, place)
    taken = taken_over(like, filled(like, 1))
    left = {leaf for leaf in named(like) if leaf not in taken}
    assert all(any(part in leaf.split("/") for part in NOT_TAKEN) for leaf in left)
    assert not any(part in leaf.split("/") for leaf in taken for part in NOT_TAKEN)
    assert any("params" in leaf or "model" in leaf.split("/") for leaf in taken)
    moments = {leaf for leaf in named(like) if "moments" in leaf.split("/")}
    assert moments <= taken.keys()
    assert moments or "normalize_observations" not in ALGORITHMS[name].config.__dataclass_fields__
    more = taken_over(like, filled(like, 1), optimiser=True).keys() - taken.keys()
    assert more == {leaf for leaf in named(like) if "optimiser" in leaf.split("/")}
    begun = named(state_like(begun_from(agent, taken), place))
    assert {k: (x.shape, x.dtype) for k, x in begun.items()} == {k: (x.shape, x.dtype) for k, x in named(like).items()}


def test_an_agent_begins_with_it():
    agent, place = made("impala", **WRAPPED)
    key = jax.random.key(0)
    start = jax.jit(lambda: agent.init(key, first_rollout(agent, place, key)))()
    old = jax.tree.map(lambda x: np.asarray(x) + np.ones((), x.dtype), start)
    taken = taken_over(state_like(agent, place), old)
    agent = begun_from(agent, taken)
    begun = named(jax.jit(lambda: agent.init(key, first_rollout(agent, place, key)))())
    for name, leaf in named(start).items():
        late = name.replace("/past/", "/agent/params/")  # what explores is the policy too
        wanted = np.broadcast_to(named(old)[late], leaf.shape) if name in taken else leaf
        np.testing.assert_allclose(begun[name], wanted, rtol=1e-6, err_msg=name)


def test_wrappers_may_differ():
    plain, place = made("ppo", normalize_observations=True, scale_rewards=False)
    scaled, _ = made("ppo", normalize_observations=True, scale_rewards=True)
    there, here = state_like(plain, place), state_like(scaled, place)
    taken = taken_over(here, filled(there, 2))
    assert "moments/mean" in taken  # of observations
    assert "agent/moments/mean" not in taken  # of rewards: it begins anew
    assert {leaf.removeprefix("agent/") for leaf in taken_over(there, filled(here, 2))} == {
        leaf.replace("agent/agent/", "agent/").removeprefix("agent/") for leaf in taken
    }


def test_the_first_leaf_that_does_not_fit_is_named():
    small, place = made("ppo")
    large, _ = made("ppo", hidden_sizes=(16,))
    with pytest.raises(UsageError, match=r"params/policy_trunk/.* is float32\[4, 8\] there, and float32\[4, 16\] here"):
        taken_over(state_like(large, place), filled(state_like(small, place), 0))
    deep, _ = made("ppo", hidden_sizes=(8, 8))
    with pytest.raises(UsageError, match="is not among what the run has learned"):
        taken_over(state_like(deep, place), filled(state_like(small, place), 0))
    with pytest.raises(UsageError, match="is none of the new agent's"):
        taken_over(state_like(small, place), filled(state_like(deep, place), 0))


def test_a_state_without_fields_is_taken_whole():
    assert taken_over({"a": jnp.zeros(2)}, {"a": np.ones(2, np.float32)})["a"].tolist() == [1.0, 1.0]
