"""How many devices share a run, and how its state is laid over them. Nothing outside ``run`` knows of devices."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from steersman.errors import UsageError
from steersman.types import PerEnv, PyTree

AXIS = "shards"


def use_all_cores() -> None:
    """Ask XLA for one CPU device per core, so that shards or seeds run side by side, each on a core of its own.

    On small networks XLA's own threads cost more than they give; a device per core is the faster use of them. Does
    nothing once JAX's devices are up, where the user has chosen a number, or on an accelerator.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with suppress(RuntimeError):  # raised when the devices exist already: keep them
        jax.config.update("jax_num_cpu_devices", cores())


def run_in_this_thread() -> None:
    """Ask XLA to run CPU programs in the calling thread, for a loop that waits for each of them.

    A host loop's programs take tens of microseconds, and waking another thread for each costs as much again (measured
    on CartPole: a fifth more steps per second). Must not hold where shards run side by side: they would take turns.
    Does nothing once JAX's devices are up.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def memory_limit() -> int | None:
    """Bytes of memory that this process may use: the accelerator's, else the machine's or the container's."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    limits = []
    with suppress(ValueError, OSError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(ValueError, OSError):  # absent, or "max": no limit
            limits.append(int(Path(path).read_text()))
    return min(limits, default=None)


def check_memory(size: int, what: str, remedy: str = "Lower replay_capacity, num_envs or seeds.") -> None:
    """Raise UsageError where ``what`` takes more bytes than there are, before any is taken."""
    limit = memory_limit()
    if limit is not None and size > limit:
        raise UsageError(f"{what} takes {in_units(size)}; there are {in_units(limit)} of memory here. {remedy}")


def in_units(size: int) -> str:
    """``in_units(1_500_000_000)`` is ``"1.5 GB"``."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def shards_for(num_envs: int, fits: Callable[[int], None], limit: int | None = None) -> int:
    """The most devices that can share ``num_envs`` environments equally, ``fits(share of one)`` not objecting."""
    for shards in range(min(len(jax.devices()), num_envs, limit or num_envs), 1, -1):
        if num_envs % shards == 0:
            try:
                fits(num_envs // shards)
            except UsageError:
                continue
            return shards
    fits(num_envs)
    return 1


def mesh_of(size: int) -> Mesh:
    """A one-axis mesh over the first ``size`` devices."""
    return Mesh(np.asarray(jax.devices()[:size]), (AXIS,), axis_types=(AxisType.Auto,))


def state_specs(state: PyTree) -> PyTree:
    """Where an agent's state lives: replicated, but for what is marked ``PerEnv``, which is cut along ``[B]``."""
    return jax.tree.map(
        lambda part: jax.tree.map(lambda _: PartitionSpec(AXIS), part) if isinstance(part, PerEnv) else PartitionSpec(),
        state,
        is_leaf=lambda part: isinstance(part, PerEnv),
    )
