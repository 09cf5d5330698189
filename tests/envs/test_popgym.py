import jax
import numpy as np
import pytest

popgym = pytest.importorskip("popgym")

from gymnasium import spaces  # noqa: E402

from steersman import envs  # noqa: E402
from steersman.errors import UsageError  # noqa: E402
from steersman.nets.encoders import Encoder  # noqa: E402


@pytest.mark.parametrize(
    ("name", "space", "width"),
    [
        ("PositionOnlyCartPoleEasy", spaces.Box, 2),
        ("VelocityOnlyCartPoleHard", spaces.Box, 2),  # whose id is written otherwise
        ("RepeatPreviousEasy", spaces.Discrete, 4),
        ("CountRecallEasy", spaces.MultiDiscrete, 4),
        ("AutoencodeEasy", spaces.Tuple, 6),
    ],
)
def test_an_episode(name, space, width):
    made = envs.make(f"popgym/{name}", 2)
    assert made.spec.id == f"popgym/{name}"
    assert isinstance(made.spec.observation_space, space)
    encoder = Encoder(made.spec.observation_space, key=jax.random.key(0))
    obs = made.reset(0)
    assert encoder(jax.tree.map(lambda x: x[0], obs)).shape == (width,)
    total = []
    for _ in range(210):
        seen = made.step(np.zeros(2, np.int32))
        total += seen.info["episode_return"][seen.terminated | seen.truncated].tolist()
    assert total
    assert -1.02 <= min(total) <= max(total) <= 1
    made.close()


def test_names_and_arguments():
    made = envs.make("popgym/RepeatPreviousEasy,k=2", 1)
    assert made.spec.id == "popgym/RepeatPreviousEasy,k=2"
    made.close()
    with pytest.raises(UsageError, match="Did you mean RepeatFirstEasy"):
        envs.make("popgym/RepeatFirstEazy", 1)
    with pytest.raises(UsageError, match="runs on the host"):
        envs.make_env("popgym/RepeatFirstEasy")
