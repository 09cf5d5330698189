"""Belief filter, file reader and point-based planning, against hand arithmetic and the tiger's published optimum."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.tabular.planning.dynamic_programming import value_iteration
from steersman.tabular.planning.pomdp_planning import _Upper, fast_informed_bound, pbvi, qmdp
from steersman.tabular.pomdp import POMDP, BeliefEnv, ObservedEnv
from steersman.tabular.problems.cassandra import parse_pomdp, read_pomdp
from steersman.tabular.problems.pomdp_classics import hallway, pomdp_problem, tiger

TIGER = """
discount: 0.95
values: reward
states: left right     # where it is
actions: listen open-left open-right
observations: hear-left hear-right

T: listen
identity
T: open-left
uniform
T: open-right
uniform
O: listen
0.85 0.15
0.15 0.85
O: open-left
uniform
O: open-right
uniform
R: listen : * : * : * -1
R: open-left : left : * : * -100
R: open-left : right : * : * 10
R: open-right : left : * : * 10
R: open-right : right : * : * -100
"""


def test_the_filter_by_hand():
    p = tiger()
    beliefs = p.filter(np.array([0.5, 0.5]), [0, 0, 1], [0, 0, 1])
    assert beliefs[1] == pytest.approx([0.85, 0.15])
    assert beliefs[2, 0] == pytest.approx(0.85**2 / (0.85**2 + 0.15**2))
    assert beliefs[3] == pytest.approx([0.5, 0.5])
    assert p.update(beliefs[1], 0, 1)[1] == pytest.approx(0.85 * 0.15 + 0.15 * 0.85)
    sure = POMDP(p.mdp, np.stack([np.eye(2)] * 3))
    with pytest.raises(UsageError, match="probability 0"):
        sure.update(np.array([1.0, 0.0]), 0, 1)


def test_an_ear_that_is_right_more_often_than_always():
    with pytest.raises(UsageError, match="tiger: accuracy = 2; it is the probability of hearing right, from 0 to 1"):
        tiger(accuracy=2)


def test_tigers_optimum():
    found = pbvi(tiger(), tol=1e-3)
    assert found.lower <= 19.3714 <= found.upper  # published at the uniform belief
    assert found.gap <= 1e-3
    assert len(found.alphas) == 5  # five regions (Kaelbling, Littman & Cassandra 1998)
    assert (np.diff(found.history[:, 0]) >= -1e-12).all()
    assert (np.diff(found.history[:, 1]) <= 1e-12).all()
    assert found.act(np.array([0.5, 0.5])) == 0
    assert found.act(np.array([0.85, 0.15])) == 0  # one sound is not enough
    assert found.act(np.array([0.97, 0.03])) == 2  # two are: open the other door
    assert found.act(np.array([0.03, 0.97])) == 1


def test_the_policy_earns_its_bound():
    p = tiger()
    plan = pbvi(p, tol=1e-2)
    env = BeliefEnv(p)
    alphas, actions = jnp.asarray(plan.alphas, jnp.float32), jnp.asarray(plan.actions)

    def episode(key):
        state, belief = env.reset(key)

        def step(carry, key):
            state, belief = carry
            state, ts = env.step(state, actions[jnp.argmax(alphas @ belief)], key)
            return (state, ts.obs), ts.reward

        rewards = jax.lax.scan(step, (state, belief), jax.random.split(key, 120))[1]
        return jnp.sum(rewards * 0.95 ** jnp.arange(120, dtype=jnp.float32))

    returns = np.asarray(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), 2000)))
    assert abs(returns.mean() - plan.lower) < 4 * returns.std() / np.sqrt(2000)


def test_bounds_are_ordered():
    p = tiger()
    belief = np.array([0.5, 0.5])
    mdp_bound = belief @ qmdp(p).max(-1)
    informed = float((belief @ fast_informed_bound(p)).max())
    found = pbvi(p, tol=1e-3)
    assert found.lower < found.upper <= informed + 1e-9 <= mdp_bound + 1e-9
    full = POMDP(p.mdp, np.stack([np.eye(2)] * 3))  # seeing the state: the POMDP is the MDP
    seen = pbvi(full, tol=1e-6)
    assert seen.lower == pytest.approx(
        float((belief @ p.mdp.reward + 0.95 * value_iteration(p.mdp).value.mean()).max()), abs=1e-3
    )


def test_hallway_is_the_published_one():
    """Numbers read off Cassandra's hallway.POMDP: 60 states, 5 actions, 21 observations; rounded there to 6 digits."""
    p = hallway(restart=True)
    t, name = p.mdp.dense(), {n: i for i, n in enumerate(p.state_names)}
    assert (p.mdp.num_states, p.mdp.num_actions, p.num_observations) == (60, 5, 21)
    row = lambda s, a: {p.state_names[i]: round(float(x), 6) for i, x in enumerate(t[name[s], a]) if x > 0}
    assert row("0,0N", 1) == {"0,1E": 0.05, "0,0N": 0.95}
    assert row("0,1E", 1) == {"0,2E": 0.8, "0,0E": 0.025, "0,0W": 0.025, "0,1E": 0.15}
    assert row("0,8W", 1) == {"0,9W": 0.025, "0,9E": 0.025, "1,8S": 0.05, "0,7W": 0.8, "0,8W": 0.1}
    assert row("1,6W", 1) == {"0,6N": 0.05, "1,6W": 0.95}
    assert row("0,0N", 3) == {"0,0N": 0.1, "0,0E": 0.15, "0,0S": 0.6, "0,0W": 0.15}
    assert t[56:, :, :56] == pytest.approx(1 / 56)
    assert p.observation[0, name["0,0N"], :8] == pytest.approx(
        [0.000949, 0.008549, 0.008549, 0.076949, 0.000049, 0.000449, 0.000449, 0.004049], abs=2e-6
    )
    assert p.observation[0, name["0,0N"], 11] == pytest.approx(0.69255)
    assert [int(p.observation[1, name[f"0,{c}S"]].argmax()) for c in (2, 4, 6, 8)] == [16, 17, 18, 19]
    assert p.observation[0, 56:, 20] == pytest.approx(1.0)
    assert p.mdp.reward[name["0,8S"], 1] == pytest.approx(0.8)


