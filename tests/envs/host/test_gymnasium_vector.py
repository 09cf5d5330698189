"""The last observations of a vector environment's episodes, in every form that Gymnasium leaves open."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from steersman.envs.host.gymnasium_vector import VectorEnvs
from steersman.errors import EnvironmentFault

NUM = 3
BOX = spaces.Box(-100.0, 100.0, (2,))
COUNT = spaces.Discrete(9, start=1)
SPACES = {"box": BOX, "count": COUNT, "dict": spaces.Dict(a=BOX, n=COUNT), "tuple": spaces.Tuple([BOX, COUNT])}
ENDED = np.array([True, False, True])


def one(space, i, last):
    """What member i observes; last: at the end of its episode."""
    match space:
        case spaces.Dict():
            return {k: one(part, i, last) for k, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(one(part, i, last) for part in space.spaces)
        case spaces.Discrete():
            return np.int64(1 + i + 4 * last)
    return np.full(2, i + 10.0 * last, np.float32)


def stacked(rows):
    if isinstance(rows[0], dict):
        return {k: stacked([row[k] for row in rows]) for k in rows[0]}
    return tuple(map(stacked, zip(*rows, strict=True))) if isinstance(rows[0], tuple) else np.stack(rows)


def objects(rows):
    array = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        array[i] = row
    return array


class Ending(gymnasium.vector.VectorEnv):
    """Members 0 and 2 end their episodes at every step; ``final`` makes infos["final_obs"] of the rows."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, space, final):
        self.num_envs, self.single_observation_space, self.single_action_space = NUM, space, spaces.Discrete(2)
        self.observation_space, self.action_space = (batch_space(s, NUM) for s in (space, spaces.Discrete(2)))
        self.final = final

    def reset(self, *, seed=None, options=None):
        return stacked([one(self.single_observation_space, i, False) for i in range(NUM)]), {}

    def step(self, actions):
        last = [one(self.single_observation_space, i, True) if ENDED[i] else None for i in range(NUM)]
        obs, _ = self.reset()
        return obs, np.zeros(NUM), ENDED.copy(), np.zeros(NUM, bool), {"final_obs": self.final(last)}


def final_of(name, final):
    envs = VectorEnvs(Ending(SPACES[name], final), NUM)
    envs.reset(0)
    return envs.step(np.zeros(NUM, np.int32))


def filled(rows):
    """With another row where no episode ended, which nobody is to read."""
    return [rows[0] if row is None else row for row in rows]


FORMS = {
    "objects and None": objects,
    "a list with None": list,
    "a tuple with None": tuple,
    "an entry for each": filled,
    "arrays": lambda rows: stacked(filled(rows)),
    "the ended only": lambda rows: [row for row in rows if row is not None],
    "arrays of the ended": lambda rows: stacked([row for row in rows if row is not None]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SPACES)
def test_forms_that_are_read(name, form):
    seen = final_of(name, FORMS[form])
    parts = {"dict": lambda x: list(x.values()), "tuple": list}.get(name, lambda x: [x])
    for x in parts(seen.final_obs):
        if x.ndim == 2:
            np.testing.assert_array_equal(x, [[10, 10], [1, 1], [12, 12]])
        else:
            assert x.tolist() == [4, 1, 6]  # counted from 0
    for x in parts(seen.obs):
        assert np.ravel(x[:2]).tolist() in ([0, 0, 1, 1], [0, 1])


NOT = r"gave infos\['final_obs'\] = .* ended 2 of 3 episodes; it is to hold"


@pytest.mark.parametrize(
    ("name", "final", "says"),
    [
        ("box", lambda rows: np.zeros((5, 2), np.float32), NOT),
        ("box", lambda rows: rows[:1], NOT),
        ("box", lambda rows: 1.0, NOT),
        ("box", lambda rows: None, NOT),
        ("dict", lambda rows: {"a": np.zeros((3, 2))}, NOT),
        (
            "box",
            lambda rows: np.zeros(3, np.float32),
            r"member 0\) .* of shape \(\) from infos\['final_obs'\]; .* \(2,\)",
        ),
        ("box", lambda rows: [rows[0], None, None], r"member 2\) .* of shape \(\) from infos"),
        ("count", lambda rows: [rows[0], None, None], r"member 2\) .* dtype object from infos"),
        ("count", lambda rows: np.array([5.5, 0.0, 0.0]), r"member 0\) .* dtype float64 from infos"),
        ("count", lambda rows: np.array([5, 5, 77]), r"member 2\) .* observation 77 from infos.* counts 9 from 1"),
        ("tuple", lambda rows: [rows[0][:1], None, rows[2]], r"member 0\) .* without \[1\]"),
    ],
)
def test_forms_that_are_none_are_named(name, final, says):
    with pytest.raises(EnvironmentFault, match=says):
        final_of(name, final)
