"""What a model is worth, measured on episodes that it has not learned from: arrays, no pictures.

Axes: ``N`` rows, ``S`` windows of ``H`` consecutive steps of one episode, ``E`` members, ``P`` draws of each, ``D + 1``
entries: those of the flat observation, and last the reward.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax.flatten_util import ravel_pytree

from steersman.errors import UsageError
from steersman.models.model import Data, Model
from steersman.models.temporal import ends
from steersman.nets.encoders import Encoder
from steersman.types import Array, Key, PyTree, Rollout

NOMINAL = np.linspace(0.05, 0.95, 19)  # of central intervals
BINS = 20  # of the histogram of PITs


class Windows(NamedTuple):
    """Stretches of episodes: where they begin, what was done, and what came."""

    start: PyTree  # observations [S, ...]
    action: PyTree  # [S, H, ...]
    first: np.ndarray  # float32 [S, D + 1]: the first observation, and a reward of 0
    came: np.ndarray  # float32 [S, H, D + 1]
    row: np.ndarray  # int [S], where in the data


class OneStep(NamedTuple):
    """Predictions of each row's successor and reward."""

    mean: np.ndarray  # [E, N, D + 1]
    std: np.ndarray  # [E, N, D + 1]
    terminates: np.ndarray  # [N], the members' mean probability
    came: np.ndarray  # [N, D + 1]
    ended: np.ndarray  # bool [N]


class Quality(NamedTuple):
    """What is found of a model. Errors over a horizon are root mean squares over the observation's entries, each in its
    standard deviations over these episodes; those of one step are in ``Model.scale``."""

    unit: np.ndarray  # [D + 1], standard deviations over these episodes; 1 where constant
    varies: np.ndarray  # bool [D + 1], whether an entry did in what was learned from; what does not is not averaged
    windows: Windows
    drawn: np.ndarray  # [E, P, S, H, D + 1], open loop
    error: np.ndarray  # [S, H], of the mean of all draws
    persistence: np.ndarray  # [S, H], of the state that stays as it is
    linear: np.ndarray  # [S, H], of the linear model that fits these very episodes best
    one_step: OneStep
    pit: np.ndarray  # [N, D + 1], uniform where the distribution is right
    coverage: np.ndarray  # [19, D + 1], of central intervals of the ``NOMINAL`` probabilities
    disagreement: np.ndarray  # [N], of the members' means, root mean square over the entries
    surprise: np.ndarray  # [N], the error of their mean, likewise
    rank_correlation: float  # Spearman's, of the two
    nrmse: np.ndarray  # [D + 1], of one step
    reward_r2: float


def windows(rows: Rollout, data: Data, horizon: int, count: int) -> Windows:
    """``count`` stretches of ``horizon`` steps, or as many as there are, spread evenly; each within one episode.

    rows: of ``data``, numpy. Raises UsageError for a horizon below 1 or past every episode.
    """
    last = np.asarray(ends(data))
    index = np.arange(len(last))
    longest = int((last - index + 1)[np.asarray(data.valid)].max(initial=0))
    if not 1 <= horizon <= longest:
        raise UsageError(
            f"horizon = {horizon}; the longest episode that was played has {longest} steps. Give 1 to that."
        )
    begins = index[np.asarray(data.valid) & (last - index + 1 >= horizon)]
    row = begins[np.unique(np.linspace(0, len(begins) - 1, count).round().astype(int))]
    steps = row[:, None] + np.arange(horizon)[None]
    at = lambda tree, where: jax.tree.map(lambda x: np.asarray(x)[where], tree)
    start = at(rows.obs, row)
    first = np.append(flat(start, 1), np.zeros((len(row), 1), np.float32), axis=1)
    came = np.append(flat(at(rows.next_obs, steps), 2), np.asarray(rows.reward)[steps][..., None], axis=-1)
    return Windows(start, at(rows.action, steps), first, came, row)


def flat(obs: PyTree, leading: int) -> np.ndarray:
    """Observations with so many leading axes as vectors, in the order of their tree: [..., D]."""
    leaves = [np.asarray(x, np.float32) for x in jax.tree.leaves(obs)]
    return np.concatenate([x.reshape(*x.shape[:leading], -1) for x in leaves], axis=-1)


def imagined(model: Model, state: PyTree, start: PyTree, action: PyTree, key: Key, particles: int) -> jax.Array:
    """Open loop: from observations [S, ...] by recorded actions [S, H, ...], each member in ``particles`` draws;
    -> [E, P, S, H, D + 1]."""

    def one(member: PyTree, obs: PyTree, actions: PyTree, key: Key) -> jax.Array:
        def step(at: PyTree, now: tuple[PyTree, Key]):
            at, seen = model.step(member, at, *now)
            return at, jnp.append(ravel_pytree(seen.obs)[0], seen.reward)

        begin, go = jax.random.split(key)
        length = jax.tree.leaves(actions)[0].shape[0]
        return jax.lax.scan(step, model.start(member, obs, begin), (actions, jax.random.split(go, length)))[1]

    count = jax.tree.leaves(start)[0].shape[0]
    many = jax.vmap(jax.vmap(one, (None, 0, 0, 0)), (None, None, None, 0))  # over windows, over draws
    return jax.vmap(many, (0, None, None, None))(
        model.members(state), start, action, jax.random.split(key, (particles, count))
    )


