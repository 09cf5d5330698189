"""Policies as plain functions: numpy in, numpy out, one observation or many."""

from collections import OrderedDict
from dataclasses import replace
from types import MappingProxyType

import jax
import numpy as np
import pytest
from gymnasium import spaces

import steersman
from steersman.agents import ALGORITHMS
from steersman.errors import UsageError
from steersman.run.disk import checkpoint, files, run_folder
from steersman.run.disk.spec_json import spec_from_json, spec_to_json, transitions_like
from steersman.run.policy import check_same_spaces, policy_of
from steersman.spaces import canonical_action_space, inside_space
from steersman.types import EnvSpec

OBSERVATION = spaces.Box(-10.0, 10.0, (3,))


def policy_for(observation, action, **settings):
    """An untrained PPO policy for some spaces."""
    entry = ALGORITHMS["ppo"]
    inside, canonical = inside_space(observation), canonical_action_space(action)
    spec = EnvSpec("Place", inside, canonical, action, native_observation_space=observation)
    config = entry.config(hidden_sizes=(8,), **settings)
    agent = entry.factory(config, spec)
    rollout = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), transitions_like(spec, (2, 1)))
    return policy_of(agent, config, jax.jit(agent.init)(jax.random.key(0), rollout), spec)


@pytest.fixture(scope="module")
def discrete():
    return policy_for(OBSERVATION, spaces.Discrete(3, start=5))


def test_one_observation_gives_one_action_and_a_batch_gives_a_batch(discrete):
    batch = np.random.default_rng(0).uniform(-10, 10, (6, 3)).astype(np.float32)
    actions = discrete(batch)
    assert isinstance(actions, np.ndarray)
    assert actions.shape == (6,)
    singles = [discrete(obs) for obs in batch]
    assert all(np.shape(a) == () and isinstance(a, np.integer) for a in singles)
    assert singles == actions.tolist()
    assert set(actions.tolist()) <= {5, 6, 7}  # the environment's own numbers
    assert discrete.spec.native_action_space.contains(singles[0])


def test_a_policy_asks_for_what_it_sees_and_looks_past_the_rest():
    parts = spaces.Dict(hidden=OBSERVATION, n=spaces.Discrete(3, start=1), state=OBSERVATION)
    policy = policy_for(parts, spaces.Box(-2, 2, (1,)), policy_sees=("all but hidden",))
    rng = np.random.default_rng(0)
    batch = {"n": np.array([1, 2, 3, 1]), "state": rng.uniform(-10, 10, (4, 3))}
    action = policy(batch)
    for hidden in (np.zeros((4, 3)), rng.uniform(-10, 10, (4, 3)), np.full((4, 3), np.nan)):
        np.testing.assert_array_equal(policy({**batch, "hidden": hidden}), action)  # no bit of it
    assert np.shape(policy({"n": 2, "state": np.zeros(3)})) == (1,)
    with pytest.raises(UsageError, match=r"without \['n'\] \(got hidden\)"):
        policy({"hidden": np.zeros(3)})
    with pytest.raises(UsageError, match=r"with \['hiden'\]"):
        policy({"hiden": np.zeros(3), "n": 2, "state": np.zeros(3)})
    seen = spec_from_json(spec_to_json(policy.spec))
    assert (seen.unseen, [*seen.observation_space.spaces]) == (("hidden",), ["n", "state"])
    whole = replace(seen, observation_space=inside_space(parts), unseen=())
    check_same_spaces(seen, whole)
    check_same_spaces(seen, replace(seen, unseen=()))  # as on a robot
    for other in ({"n": parts["n"]}, {**parts.spaces, "more": OBSERVATION}):
        with pytest.raises(UsageError, match="observation_space"):
            check_same_spaces(seen, replace(whole, observation_space=inside_space(spaces.Dict(other))))


@pytest.fixture(scope="module")
def remembering():
    return policy_for(OBSERVATION, spaces.Discrete(3), memory="gru", memory_size=4, normalize_observations=False)


