"""Settings of transfer: what text says, and what is refused."""

import numpy as np
import pytest

from steersman.envs.transfer.settings import Transfer, read, split
from steersman.errors import UsageError


def test_nothing_is_nothing():
    assert split({"g": 9.81}) == (None, {"g": 9.81})
    assert not Transfer().simulated


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("action_delay", 2, (2, 2)),
        ("action_delay", "0:3", (0, 3)),
        ("action_delay", (1, 3), (1, 3)),
        ("action_smoothing", 0.5, 0.5),
        ("observation_noise", 0.5, {"": 0.5}),
        ("observation_noise", "imu:0.5+joints:0.25", {"imu": 0.5, "joints": 0.25}),
        ("observation_bias", "imu:1e+1+x.y:2", {"imu": 10, "x.y": 2}),
        ("observation_bias", {"imu": 2}, {"imu": 2}),
        ("observation_history", 4, 4),
        ("randomize", "mass:0.5:2+gain:1:1.5", {"mass": (0.5, 2), "gain": (1, 1.5)}),
        ("randomize", {"mass": (0.5, 2)}, {"mass": (0.5, 2)}),
    ],
)
def test_what_settings_say(name, text, value):
    settings, own = split({name: text, "g": 9.81})
    assert getattr(settings, name) == value
    assert own == {"g": 9.81}


def test_a_deviation_for_each_number():
    (noise,) = read(observation_noise=[0.5, 0]).observation_noise.values()
    assert noise.tolist() == [0.5, 0.0]
    assert noise.dtype == np.float32


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"action_delay": -1}, "action_delay = -1; it must be a whole number of 0 or more"),
        ({"action_delay": 1.5}, "action_delay = 1.5; it must be a whole number"),
        (
            {"action_delay": "3:1"},
            "3:1; the bounds are the wrong way. It is 2, or bounds from the smaller",
        ),
        ({"action_delay": "1:2:3"}, "bounds are two numbers, LOW:HIGH"),
        ({"action_delay": "a:b"}, "must be a whole number"),
        ({"action_smoothing": 1.0}, "action_smoothing = 1.0; it must be a number of 0 or more, below 1"),
        ({"action_rate_penalty": -1}, "0 or more"),
        ({"observation_noise": -0.5}, "observation_noise = -0.5"),
        ({"observation_noise": np.nan}, "observation_noise = nan"),
        ({"observation_noise": [1.0, -1.0]}, "a standard deviation is a number of 0 or more"),
        ({"observation_noise": "imu"}, "'imu' is no NAME:NUMBER, or is there twice. Example: imu:0.1"),
        ({"observation_noise": "imu:much"}, "observation_noise = much"),
        ({"observation_bias": "imu:1+imu:2"}, "there twice"),
        ({"observation_history": 0.5}, "must be a whole number"),
        ({"push": 1, "push_every": 0.5}, "push_every = 0.5; it must be a number of 1 or more"),
        ({"push_every": 50}, "whose size is not given: push=0.5"),
        ({"randomize": "mass"}, "Example: mass:0.5:2"),
        ({"randomize": 2}, "it names parameters and the bounds of their factors"),
        ({"randomize": "mass:2"}, "bounds are two numbers"),
        ({"randomize": "mass:2:0.5"}, "randomize of mass = 2.0:0.5; the bounds are the wrong way"),
        ({"randomize": "mass:0:2"}, "randomize of mass = 0; it must be a number above 0"),
        ({"randomize": "mass:-1:2"}, "randomize of mass = -1; it must be a number above 0"),
        ({"see_physics": True}, "which is not given: randomize=mass:0.5:2"),
        ({"see_physics": 1, "randomize": "mass:1:2"}, "it is true or false"),
    ],
)
def test_what_is_refused(given, says):
    with pytest.raises(UsageError, match=says):
        read(**given)
