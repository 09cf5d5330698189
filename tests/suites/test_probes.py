"""Every agent learns the known answers of the probe environments: of its value, of its policy."""

from functools import partial

import jax
import numpy as np
import pytest

from steersman import envs
from steersman.agents import ALGORITHMS
from steersman.envs.probe import known_values
from steersman.run.evaluate import device_evaluator
from steersman.run.loops.device_loop import DeviceLoop

GAMMA = 0.9
COMMON = {"gamma": GAMMA, "hidden_sizes": (32,), "log_std_init": -0.5, "learning_rate": 1e-2}
LEARNERS = {  # settings, updates
    "reinforce": ({"unroll_length": 16}, 600),
    "a2c": ({"unroll_length": 8}, 800),
    "actor_critic": ({"unroll_length": 1}, 3000),
    "trpo": ({"unroll_length": 16, "num_minibatches": 2}, 150),
    "impala": ({"unroll_length": 8, "lag": 2}, 800),
}
# The value probe that the two-step and truncation probes are simpler cases of, and a policy probe that needs the
# observation. REINFORCE does not bootstrap but at a truncation.
VALUE = "probe/truncation-ring"
POLICY = {
    "reinforce": "probe/action-observation",
    "impala": "probe/action-observation",
    "a2c": "probe/continuous-action",
    "actor_critic": "probe/continuous-action",
    "trpo": "probe/continuous-action",
}


def learn(algorithm, name, **given):
    settings, updates = LEARNERS[algorithm]
    entry = ALGORITHMS[algorithm]
    made = partial(envs.make, name)
    length = settings["unroll_length"]
    config = entry.config(**{**COMMON, **settings, **given})
    agent = entry.factory(config, made(1).spec, budget=updates * length * 16)
    loop = DeviceLoop(agent, made, num_envs=16, unroll_length=length, first_length=1, seeds=[0], shards=1)
    state, _ = loop.advance(loop.start(), updates)
    return agent, jax.tree.map(np.asarray, state.agent), made


def network_of(state):
    """The agent's own state may lie inside a wrapper's."""
    return state.params if hasattr(state, "params") else network_of(state.agent)


@pytest.mark.parametrize("algorithm", LEARNERS)
def test_learns_the_value(algorithm):
    _, state, _ = learn(algorithm, VALUE)
    known = known_values(VALUE, GAMMA)
    value = jax.vmap(network_of(state))(known.obs)[1]
    np.testing.assert_allclose(value, known.value, atol=0.06 * np.abs(known.value).max())


@pytest.mark.parametrize(("algorithm", "name"), POLICY.items())
def test_learns_the_policy(algorithm, name):
    agent, state, made = learn(algorithm, name)
    evaluation = device_evaluator(agent, made(64))(state, 1)
    assert evaluation.mean == pytest.approx(known_values(name, GAMMA).mean_return, abs=0.1)
