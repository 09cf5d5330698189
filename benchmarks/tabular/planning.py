"""A large sparse MDP solved here, by quantecon's DiscreteDP, by mdpsolver and by pymdptoolbox, to one error bound.

    python benchmarks/tabular/planning.py                      # all, in turn -> results/tabular-planning.json
    python benchmarks/tabular/planning.py --solver steersman   # one, in this interpreter; prints its line

Every solve is a process of its own: the peers' in their environment (`python benchmarks/peers.py setup --only mdp`, or
PEERS_MDP_PYTHON). A line names the seconds to build the solver's object from the arrays, of a first solve (with what
is compiled then) and of a second, and the certified distance of the answer from the optimal value, computed here for
every solver alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ROUNDS = 3
# quantecon is measured at several k, because its best one depends on the machine; the slow ones run once.
OFTEN = [("steersman", "mpi"), *(("quantecon", f"mpi-{k}") for k in (3, 4, 6, 10))]
ONCE = [
    ("steersman", "vi"),
    ("quantecon", "mpi-20"),
    ("mdpsolver", "mpi-100"),
    ("pymdptoolbox", "mpi"),
    ("pymdptoolbox", "vi"),
]
PATIENCE = 90  # seconds a run


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


def best_time(f, count: int = 10) -> float:
    f()
    return min(timed(f)[1] for _ in range(count))


def steersman(index, p, r, gamma, tol, method):
    from steersman.tabular.planning.dynamic_programming import modified_policy_iteration, value_iteration
    from steersman.tabular.planning.sweeps import backups
    from steersman.tabular.problems.builders import from_successors

    mdp, building = timed(lambda: from_successors(index, p, r, gamma=gamma))
    solve = value_iteration if method == "vi" else modified_policy_iteration
    _, first = timed(lambda: solve(mdp, tol=tol))
    found, second = timed(lambda: solve(mdp, tol=tol))
    # The memory traffic of a sweep alone, in two ways: the same program with its successors in order, so that no read
    # waits; and the bare reading of as many bytes by as many threads.
    ops, v = backups(mdp), found.value
    in_order = np.broadcast_to(np.arange(len(r), dtype=np.int32)[:, None, None], index.shape)
    straight = backups(from_successors(np.ascontiguousarray(in_order), p, r, gamma=gamma))
    cores = os.cpu_count() or 1
    size = index.nbytes + p.nbytes + r.nbytes + 2 * v.nbytes
    parts = np.array_split(np.ones(size // 8), cores)
    with ThreadPoolExecutor(cores) as pool:
        reading = best_time(lambda: list(pool.map(np.add.reduce, parts)))
    extra = {
        "sweep_s": best_time(lambda: ops.best(v)), "sweep_in_order_s": best_time(lambda: straight.best(v)),
        "sweep_bytes": size, "reading_s": reading, "iterations": found.iterations, "own_bound": found.bound,
    }  # fmt: skip
    return found.value, building, first, second, extra


def quantecon(index, p, r, gamma, tol, method):
    import quantecon as qe
    import scipy.sparse as sp

    def build():
        s, a, k = index.shape
        matrix = sp.csr_matrix((p.ravel(), index.ravel(), np.arange(0, s * a * k + 1, k)), shape=(s * a, s))
        states, actions = np.repeat(np.arange(s), a), np.tile(np.arange(a), s)
        return qe.markov.DiscreteDP(r.ravel(), matrix, gamma, states, actions)

    dp, building = timed(build)
    name, _, k = method.partition("-")
    # epsilon / 2 is the bound of its value
    solve = lambda: dp.solve(method=name, epsilon=2 * tol, max_iter=100_000, **({"k": int(k)} if k else {}))
    _, first = timed(solve)
    found, second = timed(solve)
    return found.v, building, first, second, {"iterations": found.num_iter}


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
    return np.array(model.getValueVector()), building, first, None, {}


def pymdptoolbox(index, p, r, gamma, tol, method):
    import mdptoolbox.mdp as toolbox
    import scipy.sparse as sp

    s, a, k = index.shape

    def build():
        rows = np.arange(0, s * k + 1, k)
        matrices = [sp.csr_matrix((p[:, i].ravel(), index[:, i].ravel(), rows), shape=(s, s)) for i in range(a)]
        if method == "vi":
            return toolbox.ValueIteration(matrices, r, gamma, epsilon=2 * tol, max_iter=100_000)
        return toolbox.PolicyIterationModified(matrices, r, gamma, epsilon=2 * tol, max_iter=100_000)

    model, building = timed(build)
    _, first = timed(model.run)
    return np.array(model.V), building, first, None, {"iterations": model.iter}


SOLVERS = {f.__name__: f for f in (steersman, quantecon, mdpsolver, pymdptoolbox)}


def one(args: argparse.Namespace) -> dict:
    """Solve with one solver, here."""
    index, p, r = problem(args.states, args.actions, args.successors)
    value, building, first, second, extra = SOLVERS[args.solver](index, p, r, args.gamma, args.tol, args.method)
    line = {"solver": args.solver, "method": args.method, "build_s": building, "first_s": first, "second_s": second}
    return line | extra | {"certified_error": certified(index, p, r, args.gamma, value)}


def compare(args: argparse.Namespace) -> dict:
    """Every solver in turn, each in a process of its own."""
    import common
    import peers

    other = peers.python_of("mdp")
    shape = {k: getattr(args, k) for k in ("states", "actions", "successors", "gamma", "tol")}
    flags = [x for k, v in shape.items() for x in (f"--{k}", str(v))]
    lines = []
    plan = [(i, *who) for i in range(args.rounds) for who in OFTEN] + [(0, *who) for who in ONCE]
    for i, solver, method in plan:
        if args.only and solver not in args.only:
            continue
        python = sys.executable if solver == "steersman" else other
        command = [python, __file__, "--solver", solver, "--method", method, *flags]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
            failed = done.stderr.strip().splitlines()[-1:] or ["no answer"]
            line = json.loads(done.stdout) if done.returncode == 0 else {"failed": failed[0][:200]}
        except subprocess.TimeoutExpired:
            line = {"failed": f"no answer after {PATIENCE} s"}
        lines.append({"round": i, "solver": solver, "method": method} | line)
        print(json.dumps(lines[-1]), flush=True)
    listing = [other, "-m", "pip", "list", "--format", "json"]
    installed = json.loads(subprocess.run(listing, capture_output=True, text=True).stdout)
    wanted = ("mdpsolver", "quantecon", "pymdptoolbox", "numba", "numpy", "scipy")
    versions = {p["name"]: p["version"] for p in installed if p["name"] in wanted}
    return {"problem": shape, "lines": lines, "peer_versions": versions, "provenance": common.provenance()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solver", choices=SOLVERS, help="only this one, in this process")
    parser.add_argument("--method", default="mpi", help="vi, mpi, mpi-K (its inner sweeps)")
    parser.add_argument("--only", action="append", choices=SOLVERS, help="of a comparison: these solvers")
    parser.add_argument("--add", action="store_true", help="to the result file that is there: other solvers' runs")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--states", type=int, default=1_000_000)
    parser.add_argument("--actions", type=int, default=4)
    parser.add_argument("--successors", type=int, default=5)
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--name", default="tabular-planning", help="of the result file")
    args = parser.parse_args()
    if args.solver:
        print(json.dumps(one(args)))
        return
    import common

    result, path = compare(args), common.RESULTS / f"{args.name}.json"
    if args.add and path.exists():
        before = json.loads(path.read_text())
        again = {line["solver"] for line in result["lines"]}
        kept = [line for line in before["lines"] if line["solver"] not in again]
        result = before | {"lines": kept + result["lines"]}
    common.save(args.name, result)


if __name__ == "__main__":
    main()
