"""Adam's first step by hand; held as a vector or as a tree it is the same training; schedules over counted steps."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.agents.parts import training
from steersman.agents.parts.training import Flat
from steersman.errors import UsageError
from steersman.shards import sharded_over
from steersman.types import Rollout

RATE = jnp.float32(0.1)


def line(params, x, y):
    """Half the mean square of w x + b - y, and its residuals."""
    error = params["w"] * x + params["b"] - y
    return 0.5 * jnp.square(error).mean(), error


def start(**options):
    params = {"w": jnp.float32(2.0), "b": jnp.float32(-1.0)}
    adam = training.adam(**options)
    return adam, training.trained(adam, params)


def close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


X, Y = jnp.float32([1.0, 3.0]), jnp.float32([2.0, 1.0])  # residuals -1 and 4: the gradient is (5.5, 1.5)
NORM = np.hypot(5.5, 1.5)


@pytest.mark.parametrize(("most", "scale"), [(None, 1.0), (100.0, 1.0), (0.25, 0.25 / NORM)])
def test_the_first_step_by_hand(most, scale):
    """Adam's first moments are g and g^2, so with a large eps its step is rate g / (|g| + eps): its size shows."""
    adam, net = start(max_grad_norm=most, eps=1.0)
    after, error, norm = training.descend(adam, line, net, RATE, X, Y)
    np.testing.assert_allclose(error, [-1.0, 4.0])
    assert float(norm) == pytest.approx(NORM)  # of the gradient as it is
    g = {"w": 5.5 * scale, "b": 1.5 * scale}
    close(after.params, {"w": 2.0 - 0.1 * g["w"] / (g["w"] + 1), "b": -1.0 - 0.1 * g["b"] / (g["b"] + 1)}, rtol=1e-5)


def test_the_rate_and_the_decay_are_those_given():
    """The second of two equal gradients: the moments, corrected for their start, are g and g^2 again."""
    constant = lambda params: (3.0 * params["w"] - 0.5 * params["b"], ())
    for b1 in (0.9, 0.5):
        adam, net = start(b1=b1)
        for step in (1, 2):
            net, _, _ = training.descend(adam, constant, net, jnp.float32(0.01))
            close(net.params, {"w": 2.0 - 0.01 * step, "b": -1.0 + 0.01 * step}, rtol=1e-5)
        np.testing.assert_allclose(net.optimiser.mu, jnp.array([-0.5, 3.0]) * (1 - b1**2), rtol=1e-5)


@pytest.mark.parametrize("flat", [None, 0], ids=["vector", "tree"])
def test_the_gradient_is_the_mean_over_shards(flat):
    adam, net = start(eps=1.0, flat=flat)

    def shard(x, y):
        with sharded_over("shards"):
            return training.descend(adam, line, net, RATE, x, y)

    after, error, norm = jax.jit(jax.vmap(shard, axis_name="shards"))(X[:, None], Y[:, None])
    np.testing.assert_allclose(error, [[-1.0], [4.0]])  # each shard's own
    np.testing.assert_allclose(norm, [NORM, NORM], rtol=1e-6)
    whole = jax.jit(lambda x, y: training.descend(adam, line, net, RATE, x, y)[0])(X, Y)
    for i in range(2):
        close(jax.tree.map(lambda x, i=i: x[i], after), whole, rtol=1e-6)


# A vector or a tree.


def layers(key, sizes=(3, 5, 2)):
    keys = jax.random.split(key, len(sizes))
    pairs = zip(keys, itertools.pairwise(sizes), strict=False)
    return [{"w": jax.random.normal(k, shape), "b": jnp.zeros(shape[1])} for k, shape in pairs]


def squares(params, x):
    for layer in params:
        x = jnp.tanh(x @ layer["w"] + layer["b"][None])
    return jnp.square(x - 1.0).sum(), x


def steps(optimiser, params):
    """Four steps: in a loop that holds the network as it is trained, and in one that takes it as it is every time."""
    inputs = 3.0 * jax.random.normal(jax.random.key(1), (4, 6, 3))

    def step(net, x):
        net, _, norm = training.descend(optimiser, squares, net, RATE, x)
        return net, norm

    @jax.jit
    def run(params):
        begun = training.trained(optimiser, params)
        net, norms = jax.lax.scan(step, training.packed(optimiser, begun), inputs)
        return training.unpacked(net), jax.lax.scan(step, begun, inputs)[0], norms

    return run(params)


@pytest.mark.parametrize("make", [training.adam, training.radam])
def test_a_vector_is_trained_as_its_tree_is(make):
    optimiser, params = make(max_grad_norm=1.0), layers(jax.random.key(0))
    flat, flat_each, norms = steps(optimiser, params)
    assert (norms > 1.0).any()  # clipped
    tree, tree_each, tree_norms = steps(optimiser._replace(flat=0), params)
    close(norms, tree_norms, rtol=1e-5)
    for other in (flat_each, tree, tree_each):
        close(flat.params, other.params, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), flat.params, params)
    assert min(jax.tree.leaves(moved)) > 0.01
    moments = lambda net: sorted(x.shape for x in jax.tree.leaves(net.optimiser) if x.ndim)
    assert moments(flat) == [(32,), (32,)]
    assert moments(tree) == sorted(2 * [x.shape for x in jax.tree.leaves(params)])


