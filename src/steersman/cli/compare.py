"""``steersman compare ENTRY [ENTRY ...] --env NAME``: algorithms side by side over the same seeds."""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from steersman.cli.display import ComparisonDisplay, number, print_columns, print_json, short
from steersman.cli.flags import parsed
from steersman.errors import UsageError
from steersman.run.compare.compare import PICTURE, compare
from steersman.run.compare.entries import settings_in
from steersman.run.compare.results import Comparison, Outcome
from steersman.run.disk import run_folder
from steersman.theory.comparison import Estimate

MOST_PAIRS = 12


@dataclass(frozen=True)
class Compare:
    """Train algorithms over the same seeds, and say which is better and how surely."""

    entries: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ENTRY")] = ()
    """Algorithms, or variants: [LABEL=]ALGORITHM[:SETTING=VALUE,...], as in ppo, ppo:objective=penalty,
    wide=ppo:hidden_sizes=256,256, package.module:ALGORITHM:gamma=0.9, mine=ppo:network=package.module:factory."""
    env: Annotated[str | None, tyro.conf.arg(aliases=["--environment"])] = None
    """The environment: a name (steersman list), or package.module:factory."""
    model: str | None = None
    """In place of an environment: the language model that all begin from, which sft, dpo, rloo, grpo and ppo align."""
    data: str | None = None
    """What they learn from: prompts or pairs, as for steersman align."""
    steps: int | None = None
    """Environment steps of each seed; none: the largest budget among the entries' presets, for all."""
    seeds: int | None = None
    """Trainings of each entry; none: 10. Side by side on compiled environments, one after another on host ones."""
    seed: int | None = None
    """The first seed; none: 0."""
    threshold: float | None = None
    """The return that counts as solved; none: the one Gymnasium registers, if any."""
    evaluation_episodes: int | None = None
    """Episodes of each seed's final evaluation; none: 100."""
    set: tuple[str, ...] = ()
    """SETTING=VALUE for all entries, as in num_envs=32 gamma=0.98."""
    preset: bool = True
    """Start from the environment's presets."""
    out: Path | None = None
    """The comparison's folder; one that holds a comparison goes on. None: a new one in runs/."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show nothing but errors."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the results as one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code: 0 done, 1 a training failed, 130 interrupted."""
    asked = parsed(Compare, arguments, "steersman compare")
    if not asked.entries and asked.out is None:
        raise UsageError("Name at least one algorithm to compare: steersman compare a2c ppo --env CartPole-v1")
    if asked.model is not None or asked.data is not None:
        return _texts(asked)
    if asked.env is None and (asked.out is None or not asked.out.exists()):
        raise UsageError("Name an environment to compare on: --env CartPole-v1. Known ones: steersman list")
    out = asked.out or run_folder.default_path("compare", asked.env or "", asked.seed or 0)
    display = None if asked.quiet or asked.json else ComparisonDisplay()
    with display or nullcontext():
        result = compare(
            asked.entries,
            asked.env,
            steps=asked.steps,
            seeds=asked.seeds,
            seed=asked.seed,
            threshold=asked.threshold,
            evaluation_episodes=asked.evaluation_episodes,
            out=out,
            preset=asked.preset,
            callbacks=[] if display is None else [display],
            **settings_in(asked.set, "--set"),
        )
    again = f" --env {asked.env}" if asked.env and ":" in asked.env.partition(",")[0] else ""
    return _told(result, asked, f"steersman compare --out {out}{again}")


def _texts(asked: Compare) -> int:
    """Of trainings on texts."""
    if asked.model is None or asked.data is None or asked.env is not None:
        raise UsageError("Name both --model and --data, and no --env: runs/sft and prompts.jsonl, for instance.")
    given = {"--steps": asked.steps, "--evaluation-episodes": asked.evaluation_episodes}
    if wrong := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"{', '.join(wrong)} is of environments. Of texts it is --set updates=200 held_out=0.1.")
    from steersman.cli.align.display import AlignmentDisplay
    from steersman.run.compare.texts import compare_texts

    out = asked.out or run_folder.default_path("compare", Path(asked.data).stem, asked.seed or 0)
    display = None if asked.quiet or asked.json else ComparisonDisplay(AlignmentDisplay)
    with display or nullcontext():
        result = compare_texts(
            asked.entries,
            asked.model,
            asked.data,
            out=out,
            seeds=3 if asked.seeds is None else asked.seeds,
            seed=asked.seed or 0,
            threshold=asked.threshold,
            callbacks=[] if display is None else [display],
            **settings_in(asked.set, "--set"),
        )
    return _told(result, asked, "the same command")


