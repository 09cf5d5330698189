"""The exact dual of a constrained MDP beside the multiplier that PPO learns there: docs/img/dual.png.

    python benchmarks/dual.py                 three seeds of 250,000 steps, twice; a minute
    python benchmarks/dual.py --quick         one short one; nothing is saved but dual.png in the current folder

Left, the dual function of safe/gridworld by policy iteration, whose least value is that of the linear program; right,
how the multiplier and the cost of PPO come to where it says, moved by a controller (pid) and by gradient steps (dual).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import steersman
from steersman.envs.safe.tasks import hazards
from steersman.run.show import plots
from steersman.tabular import policy_iteration, solve_constrained
from steersman.tabular.planning.constrained import ConstrainedMDP
from steersman.tabular.planning.objectives import start_value

OUT = Path(__file__).parents[1] / "docs" / "img" / "dual.png"
LIMIT = 0.3
SETTINGS: dict[str, Any] = {
    "num_envs": 32, "unroll_length": 32, "num_minibatches": 4, "num_epochs": 4, "learning_rate": 3e-3,
    "hidden_sizes": (64,), "entropy_coefficient": 0.003, "gamma": 0.95, "cost_gamma": 0.95,
    "cost_criterion": "discounted", "cost_limit": (LIMIT,), "evaluate_every": 0, "preset": False,
}  # fmt: skip


def dual(problem: ConstrainedMDP, multiplier: float) -> float:
    """g(lambda) = max_pi J_r - lambda (J_c - limit): a planning problem whose reward is r - lambda c."""
    mdp = problem.mdp
    priced = replace(mdp, reward=mdp.reward - multiplier * problem.costs[0], outcome_rewards=None)
    return start_value(priced, policy_iteration(priced).policy) + multiplier * float(problem.limits[0])


def picture(problem: ConstrainedMDP, results: dict[str, steersman.Result], out: Path) -> Path:
    exact = solve_constrained(problem)
    best = float(exact.multipliers[0])
    figure = plots.blank(11, 4.2)
    left, middle, right = figure.subplots(1, 3)
    grid = np.linspace(0, 4 * best, 121)
    plots.tidy(left, "multiplier: reward per cost", "dual function", "Exact")
    left.plot(grid, [dual(problem, x) for x in grid], color="#0072B2", linewidth=1.8)
    left.plot([best], [exact.dual], "o", color="#D55E00", zorder=4)
    left.annotate(
        f"{exact.dual:.4f} at {best:.4f}:\nthe linear program's value", (best, exact.dual), (0.25, 0.45),
        textcoords="axes fraction", arrowprops={"arrowstyle": "-", "color": "0.5"}, fontsize="small",
    )  # fmt: skip
    print(f"linear program: value {exact.value:.4f}, cost {exact.costs[0]:.4f}, multiplier {best:.4f}")
    panels = [(middle, "multiplier", LIMIT, best, "reward per cost"), (right, "discounted_cost", 1.0, LIMIT, "cost")]
    for axes, name, unit, line, label in panels:
        title = {"multiplier": "PPO's multiplier", "discounted_cost": "Its discounted cost"}[name]
        plots.tidy(axes, "environment steps", label, title)
        for kind, result in results.items():
            colour = {"pid": "#56B4E9", "dual": "#0072B2"}[kind]
            steps = [row["steps"] for row in result.history]
            values = np.array([np.atleast_1d(row[name]) for row in result.history], float) / unit  # [N, seeds]
            drawn = axes.plot(steps, values, color=colour, linewidth=0.9, alpha=0.7)
            drawn[0].set_label(kind)
            late = values[len(values) // 2 :]
            print(f"{kind}, second half: {name} {late.mean():.4f}, of seeds {late.mean(0).round(4)}, {late.std():.4f}")
        axes.axhline(line, color="#D55E00", linewidth=1.6, linestyle=(0, (4, 3)), zorder=4)
        axes.set_ylim(0, 20 * line if name == "multiplier" else 4 * line)
        axes.set_title(f"dashed: {line:.3g}", loc="right", fontsize="small", color="#D55E00")
        axes.legend(frameon=False, fontsize="small", loc="upper right")
        plots.in_steps(axes.xaxis)
    return plots.save(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short training; dual.png in the current folder")
    quick = parser.parse_args().quick
    size: dict[str, Any] = {"steps": 20_000, "seeds": 1} if quick else {"steps": 250_000, "seeds": 3}
    train = lambda kind: steersman.train("ppo", "safe/gridworld", multiplier=kind, **SETTINGS, **size)
    results = {kind: train(kind) for kind in ("pid", "dual")}
    print(picture(hazards(limit=LIMIT), results, Path("dual.png") if quick else OUT))


if __name__ == "__main__":
    main()
