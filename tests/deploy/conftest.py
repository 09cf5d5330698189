"""Policies of every kind with weights of some size: an untrained one hardly moves, and proves little."""

import jax
import numpy as np
import pytest

from steersman.agents import ALGORITHMS
from steersman.agents.parts.replay.with_replay import ReplayState
from steersman.deploy import golden, runner
from steersman.deploy.contract import contract
from steersman.deploy.trace import traced
from steersman.run.policy import policy_of, state_like
from steersman.spaces import canonical_action_space, inside_space
from steersman.types import EnvSpec

SMALL = {"hidden_sizes": (8,), "replay_capacity": 768, "memory_size": 6, "critic_sizes": (8,)}


def made_for(algorithm, observation, action, network=None, size=2.0, **settings):
    """A policy for some spaces, with heads that fill the range of actions."""
    entry = ALGORITHMS[algorithm]
    spec = EnvSpec(
        "Place", inside_space(observation), canonical_action_space(action), action, native_observation_space=observation
    )
    small = {k: v for k, v in SMALL.items() if k in entry.config.__dataclass_fields__}
    config = entry.config(**{**small, **settings})
    agent = entry.factory(config, spec, network=network)
    state = state_like(agent, spec, 2, 1)  # shapes alone: to draw the weights here takes less time than to compile it
    state = state._replace(memory=()) if isinstance(state, ReplayState) else state
    rng = np.random.default_rng(0)

    def rough(path, x):
        name = jax.tree_util.keystr(path)
        if x.dtype != np.float32:
            return np.zeros(x.shape, x.dtype)
        if "var" in name.rpartition(".")[2]:
            return np.full(x.shape, 2.0, np.float32)
        scale = size / np.sqrt(min(x.shape[-2:])) if x.ndim > 1 else 0.3
        one = x.ndim == 1 and name.endswith((".weight", ".scale"))  # of a normalisation
        return (one + scale * rng.standard_normal(x.shape)).astype(np.float32)

    return policy_of(agent, config, jax.tree_util.tree_map_with_path(rough, state), spec)


class Exported:
    """A policy, its program and contract, golden vectors and the numpy runner."""

    def __init__(self, policy):
        self.policy, self.program = policy, traced(policy)
        self.contract = contract(policy, self.program)
        self.golden = golden.golden_vectors(policy, self.program, self.contract)
        self.runner = runner.Policy.of(self.contract, {str(i): x for i, x in self.program.constants.items()})

    def off(self, play):
        return golden.worst(self.golden, self.contract, play)

    def played(self, policy):
        return lambda vectors: golden.played(policy, policy.reset, vectors, self.contract)


@pytest.fixture(scope="session")
def policy_for():
    """(algorithm, observation space, action space, network=None, **settings) -> a policy"""
    return made_for


@pytest.fixture(scope="session")
def exported():
    """policy -> Exported"""
    return Exported


@pytest.fixture(scope="session", autouse=True)
def few():
    """Enough vectors for small networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden, "VECTORS", 48)
        yield