def test_memory_is_kept_between_calls_and_by_member(remembering):
    rng = np.random.default_rng(0)
    batch = rng.uniform(-10, 10, (5, 3, 3)).astype(np.float32)
    remembering.reset()
    assert remembering.carry is None
    for obs in batch[:3]:
        remembering(obs)
    kept = remembering.carry
    assert {x.shape[0] for x in jax.tree.leaves(kept)} == {3}
    remembering.reset([1])
    remembering(batch[3])
    mixed = remembering.carry
    remembering.reset()
    remembering(batch[3])
    fresh = remembering.carry
    remembering.carry = kept
    remembering(batch[3])
    on = remembering.carry
    for a, new, old in zip(*map(jax.tree.leaves, (mixed, fresh, on)), strict=True):
        np.testing.assert_allclose(a[1], new[1], atol=1e-6)
        np.testing.assert_allclose(a[[0, 2]], old[[0, 2]], atol=1e-6)
    assert any(np.abs(a[0] - b[0]).max() > 1e-4 for a, b in zip(*map(jax.tree.leaves, (fresh, on)), strict=True))


def test_a_memory_is_of_its_members(remembering, discrete):
    remembering.reset()
    with pytest.raises(UsageError, match=r"reset\(0\): nothing is remembered yet"):
        remembering.reset(0)
    remembering(np.zeros((2, 3), np.float32))
    with pytest.raises(UsageError, match=r"remembers 2 members and was given 4 observations. Call reset\(\)"):
        remembering(np.zeros((4, 3), np.float32))
    with pytest.raises(UsageError, match=r"reset\(\[2\]\): the last batch had 2 members"):
        remembering.reset([2])
    with pytest.raises(UsageError, match=r"A carry of Place looks like"):
        remembering.carry = np.zeros((2, 3))
    discrete(np.zeros((2, 3), np.float32))
    discrete(np.zeros((4, 3), np.float32))  # without memory there is nothing to mix up
    assert discrete.carry == ()


def test_lists_and_other_precisions_are_taken(discrete):
    obs = [0.5, -1.0, 2.0]
    assert discrete(obs) == discrete(np.asarray(obs)) == discrete(np.asarray(obs, np.float32))


def test_explore_samples_and_the_mode_is_steady(discrete):
    obs = np.zeros((200, 3), np.float32)
    assert len(set(discrete(obs).tolist())) == 1
    first, second = discrete(obs, explore=True), discrete(obs, explore=True)
    assert len(set(first.tolist())) == 3
    assert (first != second).any()


def test_continuous_actions_are_in_the_environments_units():
    low, high = np.array([0.0, -1.0], np.float32), np.array([10.0, 400.0], np.float32)
    policy = policy_for(OBSERVATION, spaces.Box(low, high))
    action = policy(np.zeros(3))
    assert (action.shape, action.dtype) == ((2,), np.float32)
    np.testing.assert_allclose(action, (low + high) / 2, rtol=0.05)  # an untrained mean is near the middle
    many = policy(np.zeros((500, 3)), explore=True)
    assert ((many >= low) & (many <= high)).all()
    assert (many == low).any(axis=0).all()  # samples beyond the bounds are clipped to them
    assert (many == high).any(axis=0).all()


def test_dict_observations():
    policy = policy_for(spaces.Dict(near=OBSERVATION, far=spaces.Box(0, 1, (2, 2))), spaces.MultiDiscrete([2, 3]))
    obs = {"near": np.ones(3), "far": np.ones((2, 2))}
    one = policy(obs)
    many = policy({name: np.stack([x] * 4) for name, x in obs.items()})
    assert one.shape == (2,)
    np.testing.assert_array_equal(many, np.stack([one] * 4))
    for wrong, says in (
        ({"near": np.ones(3)}, r"without \['far'\] \(got near\)"),
        ({**obs, "more": np.ones(1)}, r"with \['more'\]; .* has no such entry"),
        (np.ones(3), r"without \['far'\] \(got a ndarray\)"),
        ({**obs, "near": np.ones((4, 3))}, r"\['near'\] of shape \(4, 3\); .* says \(3,\)"),
    ):
        with pytest.raises(UsageError, match=says):
            policy(wrong)


