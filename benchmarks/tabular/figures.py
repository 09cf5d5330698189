"""Five experiments of Sutton & Barto (2018), each by one command, with its picture and the numbers in it.

python benchmarks/tabular/figures.py random-walk     figures 7.2, 12.3, 12.6, 12.8
python benchmarks/tabular/figures.py cliff           example 6.6
python benchmarks/tabular/figures.py bias            figure 6.5
python benchmarks/tabular/figures.py dyna            figure 8.2
python benchmarks/tabular/figures.py mountain-car    figure 12.10, left
python benchmarks/tabular/figures.py all
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from steersman.tabular.learning import behaviour as act
from steersman.tabular.learning import control, dyna
from steersman.tabular.learning import prediction as pr
from steersman.tabular.learning.control import learn
from steersman.tabular.learning.episodes import sample_episodes
from steersman.tabular.pictures.pictures import band, curves, new_figure, style
from steersman.tabular.problems import classics

HERE = Path(__file__).parent
KEY = jax.random.key(2018)


def best(errors: np.ndarray, alphas: np.ndarray) -> dict[str, float]:
    """The least of a curve and where it is."""
    i = int(np.nanargmin(errors))
    return {"error": round(float(errors[i]), 4), "alpha": round(float(alphas[i]), 3)}


def random_walk(runs: int):
    """RMS error over the 19 states and the first 10 episodes, mean over runs, for each step size."""
    walk = classics.random_walk(19)
    episodes = sample_episodes(walk, np.zeros(21, int), KEY, 10, runs=runs, max_steps=2000)
    truth, zeros = np.arange(-9, 10, dtype=np.float32) / 10, jnp.zeros(21)
    alphas = jnp.linspace(0.0, 1.0, 21)

    def errors(method):
        rms = lambda e, a: jnp.sqrt(jnp.mean((method(e, zeros, a, 1.0)[:, 1:20] - truth[None]) ** 2, -1)).mean()
        return jax.vmap(jax.vmap(rms, (None, 0)), (0, None))(episodes, alphas)  # [runs, alphas]

    def family(make, settings):
        return np.asarray(jax.jit(lambda xs: jax.lax.map(lambda x: errors(make(x)), xs))(settings))

    ns = jnp.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
    lambdas = jnp.array([0.0, 0.4, 0.8, 0.9, 0.95, 0.975, 0.99, 1.0])
    fixed = lambda f, **k: lambda e, v, a, g: f(e, v, a, g, **k)
    made = {
        "n-step TD": ("n", ns, lambda n: fixed(pr.n_step_td, n=n)),
        "offline λ-return": ("λ", lambdas, lambda x: fixed(pr.lambda_return, lambda_=x)),
        "TD(λ)": ("λ", lambdas, lambda x: fixed(pr.td_lambda, lambda_=x)),
        "true online TD(λ)": ("λ", lambdas, lambda x: fixed(pr.true_online_td_lambda, lambda_=x)),
    }
    figure, numbers = new_figure(11, 8.4), {}
    for i, (name, (letter, settings, make)) in enumerate(made.items()):
        axes = figure.add_subplot(2, 2, i + 1)
        table, settings = family(make, settings), np.asarray(settings).tolist()
        for j, (setting, row) in enumerate(zip(settings, table, strict=True)):
            shown = row.mean(0) < 0.62  # past there the curves leave the picture
            band(
                axes,
                np.asarray(alphas)[shown],
                row[:, shown],
                f"{letter} = {setting:.4g}",
                color=shade(j, len(settings)),
            )
        axes.set_ylim(0.22, 0.57)
        style(axes, "step size", "RMS error, first 10 episodes", name)
        axes.legend(fontsize=7, ncol=1, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        numbers[name] = {
            f"{x:.4g}": best(row.mean(0), np.asarray(alphas)) for x, row in zip(settings, table, strict=True)
        }
    figure.suptitle(f"19-state random walk: mean of {runs} runs, 95% bootstrap intervals", fontsize=12)
    return figure, numbers


def shade(i: int, count: int):
    """Ordered colours for an ordered family of curves."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.92 * i / max(count - 1, 1))


def cliff(runs: int):
    """Reward per episode of SARSA and Q-learning, alpha 0.5, epsilon 0.1, and of Q-learning's greedy policy."""
    mdp = classics.cliff_walking()
    keys = jax.random.split(KEY, runs)
    series, numbers = {}, {}
    for learner in (control.sarsa(), control.expected_sarsa(), control.q_learning()):
        f = lambda k, l=learner: learn(mdp, l, act.epsilon_greedy(0.1), k, gamma=1.0, alpha=0.5, episodes=500)
        returns = np.asarray(jax.jit(jax.vmap(f))(keys).returns)
        series[learner.name] = returns[:, 9:].reshape(runs, -1)[:, :490].reshape(runs, 49, 10).mean(-1)
        numbers[learner.name] = {"last 100 episodes": round(float(returns[:, -100:].mean()), 2)}
    figure = curves(series, x=np.arange(15, 505, 10), ylabel="sum of rewards in an episode", title="Cliff walking")
    figure.axes[0].set_ylim(-100, -15)
    return figure, numbers


