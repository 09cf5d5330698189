"""A large sparse MDP solved here, by quantecon's DiscreteDP, by mdpsolver and by pymdptoolbox, to one error bound.

    python benchmarks/tabular/planning.py --solver steersman --out benchmarks/tabular/results/planning.jsonl

One solver a call, so that each can live in its own environment; each line names the machine, the seconds (a first
solve with its compilation, and a second) and the certified distance from the optimal value, computed here for every
solver alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time

import numpy as np

LOAD = os.getloadavg()[0]  # of the machine before this started: others may share it


def problem(states: int, actions: int, width: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, states, (states, actions, width), dtype=np.int32)
    p = rng.random((states, actions, width))
    return index, p / p.sum(-1, keepdims=True), rng.random((states, actions))


def certified(index, p, r, gamma, value) -> float:
    """max |T v - v| / (1 - gamma): the same yardstick for every solver's answer."""
    worst = 0.0
    for block in np.array_split(np.arange(len(value)), 20):
        q = r[block] + gamma * (p[block] * value[index[block]]).sum(-1)
        worst = max(worst, float(np.abs(q.max(-1) - value[block]).max()))
    return worst / (1 - gamma)


def timed(f):
    start = time.perf_counter()
    out = f()
    return out, time.perf_counter() - start


def steersman(index, p, r, gamma, tol, method):
    import jax

    from steersman.tabular.builders import from_successors
    from steersman.tabular.planning import modified_policy_iteration, value_iteration
    from steersman.tabular.sweeps import backups

    mdp, building = timed(lambda: from_successors(index, p, r, gamma=gamma))
    solve = value_iteration if method == "vi" else modified_policy_iteration
    _, first = timed(lambda: solve(mdp, tol=tol))
    found, second = timed(lambda: solve(mdp, tol=tol))
    with jax.enable_x64(True):
        ops = backups(mdp)
        v = ops.put(found.value)
        ops.best(v).block_until_ready()
        sweep = min(timed(lambda: ops.best(v).block_until_ready())[1] for _ in range(10))
        # Memory traffic alone: the same program over the same bytes, its successors in order, so that no read waits.
        in_order = np.broadcast_to(np.arange(len(r), dtype=np.int32)[:, None, None], index.shape)
        straight = backups(from_successors(np.ascontiguousarray(in_order), p, r, gamma=gamma))
        straight.best(v).block_until_ready()
        stream = min(timed(lambda: straight.best(v).block_until_ready())[1] for _ in range(10))
    extra = {
        "build_s": building,
        "sweep_s": sweep,
        "traffic_s": stream,
        "sweeps": found.iterations,
        "own_bound": found.bound,
    }
    return found.value, first, second, extra


def quantecon(index, p, r, gamma, tol, method):
    import quantecon as qe
    import scipy.sparse as sp

    s, a, k = index.shape
    matrix = sp.csr_matrix((p.ravel(), index.ravel(), np.arange(0, s * a * k + 1, k)), shape=(s * a, s))
    states, actions = np.repeat(np.arange(s), a), np.tile(np.arange(a), s)
    dp, building = timed(lambda: qe.markov.DiscreteDP(r.ravel(), matrix, gamma, states, actions))
    inner = {"k": int(method[3:])} if method.startswith("mpi") else {}
    name = "mpi" if inner else method
    solve = lambda: dp.solve(
        method=name, epsilon=2 * tol, max_iter=100_000, **inner
    )  # epsilon / 2 is its value's bound
    _, first = timed(solve)
    found, second = timed(solve)
    return found.v, first, second, {"build_s": building, "sweeps": found.num_iter}


def mdpsolver(index, p, r, gamma, tol, method):
    import mdpsolver as ms

    def build():
        model = ms.model()
        model.mdp(discount=gamma, rewards=r.tolist(), tranMatProbs=p.tolist(), tranMatColumns=index.tolist())
        return model

    model, building = timed(build)
    name, _, limit = method.partition("-")
    solve = lambda: model.solve(algorithm=name, tolerance=tol, parIterLim=int(limit or 100), postProcessing=True)
    _, first = timed(solve)
    return np.array(model.getValueVector()), first, first, {"build_s": building, "own_runtime_ms": model.getRuntime()}


def pymdptoolbox(index, p, r, gamma, tol, method):
    import mdptoolbox.mdp as toolbox
    import scipy.sparse as sp

    s, a, k = index.shape
    rows = np.arange(0, s * k + 1, k)
    matrices = [sp.csr_matrix((p[:, i].ravel(), index[:, i].ravel(), rows), shape=(s, s)) for i in range(a)]
    make = {"vi": toolbox.ValueIteration, "mpi": toolbox.PolicyIterationModified}[method]
    model, building = timed(lambda: make(matrices, r, gamma, epsilon=2 * tol, max_iter=100_000, skip_check=True))
    _, first = timed(model.run)
    return np.array(model.V), first, first, {"build_s": building, "sweeps": model.iter}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    solvers = {f.__name__: f for f in (steersman, quantecon, mdpsolver, pymdptoolbox)}
    parser.add_argument("--solver", choices=solvers, default="steersman")
    parser.add_argument("--method", default="vi")
    parser.add_argument("--states", type=int, default=1_000_000)
    parser.add_argument("--actions", type=int, default=4)
    parser.add_argument("--successors", type=int, default=5)
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--out")
    args = parser.parse_args()
    index, p, r = problem(args.states, args.actions, args.successors)
    value, first, second, extra = solvers[args.solver](index, p, r, args.gamma, args.tol, args.method)
    line = {
        "solver": args.solver, "method": args.method, "states": args.states, "actions": args.actions,
        "successors": args.successors, "gamma": args.gamma, "tol": args.tol, "first_s": first, "second_s": second,
        "certified_error": certified(index, p, r, args.gamma, value), **extra,
        "cores": os.cpu_count(),
        "load_before": round(LOAD, 1), "machine": platform.machine(), "python": platform.python_version(),
    }  # fmt: skip
    line = {k: round(v, 9) if isinstance(v, float) and v > 1e-6 else v for k, v in line.items()}
    print(json.dumps(line))
    if args.out:
        with open(args.out, "a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
