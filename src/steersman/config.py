"""Settings: frozen dataclasses of plain values, composed by inheritance, with ranges that are checked when one is made.

A traced value (a swept one) is let through.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

from steersman.errors import UsageError, nearest


class Rules(NamedTuple):
    """Ranges of a config's fields, by name: what ``check_config`` takes."""

    at_least_one: Sequence[str] = ()
    positive: Sequence[str] = ()
    non_negative: Sequence[str] = ()
    fraction: Sequence[str] = ()
    choices: Mapping[str, Sequence[str]] | None = None
    sizes: Sequence[str] = ()
    refused: Mapping[str, str] | None = None  # those that a class inherits and cannot use, and why


def check_config(
    config: Any,
    *,
    at_least_one: Sequence[str] = (),
    positive: Sequence[str] = (),
    non_negative: Sequence[str] = (),
    fraction: Sequence[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
    sizes: Sequence[str] = (),
    refused: Mapping[str, str] | None = None,
    numbers: Sequence[str] = (),
) -> None:
    """Raise UsageError naming the first field out of its range; None means a switched-off option and passes. refused:
    those that have to stay as they are. numbers: those that may be anything but NaN."""
    name_of = type(config).__name__.removesuffix("Config")
    defaults = {field.name: field.default for field in dataclasses.fields(config)}

    def refuse(field: str, right: str, hint: str = "", off: str = " is out of range") -> None:
        given = getattr(config, field)
        says = f"{name_of}: {field} = {given!r}{off}; it must be {right}. {hint} Default: {defaults[field]!r}."
        raise UsageError(" ".join(says.split()))

    rules = (
        (at_least_one, lambda v: v == int(v) and v >= 1, "a whole number of 1 or more"),
        (positive, lambda v: v > 0, "above 0"),
        (non_negative, lambda v: v >= 0, "0 or more"),
        (fraction, lambda v: 0 <= v <= 1, "between 0 and 1"),
    )
    for fields, legal, right in rules:
        for field in fields:
            value = getattr(config, field)
            if isinstance(value, Real) and not (math.isfinite(value) and legal(value)):
                refuse(field, right)
            if isinstance(value, str):
                refuse(field, right)
    for field, why in (refused or {}).items():
        value = getattr(config, field, defaults.get(field))
        if isinstance(value, Real | str | Sequence) and value != defaults[field]:
            raise UsageError(f"{name_of}: {field} = {value!r}; it must be left out: {why}")
    for field in numbers:
        if isinstance(value := getattr(config, field), float) and math.isnan(value):
            refuse(field, "a number")
    for field, known in (choices or {}).items():
        value = getattr(config, field)
        if value not in known:
            refuse(field, " or ".join(known), nearest(str(value), known), off="")
    for field in sizes:
        value = getattr(config, field)
        if not all(isinstance(n, int) and n >= 1 for n in value):
            refuse(field, "a tuple of whole numbers of 1 or more")


def usable(config: type, name: str) -> bool:
    """Whether a config has a setting, and does not refuse it."""
    refused = (part.rules.refused or {} for part in config.__mro__ if "rules" in vars(part))
    return name in config.__dataclass_fields__ and not any(name in names for names in refused)


@dataclass(frozen=True)
class Config:
    """What every config is."""

    rules = Rules()  # of the fields that this class names; a subclass's own come on top

    def __post_init__(self) -> None:
        for part in reversed(type(self).__mro__):
            check_config(self, **vars(part).get("rules", Rules())._asdict())
        check_config(self, numbers=[field.name for field in dataclasses.fields(self)])