def bias(runs: int):
    """How often the wrong action (left) is taken at A: Q-learning and double Q-learning, alpha = epsilon = 0.1."""
    mdp = classics.maximisation_bias()
    initial = np.where(classics.MAXIMISATION_BIAS_ALLOWED, 0.0, -np.inf).astype(np.float32)
    keys, series, numbers = jax.random.split(KEY, runs), {}, {}
    for learner in (control.q_learning(), control.double_q_learning()):
        f = lambda k, l=learner: learn(
            mdp, l, act.epsilon_greedy(0.1), k, gamma=1.0, alpha=0.1, episodes=300, initial=jnp.asarray(initial)
        )
        left = 100.0 * (np.asarray(jax.jit(jax.vmap(f))(keys).lengths) == 2)
        series[learner.name] = left
        mean = left.mean(0)
        numbers[learner.name] = {
            "peak %": round(float(mean[:60].max()), 1),
            "at episode 300 %": round(float(mean[-20:].mean()), 1),
        }
    figure = curves(series, ylabel="% left from A", title="Maximisation bias")
    figure.axes[0].axhline(5, ls="--", lw=0.8, color="k")
    return figure, numbers


def dyna_maze(runs: int):
    """Steps per episode of Dyna-Q with 0, 5 and 50 planning steps: alpha 0.1, epsilon 0.1, gamma 0.95."""
    maze, series, numbers = classics.dyna_maze(), {}, {}
    for n in (0, 5, 50):
        learner = dyna.dyna_q(n)
        f = lambda k, l=learner: learn(maze, l, act.epsilon_greedy(0.1), k, gamma=0.95, alpha=0.1, episodes=50)
        lengths = np.asarray(jax.jit(jax.vmap(f))(jax.random.split(KEY, runs)).lengths)
        series[f"{n} planning steps"] = lengths[:, 1:]
        mean = lengths.mean(0)
        numbers[str(n)] = {
            "first": round(float(mean[0])),
            "second": round(float(mean[1])),
            "last ten": round(float(mean[-10:].mean()), 1),
            "first episode below 20 steps": int(np.argmax(mean < 20)) + 1 if (mean < 20).any() else None,
        }
    figure = curves(series, x=np.arange(2, 51), ylabel="steps per episode", title="Dyna maze")
    figure.axes[0].set_ylim(0, 800)
    return figure, numbers


def mountain_car(runs: int):
    """Steps per episode over the first 50, SARSA(lambda) with replacing traces, 8 tilings of 8 x 8, epsilon 0."""
    from steersman.envs.classic.mountain_car import MountainCar
    from steersman.tabular.learning.linear import sarsa_lambda_linear, tile_coder

    coder = tile_coder([-1.2, -0.07], [0.6, 0.07], [8, 8], 8)
    lambdas = jnp.array([0.0, 0.68, 0.84, 0.92, 0.96])
    alphas = jnp.array([0.2, 0.5, 0.8, 1.1, 1.4, 1.7])

    def one(lambda_, alpha, key):
        run = sarsa_lambda_linear(
            MountainCar(), coder, key, episodes=50, alpha=alpha / 8, lambda_=lambda_, max_episode_steps=1000
        )
        return run.lengths.astype(jnp.float32).mean()

    grid = jnp.stack(jnp.meshgrid(lambdas, alphas, indexing="ij"), -1).reshape(-1, 2)
    program = jax.jit(jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None)))
    steps = np.asarray(program(grid[:, 0], grid[:, 1], jax.random.split(KEY, runs)))
    steps = steps.reshape(len(lambdas), len(alphas), runs).transpose(0, 2, 1)
    figure = new_figure(6.8, 4.4)
    axes, numbers = figure.add_subplot(), {}
    for j, (x, table) in enumerate(zip(lambdas.tolist(), steps, strict=True)):
        shown = table.mean(0) < 320
        band(axes, np.asarray(alphas)[shown], table[:, shown], f"λ = {x:.2g}", color=shade(j, len(lambdas)))
        numbers[f"{x:.2g}"] = best(table.mean(0), np.asarray(alphas))
    axes.set_ylim(160, 300)
    style(axes, "step size, times 8 tilings", "steps per episode, first 50", f"Mountain Car, SARSA(λ), {runs} runs")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure, numbers


FIGURES = {
    "random-walk": (random_walk, 100),
    "cliff": (cliff, 300),
    "bias": (bias, 3000),
    "dyna": (dyna_maze, 30),
    "mountain-car": (mountain_car, 10),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=[*FIGURES, "all"])
    parser.add_argument("--runs", type=int, help="independent runs (default: the figure's own)")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in FIGURES if args.figure == "all" else [args.figure]:
        make, runs = FIGURES[name]
        runs = args.runs or runs
        start = time.perf_counter()
        figure, numbers = make(runs)
        seconds = time.perf_counter() - start
        figure.savefig(args.out / f"{name}.png", dpi=100)
        record = {"figure": name, "runs": runs, "seconds": round(seconds, 1), "numbers": numbers}
        (args.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(record))


if __name__ == "__main__":
    main()
