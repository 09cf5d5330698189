"""How many devices share a run, and how its state is laid over them. Nothing outside ``run`` knows of devices."""

from __future__ import annotations

import os
from collections.abc import Callable

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
    try:
        jax.config.update("jax_num_cpu_devices", cores())
    except RuntimeError:  # the devices exist already: keep them
        pass


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def shards_for(num_envs: int, fits: Callable[[int], None], limit: int | None = None) -> int:
    """The most devices that can share ``num_envs`` environments equally, ``fits(environments of one)`` not objecting."""
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
