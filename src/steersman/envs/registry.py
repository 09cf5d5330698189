"""What each name of an environment stands for. Light: nothing is imported before an environment is made.

- ``CartPole-v1``: a compiled twin where there is one (``classic``), else Gymnasium's environment of that id;
- ``CartPoleNoVel-v1``: a twin whose velocities are masked (``partial.velocities``);
- ``gymnasium/CartPole-v1``, ``gymnax/...``, ``atari/...``, ``envpool/...``, ``popgym/...``, ``goal/...``,
  ``hidden/pendulum``, ``memory/chain-20``, ``pomdp/tiger``, ``pomdp/path/file.POMDP``, ``safe/point-goal``,
  ``probe/...``: by family;
- ``package.module:factory``, ``path/file.py:factory``: your own, a function or class that gives a ``gymnasium.Env`` or
  a steersman ``Env``;
- ``package:Namespace/Name-v0``: an id of Gymnasium's that exists once ``package`` is imported.

A name may go on with the environment's own arguments: ``atari/Pong,sticky=0``, ``FrozenLake-v1,is_slippery=false``;
and with those that any environment takes (``transfer.settings``): ``Pendulum-v1,action_delay=0:3``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from steersman.envs.classic import TWINS
from steersman.envs.families import FAMILIES, available, split_name
from steersman.envs.importing import call, is_file, label_of, load_object, made_of, offer
from steersman.envs.partial.velocities import NO_VELOCITY
from steersman.envs.safe.names import VELOCITY
from steersman.envs.transfer import settings as transfer
from steersman.errors import UsageError, nearest

if TYPE_CHECKING:
    from steersman.envs.transfer.physics import Parametrised
    from steersman.envs.transfer.settings import Transfer
    from steersman.types import DeviceEnvs, Env, EnvSpec, HostEnvs


# Families whose names are all listed: the module and what in it makes each of them.
_LISTED = {"probe": ("probe", "PROBES"), "goal": ("goals", "GOALS"), "hidden": ("partial.hidden", "HIDDEN")}
_OF_TWINS = {"safe/cartpole": "CartPole-v1", "safe/pendulum": "Pendulum-v1"}


def make(
    environment: Any,
    num_envs: int,
    *,
    workers: int = 0,
    log_info: Sequence[str] = (),
    costs: Sequence[str] = (),
    **kwargs: Any,
) -> DeviceEnvs | HostEnvs:
    """``num_envs`` environments side by side, from a name or an object.

    environment: a name (see the module), a steersman ``Env``, a ``gymnasium.Env``, a function or class that gives
        either, or ``DeviceEnvs`` / ``HostEnvs``, which are returned as they are.
    workers: processes that step host environments together with this one.
    log_info: numbers in the info of host environments that are wanted of the last step of each episode.
    costs: comparisons such as ``"x_velocity > 3.2"`` (``host.costs``), each a cost of every step, after the
        environment's own.
    kwargs: the environment's own arguments, and the settings of ``transfer.settings.Transfer``.

    Raises UsageError for unknown names (with the nearest ones), for extras that are not installed, for a factory that
    cannot be imported or gives something else, and for arguments the environment does not have.

    >>> make("CartPole-v1", 4).spec.max_episode_steps
    500
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise UsageError(f"num_envs is a whole number of at least 1; got {num_envs!r}.")
    how: dict[str, Any] = {"workers": workers, "log_info": log_info, "costs": costs}
    if isinstance(environment, str):
        name, arguments = split_name(environment)
        if arguments:
            return _named(make(name, num_envs, **how, **{**arguments, **kwargs}), environment)
    settings, kwargs = transfer.split(kwargs)
    if settings is not None:
        return _transferred(environment, num_envs, settings, kwargs, how)
    return _make(environment, num_envs, kwargs, how)


