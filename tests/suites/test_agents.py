"""Properties that every agent has, checked over every member of the list. A new algorithm joins by being listed.

The design is pairwise and not a product. Every algorithm is a case once, and again only with what its own code treats
in another way (memory, a limit, replay of sequences); settings that are code of several (normalisation, n steps, masks)
are spread over the cases. What an algorithm does as its family's first does is checked of that one alone: acting,
storing, being driven (``LIKE_ANOTHER``). Every algorithm meets every shape of actions, by shapes alone; rollouts of one
step are of those that learn so.
"""

import copy
from contextlib import suppress
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.agents import ALGORITHMS
from steersman.agents.parts.config import ObservationGroupsConfig
from steersman.envs.host.timesteps import check_action
from steersman.errors import UsageError
from steersman.memory import uniform
from steersman.nets.encoders import Encoder
from steersman.run.disk import checkpoint
from steersman.run.disk.spec_json import transitions_like
from steersman.run.loops.data_loop import data_loop
from steersman.run.loops.device_loop import device_loop
from steersman.run.loops.host_loop import HostLoop
from steersman.run.loops.loop import LoopState
from steersman.spaces import abstract, canonical_action_space, to_native
from steersman.types import EnvSpec, HostEnvs, TimeStep
from steersman.unroll import begin, random_policy, unroll

T, B = 8, 4
SMALL = {  # a config takes those that it has
    "unroll_length": T,
    "plan_horizon": 3,
    "plan_population": 6,
    "plan_elites": 2,
    "num_minibatches": 2,
    "num_epochs": 2,
    "hidden_sizes": (8,),
    "update_ratio": 0.25,
    "batch_size": 16,
    "replay_capacity": 64,
    "critic_sizes": (8,),
    "num_quantiles": 3,
    "members": 2,
    "model_hidden_sizes": (8,),
    "model_steps": 4,
    "model_check_every": 2,
    "model_batch_size": 8,
    "refit_every": 2 * T * B,
    "imagined_steps": 32,
    "imagined_capacity": 64,
}
REPLAYED = {"memory": "window", "unroll_length": 1, "burn_in": 2, "sequence_length": 6, "replay_capacity": 768}
MODELLED = {"members": 2, "model_hidden_sizes": (8,), "model_steps": 4, "model_check_every": 2, "model_batch_size": 8}
RETRACED = {"n_step": 2, "n_step_correction": "retrace"}
SPECIAL = [
    ("ppo", "Pendulum-v1", {"normalize_observations": True, "scale_rewards": True}),
    (
        "ppo",
        "probe/mask",
        {"objective": "penalty", "memory": "gru", "memory_size": 8, "num_minibatches": 1, "scale_rewards": False},
    ),
    ("ppo", "safe/cartpole,limit=0.02", {"cost_limit": (1.0,), "scale_rewards": True}),
    ("reinforce", "probe/mask", {"baseline": "constant"}),
    ("a2c", "probe/mask", {"normalize_observations": True}),
    ("actor_critic", "CartPole-v1", {"critic": "q", "trace_lambda": 0.9}),
    ("trpo", "Pendulum-v1", {}),
    ("cpo", "safe/cartpole,limit=0.02", {"cost_limit": (1.0,)}),
    ("impala", "CartPole-v1", {"lag": 2}),
    ("pqn", "probe/mask", {"exploration_end": 0.5, "normalize_observations": True, "scale_rewards": True}),
    ("pets", "CartPole-v1", MODELLED),
    ("dqn", "CartPole-v1", {"prioritized": True, "noisy": True, "distribution": "categorical", "n_step": 3}),
    ("dqn", "probe/mask", {**REPLAYED, **RETRACED, "prioritized": True, "exploration_end": 0.5}),
    ("ddpg", "Pendulum-v1", {"exploration_noise": "ou", "n_step": 3}),
    ("td3", "safe/pendulum", {"exploration_noise": "pink", "anneal_learning_rate": True, "cost_limit": (5.0,)}),
    ("tqc", "Pendulum-v1", {"n_step": 3, "huber_threshold": 0.5}),
    ("crossq", "Pendulum-v1", {"n_step": 3, "n_step_correction": "retrace"}),
    ("sac", "goal/point", {"hindsight": 0.8, "policy_delay": 2, "normalize_observations": True, "scale_rewards": True}),
    ("mbpo", "Pendulum-v1", {"rollout_horizon_end": 2, "rollout_horizon_schedule": (40, 80), "scale_rewards": True}),
    ("dyna", "CartPole-v1", {"imagination": "in_batch", "real_share": 0.5}),
    ("bc", "probe/mask", {}),
    ("iql", "Pendulum-v1", {}),
]
PLACES = ("CartPole-v1", "Pendulum-v1")  # of an algorithm without a case of its own: the first that it serves
# They act, store and are driven as sac is (as ppo, as dqn, as bc); their own is ``learn``, which the tests with one
# compiled loop reach. PETS plans, which compiles for long: how it acts is in its own tests. Of those with a model dyna
# is driven by both loops, for all of them.
LIKE_ANOTHER = ("ddpg", "td3", "tqc", "crossq", "mbpo", "dyna", "pets", "reinforce", "a2c", "trpo", "cpo", "iql")
SINGLE_STEPS = ("actor_critic", "dqn-probe/mask", "sac")  # learn from rollouts of one step, each kind of memory once