def test_hallways_bounds_hold_the_published_values():
    """Discounted reward up to the goal: PBVI 0.53 (Pineau et al. 2003), HSVI 0.52 (Smith & Simmons 2004), Perseus 0.51
    (Spaan & Vlassis 2005). More iterations close the gap further."""
    found = pbvi(hallway(), max_iterations=3, depth=25)
    assert 0.4 < found.lower < 0.53 < found.upper < 0.59


GRAMMAR = """
# every form that the grammar has
discount : 0.9
values: cost
states: north south east
actions: 2
observations: seen unseen
start exclude: east

T: * identity
T: 1 : north
0.5 0.25 0.25
T: 1 : south : *
0.0
T: 1 : south : north 1
T: 0 : east reset
O: 0
uniform
O : 1 : * 0.9 .1
O: 1 : east : seen 0.0
O: 1 : 2 : 1 1e0
R: * : * : * : * + 1.5
R: 0 : north : south
2 4
R: 1 : east
1 1
2 2
- 3 3
R: 1 : north : * : unseen -8
"""


def test_every_form_of_the_grammar():
    p = parse_pomdp(GRAMMAR)
    assert p.mdp.gamma == pytest.approx(0.9)
    assert p.mdp.start == pytest.approx([0.5, 0.5, 0])
    assert p.mdp.dense()[:, 0] == pytest.approx(np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]]))
    assert p.mdp.dense()[:, 1] == pytest.approx(np.array([[0.5, 0.25, 0.25], [1, 0, 0], [0, 0, 1]]))
    assert p.observation[0] == pytest.approx(np.full((3, 2), 0.5))
    assert p.observation[1] == pytest.approx(np.array([[0.9, 0.1], [0.9, 0.1], [0, 1]]))
    # Costs: 1.5 but for action 1 from the east (3 in every outcome that can be: unseen, in the east), and -8 from the
    # north when unseen: 0.75 (0.9 * 1.5 - 0.1 * 8) + 0.25 * -8.
    assert p.mdp.reward[:, 0] == pytest.approx([-1.5, -1.5, -1.5])
    assert p.mdp.reward[:, 1] == pytest.approx([-(0.75 * (0.9 * 1.5 - 0.8) - 2), -1.5, -3])
    assert p.state_names == ("north", "south", "east")


def test_mdp_files_and_other_discounts():
    text = """discount: 1.0
values: reward
states: 2
actions: stay go
start: 1
T: stay identity
T: go
0 1
1 0
R: go
0 5
7 0
"""
    with pytest.raises(UsageError, match=r"gamma = 1 needs a terminal .* \(--gamma 0.95\)"):
        parse_pomdp(text)
    p = parse_pomdp(text, gamma=0.5)
    assert p.mdp.reward == pytest.approx(np.array([[0, 5], [0, 7]]))
    assert p.mdp.start == pytest.approx([0, 1])
    assert p.observation[0] == pytest.approx(np.eye(2))
    assert parse_pomdp(text.replace("discount: 1.0\n", ""), gamma=0.5).mdp.gamma == pytest.approx(0.5)


def test_problems_by_name(tmp_path):
    path = tmp_path / "tiger.POMDP"
    path.write_text(TIGER)
    assert pomdp_problem(str(path)).mdp.name == pomdp_problem("tiger").mdp.name == "tiger"
    assert pomdp_problem("tiger", gamma=0.5).mdp.gamma == pytest.approx(0.5)
    with pytest.raises(UsageError, match="Did you mean tiger"):
        pomdp_problem("tigre")
    with pytest.raises(UsageError, match="There is no file"):
        pomdp_problem("nothing.POMDP")