@pytest.mark.parametrize(
    ("native", "inside", "obs", "beyond"),
    [
        (spaces.Discrete(3, start=-1), spaces.Discrete(3), np.array([-1, 0, 1]), [-2, 2]),
        (
            spaces.MultiDiscrete([2, 3], start=[10, -3]),
            spaces.MultiDiscrete([2, 3]),
            np.array([[10, -3], [11, -1]]),
            [[9, -3], [11, 0]],
        ),
    ],
)
def test_counts_are_the_environments_own(native, inside, obs, beyond):
    """The same parameters act alike on an environment that counts from elsewhere."""
    policy, plain = policy_for(native, spaces.Discrete(5)), policy_for(inside, spaces.Discrete(5))
    sharp = jax.tree.map(lambda x: 50 * x, plain.state)  # an untrained policy hardly looks at what it sees
    policy.state = plain.state = sharp
    start = np.asarray(native.start)
    np.testing.assert_array_equal(policy(obs), plain(obs - start))
    np.testing.assert_array_equal(policy(obs, explore=True), plain(obs - start, explore=True))
    for wrong in beyond:
        with pytest.raises(
            UsageError, match=r"given the observation .*; the observation_space of Place counts .* from"
        ):
            policy(np.array(wrong))


def door(native, obs):
    """What the network is fed; an untrained policy over observations of ``native``."""
    return policy_for(native, spaces.Discrete(2))._batched(obs)[0]


PARTS = spaces.Dict(a=OBSERVATION, n=spaces.Discrete(3))
IMAGE = spaces.Box(0, 255, (4, 4, 3), np.uint8)


@pytest.mark.parametrize("kind", [OrderedDict, MappingProxyType])
def test_any_mapping_and_any_sequence_is_taken_as_training_takes_it(kind):
    inside = door(PARTS, kind({"n": 1, "a": np.ones(3)}))
    assert type(inside) is dict
    np.testing.assert_array_equal(inside["a"], np.ones((1, 3)))
    first, second = door(spaces.Tuple([OBSERVATION, spaces.Discrete(3, start=4)]), [[1.0, 2.0, 3.0], 5])
    np.testing.assert_array_equal(first, [[1, 2, 3]])
    assert second.tolist() == [1]


@pytest.mark.parametrize(
    ("native", "obs", "says"),
    [
        (IMAGE, np.full((4, 4, 3), 0.7), "dtype float64; .* says uint8"),
        (IMAGE, np.full((4, 4, 3), 300), "dtype int64; .* says uint8"),
        (IMAGE, np.full((4, 4, 3), 300, np.uint16), "dtype uint16; .* says uint8"),
        (spaces.Discrete(3), 1.7, "dtype float64; .* says int64"),
        (PARTS, {"a": np.ones(3), "n": 3}, r"the observation\['n'\] 3; .* counts 3 from 0"),
        (spaces.Tuple([OBSERVATION, OBSERVATION]), [np.ones(3)] * 3, r"with \[2\]; .* has no such entry"),
    ],
)
def test_what_training_refuses_is_refused(native, obs, says):
    with pytest.raises(UsageError, match=says):
        door(native, obs)


def test_masked_actions_are_never_chosen():
    observation = spaces.Dict(observation=OBSERVATION, action_mask=spaces.MultiBinary(4))
    policy = policy_for(observation, spaces.Discrete(4))
    mask = np.array([0, 0, 1, 0], np.int8)
    assert policy({"observation": np.zeros(3), "action_mask": mask}) == 2
    many = policy({"observation": np.zeros((50, 3)), "action_mask": np.stack([mask] * 50)}, explore=True)
    assert set(many.tolist()) == {2}


@pytest.mark.parametrize(
    ("obs", "says"),
    [
        (np.zeros(4), r"shape \(4,\); .* of Place says \(3,\)"),
        (np.zeros((2, 2, 3)), "leading axis"),
        (np.float32(1), "shape"),
        (np.array([0, np.nan, 0]), "NaN or infinity"),
        (np.array([0, np.inf, 0]), "NaN or infinity"),
        (["a", "b", "c"], "dtype <U1; .* says float32"),
        ([1e300, 0.0, 0.0], "NaN or infinity, in float32"),
        ([[1.0, 2.0], [3.0]], "of uneven parts"),
        (None, "given an observation of shape"),
    ],
)
def test_what_is_not_an_observation(discrete, obs, says):
    with pytest.raises(UsageError, match=says):
        discrete(obs)


# From a run folder


def test_a_loaded_policy_is_the_trained_one(trained):
    policy = steersman.load(trained.run)
    obs = np.random.default_rng(0).uniform(-0.2, 0.2, (100, 4))
    np.testing.assert_array_equal(policy(obs), trained.policy(obs))
    assert policy.spec == trained.policy.spec
    assert checkpoint.parameters_sha256(policy.state) == checkpoint.stored_sha256(
        checkpoint.latest(trained.run / "checkpoints")[0], under="agent"
    )


