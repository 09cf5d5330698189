"""Control: updates by hand, reductions between methods, and convergence to the planner's answer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.tabular.learning import behaviour as act
from steersman.tabular.learning import control, dyna, multistep
from steersman.tabular.learning.bandits import gaussian_arms, gradient_bandit, play
from steersman.tabular.learning.control import Transition, learn
from steersman.tabular.planning.criteria import average_reward, restarting
from steersman.tabular.planning.dynamic_programming import evaluate, value_iteration
from steersman.tabular.problems import classics
from steersman.tabular.problems.builders import from_arrays
from steersman.theory.exploration import linear

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def mdp():
    return classics.random_mdp(5, 3, 3, gamma=0.8, seed=7, terminals=1)


def run(mdp, learner, steps=200, epsilon=0.3, alpha=0.2, key=KEY):
    f = jax.jit(
        lambda k: learn(mdp, learner, act.epsilon_greedy(epsilon), k, gamma=mdp.gamma, alpha=alpha, steps=steps)
    )
    return f(key)


def transition(s, a, r, s_next, a_next, *, discount=0.5, ended=False, policy=(0.5, 0.5)):
    i, f = jnp.int32, jnp.float32
    return Transition(
        i(s),
        i(a),
        f(r),
        f(0.5),
        f(discount),
        i(s_next),
        i(a_next),
        lambda at: jnp.array(policy),
        jnp.array(ended),
        i(0),
        f(0.5),
    )


def test_one_step_updates_by_hand():
    q = jnp.array([[1.0, 2.0], [3.0, 5.0]])
    t = transition(0, 1, 1.0, 1, 0)
    for learner, expected in [
        (control.sarsa(), 2 + 0.5 * (1 + 0.5 * 3 - 2)),
        (control.expected_sarsa(), 2 + 0.5 * (1 + 0.5 * 4 - 2)),
        (control.q_learning(), 2 + 0.5 * (1 + 0.5 * 5 - 2)),
    ]:
        assert learner.update(q, t, KEY)[0, 1] == pytest.approx(expected), learner.name
    tables = jnp.stack([q, jnp.array([[0.0, 0.0], [7.0, -1.0]])])
    new = control.double_q_learning().update(tables, t, KEY)
    i = int(jnp.argmax(jnp.abs(new - tables).sum((1, 2))))
    expected = [2 + 0.5 * (1 + 0.5 * -1 - 2), 0 + 0.5 * (1 + 0.5 * 3 - 0)][
        i
    ]  # the other table's value of my best action
    assert new[i, 0, 1] == pytest.approx(expected)


def test_reductions(mdp):
    pairs = [
        (multistep.n_step_sarsa(1), control.sarsa()),
        (multistep.sarsa_lambda(0.0), control.sarsa()),
        (multistep.sarsa_lambda(0.0, "replacing"), multistep.sarsa_lambda(0.0, "dutch")),
        (control.expected_sarsa(act.greedy()), control.q_learning()),
    ]
    for a, b in pairs:
        one, two = run(mdp, a), run(mdp, b)
        assert np.allclose(one.q, two.q, atol=1e-5), (a.name, b.name)
        assert np.abs(np.asarray(one.q)).max() > 0.1


def test_tree_backup_by_hand():
    learner = multistep.tree_backup(2)
    w = learner.init(jnp.zeros((3, 2)))._replace(q=jnp.array([[0.0, 0.0], [2.0, 4.0], [6.0, 10.0]]))
    w = learner.update(w, transition(0, 0, 1.0, 1, 1), KEY)
    assert w.q[0, 0] == 0  # nothing is due before two steps
    w = learner.update(w, transition(1, 1, 3.0, 2, 0), KEY)
    inner = 3 + 0.5 * 8  # expected value of state 2
    assert w.q[0, 0] == pytest.approx(0.5 * (1 + 0.5 * (0.5 * 2 + 0.5 * inner)))
    w = learner.update(w, transition(2, 0, 4.0, 0, 0, discount=0.0, ended=True), KEY)
    assert w.q[1, 1] == pytest.approx(4 + 0.5 * (3 + 0.5 * (0.5 * 10 + 0.5 * 4) - 4))
    assert w.q[2, 0] == pytest.approx(6 + 0.5 * (4 - 6))
    assert w.length == 0


def test_watkins_cuts_after_exploration():
    learner = multistep.watkins_q_lambda(0.9)
    m = learner.init(jnp.zeros((3, 2)))._replace(q=jnp.array([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]]))
    greedy = learner.update(m, transition(0, 0, 0.0, 1, 1), KEY)
    strays = learner.update(m, transition(0, 0, 0.0, 1, 0), KEY)
    assert greedy.z[0, 0] == pytest.approx(0.45)
    assert strays.z[0, 0] == 0
    assert greedy.q[0, 0] == strays.q[0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "learner",
    [control.q_learning(), control.double_q_learning(), multistep.watkins_q_lambda(0.5), dyna.dyna_q(3)],
    ids=lambda l: l.name,
)
def test_off_policy_methods_find_the_optimal_values(learner):
    mdp = classics.gridworld_4x4(gamma=0.9)  # deterministic, so that Dyna's model is exact
    rate = partial(linear, start=0.5, end=0.05, steps=20_000)
    f = jax.jit(lambda k: learn(mdp, learner, act.epsilon_greedy(0.4), k, gamma=0.9, alpha=rate, steps=20_000))
    q = np.asarray(f(KEY).q)
    assert np.abs(q.max(-1) - value_iteration(mdp).value).max() < 0.05


@pytest.mark.parametrize(
    "learner",
    [control.sarsa(), control.expected_sarsa(), multistep.n_step_sarsa(3), multistep.tree_backup(3)],
    ids=lambda l: l.name,
)
def test_on_policy_methods_value_the_policy_they_follow(mdp, learner):
    """With epsilon = 1 the behaviour is uniform whatever q is, so every on-policy method learns its exact Q."""
    rate = partial(linear, start=0.3, end=0.005, steps=20_000)
    f = jax.jit(jax.vmap(lambda k: learn(mdp, learner, act.uniform(), k, gamma=0.8, alpha=rate, steps=20_000).q))
    truth = evaluate(mdp, np.full((5, 3), 1 / 3)).q
    assert np.abs(np.asarray(f(jax.random.split(KEY, 16))).mean(0) - truth)[:4].max() < 0.05


def test_r_learning_finds_the_average_reward():
    mdp = restarting(classics.dyna_maze())
    plan = average_reward(mdp)
    f = lambda k: learn(mdp, control.r_learning(0.002), act.epsilon_greedy(0.1), k, gamma=1.0, alpha=0.2, steps=60_000)
    found = jax.jit(f)(KEY)
    assert 0.8 * plan.gain < float(found.arrays.gain) < 1.1 * plan.gain


def test_one_program_over_seeds_and_step_sizes():
    mdp = classics.cliff_walking()
    one = lambda k, alpha: learn(mdp, control.sarsa(), act.epsilon_greedy(0.1), k, gamma=1.0, alpha=alpha, episodes=30)
    keys, alphas = jax.random.split(KEY, 3), jnp.array([0.1, 0.5])
    grid = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(keys, alphas)
    assert grid.returns.shape == (3, 2, 30)
    alone = jax.jit(one)(keys[1], alphas[1])
    assert np.array_equal(grid.returns[1, 1], alone.returns)
    assert (np.asarray(grid.lengths) > 0).all()
    assert (np.asarray(grid.returns) <= -13).all()


def test_dyna_plus_tries_what_it_has_not_tried():
    maze = classics.shortcut_maze(opened=False)
    f = lambda learner: jax.jit(
        lambda k: learn(maze, learner, act.epsilon_greedy(0.1), k, gamma=0.95, alpha=0.5, steps=1500)
    )(KEY)
    plus, plain = f(dyna.dyna_q_plus(20, 0.05)), f(dyna.dyna_q(20))
    assert float(plus.returns.sum()) > 0
    assert float(plain.returns.sum()) > 0
    assert int((plus.arrays.last > 0).sum()) > int((plain.arrays.last > 0).sum())


def test_behaviours_and_bandits():
    means = gaussian_arms(KEY, 300)
    late = lambda p: float(p.optimal[:, -100:].mean())
    scores = {
        "greedy": late(play(means, act.greedy(), KEY, pulls=400)),
        "eps": late(play(means, act.epsilon_greedy(0.1), KEY, pulls=400)),
        "ucb": late(play(means, act.ucb(2.0), KEY, pulls=400)),
        "gradient": late(gradient_bandit(means, KEY, pulls=400, alpha=0.1)),
    }
    assert scores["greedy"] < scores["eps"] < scores["ucb"]  # figures 2.2 and 2.4
    assert scores["gradient"] > scores["greedy"]
    cold = act.boltzmann(0.0)(jnp.array([0.0, 1.0]), jnp.ones(2), jnp.int32(0))
    assert cold.probabilities() == pytest.approx([0, 1])


def test_actions_that_are_not_allowed_are_never_taken():
    mdp = classics.maximisation_bias()
    initial = np.where(classics.MAXIMISATION_BIAS_ALLOWED, 0.0, -np.inf).astype(np.float32)
    for learner in (
        control.q_learning(),
        control.double_q_learning(),
        multistep.tree_backup(2),
        control.expected_sarsa(),
    ):
        f = lambda k, l=learner: learn(mdp, l, act.epsilon_greedy(0.5), k, gamma=1.0, episodes=100, initial=initial)
        found = jax.jit(f)(KEY)
        assert np.isneginf(np.asarray(found.q)[0, 2:]).all()
        assert np.isfinite(np.asarray(found.q)[0, :2]).all(), learner.name
        assert set(np.unique(found.lengths)) == {1, 2}


def test_misuse_is_explained(mdp):
    with pytest.raises(UsageError, match="exactly one of episodes"):
        learn(mdp, control.sarsa(), act.greedy(), KEY, gamma=0.9)
    with pytest.raises(UsageError, match="n >= 1"):
        multistep.tree_backup(0)


@pytest.mark.parametrize(
    "learner",
    [
        control.expected_sarsa(),
        control.double_q_learning(),
        control.r_learning(),
        multistep.tree_backup(2),
        multistep.watkins_q_lambda(0.5, "dutch"),
        dyna.dyna_q_plus(3),
    ],
    ids=lambda learner: learner.name,
)
def test_learners_never_take_an_action_that_is_not_available(mdp, learner):
    reward = mdp.reward.copy()
    reward[0, 0] = reward[1, 2] = reward[3, 0] = -np.inf
    gaps = from_arrays(mdp.dense(), reward, gamma=0.8, terminal=[4])
    learned = run(gaps, learner, steps=300)
    assert np.isfinite(learned.returns).all()
    assert (np.isneginf(learned.q) == ~gaps.available).all()
    assert np.isfinite(np.asarray(learned.q)[gaps.available]).all()
