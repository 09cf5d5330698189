"""Any finite POMDP as an environment: ``pomdp/tiger``, ``pomdp/hallway``, ``pomdp/path/to/file.POMDP``."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from steersman.envs.wrappers import PureEnv, discounted_return, time_limit
from steersman.errors import UsageError, nearest
from steersman.types import Env

OURS = ("belief", "max_episode_steps")  # arguments that every one takes


def pomdp(name: str, belief: bool = False, max_episode_steps: int = 200, **settings: Any) -> Env:
    """The POMDP of that name, without ``pomdp/``, or in that file.

    Seen are its observations, Discrete(O + 1), of which O means "nothing yet", at an episode's start; with ``belief``
    the exact belief instead, Box [S], on which the task is Markov. settings: the problem's own (``gamma``; tiger:
    ``accuracy``; hallway: ``restart``); of a file ``gamma``, in place of the one that it says.

    A POMDP's value is discounted; returns are counted without. ``info["discounted_return"]`` is sum_t gamma^t r_t of
    the running episode with the POMDP's gamma, and is logged and evaluated by itself. What it lacks of the value is the
    tail that the time limit cuts: at most gamma^max_episode_steps of it. Train with the same discount.

    Raises UsageError for an unknown name, with the nearest, a setting that the problem has not, and a file that is not
    there or cannot be read, with the line of its first mistake.
    """
    from steersman.tabular.pomdp import BeliefEnv, ObservedEnv
    from steersman.tabular.problems.pomdp_classics import POMDPS, pomdp_problem

    known = [*inspect.signature(POMDPS[name]).parameters] if name in POMDPS else ["gamma"]
    for given in settings:
        if given not in known:
            takes = [*OURS, *known]
            raise UsageError(f"pomdp/{name} takes {', '.join(takes)}; got {given}. {nearest(given, takes)}".rstrip())
    problem = pomdp_problem(name, **settings)
    seen = BeliefEnv(problem) if belief else ObservedEnv(problem)
    env = PureEnv(replace(seen.spec, id=f"pomdp/{name}"), seen.reset, seen.step)
    return discounted_return(time_limit(env, max_episode_steps), problem.mdp.gamma)
