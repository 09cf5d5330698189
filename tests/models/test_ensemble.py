"""Ensembles against models that are known: a finite MDP's own numbers, a linear system."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.models import data as recorded
from steersman.models import held_out
from steersman.models.ensemble import EnsembleConfig, EnsembleState, ensemble
from steersman.models.model import KNOWN, Data
from steersman.types import EnvSpec, Rollout

BOX = spaces.Box(-1, 1, (2,))
SPEC = EnvSpec("linear", spaces.Box(-50, 50, (3,)), BOX, BOX)
SMALL = EnsembleConfig(
    members=3, elites=2, model_hidden_sizes=(32,), model_learning_rate=1e-2, model_steps=400, model_schedule="cosine"
)


def rows_of(obs, action, reward, next_obs, terminated=None, episodes=20):
    n = len(obs)
    no = np.zeros(n, bool)
    f32 = lambda x: np.asarray(x, np.float32)
    ended = no if terminated is None else terminated
    rows = Rollout(f32(obs), action, f32(reward), ended, no, f32(next_obs), no, np.zeros((n, 0), np.float32), {})
    return Data(rows, np.arange(n, dtype=np.int32) * episodes // n, np.ones(n, bool))


def linear(seed, n=1000):
    """x' = x + a_0 + noise of 0.1, y' = y + a_1 / 2, and an entry that is 7 for ever; reward x + y."""
    rng = np.random.default_rng(seed)
    obs = np.c_[rng.uniform(-2, 2, (n, 2)), np.full(n, 7)]
    action = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    after = obs + np.c_[action[:, 0] + 0.1 * rng.normal(size=n), action[:, 1] / 2, np.zeros(n)]
    return rows_of(obs, action, obs[:, 0] + obs[:, 1], after)


def asked(model):
    """(state, obs [N, ...], action [N, ...]) -> what the model says of one step, each point with its own key."""

    def say(state, obs, action):
        def one(obs, action, key):
            begin, go = jax.random.split(key)
            return model.step(state, model.start(state, obs, begin), action, go)[1]

        return jax.vmap(one)(obs, action, jax.random.split(jax.random.key(0), len(action)))

    return jax.jit(say)


def learned(model, data):
    return jax.jit(lambda key: model.fit(model.init(key, data.rows), data, key))(jax.random.key(0))


MODEL = ensemble(SMALL, SPEC)
say = asked(MODEL)


@pytest.fixture(scope="module")
def fitted():
    """-> (what was learned, metrics)"""
    return learned(MODEL, linear(0))


def test_a_finite_problem_in_the_limit_gives_its_own_p_r_and_ends():
    rng = np.random.default_rng(0)
    p, reward = rng.dirichlet(np.ones(3), (3, 2)), rng.normal(size=(3, 2))
    n = 4000
    s, a = rng.integers(0, 2, n), rng.integers(0, 2, n)  # the third state is terminal
    after = (rng.random(n)[:, None] > p[s, a].cumsum(-1)).sum(1)
    eye = np.eye(3, dtype=np.float32)
    data = rows_of(eye[s], a.astype(np.int32), reward[s, a], eye[after], after == 2)
    spec = EnvSpec("mdp", spaces.Box(0, 1, (3,)), spaces.Discrete(2), spaces.Discrete(2))
    config = dataclasses.replace(SMALL, members=2, elites=2, probabilistic=False, predict="next", bootstrap=False)
    model = ensemble(config, spec)
    state, _ = learned(model, data)
    where = np.array([(s, a) for s in range(2) for a in range(2)], np.int32)
    found = asked(model)(state, eye[where[:, 0]], where[:, 1])
    right = p[where[:, 0], where[:, 1]]
    np.testing.assert_allclose(found.mean[:, :3], right, atol=0.06)  # 1000 draws each: a standard error of 0.015
    np.testing.assert_allclose(found.mean[:, 3], reward[where[:, 0], where[:, 1]], atol=0.03)
    np.testing.assert_allclose(jax.nn.sigmoid(found.terminated_logit), right[:, 2], atol=0.06)
    np.testing.assert_array_equal(found.std, 0)
    np.testing.assert_array_equal(found.obs, found.mean[:, :3])


def test_a_linear_system_is_learned_with_its_noise(fitted, key):
    state, _ = fitted
    new = linear(1, 200).rows
    found = say(state, new.obs, new.action)
    np.testing.assert_allclose(found.mean[:, 0], new.obs[:, 0] + new.action[:, 0], atol=0.15)
    np.testing.assert_allclose(found.std[:, 0].mean(), 0.1, rtol=0.2)  # that of the world
    assert found.std[:, 1].mean() < 0.03  # where there is none
    z = (found.obs[:, 0] - found.mean[:, 0]) / found.std[:, 0]
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=0.25)  # drawn from what it says
    rollout = jax.tree.map(lambda x: x[:, None], new)
    metrics = jax.jit(partial(held_out.tested, MODEL))(state, rollout, key)
    assert 0.1 / np.sqrt(1 / 3) * 0.8 < metrics["model/nrmse_0"] < 0.1 / np.sqrt(1 / 3) * 1.3  # of changes a_0 + noise
    assert metrics["model/nrmse_1"] < 0.06
    assert metrics["model/reward_r2"] > 0.99
    assert 0.85 < metrics["model/coverage90"] <= 1


def test_an_entry_that_never_varied_is_named_and_stays(fitted):
    state, metrics = fitted
    assert metrics["model/constant_entries"] == 1
    assert state.scale.tolist()[2] == 0
    obs = np.random.default_rng(2).normal(size=(200, 3)).astype(np.float32)
    found = say(state, obs, np.zeros((200, 2), np.float32))
    np.testing.assert_array_equal(found.obs[:, 2], 7)
    np.testing.assert_array_equal(found.std[:, 2], 0)


def test_without_noise_an_imagined_step_is_the_mean_and_the_spread_is_told_all_the_same(fitted):
    state, still = fitted[0], ensemble(dataclasses.replace(SMALL, imagined_noise=False), SPEC)
    obs, key = jnp.array([1.0, 1.0, 7.0]), jax.random.key(3)
    quiet, drawn = (m.step(state, m.start(state, obs, key), jnp.zeros(2), key)[1] for m in (still, MODEL))
    np.testing.assert_array_equal(quiet.obs, quiet.mean[:3])
    assert np.abs(drawn.obs - drawn.mean[:3])[0] > 0.01
    np.testing.assert_array_equal(quiet.std, drawn.std)


def test_predictions_stay_within_what_was_seen_and_a_margin(fitted):
    state, _ = fitted
    found = say(state, np.tile(np.float32([[40, -40, 7]]), (200, 1)), np.ones((200, 2), np.float32))
    rows = linear(0).rows
    seen = np.concatenate([rows.obs, rows.next_obs])
    low, high = seen.min(0), seen.max(0)
    np.testing.assert_allclose(found.obs[0, 0], high[0] + 0.1 * (high[0] - low[0]), rtol=1e-5)
    np.testing.assert_allclose(found.obs[0, 1], low[1] - 0.1 * (high[1] - low[1]), rtol=1e-5)
    assert rows.reward.min() - 1 < found.reward[0] < rows.reward.max() + 1


def test_elites_are_those_of_the_least_error_on_what_is_held_out(fitted):
    state, _ = fitted
    data = linear(0)
    rows = jax.tree.map(lambda x: x[np.asarray(recorded.held_out(data, 0.2))], data.rows)
    target, vary = np.c_[rows.next_obs - rows.obs, rows.reward], [0, 1, 3]

    def error(member):
        found = say(state._replace(elites=jnp.full((2,), member, jnp.int32)), rows.obs, rows.action)
        mean = np.asarray(found.mean) - np.c_[rows.obs, np.zeros(len(rows.obs))]
        ends = np.log1p(np.exp(np.asarray(found.terminated_logit))).mean()  # nothing has ended
        return np.square((mean - target)[:, vary] / np.asarray(state.targets.std)[vary]).mean() + ends

    assert state.elites.tolist() == np.argsort([error(k) for k in range(3)])[:2].tolist()


def test_a_slice_of_the_members_is_that_member(fitted):
    state, _ = fitted
    obs, action = linear(3, 200).rows.obs, linear(3, 200).rows.action
    members = MODEL.members(state)
    each = jax.jit(jax.vmap(say, (0, None, None)))(members, obs, action)
    assert {x.shape[0] for x in jax.tree.leaves(members)} == {2}
    for i, elite in enumerate(state.elites.tolist()):
        one = jax.tree.map(lambda x, i=i: x[i], members)
        alone = say(state._replace(elites=jnp.full((2,), elite, jnp.int32)), obs, action)
        assert isinstance(one, EnsembleState)
        np.testing.assert_allclose(each.obs[i], alone.obs, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(MODEL.scale(members)[0], MODEL.scale(state))


@pytest.mark.parametrize("member_per", ["episode", "step"])
def test_an_imagined_episode_follows_an_elite(fitted, member_per):
    state, _ = fitted
    model = ensemble(dataclasses.replace(SMALL, member_per=member_per), SPEC)

    def episode(key):
        begin, go = jax.random.split(key)
        step = lambda x, key: (y := model.step(state, x, jnp.zeros(2), key)[0], y.member)
        at = model.start(state, jnp.zeros(3), begin)
        return jnp.append(at.member, jax.lax.scan(step, at, jax.random.split(go, 6))[1])

    followed = np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), 20)))
    assert set(followed.ravel()) == set(state.elites.tolist())
    one = (followed == followed[:, :1]).all(1)
    assert one.all() if member_per == "episode" else not one.all()


def test_parts_that_are_known_are_not_learned(key):
    reward, over = lambda obs, action, after: after[0] - action[1], lambda obs, action, after: after[0] > 0
    model = ensemble(SMALL, SPEC, reward=reward, terminated=over)
    obs, action = linear(3, 50).rows.obs, linear(3, 50).rows.action
    state = jax.jit(lambda: model.init(key, None))()
    assert state.targets.mean.shape == (3,)
    found = asked(model)(state, obs, action)
    np.testing.assert_allclose(found.reward, found.obs[:, 0] - action[:, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.terminated_logit > 0, found.obs[:, 0] > 0)  # of what was drawn
    np.testing.assert_allclose(found.mean[:, 3], found.mean[:, 0] - action[:, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.std[:, 3], 0)


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_of_an_environment_is_so(name):
    gymnasium, known = pytest.importorskip("gymnasium"), KNOWN[name]
    pytest.importorskip("mujoco")
    env, ends = gymnasium.make(name), 0
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    seen = []
    while ends < 2:
        action = env.action_space.sample()
        after, reward, over, _, _ = env.step(action)
        seen.append((np.float32(obs), action, np.float32(after), reward, over))
        obs, ends = (env.reset()[0], ends + 1) if over else (after, ends)
    *where, reward, over = (np.array(x) for x in zip(*seen, strict=True))
    np.testing.assert_array_equal(jax.vmap(known.terminated)(*where), over)
    if known.reward:
        np.testing.assert_array_equal(jax.vmap(known.reward)(*where), reward)
    assert not over.all()


def test_what_is_known_is_given_by_name_or_refused():
    obs = spaces.Box(-np.inf, np.inf, (4,))
    here = EnvSpec("InvertedPendulum-v5", obs, spaces.Box(-1, 1, (1,)), spaces.Box(-3, 3, (1,)))
    config = dataclasses.replace(SMALL, known=True)
    state = jax.eval_shape(lambda: ensemble(config, here).init(jax.random.key(0), None))
    assert state.targets.mean.shape == (4,)  # no reward among them
    with pytest.raises(UsageError, match="nothing is known here of linear, only of InvertedPendulum-v5"):
        ensemble(config, SPEC)


def test_dict_observations_keep_their_form(key):
    space = spaces.Dict(b=spaces.Box(-1, 1, (2, 2)), a=spaces.Box(0, 9, ()))
    model = ensemble(SMALL, dataclasses.replace(SPEC, observation_space=space))
    obs = {"a": jnp.float32(8.9), "b": jnp.full((2, 2), -0.9)}
    one = jax.tree.map(lambda x: x[None], (obs, jnp.zeros(2)))
    found = jax.tree.map(lambda x: x[0], jax.jit(lambda: asked(model)(model.init(key, None), *one))())
    assert jax.tree.map(jnp.shape, found.obs) == {"a": (), "b": (2, 2)}
    assert found.mean.shape == (6,)
    assert found.obs["a"] != 8.9
    assert all(space[name].contains(np.asarray(x)) for name, x in found.obs.items())  # the bounds are the space's


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (8, 8, 3), np.uint8),
        spaces.Discrete(5),
        spaces.Dict(x=spaces.Box(-1, 1, (2,)), kind=spaces.Discrete(3)),
        spaces.Dict(x=spaces.Box(-1, 1, (2,)), action_mask=spaces.Box(0, 1, (4,))),
    ],
    ids=["image", "counts", "mixed", "mask"],
)
def test_what_an_ensemble_cannot_read_is_refused_with_what_can_be_done(space):
    with pytest.raises(UsageError, match=r"Box observations.*linear shows.*transform_observation"):
        ensemble(SMALL, dataclasses.replace(SPEC, observation_space=space))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"members": 3, "elites": 4}, r"elites = 4 of members = 3.*Lower elites, or raise members"),
        ({"log_variance_floor": 1.0}, "unit variance.*below 0.5"),
        ({"predict": "both"}, "delta or next"),
        ({"clip_margin": -0.1}, "clip_margin = -0.1"),
        ({"members": 0}, "members = 0"),
        ({"nll_beta": 1.5}, "between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(UsageError, match=says):
        EnsembleConfig(**settings)