def _make(name: Any, num_envs: int, kwargs: dict[str, Any], how: dict[str, Any]) -> DeviceEnvs | HostEnvs:
    """``make`` of an object, or of a name without arguments. how: what ``host.gymnasium.make`` takes beside those."""
    if not isinstance(name, str):
        return _from_object(name, num_envs, kwargs, label_of(name), how)
    if _is_own_file(name):
        return _own(name, num_envs, kwargs, how)
    env = _compiled(name, kwargs)
    if env is not None:
        return _vectorize(env, num_envs, how)
    head, _, rest = name.partition("/")
    if head == "atari" and rest:
        from steersman.envs import atari

        return atari.make(rest, num_envs, **how, **kwargs)
    if head == "envpool" and rest:
        from steersman.envs import envpool

        return envpool.make(rest, num_envs, **how, **kwargs)
    if head == "popgym" and rest:
        from steersman.envs import popgym

        return _named(popgym.make(rest, num_envs, **how, **kwargs), name)
    if head == "safe" and rest:
        from steersman.envs.host import gymnasium as host
        from steersman.envs.safe.velocity import robot

        return _named(host.make(robot(rest, **kwargs), num_envs, **how), name)
    if _is_gymnasiums(name):
        from steersman.envs.host import gymnasium as host

        id = rest if head == "gymnasium" else name
        return host.make(id, num_envs, **how, **kwargs)
    if ":" in name:
        return _own(name, num_envs, kwargs, how)
    raise _unknown(name)


def _is_own_file(name: str) -> bool:
    package, _, inside = name.partition(":")
    return bool(inside) and is_file(package)


def _is_gymnasiums(name: str) -> bool:
    """Whether the name is an id of Gymnasium's, or will be once its package is imported: ale_py:ALE/Pong-v5."""
    head, _, rest = name.partition("/")
    package, _, inside = name.partition(":")
    elsewhere = bool(package and inside) and not inside.replace(".", "_").isidentifier()
    return (head in ("gymnasium", "ALE") and bool(rest)) or _gymnasium_has(name) or elsewhere


def _transferred(
    environment: Any, num_envs: int, settings: Transfer, kwargs: dict[str, Any], how: dict[str, Any]
) -> DeviceEnvs | HostEnvs:
    """``make`` with settings of transfer. Costs are of what is so, not of what a policy is shown of it."""
    from steersman.envs.transfer.around import simulated, surrounded

    if (parametrised := _parametrised(environment, kwargs)) is not None:
        return _vectorize(simulated(parametrised, settings), num_envs, how, lambda env: surrounded(env, settings))
    if settings.simulated:
        if isinstance(environment, str) and environment.partition("/")[0] in ("atari", "envpool"):
            raise _out_of_reach(environment)
        how = {**how, "simulator": settings}
    made = _make(environment, num_envs, kwargs, how)
    if not isinstance(made, tuple):
        return surrounded(made, settings)
    raise UsageError(f"{label_of(environment)} is vectorised already. Give the environment that it is made of.")


def _out_of_reach(label: str) -> UsageError:
    return UsageError(
        f"{label}: randomize and push change simulators, and those of Atari, of EnvPool and of environments that are "
        "made already cannot be. Compiled environments and MuJoCo's of Gymnasium can, by name or by a function that "
        "makes one."
    )


def _parametrised(environment: Any, kwargs: dict[str, Any]) -> Parametrised | None:
    """The compiled environment of a name without arguments or an object, to be made anew; None for one on the host."""
    from steersman.envs.transfer.physics import Parametrised, parametrised
    from steersman.types import DeviceEnvs, EnvSpec, HostEnvs

    label, thing = label_of(environment), environment
    if isinstance(environment, str):
        if not _is_own_file(environment):
            if _compiled(environment, kwargs) is not None:
                known = _parameters(environment)
                nominal = {**known, **{name: kwargs[name] for name in known if name in kwargs}}
                return Parametrised(lambda **changed: _compiled(environment, {**kwargs, **changed}), nominal)  # pyright: ignore
            if ":" not in environment or _is_gymnasiums(environment):
                return None
        thing = load_object(environment, "the environment")
    made = made_of(thing, kwargs, label)
    if isinstance(made, DeviceEnvs | HostEnvs):
        return None
    if not isinstance(getattr(made, "spec", None), EnvSpec):
        if made is not thing:  # it was made to see what it is
            made.close()
        return None
    if made is thing or not callable(thing):
        return parametrised(made)
    given = {name: p.default for name, p in inspect.signature(thing).parameters.items()} | kwargs
    nominal = {name: value for name, value in given.items() if isinstance(value, float) and value}
    return Parametrised(lambda **changed: made_of(thing, {**kwargs, **changed}, label), nominal)


