"""Whether a critic helps that sees what the policy does not: PPO on a pendulum of unknown mass and length.

    python benchmarks/asymmetric.py            every row that is not there yet
    python benchmarks/asymmetric.py --quick    a trial of seconds that saves nothing

The policy sees angle and speed. The critic sees the same (symmetric), or mass and length too (asymmetric). A policy
that sees all (informed) says what there is to gain by knowing. Settings are those of Pendulum-v1's preset, which was
made for neither, and the same with a discount that looks further. Final: 100 episodes of each seed's deterministic
policy; on the way: the mean of twelve evaluations of 50 episodes, evenly spread.
"""

from __future__ import annotations

import argparse
from typing import Any

import common
import numpy as np
from scipy import stats

import steersman
from steersman.run.settings import presets
from steersman.theory.comparison import improvement

ENVIRONMENT, STEPS = "hidden/pendulum", 240_000
SEES = {
    "symmetric": {"policy_sees": "state", "value_sees": "state"},
    "asymmetric": {"policy_sees": "state", "value_sees": "state,physics"},
    "informed": {},
}
BATCHES = {  # gamma, first seed, how many; the last one tries the first again on seeds that nobody had looked at
    "gamma 0.95": (0.95, 0, 5),
    "gamma 0.99": (0.99, 0, 5),
    "gamma 0.95, other seeds": (0.95, 5, 10),
}


def row(name: str, batch: str, steps: int, most: int) -> dict[str, Any]:
    """The final return and the mean on the way, of each seed."""
    gamma, first, seeds = BATCHES[batch]
    seeds = min(seeds, most)
    settings: dict[str, Any] = presets("ppo")["Pendulum-v1"] | SEES[name] | {"steps": steps, "gamma": gamma}
    evaluations = {"evaluation_episodes": 100, "evaluate_every": steps // 12, "evaluate_episodes": 50}
    result = steersman.train("ppo", ENVIRONMENT, seed=first, seeds=seeds, preset=False, **settings, **evaluations)
    assert result.evaluation is not None
    curve = [(x["steps"], x["evaluation_return"]) for x in result.history if "evaluation_return" in x]
    returns = np.array([y for _, y in curve]).reshape(len(curve), seeds)
    return {
        "row": name,
        "batch": batch,
        "final": np.reshape(result.evaluation.returns, (seeds, -1)).mean(1).tolist(),
        "on_the_way": returns.mean(0).tolist(),
        "curve": [[steps, mean] for (steps, _), mean in zip(curve, returns.mean(1).tolist(), strict=True)],
        "steps_per_second": round(result.summary["steps_per_second"]),
    }


def difference(rows: list[dict[str, Any]], batch: str, what: str) -> dict[str, Any]:
    """Asymmetric less symmetric, with intervals of 95 %: Welch's, and that of the differences by seed, since a seed's
    episodes are the same for both; and how likely the one's run is the better one."""
    found = {x["row"]: x[what] for x in rows if x["batch"] == batch}
    ours, theirs = found["asymmetric"], found["symmetric"]
    apart = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    by_seed = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    better = improvement(ours, theirs)
    return {
        "batch": batch,
        "of": what,
        "difference": float(np.mean(ours) - np.mean(theirs)),
        "interval": [float(x) for x in apart],
        "by_seed": [float(x) for x in by_seed],
        "better": [float(x) for x in better],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, few steps, nothing saved")
    args = parser.parse_args()
    steps, most = (24_576, 2) if args.quick else (STEPS, 99)
    saved = (None if args.quick else common.load("asymmetric")) or {"rows": []}
    saved |= {"environment": ENVIRONMENT, "steps": steps}
    there = {(x["row"], x["batch"]) for x in saved["rows"]}
    for batch in BATCHES:
        for name in SEES:
            if (name, batch) in there or (name == "informed" and "other" in batch):
                continue
            saved["rows"].append(row(name, batch, steps, most))
            print(saved["rows"][-1], flush=True)
            if not args.quick:
                common.save("asymmetric", saved | {"provenance": common.provenance()})
    saved["differences"] = [difference(saved["rows"], b, what) for b in BATCHES for what in ("final", "on_the_way")]
    print(saved["differences"], flush=True)
    if not args.quick:
        common.save("asymmetric", saved | {"provenance": common.provenance()})


if __name__ == "__main__":
    main()
