"""A network of the user's own, looked at when an agent is made: tried on one observation, in shapes alone.

What is wrong is said in words, before anything is compiled: the factory, what it gives, and what that gives.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.errors import UsageError, raised_at
from steersman.nets.memory.remembering import Remembering
from steersman.spaces import abstract
from steersman.types import Array, EnvSpec, Key, PyTree

DISTRIBUTION = ("sample", "log_prob", "entropy", "mode")
Wrong = Callable[[Any, PyTree, Key], str]  # (the network, one observation, a key) -> what is wrong; empty: nothing


class Learned(eqx.Module):
    """A module with its arrays, which are learned, apart from its other leaves: functions, plain numbers."""

    arrays: PyTree
    rest: PyTree = eqx.field(static=True)

    def __call__(self, *args: Any) -> Any:
        return eqx.combine(self.arrays, self.rest)(*args)


class LearnedMemory(Learned, Remembering):
    """``Learned``, of a module that remembers."""

    @property
    def whole(self) -> Any:
        return eqx.combine(self.arrays, self.rest)

    def begin(self) -> PyTree:
        return self.whole.begin()

    def step(self, carry: PyTree, obs: PyTree) -> tuple[PyTree, PyTree]:
        return self.whole.step(carry, obs)

    def acted(self, carry: PyTree, action: PyTree) -> PyTree:
        return self.whole.acted(carry, action)

    def sequence(self, carry: PyTree, obs: PyTree, first: jax.Array, action: PyTree) -> tuple[PyTree, PyTree]:
        return self.whole.sequence(carry, obs, first, action)


def own_network(
    algorithm: str, spec: EnvSpec, network: Any, form: str, wrong: Wrong, *, remembers: bool = False
) -> Callable[[Key], PyTree]:
    """-> key -> what the user's factory gives for ``spec``, fit to be trained.

    form: of the module, for messages: "obs -> (distribution, value)". remembers: whether it may be a ``Remembering``.
    Raises UsageError where ``network`` is no factory ``(key, spec) -> module``, where it or the module fails, and where
    ``wrong`` says so.
    """
    told = partial(_told, algorithm, form)
    _check_factory(network, told)
    held: list[tuple[Any, Any]] = []  # of the first module: a function that is defined anew with each is the same one

    def fit(module: Any) -> Any:
        is_array = lambda leaf: isinstance(leaf, Array)
        if all(map(is_array, jax.tree.leaves(module))):
            return module
        arrays, rest = eqx.partition(module, is_array)
        shape = jax.tree.structure(arrays)
        if held and held[0][0] == shape:
            rest = held[0][1]
        held[:] = [(shape, rest)]
        return (LearnedMemory if isinstance(module, Remembering) else Learned)(arrays, rest)

    def make(key: Key) -> PyTree:
        made = network(key, spec)
        return tuple(map(fit, made)) if type(made) is tuple else fit(made)

    trying = "when it was made"

    def door(key: Key, obs: PyTree) -> tuple[()]:
        nonlocal trying
        module = make(key)
        trying = f"on one observation of shape {jax.tree.map(lambda x: x.shape, obs)}"
        if isinstance(module, Remembering):
            if not remembers:
                raise told(f"{describe(module)} remembers, and {algorithm} learns from single steps, in any order")
            obs, problem = memory(module, obs, spec)
            if problem:
                raise told(problem)
        if problem := wrong(module, obs, key):
            raise told(problem)
        return ()

    try:
        jax.eval_shape(door, jax.random.key(0), abstract(spec.observation_space))
    except UsageError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise told(f"it failed {trying}: {type(error).__name__}: {said}{raised_at(error)}") from error
    return make


def _told(algorithm: str, form: str, problem: str) -> UsageError:
    return UsageError(
        f"{algorithm} cannot train your network: {problem.rstrip('.')}. Give a function (key, spec) -> module, "
        f"where the module is {form}."
    )


def _check_factory(network: Any, told: Callable[[str], UsageError]) -> None:
    if not callable(network):
        raise told(f"it is {describe(network)}")
    name = getattr(network, "__qualname__", type(network).__name__)
    try:
        inspect.signature(network).bind(None, None)
    except TypeError as error:
        if isinstance(network, eqx.Module):
            raise told(
                f"it is {describe(network)} that is made already, not what makes one. Write lambda key, spec: "
                f"{name}(..., key=key)"
            ) from None
        name = "" if "<lambda>" in name else name.rpartition("<locals>.")[2]
        call = f"lambda key, spec: {name}(...)" if name else "lambda key, spec: MODULE"
        raise told(f"{name or 'it'} cannot be called with (key, spec): {error}. Write {call}") from None
    except ValueError:  # some callables of extensions have no signature to look at
        pass


def describe(thing: Any) -> str:
    """What something is, for a message.

    >>> describe((1, 2)), describe(jnp.zeros(3))
    ('a tuple of 2', 'an array of shape (3,)')
    """
    if isinstance(thing, Array):
        return f"an array of shape {thing.shape}"
    if type(thing) in (tuple, list):
        return f"a {type(thing).__name__} of {len(thing)}"
    if thing is None:
        return "None"
    name = type(thing.rest if isinstance(thing, Learned) else thing).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def called(module: Any, *args: Any) -> tuple[Any, str]:
    """-> (what a module gives, what is wrong with its being one)"""
    if not callable(module):
        return None, f"the function gives {describe(module)}, which cannot be called"
    return module(*args), ""


def memory(module: Remembering, obs: PyTree, spec: EnvSpec) -> tuple[PyTree, str]:
    """-> (what a module that remembers sees in one observation, what is wrong with its memory)"""
    carry = module.begin()
    leaves = jax.tree.leaves(carry)
    if not leaves:
        return None, "its begin() gives a carry without arrays, and so it remembers nothing"
    for leaf in leaves:
        if not (isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jnp.floating)):
            what = leaf.dtype if isinstance(leaf, Array) else describe(leaf)
            return None, f"its carry holds {what}; all of it must be arrays of floating numbers"
    given = module.step(carry, obs)
    if problem := pair(given, "its step", "(carry, seen)"):
        return None, problem
    action = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract(spec.action_space))
    form = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)
    for after, name in ((given[0], "step"), (module.acted(given[0], action), "acted")):
        if jax.tree.structure(after) != jax.tree.structure(carry) or form(after) != form(carry):
            return None, f"its {name} gives a carry of {form(after)}; begin() gives {form(carry)}, and it must stay so"
    return given[1], ""


def pair(thing: Any, what: str, names: str) -> str:
    """What is wrong with something that is to be a pair."""
    fits = isinstance(thing, tuple) and len(thing) == 2 and not set(DISTRIBUTION) <= set(dir(thing))
    return "" if fits else f"{what} gives {describe(thing)}, not a pair {names}"


def actor_critic(
    methods: tuple[str, ...], heads: tuple[int, ...], spec: EnvSpec, module: Any, obs: PyTree, key: Key
) -> str:
    """``Wrong`` of obs -> (distribution, value); heads: the value's shape."""
    out, problem = called(module, obs)
    if problem or (problem := pair(out, "it", "(distribution, value)")):
        return problem
    value = "its value, of the reward and of each cost," if heads else "its value"
    return distribution(out[0], spec, key, methods) or numbers(out[1], heads, value)


