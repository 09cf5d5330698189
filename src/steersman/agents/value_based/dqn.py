"""Deep Q-learning and its family: DQN (Mnih et al. 2015), each of its improvements a switch, all of them Rainbow.

One gradient step, on N items of the replay memory, s to s' with reward R and discount D (n steps: D = gamma^n, 0 at the
end of a task; a truncated item bootstraps from its true last state):

    L = mean_i w_i loss(R_i + D_i V(s'_i) - q(s_i, a_i)),   V(s') = sum_a pi(a) q^-(s', a),   q^- the target network

    target q_learning       pi greedy in q^-, or, with ``double``, in q (van Hasselt et al. 2016)
           expected_sarsa   pi the exploring policy of now, from q^-
           sarsa            all of pi on one action, drawn from that policy
    distribution categorical   q = sum_k z_k p_k: cross-entropy with R + D Z(s'), projected on the atoms z (C51,
                               Bellemare et al. 2017); quantile: the quantile Huber loss (QR-DQN, Dabney et al. 2018),
                               kappa = ``huber_threshold``
    dueling     q = V + A - mean_a A (Wang et al. 2016)
    noisy       the streams' weights have learned noise (Fortunato et al. 2018)
    prioritized items in proportion to |TD error|^alpha, w_i undoes that (Schaul et al. 2016)
    n_step      R of n steps; their later actions are followed as far as ``n_step_correction`` says: cut (Watkins
                1989, tree backup where pi is not greedy), retrace (Munos et al. 2016), or none: to the end

Details: every ``target_period`` gradient steps q^- moves by ``tau`` towards q (1: a copy; period 1 and a small
rate: Polyak averaging); bootstrapping is cut by termination alone; Huber's loss, or the squared error;
Adam with eps 1e-5, the whole gradient's norm clipped; learning starts from ``learning_starts`` steps of random play;
epsilon, or Boltzmann's temperature, falls in a straight line over a fraction of the run, and evaluation is greedy with
the noise switched off; a batch shares one draw of a noisy network's noise, and each acting environment has its own;
priorities are |TD error|, or where the return is a distribution the item's loss (for C51 the KL divergence); illegal
actions are never taken, explored or bootstrapped from. Actions that tie: the first, at the greedy step of a target;
shared in exploration.

With ``memory`` it is R2D2 (Kapturowski et al. 2019): N sequences of S steps, each from the carry that acting had before
its first row; q and q^- bring it through the ``burn_in`` steps each by itself, and every later row is an item, whose n
steps end with the episode or the sequence. Priorities are 0.9 max + 0.1 mean of a sequence's errors. By choice, as
there: h(q) in the place of q (``value_rescaling``), an epsilon for each environment (``exploration_ladder``), double,
dueling, prioritized. Beyond it: truncations bootstrap, and all other switches go with memory too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman import shards
from steersman.agents.parts import config as groups
from steersman.agents.parts import training
from steersman.agents.parts.algorithms import replayed
from steersman.agents.parts.remembering import behind_memory, check_own
from steersman.agents.parts.replay import multi_step
from steersman.agents.parts.replay.sequences import Items, items_of, sequence_replay, with_memory
from steersman.agents.parts.replay.with_replay import BatchLearner, with_replay
from steersman.agents.parts.training import Trained
from steersman.agents.parts.wrappers import normalised
from steersman.agents.value_based import common, q_outputs, targets
from steersman.agents.value_based.targets import Judged
from steersman.config import Rules
from steersman.errors import UsageError
from steersman.memory import Sample, prioritized, uniform
from steersman.nets.value import QNetwork, QNetworkFactory
from steersman.theory import exploration, trees
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class DQNConfig(
    groups.ExplorationConfig,
    groups.TargetConfig,
    groups.ReplayConfig,
    groups.HuberLossConfig,
    groups.RewardScalingConfig,
    groups.ObservationNormConfig,
    groups.ReplayedMemoryConfig,
    groups.NetworkConfig,
    groups.OptimiserConfig,
    groups.RolloutConfig,
):
    """Settings of DQN. The defaults are plain DQN, for vector observations and rewards of any size."""

    unroll_length: int = 4
    """Steps of each environment between two updates (T)."""
    update_ratio: float = 0.25
    """Gradient steps per environment step; with T and num_envs it must make a whole number."""
    batch_size: int = 128
    """Items in one gradient step (N)."""
    replay_capacity: int = 100_000
    """Transitions remembered, over all environments."""
    learning_starts: int = 1_000
    """Environment steps of random play before learning."""
    n_step_correction: str = "cut"
    """How far stored actions are followed that the policy may not take now: none, cut or retrace (n_step above 1)."""
    learning_rate: float = 5e-4
    """Adam's step size at the start."""
    max_grad_norm: float | None = 10.0
    """Clip the norm of the whole gradient to this; none: as it is."""
    normalize_observations: bool = True
    """Standardise observations by running moments, saved with the policy."""
    scale_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""
    target: str = "q_learning"
    """What is bootstrapped from: q_learning, expected_sarsa or sarsa."""
    double: bool = False
    """Let the online network choose the greedy action that the target network evaluates."""
    dueling: bool = False
    """Separate streams for the value and the advantages."""
    noisy: bool = False
    """Learned noise in the streams' weights; set exploration_start and exploration_end to 0 to explore by it alone."""
    distribution: str = "none"
    """The return as a distribution: none, categorical (C51) or quantile (QR-DQN)."""
    num_atoms: int = 51
    """Atoms, or quantiles, of that distribution (K)."""
    v_min: float = -10.0
    """Lowest atom (categorical)."""
    v_max: float = 10.0
    """Highest atom (categorical)."""
    prioritized: bool = False
    """Replay in proportion to the TD error."""
    priority_exponent: float = 0.6
    """Alpha: 0 is uniform, 1 fully proportional (prioritized)."""
    priority_correction: float = 0.4
    """Beta at the start, rising to 1: how much the weights undo the bias of that (prioritized)."""
    exploration_ladder: bool = False
    """Let environment i of B explore with epsilon^(1 + 7 i / (B - 1)), some much and some hardly."""
    loss: str = "huber"
    """Of the TD error: huber or squared (distribution none)."""
    value_rescaling: bool = False
    """Learn h(q), h(x) = sign(x) (sqrt(|x| + 1) - 1) + x / 1000: for returns of many sizes (distribution none)."""
    target_period: int = 250
    """Gradient steps between two moves of the target network."""
    tau: float = 1.0
    """How far it moves: 1 copies the network, less averages it (Polyak, with target_period 1)."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers (after the convolutions, for images); the last belongs to the stream or streams."""
    activation: str = "relu"
    """Of the hidden layers: tanh, relu, elu, silu or gelu."""

    rules = Rules(
        at_least_one=("target_period",),
        fraction=("priority_exponent", "priority_correction"),
        choices={
            "target": ("q_learning", "expected_sarsa", "sarsa"),
            "distribution": ("none", "categorical", "quantile"),
            "loss": ("huber", "squared"),
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.double and self.target != "q_learning":
            raise UsageError(
                f"DQN: double chooses a greedy action, but target {self.target} takes the next one from the exploring "
                "policy. Drop double, or set target to q_learning."
            )
        if self.exploration_ladder and self.exploration != "epsilon_greedy":
            raise UsageError("DQN: exploration_ladder is of epsilons. Set exploration to epsilon_greedy, or drop it.")
        q_outputs.check(self)


class DQNState(NamedTuple):
    """What DQN learns; its replay memory stands beside it (``parts.replay.with_replay.ReplayState``)."""

    params: PyTree  # q
    target: PyTree  # q^-
    optimiser: PyTree
    updates: jax.Array  # int32, gradient steps so far
    steps: jax.Array  # uint32, environment steps learned from


def dqn(
    config: DQNConfig, spec: EnvSpec, *, budget: int | None = None, network: QNetworkFactory | None = None
) -> Agent:
    """DQN as an agent for an environment with Discrete actions, or UsageError.

    network: ``(key, spec) -> module``, the module mapping one observation to q ``[A]``, or ``[A, K]`` where the return
    is a distribution, and with ``noisy`` taking a key too; by default ``nets.value.QNetwork`` as the config describes.
    One that remembers is a ``nets.memory.remembering.Remembering``.
    """
    learner = dqn_learner(config, spec, budget=budget, network=network)
    priorities: dict[str, Any] = {"alpha": config.priority_exponent, "beta": config.priority_correction}
    priorities = priorities | {"beta_steps": budget or 0} if config.prioritized else {}
    if learner.remembers:
        buffer = sequence_replay(config, prioritized=config.prioritized, **priorities)
    else:
        common: dict[str, Any] = {"n_step": config.n_step, "gamma": config.gamma, "frame_stack": config.frame_stack}
        common["path"] = multi_step.corrects(config)
        make = prioritized if config.prioritized else uniform
        buffer = make(config.replay_capacity, config.batch_size, **common, **priorities)
    return with_replay(normalised(learner, config), buffer, ratio=config.update_ratio)


def dqn_learner(
    config: DQNConfig, spec: EnvSpec, *, budget: int | None = None, network: QNetworkFactory | None = None
) -> BatchLearner:
    """What ``dqn`` does with a batch, whatever memory it comes from."""
    adam = training.adam(max_grad_norm=config.max_grad_norm, eps=1e-5)
    retraces = multi_step.keeps(config) != ()
    output = q_outputs.of(config)
    check_own(config, network)
    options: dict[str, Any] = {"outputs": output.size, "noisy": config.noisy}
    dueling = {"dueling": config.dueling}
    own = behind_memory(config, spec, lambda spec, net, key: QNetwork(spec, **net, **dueling, **options, key=key))
    make_network = common.network_maker("DQN", spec, network, own, **options, remembers=True)

    def apply(params: PyTree, obs: PyTree, key: Key | None) -> jax.Array:
        """What the network says of a batch: [N, A], or [N, A, K]. key: one draw of noise for all, [N] one each."""
        if not config.noisy or key is None:
            return jax.vmap(params)(obs)
        return jax.vmap(params, in_axes=(0, 0 if key.ndim else None))(obs, key)

    def q_of(out: jax.Array, obs: PyTree) -> jax.Array:
        """Action values [N, A], those of illegal actions out of reach."""
        return common.legal(output.q(out), obs)

    def init(key: Key, first_rollout: Rollout) -> DQNState:
        net = training.trained(adam, make_network(key))
        began = jnp.asarray(config.learning_starts, jnp.uint32)
        return DQNState(net.params, training.copied(net.params), net.optimiser, jnp.zeros((), jnp.int32), began)

    def act(state: DQNState, carry, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
        if not explore:
            return jnp.argmax(q_of(apply(state.params, obs, None), obs), axis=-1).astype(jnp.int32), carry, {}
        keys = shards.member_keys(key, first.shape[0])
        noise = jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys) if config.noisy else None
        q = q_of(apply(state.params, obs, noise), obs)
        level = common.exploration_level(config, budget, state.steps)
        level = exploration.ladder(level, first.shape[0]) if config.exploration_ladder else level
        policy = common.explorer(config, q, obs, level)
        action = jax.vmap(lambda p, k: p.sample(k))(policy, keys)
        return action, carry, {"log_prob": policy.log_prob(action)} if retraces else {}

    def judged(state: DQNState, items: Items, keys: Key) -> Judged:
        """The target network's word on the states after a step, and the policy that is followed there."""
        _, obs_t = items.sees(state.target, items.carry)
        out = apply(state.target, obs_t, keys[2])
        q = q_of(out, obs_t)
        if config.target != "q_learning":
            policy = common.explorer(config, q, obs_t, common.exploration_level(config, budget, state.steps))
            return Judged(out, *targets.exploring(policy, config.target == "expected_sarsa", keys[0]))
        if config.double:
            _, obs_t = items.sees(state.params, items.carry)
            q = q_of(apply(state.params, obs_t, keys[1]), obs_t)
        greedy = targets.greedy(q)
        return Judged(out, greedy, greedy)

    def loss(params: PyTree, items: Items, judged: Judged, key: Key):
        """-> (the batch's loss, (priorities [N], metrics))."""
        obs, _ = items.sees(params, items.carry)
        out = apply(params, obs, key)
        each, error = output.loss(out, items.action, items.reward, items.discount, judged.out, judged.drawn)
        total = (items.weight * each).mean()
        q = trees.take(output.q(out), items.action).mean()
        priority = items.priority(error)
        return total, (priority, {"loss": total, "q": q, "priority": priority.mean()})

    def learn(state: DQNState, sample: Sample, key: Key) -> tuple[DQNState, jax.Array, Metrics]:
        keys = jax.random.split(key, 4)
        items, agreement = items_of(config, sample), {}
        bootstrap = judged(state, items, keys)
        if items.steps is not None:
            items, bootstrap, agreement = targets.corrected(config, output, items, bootstrap)
        rate = training.annealed(config, budget, state.steps)
        net, (priority, metrics), norm = training.descend(
            adam, loss, Trained(state.params, state.optimiser), rate, items, bootstrap, keys[3]
        )
        updates = state.updates + 1
        moved = lambda target: trees.polyak(target, net.params, config.tau)
        due = updates % config.target_period == 0
        every = config.target_period == 1
        target = moved(state.target) if every else jax.lax.cond(due, moved, lambda old: old, state.target)
        level = common.exploration_level(config, budget, state.steps)
        metrics |= agreement | {"exploration": level, "grad_norm": norm, "learning_rate": rate}
        return DQNState(net.params, target, net.optimiser, updates, state.steps), priority, metrics

    def observe(state: DQNState, rollout: Rollout) -> DQNState:
        return state._replace(steps=training.counted(state.steps, rollout))

    learner = BatchLearner(init, lambda num_envs: (), act, learn, observe, multi_step.keeps(config))
    return with_memory(learner, make_network, lambda state: state.params)


ALGORITHM = replayed(
    "dqn",
    DQNConfig,
    dqn,
    "deep Q-learning, all of Rainbow as switches, R2D2 with memory: discrete actions, replay",
    {"unroll_length": 16, "update_ratio": 1 / 16, "batch_size": 32},
)