# Two programs of theirs differ in the last bits: XLA contracts the products and sums of layer normalisation as it fuses
# them.
FUSED = ("pqn",)


def small_config(name, settings):
    config = ALGORITHMS[name].config
    small = {k: v for k, v in SMALL.items() if k in config.__dataclass_fields__}
    return config(**{**small, **settings})


def default_place(name):
    for place in PLACES:
        with suppress(UsageError):
            ALGORITHMS[name].factory(small_config(name, {}), envs.make(place, 1).spec)
            return place
    raise AssertionError(f"{name} serves none of {PLACES}: give it a case of its own")


CASES = [*SPECIAL, *((name, default_place(name), {}) for name in ALGORITHMS if name not in {n for n, *_ in SPECIAL})]


@pytest.fixture
def unlike(request):
    if request.node.callspec.params["case"][0] in LIKE_ANOTHER:
        pytest.skip("as another")


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    name, environment, settings = request.param
    entry = ALGORITHMS[name]
    spec = envs.make(environment, 1).spec
    return entry.factory(small_config(name, settings), spec, budget=1000), environment, entry.data == "only"


@pytest.fixture
def acts(case):
    """Of an agent that learns from what it does itself."""
    if case[-1]:
        pytest.skip("learns from recorded data alone")


@pytest.fixture(scope="module")
def programs(case):
    """One compiled loop for single seeds, shared by the tests of a case."""
    loop = data_loop_of if case[-1] else loop_of
    return loop(case), loop(case, shards=2), loop(case, seeds=[0, 1, 2])


def loop_of(case, seeds=(0,), shards=1):
    agent, environment, _ = case
    make = partial(envs.make, environment)
    loop = device_loop(
        agent, make, num_envs=B, unroll_length=T, first_length=T, seeds=list(seeds), shards=shards, devices=2
    )
    return loop


def data_loop_of(case, seeds=(0,), shards=1):
    """Over a random policy's rollout; one seed trains on one device, whatever ``shards`` says."""
    agent, environment, _ = case
    made = envs.make(environment, B)
    acting = begin(agent, made, jax.random.key(0))
    _, data, _ = jax.jit(lambda now: unroll(random_policy(made.spec), made, now, jax.random.key(1), T))(acting)
    return data_loop(agent, jax.jit(uniform(2 * T * B, 1).init)(data), first=data, seeds=list(seeds), devices=2)


def numbers(tree):
    keys = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.asarray(keys(x)) for x in jax.tree.leaves(tree)]


def assert_same_bits(a, b):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        np.testing.assert_array_equal(x, y)


BOXES = [spaces.Box(-2.0, 3.0, shape) for shape in ((), (2, 3), (1, 3, 1))]


def on_box(name, box, num_envs):
    """The agent, and a rollout of zeros as it acts: by shapes alone, nothing is computed."""
    spec = EnvSpec("Place", spaces.Box(-1, 1, (3,)), canonical_action_space(box), box, max_episode_steps=T // 2)
    agent = ALGORITHMS[name].factory(small_config(name, {}), spec)
    like = transitions_like(spec, (T, num_envs))
    obs, first = (jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), x) for x in (like.obs, like.first))
    return spec, agent, like, (obs, first)


def act_shapes(agent, state, seen, num_envs, explore):
    act = lambda state, obs, first, key: agent.act(state, agent.begin(num_envs), obs, first, key, explore=explore)
    action, _, extras = jax.eval_shape(act, state, *seen, jax.random.key(0))
    return action, extras


