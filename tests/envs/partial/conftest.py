import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs


@pytest.fixture
def returns_of():
    """The returns of the episodes that end in ``length`` steps of ``num`` members, played by a rule with a memory.

    The rule gives (memory, action) for (memory, obs, first); ``key`` names what of info is wanted instead.
    """

    def play(environment, rule, memory, length, num=400, key="episode_return"):
        made = envs.make(environment, num)

        def step(carry, _):
            state, obs, first, memory = carry
            memory, action = rule(memory, obs, first)
            state, seen = made.step(state, action)
            over = seen.terminated | seen.truncated
            return (state, seen.obs, over, memory), (over, seen.info[key])

        def run():
            state, obs = made.reset(jax.random.key(0))
            return jax.lax.scan(step, (state, obs, jnp.ones(num, bool), memory(num)), None, length)[1]

        over, total = map(np.asarray, jax.jit(run)())
        assert over.sum() >= num
        return total[over]

    return play