def test_it_reads_the_file_format(tmp_path):
    path = tmp_path / "tiger.POMDP"
    path.write_text(TIGER)
    read, built = read_pomdp(path), tiger()
    assert np.allclose(read.mdp.dense(), built.mdp.dense())
    assert np.allclose(read.mdp.reward, built.mdp.reward)
    assert np.allclose(read.observation, built.observation)
    assert read.state_names == ("left", "right")
    costs = parse_pomdp(TIGER.replace("values: reward", "values: cost").replace("left right     #", "2 #"
        ).replace(": left", ": 0").replace(": right", ": 1"))  # fmt: skip
    assert np.allclose(costs.mdp.reward, -built.mdp.reward)
    started = parse_pomdp(TIGER.replace("T: listen", "start: 0.25 0.75\nT: listen", 1))
    assert started.mdp.start == pytest.approx([0.25, 0.75])
    only = parse_pomdp(TIGER.replace("T: listen", "start include: right\nT: listen", 1))
    assert only.mdp.start == pytest.approx([0, 1])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.85 0.15\n", "0.85 x\n", "line 15: expected a number, found 'x'"),
        ("R: listen", "R: shout", "line 21: 'shout' is none of the 3 actions"),
        ("T: open-left", "Q: open-left", "line 10: expected T:, O: or R:, found 'Q'"),
        ("discount: 0.95", "discont: 0.95", "line 2: unknown word 'discont'"),
        ("0.85 0.15\n", "0.85 0.25\n", "line 14: O: listen : left sums to 1.1"),
        ("0.85 0.15\n", "1.15 -0.15\n", "line 14: O: listen : left holds a negative probability"),
        ("T: listen\nidentity\n", "", "T: listen : left is never given"),
        ("states: left right", "states: left left", "line 4: states: 'left' is named twice"),
        ("discount: 0.95", "discount: 1.95", "line 2: the discount must lie in"),
        ("T: listen\n", "start: 0.5 0.6\nT: listen\n", "line 8: start: is not a distribution; it sums to 1.1"),
        ("discount: 0.95\n", "", "no discount: line"),
        ("right : * : * -100", "right : * : *", "the file ends where"),
    ],
)
def test_mistakes_have_a_line(old, new, message):
    with pytest.raises(UsageError, match=message):
        parse_pomdp(TIGER.replace(old, new, 1) if "ends" not in message else TIGER.rstrip().removesuffix("-100"))


@pytest.mark.parametrize(
    "content",
    [
        TIGER.encode(),
        ("# Probl\u00e8me de M\u00fcller" + TIGER).encode("latin-1"),
        b"\xef\xbb\xbf" + TIGER.lstrip().encode(),
        TIGER.encode("utf-16"),
        TIGER.replace("\n", "\r\n").encode("utf-32"),
    ],
    ids=["utf-8", "latin-1", "mark", "utf-16", "utf-32"],
)
def test_files_of_any_encoding_are_read(tmp_path, content):
    path = tmp_path / "tiger.POMDP"
    path.write_bytes(content)
    assert np.allclose(read_pomdp(path).observation, tiger().observation)


def test_a_picture_is_no_problem_file(tmp_path):
    path = tmp_path / "tiger.POMDP"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff\xfe")
    with pytest.raises(UsageError, match=r"tiger.POMDP is not a text file"):
        read_pomdp(path)


def test_several_starts_by_name():
    text = "discount: 0.9\nstates: a b c\nactions: go\nobservations: 1\n{}\nT: *\nidentity\nO: *\nuniform"
    assert parse_pomdp(text.format("start: a c")).mdp.start == pytest.approx([0.5, 0, 0.5])
    assert parse_pomdp(text.format("start: a b c")).mdp.start == pytest.approx([1 / 3] * 3)
    with pytest.raises(UsageError, match=r"line 5: start: gives 2 numbers for 3 states.*start include: 0 2"):
        parse_pomdp(text.format("start: 0 2"))


def test_a_pomdp_has_all_its_actions_everywhere():
    p = tiger()
    reward = p.mdp.reward.copy()
    reward[1, 2] = -np.inf
    with pytest.raises(UsageError, match="Action 2 is not available in state 1"):
        replace(p, mdp=replace(p.mdp, reward=reward, outcome_rewards=None))


def test_the_upper_bound_takes_tiny_beliefs():
    """Warnings are errors here: 1e-310 in the denominator overflows, and is no reason to stop."""
    upper = _Upper(np.ones(3))
    upper.add(np.array([0.5, 0.5, 1e-310]), 0.25)
    got = upper(np.array([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert got == pytest.approx([0.25, 0.625, 1.0, 0.0])


def test_environments_show_only_what_is_seen():
    p = tiger()
    env = ObservedEnv(p)
    state, obs = env.reset(jax.random.key(0))
    assert obs == 2
    assert env.spec.observation_space.n == 3
    keys = jax.random.split(jax.random.key(1), 4000)
    _, ts = jax.jit(jax.vmap(env.step, (None, None, 0)))((jnp.int32(0), jnp.int32(0)), jnp.int32(0), keys)
    assert float((np.asarray(ts.obs) == 0).mean()) == pytest.approx(0.85, abs=4 * 0.36 / np.sqrt(4000))
    belief = BeliefEnv(p)
    state, _ = belief.reset(jax.random.key(0))
    _, ts = belief.step(state, jnp.int32(0), jax.random.key(5))
    assert sorted(np.asarray(ts.obs).tolist()) == pytest.approx([0.15, 0.85])