def test_each_seeds_policy_with_its_normaliser(two_seeds):
    for index in (0, 1):
        policy = steersman.load(two_seeds.run, seed_index=index)
        assert checkpoint.parameters_sha256(policy.state) == checkpoint.parameters_sha256(
            two_seeds.policies[index].state
        )
    assert policy.state.moments.weight > 600
    for index in (-1, 2):
        with pytest.raises(UsageError, match=rf"has 2 seed\(s\), counted from 0; there is no number {index}"):
            steersman.load(two_seeds.run, seed_index=index)


def test_an_older_checkpoint_by_its_path(trained_on_host):
    older, newer = [path for _, path in checkpoint.saved(trained_on_host.run / "checkpoints")]
    a, b = (steersman.load(trained_on_host.run, checkpoint_path=path) for path in (older, newer))
    assert checkpoint.parameters_sha256(a.state) != checkpoint.parameters_sha256(b.state)


def changed(run, tmp_path, /, **parts):
    """A copy of a run's folder with another config.json."""
    config = run_folder.open_run(run).config
    (tmp_path / "checkpoints").mkdir()
    for _, path in checkpoint.saved(run / "checkpoints"):
        (tmp_path / "checkpoints" / path.name).write_bytes(path.read_bytes())
    files.write_json(tmp_path / "config.json", {**config, **parts})
    return tmp_path


@pytest.mark.parametrize(
    ("part", "name", "value", "says"),
    [
        ("config", "hidden_sizes", [16], "does not fit this state"),
        ("config", "hidden_sizes", "os.system", "some whole numbers"),
        ("config", "learning_rate", {}, "must be a number"),
        ("config", "gamme", 1.0, "no setting 'gamme'"),
        ("run", "num_envs", -3, "num_envs = -3"),
        ("run", "seeds", 2, r"does not hold 2 seed\(s\)"),
        ("spec", "cost_names", None, "spec in the run's config.json cannot be read"),
        ("spec", "observation_space", {"type": "__import__('os')"}, "cannot be read|space"),
    ],
)
def test_a_config_that_was_tampered_with(trained, tmp_path, part, name, value, says):
    content = {**run_folder.open_run(trained.run).config[part], name: value}
    copy = changed(trained.run, tmp_path, **{part: content})
    with pytest.raises(UsageError, match=says):
        steersman.load(copy, seed_index=content.get("seeds", 1) - 1)


def test_a_run_without_a_checkpoint(trained, tmp_path):
    copy = changed(trained.run, tmp_path)
    for _, path in checkpoint.saved(copy / "checkpoints"):
        path.unlink()
    with pytest.raises(UsageError, match=r"holds no checkpoint yet.*train --resume"):
        steersman.load(copy)
    with pytest.raises(UsageError, match="There is no run folder"):
        steersman.load(tmp_path / "nowhere")


def test_a_damaged_checkpoint_is_passed_over_and_said(trained, tmp_path):
    copy = changed(trained.run, tmp_path)
    (_, older), (_, newer) = checkpoint.saved(copy / "checkpoints")
    newer.write_bytes(newer.read_bytes()[:-1])
    with pytest.warns(run_folder.RunWarning, match=f"Going on from {older.name}: newer checkpoints cannot be used"):
        policy = steersman.load(copy)
    assert checkpoint.parameters_sha256(policy.state) == checkpoint.stored_sha256(older, under="agent")


def test_a_spec_survives_its_json():
    action = spaces.Box(-2.0, 5.0, (2,))
    observation = spaces.Dict(image=spaces.Box(0, 255, (4, 4, 3), np.uint8), kind=spaces.Discrete(3))
    spec = EnvSpec("Place", inside_space(observation), canonical_action_space(action), action, 77, ("speed", "heat"))
    assert spec_from_json(spec_to_json(spec)) == spec
    native = replace(spec, native_observation_space=observation)
    assert spec_from_json(spec_to_json(native)) == native != spec
    older = {k: v for k, v in spec_to_json(spec).items() if k != "native_observation_space"}
    assert spec_from_json(older) == spec
    check_same_spaces(spec, spec_from_json(spec_to_json(spec)))
    other = EnvSpec("Other", spec.observation_space, canonical_action_space(action), spaces.Box(-2.0, 6.0, (2,)))
    with pytest.raises(UsageError, match=r"trained on Place, whose action_space is .*5.0.*Other has .*6.0"):
        check_same_spaces(spec, other)
