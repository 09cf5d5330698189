"""Algorithms and networks of the user's own, by name or as objects; what is wrong with one is said by name.

- an ``Algorithm`` itself, or ``package.module:ALGORITHM``, which is imported;
- a name that an installed package gives under the entry-point group ``steersman.algorithms``.

A run folder alone never causes an import: what is foreign is named again to resume, load or evaluate its run.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from steersman import agents
from steersman.envs.importing import load_object, offer
from steersman.errors import UsageError
from steersman.run.settings import annotation
from steersman.types import Agent, Algorithm, EnvSpec

GROUP = "steersman.algorithms"
# What a field of a config may be annotated as, or | None.
SETTINGS = ("int", "float", "bool", "str", "tuple[int, ...]", "tuple[float, ...]", "tuple[str, ...]")


def installed() -> dict[str, str]:
    """Names of algorithms that installed packages bring -> where each is; nothing is imported."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}


def algorithm(given: str | Algorithm) -> Algorithm:
    """One of our algorithms by its name, or somebody else's, checked; UsageError says what is wrong with it."""
    if isinstance(given, str):
        if given in agents.ALGORITHMS:
            return agents.ALGORITHMS[given]
        if ":" in given:
            return _checked(load_object(given, "the algorithm"), given)
        points = installed()
        if given not in points:
            if near := offer(given):
                raise UsageError(f"There is no algorithm {given!r}. {near}")
            return agents.algorithm(given, *points)
        found = _checked(load_object(points[given], "the algorithm"), points[given])
        if found.name != given:
            raise UsageError(f"The installed algorithm {given!r} ({points[given]}) calls itself {found.name!r}.")
        return found
    if isinstance(given, Algorithm) and given.name in agents.ALGORITHMS and given == agents.ALGORITHMS[given.name]:
        return given
    return _checked(given, getattr(given, "name", repr(given)))


def origins(entry: Algorithm, named: str | Algorithm, network: Any) -> dict[str, Any]:
    """What ``config.json`` says of the user's own: how each was named, or True for an object."""
    foreign = {} if entry.name in agents.ALGORITHMS else {"foreign": named if isinstance(named, str) else True}
    return foreign | ({} if network is None else {"network": network if isinstance(network, str) else True})


def check_plays(config: Mapping[str, Any], run: Any) -> None:
    """Raises UsageError for the run of a language model."""
    if "language" in config["spec"]:
        raise UsageError(f"{run} is of a language model, which plays nowhere: steersman align generate|evaluate {run}")


def algorithm_of(config: Mapping[str, Any], given: str | Algorithm | None, run: Any) -> Algorithm:
    """The algorithm of a saved run, by its ``config.json``: ours, or the user's own, which is to be ``given`` again."""
    name, foreign = config["algorithm"], config["run"].get("foreign")
    check_plays(config, run)
    if given is None and foreign:
        named = foreign if isinstance(foreign, str) else "package.module:ALGORITHM"
        raise UsageError(
            f"{run} was trained by an algorithm of your own, {name}. A run folder does not decide what is imported: "
            f"name it again, --algorithm {named}, or algorithm=... in Python."
        )
    entry = algorithm(name if given is None else given)
    if entry.name != name:
        raise UsageError(f"{run} was trained by {name}, not by {entry.name}. Leave --algorithm out, or give {name}.")
    return entry


def network_of(config: Mapping[str, Any], given: Any, run: Any) -> Any:
    """The network factory of a saved run: None, or the user's own, which has to be ``given`` again."""
    named = config["run"].get("network")
    if named and given is None:
        again = named if isinstance(named, str) else "package.module:factory"
        raise UsageError(
            f"{run} was trained with a network of your own; give it again: --network {again}, or network=... in Python."
        )
    return network(given)


def network(given: Any) -> Any:
    """A network factory: None, a function, or the name of one, ``package.module:factory``."""
    if not isinstance(given, str):
        return given
    if ":" not in given:
        right = "it must be package.module:factory or file.py:factory, a function (key, spec) -> module."
        raise UsageError(f"network = {given!r}; {right} {offer(given)}".rstrip())
    return load_object(given, "the network")


def make_agent(entry: Algorithm, config: Any, spec: EnvSpec, budget: int | None, network: Any) -> Agent:
    """What the algorithm's factory makes; UsageError where that is no agent."""
    agent = entry.factory(config, spec, budget=budget, network=network)
    if not isinstance(agent, Agent):
        raise UsageError(
            f"{entry.name}: its factory gives {type(agent).__name__}; it is to return a steersman.types.Agent "
            "(init, begin, act, update)."
        )
    return agent


def _checked(found: Any, where: str) -> Algorithm:
    """A foreign algorithm that keeps the contract of ``steersman.types.Algorithm``."""
    if not isinstance(found, Algorithm):
        raise UsageError(
            f"{where} is of type {type(found).__name__}, not a steersman.types.Algorithm. End your file with "
            'ALGORITHM = Algorithm("name", Config, factory, "one line about it"), and name that.'
        )
    say = lambda what: UsageError(f"The algorithm {found.name!r} ({where}): {what}")
    if found.name in agents.ALGORITHMS:
        raise say("that name is taken by one of steersman's own. Give yours another.")
    if not found.name or not found.name.replace("-", "_").isidentifier():
        raise say("a name is made of letters, digits, - and _: it is typed and names folders.")
    problem = _of_config(found.config, found.data) or _of_factory(found.factory)
    if problem:
        raise say(problem)
    return found


def _of_config(config: Any, data: str) -> str:
    """What is wrong with the class of an algorithm's settings; empty where nothing is."""
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        return f"its config is {config!r}; it must be a frozen dataclass (@dataclass(frozen=True))."
    if not config.__dataclass_params__.frozen:  # pyright: ignore[reportAttributeAccessIssue]
        return f"its config {config.__name__} is not frozen; write @dataclass(frozen=True)."
    fields = {field.name: field for field in dataclasses.fields(config)}
    if data != "only" and "unroll_length" not in fields:
        return f"its config {config.__name__} lacks unroll_length (int), the steps of each environment between updates."
    for name, field in fields.items():
        if field.default is dataclasses.MISSING:
            return f"the setting {name} has no default; every setting needs one, a plain value."
        if annotation(field).removesuffix(" | None") not in SETTINGS:
            return (
                f"the setting {name} is annotated {annotation(field)}; a setting is {', '.join(SETTINGS)}, each "
                "perhaps with | None."
            )
    return ""


def _of_factory(factory: Callable[..., Any]) -> str:
    right = "it is to be a function (config, spec, *, budget=None, network=None) -> Agent."
    if not callable(factory):
        return f"its factory is {factory!r}; {right}"
    try:
        inspect.signature(factory).bind(None, None, budget=None, network=None)
    except TypeError as error:
        return f"its factory does not take what it is given ({error}); {right}"
    except ValueError:  # some callables of extensions have no signature to look at
        pass
    return ""