def policy(spec: EnvSpec, module: Any, obs: PyTree, key: Key) -> str:
    """``Wrong`` of obs -> distribution."""
    out, problem = called(module, obs)
    return problem or distribution(out, spec, key)


def numbers(given: Any, shape: tuple[int, ...], what: str) -> str:
    """What is wrong with an output that is to be floating numbers of a shape."""
    if not isinstance(given, Array):
        return f"{what} is {describe(given)}, not an array"
    if given.shape != shape:
        hint = ", one number: take its entry [0]" if given.shape == (1,) and shape == () else ""
        return f"{what} has shape {given.shape}; it must be {shape}{hint}"
    return "" if jnp.issubdtype(given.dtype, jnp.floating) else f"{what} is of {given.dtype}; it must be floating"


def distribution(given: Any, spec: EnvSpec, key: Key, methods: tuple[str, ...] = DISTRIBUTION) -> str:
    """What is wrong with an output that is to be a distribution over the action space."""
    lacks = [name for name in methods if not callable(getattr(given, name, None))]
    if lacks:
        return (
            f"its policy is {describe(given)}, which has no {lacks[0]}: a distribution is wanted, as "
            "steersman.theory.distributions has them"
        )
    space = spec.action_space
    logits = getattr(given, "logits", None)
    if isinstance(space, spaces.Discrete) and isinstance(logits, Array) and logits.shape != (int(space.n),):
        return f"its policy has logits of shape {logits.shape}; {spec.id} has {space.n} actions, so ({space.n},)"
    action = given.mode()
    if isinstance(space, spaces.Box):
        size, shape = math.prod(space.shape), jnp.shape(action)
        if math.prod(shape) != size:
            return f"its policy's actions have shape {shape}; those of {spec.id} have {space.shape}, {size} numbers"
    else:
        shapes = jax.tree.map(jnp.shape, action), jax.tree.map(lambda x: x.shape, abstract(space))
        if shapes[0] != shapes[1]:
            return f"its policy's actions have shape {shapes[0]}; those of {spec.id} have {shapes[1]}"
    if "log_prob" in methods:
        return numbers(given.log_prob(given.sample(key)), (), "log_prob of one action")
    return ""
