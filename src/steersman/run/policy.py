"""A trained policy as a plain function: numpy observation in, numpy action out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Dict

from steersman import spaces
from steersman.agents.parts.observation_groups import as_deployed
from steersman.agents.parts.replay.with_replay import ReplayState
from steersman.envs.host.contract import Misfit, leaves_of, read
from steersman.envs.host.timesteps import unflatten
from steersman.errors import UsageError
from steersman.memory import nbytes
from steersman.run import plugins
from steersman.run.disk import checkpoint, compile_cache, files, run_folder
from steersman.run.disk.spec_json import spec_from_json, transitions_like
from steersman.run.settings import RunConfig, reopened, split
from steersman.types import Agent, Algorithm, EnvSpec, PyTree, Rollout


class Policy:
    """Sees and acts in the environment's own units. The normalisers that it was trained with are part of it.

    ``policy(obs)`` takes one observation or a batch of them and returns one action or a batch, the most likely one
    (``explore=True`` samples). Of a Dict it asks for what the policy sees, and looks past the rest. One with memory
    keeps its ``carry`` from call to call: ``reset()`` before each episode, or ``reset([2, 5])`` where these members of
    a batch begin one.
    """

    def __init__(self, agent: Agent, state: PyTree, spec: EnvSpec, *, seed: int = 0):
        self.agent, self.state, self.spec = agent, state, spec
        self._key = jax.random.key(seed)
        self._step = 0
        self._carry: PyTree = None
        self._first: np.ndarray | None = None  # which members begin an episode; None: all, however many come
        self._native = spec.native_observation_space or spec.observation_space
        self._leaves = leaves_of(self._native, spec.observation_space)
        self._is_vector = not self._leaves[0].path and np.dtype(self._leaves[0].dtype) == np.float32
        self._to_native = spaces.native_map(spec.native_action_space)

    @property
    def state(self) -> PyTree:
        """What the agent has learned."""
        return self._state

    @state.setter
    def state(self, state: PyTree) -> None:
        self._state = state
        self._programs: dict[bool, Callable[..., tuple[PyTree, PyTree]]] = {}

    def __repr__(self) -> str:
        sees, does = self.spec.native_observation_space or self.spec.observation_space, self.spec.native_action_space
        return f"Policy({self.spec.id}: {sees} -> {does})"

    def reset(self, members: int | Sequence[int] | None = None) -> None:
        """Forget the episode so far, of these members of the batch; None: of all, and the next batch may be of any
        size. Raises UsageError for members that the last batch did not have."""
        if members is None:
            self._first = None
            return
        chosen = np.atleast_1d(np.asarray(members, np.int64))
        if self._first is None or not ((chosen >= 0) & (chosen < len(self._first))).all():
            had = (
                "nothing is remembered yet" if self._first is None else f"the last batch had {len(self._first)} members"
            )
            raise UsageError(f"reset({members!r}): {had}. Give indices of members, or nothing for all of them.")
        self._first[chosen] = True

    @property
    def carry(self) -> PyTree:
        """The memory after the last call, numpy with a leading axis of members; () of a policy without memory, None
        after ``reset()``. It can be set to such a tree: the next call goes on from there."""
        return None if self._first is None else jax.tree.map(np.asarray, self._carry)

    @carry.setter
    def carry(self, carry: PyTree) -> None:
        sizes = {np.shape(x)[:1] for x in jax.tree.leaves(carry)}
        num = next(iter(sizes))[0] if len(sizes) == 1 and () not in sizes else 1
        like = jax.tree.map(lambda x: (x.shape, x.dtype), jax.eval_shape(lambda: self.agent.begin(num)))
        given = jax.tree.map(lambda x: (np.shape(x), np.asarray(x).dtype), carry)
        if given != like:
            raise UsageError(f"A carry of {self.spec.id} looks like {like}, for {num} members; given is {given}.")
        self._carry, self._first = jax.tree.map(np.asarray, carry), np.zeros(num, bool)

    def before(self, num: int) -> tuple[PyTree, np.ndarray]:
        """-> (the memory that the next call acts with, which of its ``num`` members begin an episode)"""
        if self._first is None:
            return self.agent.begin(num), np.ones(num, bool)
        if len(self._first) != num and jax.tree.leaves(self._carry):
            raise UsageError(
                f"The policy remembers {len(self._first)} members and was given {num} observations. Call reset() where "
                "a batch of another size begins."
            )
        return self._carry, self._first if len(self._first) == num else np.zeros(num, bool)

    def __call__(self, obs: PyTree, *, explore: bool = False) -> Any:
        """The action for ``obs``; raises UsageError for one that training would not take either: a wrong structure or
        shape, floats for bytes or counts, counts out of range, a value that is not finite."""
        batch, single = self._batched(obs)
        num = jax.tree.leaves(batch)[0].shape[0]
        carry, first = self.before(num)
        if explore not in self._programs:
            self._programs[explore] = self._program(carry, batch, first, explore)
        action, self._carry = self._programs[explore](carry, batch, first, np.int32(self._step))
        self._first = np.zeros(num, bool)
        self._step += 1
        if isinstance(action, jax.Array):
            native = self._to_native(np.asarray(action))
            return native[0] if single else native
        native = self._to_native(jax.tree.map(np.asarray, action))
        return jax.tree.map(lambda x: x[0], native) if single else native

    def _program(self, carry: PyTree, obs: PyTree, first: np.ndarray, explore: bool) -> Callable[..., Any]:
        """``act``, handed no more than it looks at: an optimiser's moments are many arrays, and to pass them on takes
        longer than a small network does."""
        values, tree = jax.tree.flatten((self.state, self._key, np.int32(0)))

        def act(values: list[Any], first: Any, carry: PyTree, obs: PyTree) -> tuple[PyTree, PyTree]:
            state, key, step = tree.unflatten(values)
            return self.agent.act(state, carry, obs, first, jax.random.fold_in(key, step), explore=explore)[:2]

        used = _inputs_used(jax.make_jaxpr(act)(values, first, carry, obs))
        *known, at_step, at_first = range(len(values) + 1)
        known = [i for i in known if used[i]]

        @jax.jit
        def program(given: list[Any], step: Any, first: Any, carry: PyTree, obs: PyTree) -> tuple[PyTree, PyTree]:
            whole = [*values[:-1], values[-1] if step is None else step]
            for i, x in zip(known, given, strict=True):
                whole[i] = x
            anyone = jnp.zeros(jax.tree.leaves(obs)[0].shape[:1], bool)
            return act(whole, anyone if first is None else first, carry, obs)

        given = [jnp.asarray(values[i]) for i in known]
        return lambda carry, obs, first, step: program(
            given, step if used[at_step] else None, first if used[at_first] else None, carry, obs
        )

    def _batched(self, obs: PyTree) -> tuple[PyTree, bool]:
        """The observation in its inside form, with a leading axis, and whether it was one; by the rules of training."""
        native, leaves, unseen = self._native, self._leaves, self.spec.unseen
        if unseen and isinstance(obs, Mapping):
            obs = {name: part for name, part in obs.items() if name not in unseen} or obs  # to say what came
        as_is = self._is_vector and type(obs) is np.ndarray and obs.dtype == np.float32 and obs.shape == leaves[0].shape
        if as_is and np.count_nonzero(np.isfinite(obs)) == obs.size:  # all that is asked below, at a glance
            return obs[None].copy(), True
        try:
            values = read(obs, leaves, None)
        except Misfit as misfit:
            raise UsageError(
                f"The policy was given {misfit.came}; the observation_space of {self.spec.id} {misfit.says}. It takes "
                f"one observation of {native}, or a batch of them with one leading axis."
            ) from None
        single = values[0].shape == leaves[0].shape
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity
            inside = spaces.to_inside(native, unflatten(native)([x[None] if single else x for x in values]))
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(inside)):
            raise UsageError("The observation holds NaN or infinity, in float32; a policy cannot act on it.")
        return inside, single


def _inputs_used(closed: Any) -> list[bool]:
    """Which inputs of a traced function an output depends on, as far as its outermost equations tell."""
    live = set(map(id, closed.jaxpr.outvars))
    for eqn in reversed(closed.jaxpr.eqns):
        if any(id(v) in live for v in eqn.outvars):
            live.update(map(id, eqn.invars))
    return [id(v) in live for v in closed.jaxpr.invars]


def policy_of(agent: Agent, config: Any, state: PyTree, spec: EnvSpec) -> Policy:
    """What an agent of these settings has learned on an environment, as it acts where only its group is seen."""
    agent, spec = as_deployed(agent, config, spec)
    return Policy(agent, state, spec)


def check_same_spaces(policy: EnvSpec, environment: EnvSpec) -> None:
    """Raise UsageError unless a policy trained on one environment fits another, whose sensors may be less noisy and
    which may lack what is unseen."""
    for what in ("observation_space", "native_action_space"):
        ours, theirs = getattr(policy, what), getattr(environment, what)
        if policy.unseen and what == "observation_space" and isinstance(theirs, Dict):
            theirs = Dict({name: part for name, part in theirs.spaces.items() if name not in policy.unseen})
        if not spaces.alike(ours, theirs):
            raise UsageError(
                f"The policy was trained on {policy.id}, whose {what.removeprefix('native_')} is {ours}; "
                f"{environment.id} has {theirs}."
            )


def state_bytes(agent: Agent, spec: EnvSpec, length: int, num_envs: int) -> int:
    """Bytes of the state that ``agent.init`` will make; nothing is allocated."""
    return nbytes(state_like(agent, spec, length, num_envs))


def state_like(agent: Agent, spec: EnvSpec, length: int, num_envs: int) -> PyTree:
    """Shapes and dtypes of the state that ``agent.init`` makes of a rollout [length, num_envs, ...]."""

    def state(rollout: Rollout) -> PyTree:
        return agent.init(jax.random.key(0), rollout._replace(carry=agent.begin(num_envs)))

    return jax.eval_shape(state, transitions_like(spec, (length, num_envs)))


def load(
    run: str | Path,
    *,
    best: bool = False,
    checkpoint_path: str | Path | None = None,
    seed_index: int = 0,
    algorithm: str | Algorithm | None = None,
    network: Any = None,
) -> Policy:
    """The policy of a finished, stopped or running run, from its newest whole checkpoint; numpy in, numpy out.

    best: the one with the highest mean return in an evaluation on the way, instead. seed_index: which of a run's
    several seeds. algorithm, network: the user's own again, where the run was trained by
    such a one: the object, or its name ``package.module:NAME``.
    Nothing of the environment is needed or imported. Raises UsageError where the folder is not a run or is damaged.

    >>> policy = load("runs/cartpole")  # doctest: +SKIP
    >>> policy(np.zeros(4))  # doctest: +SKIP
    1
    """
    given: Any = {"algorithm": algorithm, "network": network}
    return load_seeds(run, [seed_index], best=best, checkpoint_path=checkpoint_path, **given)[0]


def load_seeds(
    run: str | Path,
    chosen: Sequence[int] | None = None,
    *,
    best: bool = False,
    checkpoint_path: str | Path | None = None,
    algorithm: str | Algorithm | None = None,
    network: Any = None,
) -> list[Policy]:
    """``load`` for several of a run's seeds, all by default: the checkpoint is read once."""
    compile_cache.enable()
    opened = run_folder.open_run(run)
    entry = plugins.algorithm_of(opened.config, algorithm, run)
    network = plugins.network_of(opened.config, network, run)
    run_config, config = split(entry, reopened(entry, opened.config))
    chosen = range(run_config.seeds) if chosen is None else chosen
    for index in chosen:
        if not 0 <= index < run_config.seeds:
            raise UsageError(f"{run} has {run_config.seeds} seed(s), counted from 0; there is no number {index}.")
    spec = spec_from_json(opened.config["spec"])
    agent = plugins.make_agent(entry, config, spec, run_config.budget, network)
    like = saved_agent(agent, spec, run_config)
    read = partial(checkpoint.read, like=like)
    if checkpoint_path is None:
        newest = checkpoint.latest(opened.best if best else opened.checkpoints, read)
    else:
        newest = checkpoint.Latest(Path(checkpoint_path), "", read(checkpoint_path))
    run_folder.warn(newest.note)
    if newest.path is None and best:
        raise UsageError(
            f"{run} keeps no best policy: there is none before the first evaluation on the way (--evaluate-every "
            "STEPS). Leave best out for the newest policy."
        )
    if newest.path is None:
        by = files.holder(run)
        raise UsageError(
            f"{run} holds no checkpoint yet: it is running ({by}) and has not come to its first. Wait for that."
            if by is not None
            else f"{run} holds no checkpoint yet: it was stopped before the first. Go on with it: "
            f"{run_folder.to_resume(opened)}"
        )
    states = agent_states(newest.content, like, run_config.seeds)
    return [policy_of(agent, config, states(index), spec) for index in chosen]


def saved_agent(agent: Agent, spec: EnvSpec, run: RunConfig) -> PyTree:
    """How the agent's state looks in a checkpoint of the run, without the replay memory: no policy acts on that."""
    state = state_like(agent, spec, 1, run.num_envs)
    is_replay = lambda part: isinstance(part, ReplayState)
    state = jax.tree.map(lambda part: part._replace(memory=()) if is_replay(part) else part, state, is_leaf=is_replay)
    rows = (run.seeds,) if run.seeds > 1 else ()
    return {"agent": jax.tree.map(lambda x: jax.ShapeDtypeStruct((*rows, *x.shape), x.dtype), state)}


def agent_states(saved: checkpoint.Saved, like: PyTree, seeds: int) -> Callable[[int], PyTree]:
    """Each seed's agent state, by its index, out of a checkpoint of the whole run. like: as from ``saved_agent``."""
    rows = saved.header.get("rows", 0)
    if not isinstance(rows, int) or max(rows, 1) != seeds:
        raise UsageError(f"{saved.path} does not hold {seeds} seed(s); its config.json says it does. Restore that.")
    state = saved.state(like, partial=True)["agent"]
    return lambda index: jax.tree.map(lambda x: x[index], state) if rows else state