@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_actions_have_the_shape_of_their_space(name, box):
    """As acted, greedily or not, as learned from, and as a host environment takes them."""
    try:
        spec, agent, like, seen = on_box(name, box, 3)
    except UsageError:
        pytest.skip("no Box actions")
    wanted = abstract(spec.action_space, (3,))
    state = jax.eval_shape(agent.init, jax.random.key(0), like)
    action, extras = act_shapes(agent, state, seen, 3, True)
    assert action == act_shapes(agent, state, seen, 3, False)[0] == wanted
    assert all(x.shape == (3,) for x in jax.tree.leaves(extras))
    check_action(spec, 3, np.zeros(action.shape, action.dtype))
    assert to_native(box, np.zeros(action.shape, np.float32)).shape == (3, *box.shape)
    data = like._replace(extras={k: jax.ShapeDtypeStruct((T, *x.shape), x.dtype) for k, x in extras.items()})
    if ALGORITHMS[name].data == "only":
        data = jax.eval_shape(uniform(2 * T * 3, 1).init, data)
    after, _ = jax.eval_shape(agent.update, state, data, jax.random.key(0))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


GROUPED = [name for name, entry in ALGORITHMS.items() if issubclass(entry.config, ObservationGroupsConfig)]


@pytest.mark.parametrize("name", GROUPED)
def test_the_policy_and_the_value_see_their_groups(name):
    """What networks read is fixed where they are made; no bit of an action comes of what the policy does not see."""
    box = spaces.Box(-1, 1, (1,))
    seen = spaces.Dict({part: spaces.Box(-1, 1, (2,)) for part in ("goal", "hidden", "state")})
    costs = {"cost_names": ("cost",)} if name == "cpo" else {}
    spec = EnvSpec("Place", seen, box, box, max_episode_steps=T // 2, **costs)
    groups = {"policy_sees": ("state",), "value_sees": ("all but goal",)}
    limit = {"cost_limit": (1.0,)} if name == "cpo" else {}
    agent = ALGORITHMS[name].factory(small_config(name, groups | limit), spec)
    like = transitions_like(spec, (2, 3))
    state = jax.eval_shape(agent.init, jax.random.key(0), like)
    is_encoder = lambda x: isinstance(x, Encoder)
    read = {x.keys for x in jax.tree.leaves(state, is_leaf=is_encoder) if is_encoder(x)} - {None}
    assert read == {("state",), ("hidden", "state")}
    state = jax.tree.map(lambda x: jnp.full(x.shape, 0.1, x.dtype), state)
    obs = {part: jnp.ones((3, 2)) for part in seen.spaces}
    act = partial(agent.act, state, agent.begin(3), first=jnp.ones(3, bool), key=jax.random.key(1), explore=True)
    assert_same_bits(act(obs)[0], act({**obs, "hidden": jnp.full((3, 2), jnp.nan), "goal": -obs["goal"]})[0])
    assert (np.asarray(act(obs)[0]) != np.asarray(act({**obs, "state": -obs["state"]})[0])).all()


def test_log_prob_is_that_of_the_flat_action():
    """Of Box (2, 3) as of Box (6,): the same network, the same numbers, in another shape."""
    drawn = []
    for box in (spaces.Box(-2.0, 3.0, (2, 3)), spaces.Box(-2.0, 3.0, (6,))):
        _, agent, like, _ = on_box("ppo", box, B)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        state = jax.jit(agent.init)(jax.random.key(0), zeros)
        drawn.append(agent.act(state, agent.begin(B), zeros.obs[0], zeros.first[0], jax.random.key(1), explore=True))
    (action, _, extras), (flat, _, flat_extras) = drawn
    np.testing.assert_array_equal(action, flat.reshape(B, 2, 3))
    assert_same_bits(extras, flat_extras)


def test_every_algorithm_has_a_case():
    assert {name for name, *_ in CASES} == set(ALGORITHMS)
    assert all(algorithm.name == name for name, algorithm in ALGORITHMS.items())


def test_same_seed_same_bits_and_chunks_do_not_matter(programs):
    loop = programs[0]
    a, _ = loop.advance(loop.start(), 3)
    b, _ = loop.advance(loop.start(), 1)
    b, _ = loop.advance(b, 2)
    assert_same_bits(a, b)


def test_an_update_changes_the_parameters(programs):
    loop = programs[0]
    before = numbers(loop.start().agent)
    after, totals = loop.advance(loop.start(), 1)
    assert any((x != y).any() for x, y in zip(before, numbers(after.agent), strict=True))
    assert all(np.isfinite(v).all() for v in totals.metrics.values())


@pytest.mark.exact
def test_seeds_side_by_side_equal_seeds_one_by_one(unlike, programs, request, same_bits):
    loop = programs[2]
    many, _ = loop.advance(loop.start(), 2)
    programs[0].start()
    one_loop = copy.copy(programs[0])  # with its programs
    one_loop.seeds = [2]
    one, _ = one_loop.advance(one_loop.start(), 2)
    same = loop.agents(many)[2]
    fused = request.node.callspec.params["case"][0] in FUSED
    check = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6) if fused else same_bits
    for x, y in zip(numbers(same), numbers(one.agent), strict=True):
        check(x, y)


