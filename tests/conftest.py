"""Strict numerics everywhere: no silent promotion of dtypes or ranks.

The fast tests compile with few optimisations: most of their time is compilation, and this is a third of it. Those that
learn, and those of equal bits (``-m learning``, ``-m exact``), run what users run, as all do where
JAX_DISABLE_MOST_OPTIMIZATIONS is 0.
"""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("STEERSMAN_CACHE", "0")  # tests leave the user's compiled programs alone

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Before the first program: XLA reads its flags once. The environment carries them to child processes."""
    wanted = "0" if config.option.markexpr in ("learning", "exact") else "1"
    fast = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", wanted) == "1"
    jax.config.update("jax_disable_most_optimizations", fast)
    flags = "--xla_force_host_platform_device_count=2"  # so that sharding is tested too
    if fast and jax.__version_info__ < (0, 11):  # a flag that XLA does not know ends the process
        # Without fusion emitters, and each program as one module of LLVM's: many are small, and cutting up costs more.
        flags += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)


def pytest_collection_finish():
    """Tracing makes many objects that live: looking for garbage among them as often as by default is a tenth of it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Compiled programs are kept on disk for the length of the session: for all workers, and for child processes."""
    base = tmp_path_factory.getbasetemp()
    settings = {
        "jax_compilation_cache_dir": str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_persistent_cache_enable_xla_caches": "none",
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def shared_programs():
    """Trainings of equal settings on an environment of ours share their loops' programs, and those of evaluations: all
    but the first of a session are spared the tracing. They say that compiling took a microsecond. The curve of a run
    that logs what another did is a copy of that one's."""
    from steersman.run import prepare
    from steersman.run.callbacks import Curve
    from steersman.run.events import Done
    from steersman.run.parts.setup import Setup

    known, make = {}, prepare._loop
    agents, evaluators, evaluator = {}, {}, Setup.evaluator  # agents: by id, with the settings that they stand for

    def loop_of(plan, run, config, made, agent, data, assessing):
        loop = make(plan, run, config, made, agent, data, assessing)
        own = not isinstance(plan.environment, str) or ":" in plan.environment or plan.network is not None
        begun = plan.init is not None or (plan.resumed is not None and "init" in plan.resumed.config)
        if own:
            return loop
        played = assessing and (assessing.cadence.episodes, assessing.cadence.limit)
        sizes = (run.num_envs, run.seeds, run.devices, run.budget, run.overlap, run.log_info, run.costs)
        key = (plan.algorithm.factory, config, plan.environment, *sizes, played, str(run.from_data), begun)
        loop.compile_seconds = 1e-6 if key in known else 0.0
        if begun:  # what it begins with is in its first program
            rest = {name: made for name, made in known.get(key, {}).items() if name not in ("start", "init")}
            loop._programs.update(rest)
            known[key] = loop._programs
        else:
            loop._programs = known.setdefault(key, loop._programs)
        agents[id(agent)] = agent, key
        return loop

    def evaluator_of(setup, episodes, explore=False):
        if id(setup.agent) not in agents:
            return evaluator(setup, episodes, explore)
        key = (agents[id(setup.agent)][1], episodes, explore, setup.workers)
        return evaluators.setdefault(key, evaluator(setup, episodes, explore))

    drawn = {}

    class CurveOnce(Curve):
        def __call__(self, event):
            names = frozenset(name for row in getattr(event, "history", ()) for name in row)
            if isinstance(event, Done) and names in drawn:
                self.run.curve.write_bytes(drawn[names])
                return
            super().__call__(event)
            if isinstance(event, Done) and self.run.curve.exists():
                drawn[names] = self.run.curve.read_bytes()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("steersman.run.train.Curve", CurveOnce)
        patched.setattr(prepare, "_loop", loop_of)
        patched.setattr(Setup, "evaluator", evaluator_of)
        yield


@pytest.fixture
def same_bits():
    """assert(a, b) that arrays are equal: to round-off where programs are compiled with few optimisations, because
    products and sums are then contracted here and not there."""

    def check(a, b):
        if jax.config.read("jax_disable_most_optimizations"):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(a, b)

    return check


@pytest.fixture
def key():
    return jax.random.key(0)
