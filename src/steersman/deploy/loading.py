"""``load``: a policy out of a run, or out of an exported folder, by JAX or by numpy alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from steersman.deploy import runner
from steersman.errors import UsageError, nearest

if TYPE_CHECKING:
    from steersman.run.policy import Policy

BACKENDS = ("jax", "numpy")


@overload
def load(run: str | Path, *, backend: Literal["numpy"], **which: Any) -> runner.Policy: ...


@overload
def load(run: str | Path, *, backend: Literal["jax"] = "jax", **which: Any) -> Policy: ...


def load(run: str | Path, *, backend: str = "jax", **which: Any) -> Any:
    """The policy of a finished, stopped or running run, from its newest whole checkpoint; numpy in, numpy out.

    which: ``best`` (the one with the highest mean return in an evaluation on the way), ``seed_index`` (which of a run's
    several seeds), ``checkpoint_path``; ``algorithm`` and ``network``, the user's own again where the run was trained
    by such a one: the object, or its name ``package.module:NAME``.

    backend: ``jax``, the trained agent, for batches and for sampling too; ``numpy``, its greedy action for one
    observation at a time, some ten times sooner. A folder of ``steersman export`` is loaded by numpy, and JAX is not
    imported. Nothing of the environment is needed. The run of a language model gives one to talk to, policy("prompt"),
    or its reward model. Raises UsageError where the folder is not a run or is damaged.

    >>> policy = load("runs/cartpole")  # doctest: +SKIP
    >>> policy(np.zeros(4))  # doctest: +SKIP
    1
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend = {backend!r}; it is jax or numpy. {nearest(backend, BACKENDS)}".rstrip())
    if (Path(run) / runner.CONTRACT).is_file():
        if which:
            raise UsageError(f"{run} is an exported policy: there is one in it. Leave {', '.join(which)} out.")
        try:
            return runner.Policy(run)
        except runner.PolicyError as error:
            raise UsageError(str(error)) from None
    from steersman.run.disk.run_folder import read_config

    config = Path(run) / "config.json"
    if config.is_file() and "language" in read_config(config)["spec"]:
        from steersman.run.language.runs import load as load_language

        if which or backend != "jax":
            raise UsageError(
                f"{run} is of a language model, which is loaded by its folder alone, and drives no machine."
            )
        return load_language(run)
    from steersman.run.policy import load as load_run

    policy = load_run(run, **which)
    if backend == "jax":
        return policy
    from steersman.deploy.contract import contract
    from steersman.deploy.trace import traced

    program = traced(policy)
    return runner.Policy.of(contract(policy, program), {str(i): x for i, x in program.constants.items()})