def test_two_shards_equal_one(programs, request):
    if not ALGORITHMS[request.node.callspec.params["case"][0]].shardable:
        pytest.skip("one seed trains on one device")
    states = []
    for loop in programs[:2]:
        state, totals = loop.advance(loop.start(), 2)
        states.append({"agent": state.agent, "metrics": totals.metrics, "episodes": totals.episodes})
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(states[0])]
    for name, x, y in zip(names, numbers(states[0]), numbers(states[1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5, err_msg=name)  # sums are taken in another order


def test_checkpoint_round_trip(programs, tmp_path):
    loop = programs[0]
    state, _ = loop.advance(loop.start(), 1)
    checkpoint.save(tmp_path / "a.safetensors", state, {"updates": 1})
    loaded, header = checkpoint.load(tmp_path / "a.safetensors", jax.eval_shape(lambda s: s, state))
    assert header == {"updates": 1}
    assert_same_bits(state, loaded)
    a, _ = loop.advance(jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), loaded, state), 2)
    b, _ = loop.advance(loop.start(), 3)
    assert_same_bits(a, b)


def test_a_second_update_does_not_recompile(acts, case):
    """The state and the acting memory come out of a rollout and its update with the types they went in with."""
    agent, environment, _ = case
    made = envs.make(environment, B)
    first = transitions_like(made.spec, (T, B))

    def play(key):
        state = agent.init(key, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), first))
        acting = begin(agent, made, key)
        later, rollout, _ = unroll(partial(agent.act, state, explore=True), made, acting, key, T)
        return (state, acting.carry), (agent.update(state, rollout, key)[0], later.carry)

    before, after = jax.eval_shape(play, jax.random.key(0))
    kinds = lambda tree: [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]
    assert kinds(before) == kinds(after)


def test_members_act_differently_on_equal_observations(unlike, case, programs):
    agent, environment, _ = case
    made, state = envs.make(environment, 64), programs[0].start().agent
    opens, key = np.ones(64, bool), jax.random.key(1)
    _, obs = made.reset(jax.random.key(0))
    obs = jax.tree.map(lambda x: np.broadcast_to(x[:1], x.shape), obs)
    act = jax.jit(lambda: [agent.act(state, agent.begin(64), obs, opens, key, explore=e)[0] for e in (True, False)])
    explore, greedy = act()
    assert len(np.unique(np.asarray(explore), axis=0)) > 1
    assert len(np.unique(np.asarray(greedy), axis=0)) == 1


class CompiledAsHost(HostEnvs):
    """A compiled environment behind the host protocol, started as the device loop starts it."""

    def __init__(self, made, seed=0):
        self.spec, self.num_envs, self.made = made.spec, made.num_envs, made
        self.key = jax.random.split(jax.random.key(seed), 4)[0]
        self._step = jax.jit(made.step)

    def reset(self, seed):
        self.state, obs = jax.jit(self.made.reset)(self.key)
        return jax.tree.map(np.asarray, obs)

    def step(self, action):
        self.state, seen = self._step(self.state, action)
        return TimeStep(*jax.tree.map(np.asarray, tuple(seen)))

    def close(self):
        pass


@pytest.mark.parametrize("length", [1, T])
def test_both_loops_collect_the_same_and_learn_the_same(acts, case, programs, request, length):
    name = request.node.callspec.params["case"][0]
    if name in LIKE_ANOTHER and name != "dyna":
        pytest.skip("as another")
    if length == 1 and not request.node.callspec.id.partition("-")[2].startswith(SINGLE_STEPS):
        pytest.skip("learns from longer rollouts")
    agent, environment, _ = case
    made = partial(envs.make, environment)
    sizes = {"unroll_length": length, "first_length": T}
    device = programs[0] if length == T else device_loop(agent, made, num_envs=B, seeds=[0], shards=1, **sizes)
    host = HostLoop(agent, CompiledAsHost(made(B)), seed=0, **sizes)
    a, _ = device.advance(device.start(), 3)
    b, _ = host.advance(host.start(), 1)
    b, _ = host.advance(b, 2)  # by the programs of the first: an argument of another type is refused
    # To round-off: an update is fused with what comes before it, and that is not the same in the two programs.
    for x, y in zip(numbers((a.agent, a.key)), numbers((b.agent, b.key)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_state_holds_arrays_only(programs):
    state = programs[0].start()
    assert isinstance(state, LoopState)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
