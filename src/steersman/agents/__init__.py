"""The algorithms: one file each, holding its Config, its State and its factory. ``ALGORITHMS`` lists them."""

from __future__ import annotations

from steersman.agents.checks import check_minibatches
from steersman.agents.dqn import DQNConfig, dqn
from steersman.agents.ppo import PPOConfig, ppo
from steersman.agents.replay import check_replay, first_rows
from steersman.errors import UsageError, nearest
from steersman.types import Algorithm

ALGORITHMS: dict[str, Algorithm] = {
    a.name: a
    for a in (
        Algorithm(
            "ppo",
            PPOConfig,
            ppo,
            "proximal policy optimisation: clipped or KL-penalised, any action space",
            first_length=lambda c, num_envs: c.unroll_length if c.normalize_observations or c.scale_rewards else 1,
            check=lambda c, num_envs: check_minibatches(c.unroll_length, num_envs, c.num_minibatches),
        ),
        Algorithm(
            "dqn",
            DQNConfig,
            dqn,
            "deep Q-learning with replay: double, dueling, prioritized, n-step, noisy, C51, QR-DQN; discrete actions",
            first_length=lambda c, num_envs: first_rows(c.learning_starts, num_envs),
            check=lambda c, num_envs: check_replay(c.update_ratio, c.unroll_length, num_envs, c.replay_capacity),
            shardable=False,
        ),
    )
}


def algorithm(name: str) -> Algorithm:
    """The algorithm of that name, or UsageError with the nearest names."""
    if name not in ALGORITHMS:
        offer = nearest(name, ALGORITHMS)
        raise UsageError(f"There is no algorithm {name!r}. {offer or 'Known: ' + ', '.join(sorted(ALGORITHMS)) + '.'}")
    return ALGORITHMS[name]