def one_step(model: Model, state: PyTree, rows: Rollout, key: Key) -> tuple[Array, Array, Array]:
    """-> (means [E, N, D + 1], standard deviations, the logits of termination [E, N])"""

    def one(member: PyTree, obs: PyTree, action: PyTree, key: Key):
        begin, go = jax.random.split(key)
        said = model.step(member, model.start(member, obs, begin), action, go)[1]
        return said.mean, said.std, said.terminated_logit

    each = jax.vmap(jax.vmap(one, (None, 0, 0, 0)), (0, None, None, None))
    return each(model.members(state), rows.obs, rows.action, jax.random.split(key, rows.reward.shape[0]))


def linear_rollouts(rows: Rollout, space: spaces.Space, found: Windows) -> np.ndarray:
    """[S, H, D]: what s' = s + A s + B a + c says over the windows, A, B and c by least squares over ``rows``."""
    act = jax.vmap(Encoder(space, "flatten", key=jax.random.key(0)))
    x, u = flat(rows.obs, 1), np.asarray(act(rows.action))
    inputs = np.concatenate([x, u, np.ones((len(x), 1), np.float32)], axis=1)
    weights = np.linalg.lstsq(inputs, flat(rows.next_obs, 1) - x, rcond=None)[0]
    actions = np.asarray(jax.vmap(act)(found.action))
    at, path = found.first[:, :-1], []
    for t in range(actions.shape[1]):
        now = np.concatenate([at, actions[:, t], np.ones((len(at), 1), np.float32)], axis=1)
        at = np.clip(at + now @ weights, -1e6, 1e6)
        path.append(at)
    return np.stack(path, axis=1)


def quality(
    model: Model,
    state: PyTree,
    data: Data,
    space: spaces.Space,
    *,
    horizon: int = 50,
    count: int = 100,
    particles: int = 4,
    key: Key,
) -> Quality:
    """How good ``model`` with the learned ``state`` is on ``data``, of an environment with that action space.

    count: windows; particles: draws of each member. Raises UsageError as ``windows`` does.
    """
    rows: Rollout = jax.tree.map(np.asarray, data.rows)
    found = windows(rows, data, horizon, count)
    roll_key, step_key = jax.random.split(key)
    roll = jax.jit(partial(imagined, model, particles=particles))
    drawn = np.asarray(roll(state, found.start, found.action, roll_key))
    valid = np.asarray(data.valid)
    rows = jax.tree.map(lambda x: x[valid], rows)
    came = np.append(flat(rows.next_obs, 1), np.asarray(rows.reward)[:, None], axis=1)
    unit = came.std(0)
    unit = np.where(unit > 1e-6, unit, 1.0)
    rms = lambda path: np.sqrt(np.square((path - found.came[..., :-1]) / unit[:-1]).mean(-1))  # [S, H]
    mean, std, logit = map(np.asarray, jax.jit(partial(one_step, model))(state, rows, step_key))
    scale = np.broadcast_to(np.asarray(model.scale(state)), came.shape[1:])
    varies, scale = scale > 0, np.where(scale > 0, scale, 1.0)
    rates = pit(mean, std, came)
    error = (mean.mean(0) - came) / scale
    spread = mean.std(0) / scale
    nrmse = np.sqrt(np.square(error).mean(0))
    over = lambda x: np.sqrt(np.square(x[:, varies]).mean(1)) if varies.any() else np.zeros(len(x))
    return Quality(
        unit=unit,
        varies=varies,
        windows=found,
        drawn=drawn,
        error=rms(drawn.mean((0, 1))[..., :-1]),
        persistence=rms(np.broadcast_to(found.first[:, None, :-1], found.came[..., :-1].shape)),
        linear=rms(linear_rollouts(rows, space, found)),
        one_step=OneStep(mean, std, (0.5 + 0.5 * np.tanh(0.5 * logit)).mean(0), came, np.asarray(rows.terminated)),
        pit=rates,
        coverage=np.stack([(np.abs(2 * rates - 1) <= q).mean(0) for q in NOMINAL]),
        disagreement=over(spread),
        surprise=over(error),
        rank_correlation=spearman(over(spread), over(error)),
        nrmse=nrmse,
        reward_r2=r2(mean.mean(0)[:, -1], came[:, -1]),
    )


def pit(mean: Array, std: Array, came: Array) -> np.ndarray:
    """What share of the members' mixed distribution lies below what came: (1/E) sum_k Phi((y - m_k) / s_k).

    mean, std [E, N, D], came [N, D] -> [N, D]. Over many rows it is uniform where the distributions are right: the
    probability integral transform (Dawid 1984). A member without a spread counts as a step.

    >>> pit(np.zeros((1, 3, 1)), np.ones((1, 3, 1)), np.array([[-50.0], [0.0], [50.0]])).reshape(-1).tolist()
    [0.0, 0.5, 1.0]
    """
    from scipy.special import ndtr

    spread = np.maximum(np.asarray(std, np.float64), 1e-9)
    return ndtr((np.asarray(came)[None] - np.asarray(mean)) / spread).mean(0)


def spearman(x: Array, y: Array) -> float:
    """Spearman's rank correlation of two samples [N]; NaN where one is constant.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 8.0, 27.0]))
    1.0
    """
    from scipy.stats import rankdata

    a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (np.asarray(x), np.asarray(y)))
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return round(float(a @ b) / spread, 12) if spread > 0 else float("nan")


def r2(predicted: Array, came: Array) -> float:
    """1 - sum (y - m)^2 / sum (y - mean y)^2; NaN where what came is constant."""
    y, m = np.asarray(came, np.float64), np.asarray(predicted, np.float64)
    spread = np.square(y - y.mean()).sum()
    return float(1 - np.square(y - m).sum() / spread) if spread > 1e-12 * len(y) else float("nan")