def _told(result: Comparison, asked: Compare, again: str) -> int:
    """Show what came of it; -> exit code."""
    if asked.json:
        print_json({**result.summary(), "out": str(result.path)})
    elif not asked.quiet:
        show(result)
    if result.interrupted and not asked.quiet:
        print(f"Interrupted, and saved. Go on with: {again}", file=sys.stderr)
    for label, error in result.failures.items():
        print(f"steersman: {label}: {error}", file=sys.stderr)
    return 130 if result.interrupted else 1 if result.failures else 0


def show(result: Comparison) -> None:
    """The tables."""
    count = len(result.seeds)
    outcomes = [result.outcomes[label] for label in result.ranking] if result.limited else [*result.outcomes.values()]
    if not outcomes:
        return
    seeds = f"{count} seed{'s' if count > 1 else ''}"
    budgets = sorted({o.steps for o in outcomes})
    steps = " to ".join(short(b) for b in dict.fromkeys((budgets[0], budgets[-1])))
    where = "texts" if result.of_texts else "compiled" if result.compiled else "host"
    unit = "updates" if result.of_texts else "steps"
    print(f"\n{result.environment} ({where}): {seeds}, {steps} {unit} each; 95% intervals over seeds\n")
    print_columns(
        f"final evaluation, {result.scored}",
        ["", "mean", "interval", "IQM", "interval"],
        [[o.label, number(o.mean.value), _ends(o.mean), number(o.iqm.value), _ends(o.iqm)] for o in outcomes],
    )
    if result.limited:
        _show_costs(outcomes, count)
    if result.threshold is not None:
        rows = [[o.label, *_threshold(o.median_steps), f"{o.reached} of {count}"] for o in outcomes]
        print_columns(f"{unit} to {result.threshold:g}", ["", "median", "interval", "seeds"], rows)
    timed = lambda o: [f"{s:.1f} s" for s in (o.training_seconds, o.compile_seconds, o.wall_seconds)]
    rows = [[o.label, *timed(o), short(o.steps_per_second)] for o in outcomes]
    print_columns(f"time of all {seeds}", ["", "training", "compiling", "with evaluation", f"{unit}/s"], rows)
    if len(outcomes) > 1:
        _show_pairs(result)
    if result.path is not None:
        print(f"folder   {result.path}\npicture  {result.path / PICTURE}")


def _show_costs(outcomes: list[Outcome], count: int) -> None:
    rows = []
    for o in outcomes:
        for i, (name, cost) in enumerate(zip(o.limits.names, o.mean_cost, strict=False)):
            held = int((o.costs[:, i] <= o.limits.most[i]).sum()) if o.limits.most else count
            limit = f"{o.limits.most[i]:g}" if o.limits.most else "-"
            rows.append([f"{o.label}: {name}", number(cost.value), _ends(cost), limit, f"{held} of {count}"])
    title = "mean cost, and the seeds whose own is at or under the limit; above: who holds the limits, then the others"
    print_columns(title, ["", "mean", "interval", "limit", "seeds"], rows)


def _show_pairs(result: Comparison) -> None:
    rows = []
    for better, than, p in result.ranked[:MOST_PAIRS]:
        surely = "" if math.isnan(p.low) else "yes" if p.low > 0.5 else "not shown"
        rows.append([f"{better} over {than}", number(p.value), _ends(p), surely])
    title = "probability of improvement: that a seed of one ends above a seed of the other"
    print_columns(title, ["", "P", "interval", "better"], rows)
    if len(result.ranked) > MOST_PAIRS:
        print(f"... and {len(result.ranked) - MOST_PAIRS} more pairs in comparison.json\n")


def _ends(estimate: Estimate) -> str:
    return "-" if math.isnan(estimate.low) else f"{number(estimate.low)} to {number(estimate.high)}"


def _threshold(median: Any) -> tuple[str, str]:
    text = lambda steps: "never" if math.isinf(steps) else short(steps)
    return text(median.value), "-" if not math.isfinite(median.low) else f"{text(median.low)} to {text(median.high)}"
