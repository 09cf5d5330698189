"""The compiled programs of a training on texts: one for each shape of a batch, the frozen decoder an argument."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jax
from jax.sharding import PartitionSpec

from steersman.agents.language.common import Learner, Trainer
from steersman.errors import UsageError
from steersman.language.decoder import Decoder
from steersman.run.loops.devices import AXIS, mesh_of
from steersman.shards import sharded_over
from steersman.types import Key, Metrics


class Programs:
    """``update`` and ``evaluate`` of a trainer, compiled when a shape first comes; several devices share the rows."""

    def __init__(self, trainer: Trainer, decoder: Decoder, devices: int = 1):
        if devices > len(jax.devices()):
            raise UsageError(f"devices = {devices}; there are {len(jax.devices())} here.")
        self.trainer, self.decoder, self.devices = trainer, decoder, devices
        self.compile_seconds = 0.0
        self._made: dict[Any, Any] = {}
        self._merge = jax.jit(trainer.model)

    def init(self, seed: int) -> Learner:
        return jax.jit(self.trainer.init)(self.decoder, jax.random.key(seed))

    def model(self, learner: Learner) -> Decoder:
        """What was learned by now, merged into a decoder of its own."""
        return self._merge(learner.params, self.decoder)

    def update(self, learner: Learner, batch: Any, key: Key) -> tuple[Learner, Metrics]:
        """The learner is given away: its memory becomes the new one's."""
        return self._program("update", batch, learner, self.decoder, batch, key)

    def evaluate(self, learner: Learner, batch: Any) -> Metrics:
        return self._program("evaluate", batch, learner, self.decoder, batch)

    def _program(self, name: str, batch: Any, *args: Any) -> Any:
        shape = (name, *(x.shape for x in jax.tree.leaves(batch)))
        if shape not in self._made:
            began = time.perf_counter()
            function = partial(self._shared, getattr(self.trainer, name))
            self._made[shape] = (
                jax.jit(function, donate_argnums=(0,) if name == "update" else ()).lower(*args).compile()
            )
            self.compile_seconds += time.perf_counter() - began
        return self._made[shape](*args)

    def _shared(self, function: Any, learner: Learner, decoder: Decoder, batch: Any, *key: Key) -> Any:
        """A function over devices, each with its share of the rows."""
        if self.devices == 1:
            return function(learner, decoder, batch, *key)

        def local(*args: Any) -> Any:
            with sharded_over(AXIS):
                return function(*args)

        whole, cut = PartitionSpec(), PartitionSpec(AXIS)
        specs = (whole, whole, cut, *(whole for _ in key))
        shared = jax.shard_map(local, mesh=mesh_of(self.devices), in_specs=specs, out_specs=whole, check_vma=False)
        return shared(learner, decoder, batch, *key)
