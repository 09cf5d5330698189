"""The algorithms: one file each, holding its Config, its State and its factory. ``ALGORITHMS`` lists them."""

from __future__ import annotations

from steersman.agents.checks import check_minibatches
from steersman.agents.ppo import PPOConfig, ppo
from steersman.agents.pqn import PQNConfig, pqn
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
            first_length=lambda c: c.unroll_length if c.normalize_observations or c.scale_rewards else 1,
            check=lambda c, num_envs: check_minibatches(c.unroll_length, num_envs, c.num_minibatches),
        ),
        Algorithm(
            "pqn",
            PQNConfig,
            pqn,
            "parallelised Q-network: Q(lambda) from many environments, no replay, no target network; discrete actions",
            first_length=lambda c: c.unroll_length if c.normalize_observations or c.scale_rewards else 1,
            check=lambda c, num_envs: check_minibatches(c.unroll_length, num_envs, c.num_minibatches),
        ),
    )
}


def algorithm(name: str) -> Algorithm:
    """The algorithm of that name, or UsageError with the nearest names."""
    if name not in ALGORITHMS:
        offer = nearest(name, ALGORITHMS)
        raise UsageError(f"There is no algorithm {name!r}. {offer or 'Known: ' + ', '.join(sorted(ALGORITHMS)) + '.'}")
    return ALGORITHMS[name]