def _parameters(name: str) -> dict[str, float]:
    """The physical parameters of a compiled environment of ours."""
    from steersman.envs import classic

    original = NO_VELOCITY[name].original if name in NO_VELOCITY else _OF_TWINS.get(name, name)
    return classic.parameters(original) if original in TWINS else {}


def _own(name: str, num_envs: int, kwargs: dict[str, Any], how: dict[str, Any]) -> DeviceEnvs | HostEnvs:
    thing = load_object(name, "the environment")
    return _named(_from_object(thing, num_envs, kwargs, name, how), name)


def _named(made: DeviceEnvs | HostEnvs, name: str) -> DeviceEnvs | HostEnvs:
    """The same environments under the name they were asked for by."""
    spec = replace(made.spec, id=name)
    if isinstance(made, tuple):
        return made._replace(spec=spec)
    made.spec = spec
    return made


def make_env(environment: Any, **kwargs: Any) -> Env:
    """One compiled environment, pure and without auto-reset, from a name or an object: what ``vectorize`` takes.

    Raises UsageError as ``make`` does, and for host environments, which cannot be compiled.

    >>> make_env("Pendulum-v1").spec.id
    'Pendulum-v1'
    """
    import gymnasium

    from steersman.types import DeviceEnvs, EnvSpec, HostEnvs

    label = label_of(environment)
    if isinstance(environment, str):
        environment, arguments = split_name(environment)
        kwargs = {**arguments, **kwargs}
    settings, kwargs = transfer.split(kwargs)
    if settings is not None and (parametrised := _parametrised(environment, kwargs)) is not None:
        from steersman.envs.transfer.around import simulated, surrounded

        return surrounded(simulated(parametrised, settings), settings)
    if isinstance(environment, str):
        env = _compiled(environment, kwargs)
        if env is not None:
            return env
        if environment.partition("/")[0] in (*FAMILIES, "ALE") or _gymnasium_has(environment):
            raise UsageError(_on_the_host(environment))
        if ":" not in environment:
            raise _unknown(environment)
        environment = load_object(environment, "the environment")
    made = made_of(environment, kwargs, label)
    if isinstance(made, gymnasium.Env | HostEnvs):
        raise UsageError(_on_the_host(label))
    if isinstance(made, DeviceEnvs) or not isinstance(getattr(made, "spec", None), EnvSpec):
        raise UsageError(f"{label} is a {type(made).__name__}, not one compiled steersman Env.")
    return made


def _on_the_host(label: str) -> str:
    """What to say of an environment that is no compiled one."""
    twin = label.removeprefix("gymnasium/")
    compiled = f" The compiled one is {twin}." if twin in TWINS else ""
    return (
        f"{label} runs on the host and cannot be compiled, and nobody can search in copies of its state.{compiled} A "
        f"model that is learned of it can be planned in: steersman train pets {label}"
    )