def test_packed_and_unpacked_are_inverse():
    adam = training.adam()
    net = training.trained(adam, layers(jax.random.key(0)))
    packed = training.packed(adam, net)
    assert isinstance(packed.params, Flat)
    assert packed.params.vector.shape == (32,)
    for other in (packed, training.packed(adam, packed), net):
        jax.tree.map(np.testing.assert_array_equal, net, training.unpacked(other))
    jax.tree.map(np.testing.assert_array_equal, packed.network, net.params)


def test_parameters_up_to_the_limit_are_a_vector():
    assert [training.adam().flat, training.radam().flat, training.adam(flat=0).flat] == [training.FLAT] * 2 + [0]
    params = layers(jax.random.key(0))  # 32
    for flat, vector in ((32, True), (31, False)):
        adam = training.adam(flat=flat)
        net = training.trained(adam, params)
        assert isinstance(training.packed(adam, net).params, Flat) == vector
        assert len(jax.tree.leaves(net.optimiser.mu)) == (1 if vector else 4)


@pytest.mark.parametrize("params", [jnp.float32(1.0), [jnp.ones((2, 3))]], ids=["a number", "one leaf"])
def test_a_network_of_one_leaf_is_left_as_it_is(params):
    adam = training.adam()
    net = training.trained(adam, params)
    assert training.packed(adam, net) is net
    assert jax.tree.structure(net.optimiser.mu) == jax.tree.structure(params)
    step = training.descend(adam, lambda p: (jax.tree.leaves(p)[0].sum(), ()), net, RATE)[0]
    jax.tree.map(lambda x: np.testing.assert_allclose(x, 0.9, rtol=1e-5), step.params)


def test_a_leaf_that_cannot_be_learned_is_named():
    for wrong, said in ((jax.nn.relu, r"\['b'\]\[1\] is a \w+;"), (jnp.arange(3), r"\['b'\]\[1\] is int32;")):
        with pytest.raises(UsageError, match=rf"leaf {said} each must be an array of floating numbers"):
            training.trained(training.adam(), {"a": jnp.ones(2), "b": [jnp.ones(2), wrong]})


# Schedules.


def rollout(length, num_envs):
    x = jnp.zeros((length, num_envs))
    return Rollout(x, x, x, x, x, x, x, x, {})


def test_steps_are_counted_over_all_shards_up_to_the_largest():
    count = lambda steps, *size: int(training.counted(jnp.uint32(steps), rollout(*size)))
    assert count(7, 3, 4) == 19
    largest = 2**32 - 1
    assert count(largest - 12, 3, 4) == largest
    assert count(largest - 11, 3, 4) == count(largest, 3, 4) == largest
    assert count(2**31 + 5, 1, 1) == 2**31 + 6

    def shard(steps):
        with sharded_over("shards"):
            return training.counted(steps, rollout(3, 4))

    both = jax.vmap(shard, axis_name="shards")(jnp.full(2, 7, jnp.uint32))
    assert (both.tolist(), both.dtype) == ([31, 31], jnp.uint32)


@pytest.mark.parametrize("budget", [4000, 4_000_000_000, 6_000_000_000])  # more than int32 and uint32 count
def test_rates_fall_in_a_straight_line_over_the_budget(budget):
    at = [0, budget // 4, budget // 2, min(budget, 2**32 - 1), min(2 * budget, 2**32 - 1)]
    right = [max(1 - step / budget, 0) for step in at]
    steps, config = jnp.array(at, jnp.uint32), SimpleNamespace(learning_rate=0.5, anneal_learning_rate=True)
    np.testing.assert_allclose(training.remaining(budget, steps), right, atol=1e-6)
    np.testing.assert_allclose(training.annealed(config, budget, steps), 0.5 * np.array(right), atol=1e-6)
    np.testing.assert_allclose(training.annealed(config, budget, steps, 0.1), 0.1 * np.array(right), atol=1e-6)


def test_rates_stay_without_a_budget_or_the_wish():
    late = jnp.uint32(10**9)
    falls = SimpleNamespace(learning_rate=0.5, anneal_learning_rate=True)
    stays = SimpleNamespace(learning_rate=0.5, anneal_learning_rate=False)
    assert float(training.remaining(None, late)) == 1.0
    assert [float(training.annealed(c, b, late)) for c, b in ((falls, None), (stays, 10), (falls, 10))] == [0.5, 0.5, 0]


@pytest.mark.parametrize(("period", "done"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6])])
def test_every_so_many_updates(period, done):
    step = lambda x, y: (x + 1, 2 * y)
    for update in range(7):
        found = training.every(period, jnp.int32(update), step, jnp.int32(5), jnp.int32(7))
        assert tuple(map(int, found)) == ((6, 14) if update in done else (5, 7))


def test_a_copy_has_buffers_of_its_own():
    params = {"w": jnp.arange(3.0)}
    copy = training.copied(params)
    np.testing.assert_array_equal(copy["w"], params["w"])
    assert copy["w"].unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()
