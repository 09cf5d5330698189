"""What is asked for: one plan, whether by Python, the command line or a comparison. ``train.run`` carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steersman.errors import UsageError
from steersman.run import plugins
from steersman.run.disk.run_folder import Run
from steersman.run.evaluate import fixed_size
from steersman.run.events import Callback, Within
from steersman.run.policies import warm_start
from steersman.run.policies.warm_start import InitFrom
from steersman.run.settings import RunConfig, fitted, preset_for, split
from steersman.types import Algorithm


@dataclass(frozen=True)
class Plan:
    """A training as it is asked for, by Python, the command line or a comparison: settings are typed and in range."""

    algorithm: Algorithm
    environment: Any  # a name, or the user's object
    run: RunConfig
    config: Any
    network: Callable[..., Any] | None = None
    origins: Mapping[str, Any] = field(default_factory=dict)  # how the user's own were named: ``plugins.origins``
    out: Path | None = None
    replace: bool = False  # the run that out holds, by this one
    init: InitFrom | None = None  # a run to begin with
    resumed: Run | None = None  # the folder of a run to go on with
    more: bool = False  # with a new budget of steps
    callbacks: Sequence[Callback] = ()
    within: Within | None = None  # of a comparison
    # Of host loops, and shared by runs that differ in their seed: compiled programs, and the number of workers chosen.
    programs: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (isinstance(self.callbacks, Sequence) and all(map(callable, self.callbacks))):
            raise UsageError(f"callbacks = {self.callbacks!r}; it must be a list of functions: callbacks=[f].")


def planned(
    algorithm: str | Algorithm,
    environment: Any,
    settings: Mapping[str, Any],
    *,
    preset: bool = True,
    network: Any = None,
    out: str | Path | None = None,
    replace: bool = False,
    init: InitFrom | None = None,
    callbacks: Sequence[Callback] = (),
) -> Plan:
    """A plan from names and settings; what is not given comes from the environment's preset, then from the defaults.

    init: a run to begin with; its settings take the preset's place.
    """
    entry, size = plugins.algorithm(algorithm), fixed_size(environment)
    base = preset_for(entry, environment) if init is None else warm_start.inherited(entry, init.run)
    given = (base if preset else {}) | ({} if size is None else {"num_envs": size})
    origins = plugins.origins(entry, algorithm, network)
    if out == "":
        raise UsageError('out = "" is no folder. Name one, or leave out away: then nothing is written.')
    place = None if out is None else Path(out)
    parts = split(entry, fitted(entry, given | dict(settings), settings))
    network, more = plugins.network(network), {"replace": replace, "init": init, "callbacks": callbacks}
    return Plan(entry, environment, *parts, network, origins, place, **more)
