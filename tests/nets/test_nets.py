"""Networks: the leaves rule, shapes for every space, the initialisation that on-policy methods depend on."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.nets.actor_critic import ActorCritic
from steersman.nets.actors import Actor, StochasticActor
from steersman.nets.critics import ActionValue, Critic, StateValue, ensemble
from steersman.nets.encoders import Encoder, encoder_for
from steersman.nets.heads import PolicyHead, ValueHead
from steersman.nets.layers import conv
from steersman.nets.layers.batch_renorm import D_MAX, EPSILON, R_MAX, BatchRenorm, Moments, NormedMLP
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear, orthogonal
from steersman.nets.layers.mlp import MLP
from steersman.nets.layers.norm import LayerNorm
from steersman.nets.table import Table
from steersman.nets.value import QNetwork
from steersman.spaces import abstract
from steersman.theory.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    MultiCategorical,
    TanhGaussian,
)
from steersman.types import EnvSpec

BOX = spaces.Box(-1, 1, (3,))


def spec(observation=BOX, action=None):
    action = action or spaces.Discrete(2)
    return EnvSpec("test", observation, action, action)


NETWORKS = [
    lambda key: ActorCritic(spec(), hidden_sizes=(8,), key=key),
    lambda key: ActorCritic(spec(), hidden_sizes=(8, 8), share_trunk=True, activation="relu", key=key),
    lambda key: ActorCritic(spec(action=spaces.Box(-1, 1, (2,))), hidden_sizes=(), key=key),
    lambda key: ActorCritic(spec(spaces.Box(0, 255, (36, 36, 1), np.uint8)), hidden_sizes=(), key=key),
    lambda key: ActionValue(Critic(spec(action=spaces.MultiDiscrete([2, 3])), hidden_sizes=(8,), key=key)),
    lambda key: Table.zeros(key, spec(spaces.Discrete(3))),
    lambda key: ActorCritic(spec(), hidden_sizes=(8,), layer_norm=True, key=key),
    lambda key: QNetwork(spec(spaces.Box(0, 1, (10, 10, 4))), hidden_sizes=(), key=key),
    lambda key: QNetwork(spec(spaces.Box(0, 255, (16, 16, 3), np.uint8)), encoder="impala", key=key),
    lambda key: Actor(spec(action=spaces.Box(-1, 1, (2,))), hidden_sizes=(8,), key=key),
    lambda key: ensemble(lambda key: Critic(spec(action=spaces.Box(-1, 1, (2,))), hidden_sizes=(8,), key=key), key, 2),
    lambda key: NormedMLP(3, (8,), 1, key=key),
]


@pytest.mark.parametrize("make", NETWORKS, ids=range(len(NETWORKS)))
def test_every_leaf_is_an_inexact_array(make):
    """The rule that makes plain jit, vmap, grad and optax enough."""
    network = eqx.filter_eval_shape(make, jax.random.key(0))  # what is no array stays what it is
    arrays = [isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(network)]
    assert all(arrays)
    assert all(jnp.issubdtype(x.dtype, jnp.inexact) for x in jax.tree.leaves(network))
    assert hash(jax.tree.structure(network)) is not None  # static parts can be a jit cache's key


def test_many_orthogonal_matrices_are_drawn_one_after_another():
    """Batched QR factorisations on several CPU devices can wait for each other for ever."""
    keys = jax.random.split(jax.random.key(0), 6).reshape(2, 3)
    draw = lambda key: orthogonal(2.0, (4, 3), key)
    many = jax.vmap(jax.vmap(draw))
    assert "qr" in str(jax.make_jaxpr(many)(keys))
    assert not re.search(r"f32\[[\d,]*,4,3\][^\n]* = (geqrf|qr)\b", str(jax.make_jaxpr(many)(keys)))
    batched = jax.vmap(lambda key: jax.nn.initializers.orthogonal(2.0)(key, (4, 3)))
    assert re.search(r"f32\[[\d,]*,4,3\][^\n]* = (geqrf|qr)\b", str(jax.make_jaxpr(batched)(keys[0])))
    each = [[draw(key) for key in row] for row in keys]
    np.testing.assert_allclose(many(keys), np.array(each), rtol=1e-6, atol=1e-6)


def test_orthogonal_linear():
    weight = orthogonal_linear(16, 4, jax.random.key(0), gain=3.0).weight
    np.testing.assert_allclose(weight @ weight.T, 9 * np.eye(4), atol=1e-5)
    filters = conv.Conv(3, 8, 4, key=jax.random.key(0)).weight.reshape(-1, 8)
    np.testing.assert_allclose(filters.T @ filters, 2 * np.eye(8), atol=1e-5)


def test_layers_differ_from_each_other():
    layers = MLP(8, (8, 8), key=jax.random.key(0)).layers
    assert (np.asarray(layers[0].weight) != np.asarray(layers[1].weight)).any()


def test_mlp_by_hand():
    mlp = MLP(2, (3,), activation="relu", key=jax.random.key(0))
    x = jnp.array([0.5, -2.0])
    np.testing.assert_allclose(mlp(x), np.maximum(np.asarray(mlp.layers[0].weight) @ np.asarray(x), 0), rtol=1e-6)
    np.testing.assert_array_equal(MLP(2, (), key=jax.random.key(0))(x), x)


def test_the_first_policy_is_near_uniform_and_the_first_mean_near_zero():
    @jax.jit
    def seen(key):
        obs = jax.random.normal(key, (64, 3))
        choice, value = jax.vmap(ActorCritic(spec(), key=key))(obs)
        network = ActorCritic(spec(action=spaces.Box(-1, 1, (2,))), log_std_init=-1.0, key=key)
        return choice.entropy(), value, jax.vmap(network)(obs)[0]

    entropy, value, policy = seen(jax.random.key(0))
    assert entropy.min() > 0.69
    assert np.abs(value).max() > 0.1
    assert np.abs(policy.loc).max() < 0.1
    np.testing.assert_allclose(policy.log_std, -1.0)


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (spaces.Discrete(3), Categorical),
        (spaces.MultiDiscrete([2, 3]), MultiCategorical),
        (spaces.MultiBinary(4), Bernoulli),
        (spaces.Box(-1, 1, (2,)), DiagGaussian),
    ],
)
def test_policy_head_gives_the_right_distribution(action, kind):
    def drawn(key):
        policy = PolicyHead(5, action, key=key)(jnp.ones(5))
        assert isinstance(policy, kind)
        return policy.sample(key)

    assert jax.eval_shape(drawn, jax.random.key(0)).shape == action.shape


def test_state_dependent_std_starts_where_asked_and_stays_in_range():
    head = PolicyHead(5, spaces.Box(-1, 1, (2,)), log_std_init=-0.7, state_dependent_std=True, key=jax.random.key(0))
    assert head.log_std is None
    np.testing.assert_allclose(head(jnp.zeros(5)).log_std, -0.7)
    assert np.isfinite(np.asarray(jnp.exp(head(jnp.full(5, 1e9)).log_std))).all()


def test_mask_forbids():
    policy = PolicyHead(5, spaces.Discrete(3), key=jax.random.key(0))(jnp.ones(5), jnp.array([1.0, 0.0, 1.0]))
    assert float(policy.probabilities()[1]) == 0.0


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (BOX, 3),
        (spaces.Box(-1, 1, (2, 3)), 6),
        (spaces.Discrete(5), 5),
        (spaces.MultiDiscrete([2, 3]), 5),
        (spaces.Dict(a=BOX, action_mask=spaces.MultiBinary(2), b=spaces.Discrete(2)), 5),
        (spaces.Tuple((BOX, spaces.Discrete(2))), 5),
        (spaces.Box(0, 255, (10, 10), np.uint8), 100),
    ],
    ids=str,
)
def test_encoder_sizes(space, size):
    encoder = Encoder(space, key=jax.random.key(0))
    obs = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), abstract(space))
    assert encoder(obs).shape == (encoder.out_size,) == (size,)


def test_encoder_one_hot_by_hand():
    encoder = Encoder(spaces.MultiDiscrete([2, 3]), key=jax.random.key(0))
    np.testing.assert_array_equal(encoder(jnp.array([1, 2])), [0, 1, 0, 0, 1])


@pytest.mark.parametrize(
    ("shape", "channels", "planes"),
    [
        ((9, 9, 17), "auto", 17),  # Go: more planes than rows
        ((5, 5, 11), "auto", 11),
        ((7, 7, 20), "auto", 20),
        ((17, 9, 9), "auto", 17),
        ((10, 9, 14), "auto", 14),  # no two axes are equal: Xiangqi
        ((14, 10, 9), "auto", 14),
        ((6, 7, 10), "auto", 10),
        ((84, 84, 4), "auto", 4),
        ((4, 84, 84), "auto", 4),
        ((210, 160, 3), "auto", 3),
        ((3, 210, 160), "auto", 3),
        ((3, 16, 256), "auto", 3),
        ((16, 256, 1), "auto", 1),
        ((12, 60, 80), "auto", 12),
        ((10, 10, 10), "auto", 10),
        ((10, 10, 7), "auto", 7),  # MinAtar
        ((8, 11, 12), "auto", 8),  # a guess, and what corrects it
        ((8, 11, 12), "last", 12),
        ((9, 9, 17), "first", 9),
        ((9, 9, 17), "smallest", 9),  # as it was
        ((10, 9, 14), "smallest", 10),
    ],
)
def test_which_axis_holds_the_channels(shape, channels, planes):
    picture = conv._Picture(shape, 1.0, channels)
    assert picture.shape[2] == planes
    assert sorted(picture.shape) == sorted(shape)
    assert picture(np.zeros(shape, np.float32)).shape == picture.shape


def test_the_setting_reaches_every_network(key):
    board, made = spaces.Box(0, 1, (9, 9, 17)), {}
    for make in (ActorCritic, Actor, StochasticActor, Critic, StateValue, QNetwork):
        build = lambda make=make: make(spec(board), hidden_sizes=(4,), channels="first", key=key)
        made[make] = {x.shape[2] for x in jax.tree.leaves(jax.eval_shape(build)) if len(x.shape) == 4}
    assert all(kernels == {9} for kernels in made.values()), made


def test_channels_last_equals_channels_first():
    image = np.random.default_rng(0).integers(0, 256, (36, 40, 3), np.uint8)

    @jax.jit
    def seen(key, image):
        last, first = (conv.nature(s, key=key) for s in ((36, 40, 3), (3, 36, 40)))
        return last(image), first(jnp.moveaxis(image, -1, 0))

    last, first = seen(jax.random.key(1), image)
    np.testing.assert_allclose(last, first, rtol=1e-5, atol=1e-6)
    assert last.shape == (512,)


@pytest.mark.parametrize(
    ("shape", "size", "stride", "same"),
    [
        ((10, 10, 4), 3, 1, False),  # MinAtar
        ((37, 38, 4), 8, 4, False),  # blocks, many channels, and pixels that no patch reaches
        ((11, 9, 2), 4, 2, False),  # blocks, few channels
        ((7, 6, 3), 3, 2, False),
        ((9, 9, 33), 3, 1, True),
        ((13, 10, 2), 4, 2, True),
        ((7, 8, 40), 5, 3, True),
    ],
)
def test_a_convolution_by_products_is_xlas(shape, size, stride, same):
    """Value and both gradients; the form used on CPU against the one used elsewhere."""
    rng = np.random.default_rng(0)
    x, weight = (rng.normal(size=s).astype(np.float32) for s in (shape, (size, size, shape[-1], 5)))
    summed = lambda form: lambda x, w: jnp.sin(form(x, w, stride=stride, same=same)).sum()
    both = [jax.value_and_grad(summed(form), (0, 1)) for form in (conv._by_products, conv._by_xla)]
    ours, theirs = jax.jit(lambda *given: [one(*given) for one in both])(x, weight / np.float32(size))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(7, 8, 2), (5, 5, 1)])
def test_max_pool_is_the_maximum_over_windows(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    expected = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3, 3, 1), (2, 2, 1), "SAME")
    np.testing.assert_array_equal(conv.max_pool(x), expected)


def test_layer_norm_by_hand():
    x = jnp.array([[1.0, 3.0], [5.0, 5.0]])
    np.testing.assert_allclose(LayerNorm(2)(x), [[-1, 1], [0, 0]], atol=1e-5)
    mlp = MLP(4, (8,), activation="relu", layer_norm=True, key=jax.random.key(0))
    wide = mlp(jnp.ones(4) * 1e3)
    np.testing.assert_allclose(wide, mlp(jnp.ones(4)), atol=1e-3)  # the input's scale is gone


def test_impala_is_fifteen_convolutions_and_a_dense_layer():
    network = jax.eval_shape(lambda key: conv.ImpalaCNN((84, 84, 4), key=key), jax.random.key(0))
    weights = [x for x in jax.tree.leaves(network) if x.ndim == 4]
    assert len(weights) == 15
    assert network.dense.linear.weight.shape == (256, 11 * 11 * 32)
    small = lambda key: conv.ImpalaCNN((16, 16, 3), layer_norm=True, key=key)(jnp.ones((16, 16, 3), jnp.uint8))
    assert jax.eval_shape(small, jax.random.key(0)).shape == (256,)


def test_which_encoder_reads_what():
    image, grid = spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Box(0, 1, (10, 10, 7))
    assert [encoder_for(s) for s in (image, grid, BOX)] == ["nature", "minatar", "flatten"]
    assert encoder_for(spaces.Box(0, 255, (210, 160, 3), np.uint8)) == "nature"
    for kind, size in (("nature", 512), ("impala", 256), ("flatten", 4 * 84 * 84)):
        assert jax.eval_shape(lambda key, kind=kind: Encoder(image, kind, key=key), jax.random.key(0)).out_size == size
    mixed = spaces.Dict(a=image, b=BOX, c=spaces.Discrete(2))
    assert jax.eval_shape(lambda key: Encoder(mixed, "impala", key=key), jax.random.key(0)).out_size == 256 + 3 + 2
    with pytest.raises(UsageError, match="reads images"):
        Encoder(BOX, "nature", key=jax.random.key(0))
    with pytest.raises(UsageError, match="too small"):
        Encoder(grid, "nature", key=jax.random.key(0))
    with pytest.raises(UsageError, match="must be one of auto"):
        Encoder(grid, "nture", key=jax.random.key(0))


def test_shared_trunk_shares():
    shared = jax.eval_shape(lambda key: ActorCritic(spec(), share_trunk=True, key=key), jax.random.key(0))
    apart = jax.eval_shape(lambda key: ActorCritic(spec(), key=key), jax.random.key(0))
    count = lambda m: sum(x.size for x in jax.tree.leaves(m))
    assert count(apart) - count(shared) == (3 * 64 + 64) + (64 * 64 + 64)


def test_value_head_is_a_scalar():
    assert ValueHead(4, key=jax.random.key(0))(jnp.ones(4)).shape == ()


def test_action_value_depends_on_observation_and_action():
    actions = (
        (spaces.Discrete(2), [0, 1]),
        (spaces.Box(-1, 1, (1,)), [[-0.5], [0.5]]),
        (spaces.MultiDiscrete([2, 2]), [[0, 1], [1, 0]]),
    )
    for action, some in actions:
        some = jnp.asarray(some)

        def values(key, action=action, some=some):
            q = ActionValue(Critic(spec(action=action), hidden_sizes=(8,), key=key))
            return jnp.stack([q(o, a) for o in (-jnp.ones(3), jnp.ones(3)) for a in some])

        assert len(set(jax.jit(values)(jax.random.key(0)).tolist())) == 4


def test_table_by_hand():
    table = Table(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([5.0, 7.0]))
    policy, value = table(jnp.int32(1))
    np.testing.assert_array_equal(policy.logits, [2.0, 0.0])
    assert float(value) == 7.0


def test_unknown_spaces_are_refused():
    with pytest.raises(UsageError, match="Table needs Discrete"):
        Table.zeros(jax.random.key(0), spec())
    with pytest.raises(UsageError, match="No encoder"):
        Encoder(spaces.Text(3), key=jax.random.key(0))
    with pytest.raises(UsageError, match="No policy"):
        PolicyHead(3, spaces.Text(3), key=jax.random.key(0))


@pytest.mark.parametrize(
    ("action", "deterministic", "kind"),
    [
        (spaces.Box(-1, 1, (2,)), False, TanhGaussian),
        (spaces.Box(-1, 1, (2,)), True, Deterministic),
        (spaces.Discrete(3), False, Categorical),
    ],
)
def test_actors_are_policies_inside_the_bounds(action, deterministic, kind):
    obs = jnp.array([[0.3, -0.1, 2.0], [5.0, 1.0, -4.0]])
    actor = Actor(spec(action=action), hidden_sizes=(8,), deterministic=deterministic, key=jax.random.key(0))
    policy = jax.vmap(actor)(obs)
    assert isinstance(policy, kind)
    chosen = np.asarray(policy.sample(jax.random.key(1)))
    assert all(action.contains(a) for a in chosen)
    if kind is TanhGaussian:  # the first policy is centred: the head's gain is small
        np.testing.assert_allclose(policy.mode(), 0, atol=0.1)
        np.testing.assert_allclose(policy.log_std, 0, atol=0.1)


def test_an_ensemble_is_its_members():
    made = spec(action=spaces.Box(-1, 1, (2,)))
    make = lambda key: Critic(made, hidden_sizes=(8,), outputs=5, key=key)
    both = ensemble(make, jax.random.key(0), 2)
    obs, action = jnp.array([0.3, -0.1, 2.0]), jnp.array([0.5, -0.5])
    values = jax.vmap(lambda critic: critic(obs, action))(both)
    for i, key in enumerate(jax.random.split(jax.random.key(0), 2)):
        np.testing.assert_allclose(values[i], make(key)(obs, action), rtol=1e-5)
    assert values.shape == (2, 5)
    assert (values[0] != values[1]).all()
    assert Critic(spec(), hidden_sizes=(8,), key=jax.random.key(0))(obs).shape == (2,)  # one value per discrete action


def test_batch_renorm_by_hand():
    x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
    norm, moments = BatchRenorm(2), Moments(jnp.array([1.0, 0.0]), jnp.array([4.0, 1.0]), jnp.float32(7))
    mean, var = np.array([2.0, 20.0]), np.array([1.0, 100.0])
    plain = (np.asarray(x) - mean) / np.sqrt(var + EPSILON)
    warm, after = norm(x, moments, train=True, warm_up=8)
    np.testing.assert_allclose(warm, plain, rtol=1e-5, atol=1e-6)  # during the warm-up: batch normalisation
    np.testing.assert_allclose(after.mean, 0.99 * moments.mean + 0.01 * mean, rtol=1e-6)
    np.testing.assert_allclose(after.var, 0.99 * moments.var + 0.01 * var, rtol=1e-6)
    assert after.batches == 8
    renormed, _ = norm(x, moments, train=True, warm_up=7)
    used, same = norm(x, moments, train=False)
    np.testing.assert_allclose(renormed[:, 0], used[:, 0], rtol=1e-5, atol=1e-6)  # r and d are within bounds: as in use
    np.testing.assert_allclose(renormed[:, 1], plain[:, 1] * R_MAX + D_MAX, rtol=1e-5)  # both are clipped
    np.testing.assert_array_equal(same.mean, moments.mean)


def test_batch_renorm_learns_as_batch_norm_does():
    """The gradient is that of normalising by the batch, times r, which is a constant to it."""
    x, moments = jax.random.normal(jax.random.key(0), (16, 1)), BatchRenorm(1).start()
    loss = lambda x, warm_up: jnp.sum(jnp.sin(BatchRenorm(1)(x, moments, train=True, warm_up=warm_up)[0]))
    for warm_up in (0, 10):
        gradient = jax.grad(loss)(x, warm_up)
        assert abs(gradient.sum()) < 1e-4  # a shift of the whole batch changes nothing: mu_B carries its gradient
        assert jnp.abs(gradient).max() > 1e-3


def test_an_mlp_with_norms_is_invariant_to_the_scale_of_its_input():
    mlp = NormedMLP(3, (16,), 2, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (64, 3))
    out, moments = mlp(x, mlp.start(), train=True)
    scaled, _ = mlp(100.0 * x + 7.0, mlp.start(), train=True)
    np.testing.assert_allclose(scaled, out, atol=2e-2)  # up to EPSILON
    assert len(moments) == 2


@pytest.mark.parametrize("sizes", [(3, 5), (5, 3), (4, 4)])
def test_a_linear_layer_and_its_gradient(sizes):
    layer = Linear(*sizes, gain=1.0, key=jax.random.key(0))
    layer = jax.tree.map(lambda x: x + 0.1, layer)
    assert layer.kernel.shape == tuple(sorted(sizes))
    assert layer.weight.shape == sizes[::-1]
    x = jnp.linspace(-1.0, 1.0, 2 * sizes[0]).reshape(2, sizes[0])
    np.testing.assert_allclose(jax.vmap(layer)(x), x @ layer.weight.T + layer.bias[None], rtol=1e-6)
    gradient = jax.grad(lambda m: jax.vmap(m)(x)[:, 0].sum())(layer)
    wanted = jnp.zeros(sizes[::-1]).at[0].set(x.sum(0))
    np.testing.assert_allclose(gradient.weight, wanted, rtol=1e-6)
    stacked = jax.vmap(lambda k: Linear(*sizes, gain=1.0, key=k))(jax.random.split(jax.random.key(1), 2))
    assert stacked.weight.shape == (2, *sizes[::-1])