def _compiled(name: str, kwargs: dict[str, Any]) -> Env | None:
    if name in TWINS:
        from steersman.envs import classic

        return classic.make(name, **kwargs)
    if name in NO_VELOCITY:
        from steersman.envs.partial import velocities

        return velocities.make(name, **kwargs)
    head, _, rest = name.partition("/")
    if head == "gymnax" and rest:
        from steersman.envs import gymnax

        return gymnax.make(rest, **kwargs)
    if head in _LISTED and rest:
        module, names = _LISTED[head]
        makers = getattr(import_module(f"steersman.envs.{module}"), names)
        if name not in makers:
            raise UsageError(f"Unknown environment {name}. {nearest(name, makers)}".rstrip())
        return call(makers[name], kwargs, name)
    if head == "memory" and rest:
        from steersman.envs.partial.memory_tasks import task

        return call(task(rest), kwargs, name)
    if head == "pomdp" and rest:
        from steersman.envs.partial.finite import pomdp

        return call(partial(pomdp, rest), kwargs, name)
    if head == "safe" and rest not in VELOCITY and rest:
        from steersman.envs.safe.tasks import task

        return call(task(rest), kwargs, name)
    return None


def _from_object(
    thing: Any, num_envs: int, kwargs: dict[str, Any], label: str, how: dict[str, Any]
) -> DeviceEnvs | HostEnvs:
    import gymnasium

    from steersman.types import DeviceEnvs, HostEnvs

    made = made_of(thing, kwargs, label)
    if isinstance(made, DeviceEnvs | HostEnvs):
        if made.num_envs != num_envs:
            raise UsageError(f"{label} was made with num_envs={made.num_envs}; asked for are {num_envs}.")
        _check_made(made.spec, how["costs"])
        if "simulator" in how:
            raise _out_of_reach(label)
        return made
    if not isinstance(made, gymnasium.Env | gymnasium.vector.VectorEnv):
        return _vectorize(made, num_envs, how)
    from steersman.envs.host import gymnasium as host

    if made is thing or isinstance(made, gymnasium.vector.VectorEnv):  # the adapter says what it can do with one
        return host.make(made, num_envs, **how)
    made.close()  # it was made to see what it is; every member is made by the factory, where it will live
    return host.make(partial(made_of, thing, kwargs, label), num_envs, **how)


def _check_made(spec: EnvSpec, costs: Sequence[str]) -> None:
    """Raise UsageError where environments that are made already lack costs that are asked for."""
    from steersman.envs.host.costs import parsed

    lacking = [one.name for one in parsed(costs) if one.name not in spec.cost_names]
    if lacking:
        raise UsageError(
            f"{spec.id} was given as environments that are made already, without the cost {lacking[0]!r}. Make them "
            "with steersman.envs.make(..., costs=[...]), or give a name or a function that makes one."
        )


def _vectorize(
    env: Env, num_envs: int, how: dict[str, Any], around: Callable[[Env], Env] = lambda env: env
) -> DeviceEnvs:
    from steersman.envs.costs import with_comparisons
    from steersman.vector import vectorize

    _no_workers(env.spec.id, how["workers"])
    return vectorize(around(with_comparisons(env, how["costs"])), num_envs)


def _no_workers(name: str, workers: int) -> None:
    if workers:
        raise UsageError(
            f"workers={workers}: {name} has no use for worker processes; they step Gymnasium's environments "
            f"(gymnasium/...). Leave workers at 0."
        )


def _gymnasium_has(name: str) -> bool:
    from gymnasium.envs.registration import registry

    return name in registry


def _unknown(name: str) -> UsageError:
    from gymnasium.envs.registration import registry

    older = [spec.id for spec in registry.values() if isinstance(spec.entry_point, str)]
    ids = list(dict.fromkeys([*(row.id for row in available()), *older]))
    family, slash, rest = name.partition("/")
    if offered := offer(name):
        return UsageError(f"Unknown environment {name!r}. {offered}")
    if slash and rest and family not in {spec.namespace for spec in registry.values()}:
        where = f"Unknown family {family!r} in {name}; families are {', '.join(f'{f}/' for f in FAMILIES)}."
    else:
        where = f"Unknown environment {name!r}."
    return UsageError(f"{where} {nearest(name, ids)} `steersman list` shows all.".replace("  ", " "))
