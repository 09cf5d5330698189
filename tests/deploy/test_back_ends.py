"""Every head, encoder, activation and memory: what each back end makes of the golden vectors is what the agent did."""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.deploy import c99, golden, onnx
from steersman.deploy.contract import contract
from steersman.deploy.trace import traced
from steersman.errors import UsageError
from steersman.nets.actor_critic import ActorCritic

BOX = spaces.Box(-10.0, 10.0, (3,))
ACT = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32))
FOUR = spaces.Discrete(4, start=2)
MASKED = spaces.Dict(
    a=BOX, n=spaces.Discrete(3, start=-1), action_mask=spaces.Box(0, 1, (4,), np.int8), more=spaces.MultiBinary(2)
)
GRID = spaces.Box(0.0, 1.0, (5, 5, 2))
PICTURE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
MEMORY = {"burn_in": 2, "sequence_length": 6, "unroll_length": 1}
CASES = {
    "ppo-box": ("ppo", BOX, ACT, {}),
    "ppo-gelu-mask": ("ppo", MASKED, FOUR, {"activation": "gelu", "layer_norm": True}),
    "ppo-elu-multi": ("ppo", BOX, spaces.MultiDiscrete([2, 3], start=[1, -1]), {"activation": "elu"}),
    "ppo-silu-grid": ("ppo", GRID, FOUR, {"activation": "silu"}),
    "ppo-binary": ("ppo", spaces.Tuple([BOX, spaces.MultiDiscrete([2, 3])]), spaces.MultiBinary(3), {}),
    "ppo-whole": ("ppo", BOX, spaces.Box(-3, 6, (2,), np.int32), {"normalize_observations": False}),
    "ppo-free": ("ppo", BOX, spaces.Box(-np.inf, np.array([1.0, np.inf], np.float32)), {"state_dependent_std": True}),
    "sac": ("sac", BOX, ACT, {}),
    "sac-discrete": ("sac", BOX, FOUR, {}),
    "ddpg-ou": ("ddpg", BOX, ACT, {"exploration_noise": "ou"}),
    "crossq": ("crossq", BOX, ACT, {}),
    "bc": ("bc", BOX, ACT, {}),
    "dqn-atoms": ("dqn", BOX, FOUR, {"distribution": "categorical", "noisy": True, "dueling": True}),
    "dqn-quantiles": ("dqn", MASKED, FOUR, {"distribution": "quantile"}),
    "pqn": ("pqn", BOX, FOUR, {}),
    "gru": ("ppo", BOX, ACT, {"memory": "gru"}),
    "lstm": ("ppo", MASKED, FOUR, {"memory": "lstm", "share_memory": False}),
    "lru": ("ppo", BOX, ACT, {"memory": "lru"}),
    "tcn": ("sac", BOX, ACT, {"memory": "tcn", "memory_context": 4, **MEMORY}),
    "groups": ("ppo", MASKED, FOUR, {"memory": "gru", "share_memory": False, "policy_sees": ("n", "a")}),
    "window": ("dqn", BOX, FOUR, {"memory": "window", "memory_context": 3, **MEMORY}),
}


PICTURES = {  # minutes
    "impala": ("ppo", PICTURE, ACT, {"encoder": "impala", "size": 1.0}),  # of others rounding alone moves actions
    "nature": ("dqn", spaces.Dict(a=PICTURE, b=BOX), FOUR, {}),
}


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.exact) for name in PICTURES)])
def test_every_back_end_does_what_the_agent_did(name, tmp_path, policy_for, exported):
    algorithm, observation, action, settings = (CASES | PICTURES)[name]
    made = exported(policy_for(algorithm, observation, action, **settings))
    assert golden.filled(made.golden, made.contract) > 0.4
    assert made.off(made.played(made.runner)) <= 1
    for file, text in c99.sources(made.program, made.contract, made.golden).items():
        (tmp_path / file).write_text(text)
    if c99.compiler():
        assert c99.replay(tmp_path, tmp_path, "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1") <= 1
    if find_spec("onnx"):
        play = onnx.play(onnx.model(made.program, made.contract))
        assert play is None or made.off(play) <= 1
    remembers = "memory" in settings
    assert bool(made.contract["carry"]) == remembers  # the noise of exploration is no part of it
    assert ("first" in made.program.inputs) == remembers


@pytest.fixture(scope="module")
def gru(policy_for, exported):
    return exported(policy_for("ppo", BOX, ACT, memory="gru"))


def test_a_memory_that_is_not_kept_is_noticed(gru):
    vectors = gru.golden._replace(first=np.ones_like(gru.golden.first))
    assert golden.worst(gru.golden, gru.contract, lambda _: gru.played(gru.runner)(vectors)) > 1


def test_a_weight_that_is_a_little_off_is_noticed(gru):
    changed = {i: x * np.float32(1 + 1e-3) if x.ndim == 2 else x for i, x in gru.program.constants.items()}
    program = gru.program._replace(constants=changed)
    other = type(gru.runner).of(gru.contract, {str(i): x for i, x in changed.items()})
    assert gru.off(gru.played(other)) > 1
    assert program.ops == gru.program.ops


def test_only_the_policy_is_in_the_program(policy_for):
    """Not the critic, not an optimiser's moments; what depends on no input is worked out beforehand."""
    program = traced(policy_for("ppo", BOX, ACT))
    sizes = 3 * 8 + 8 + 8 * 2 + 2 + 3 + 3  # two layers, the normaliser's mean and factor
    assert sizes <= sum(x.size for x in program.constants.values()) <= sizes + 20  # the doors and bounds
    names = [op.name for op in program.ops]
    assert names.count("matmul") == 2
    assert names.count("tanh") == 1
    assert not {"sqrt", "transpose", "broadcast"} & {*names}


class Sorted(ActorCritic):
    def __call__(self, obs):
        return super().__call__(jnp.sort(obs))


def test_what_no_back_end_has_is_named(policy_for):
    policy = policy_for("ppo", BOX, ACT, network=lambda key, spec: Sorted(spec, hidden_sizes=(4,), key=key))
    with pytest.raises(UsageError, match=r"needs sort \(JAX's names\), which no back end .* jax.export"):
        traced(policy)


class Softsign(ActorCritic):
    def __call__(self, obs):
        return super().__call__(jax.nn.soft_sign(obs) + jnp.log1p(jnp.abs(obs)))


def test_a_network_of_ones_own_is_read_like_ours(policy_for, exported):
    made = exported(policy_for("ppo", BOX, ACT, network=lambda key, spec: Softsign(spec, hidden_sizes=(4,), key=key)))
    assert made.off(made.played(made.runner)) <= 1


def test_a_policy_that_searches_is_refused(policy_for):
    sizes = {"plan_horizon": 2, "plan_population": 4, "plan_iterations": 1, "plan_elites": 2}
    policy = policy_for("pets", BOX, ACT, members=1, model_hidden_sizes=(4,), **sizes)
    with pytest.raises(UsageError, match=r"draws random numbers for each action.* no back end .* steersman.load"):
        traced(policy)


def test_choices_that_are_nearly_even_are_left_out(policy_for):
    policy = policy_for("ppo", BOX, FOUR, normalize_observations=False)
    policy.state = jax.tree.map(lambda x: 0 * x, policy.state)
    program = traced(policy)
    with pytest.raises(UsageError, match="choices are even, to 1e-05, at all of 48"):
        golden.golden_vectors(policy, program, contract(policy, program))
