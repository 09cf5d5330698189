"""Named problems from the literature, each with its source. ``problem(name)`` makes one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import poisson

from steersman.errors import UsageError, nearest
from steersman.tabular.mdp import MDP, Grid
from steersman.tabular.problems.builders import MOVES, from_arrays, from_successors, from_text


def random_walk(states: int = 19, *, left_reward: float = -1.0, right_reward: float = 1.0, gamma: float = 1.0) -> MDP:
    """A walk on a line, left or right with probability 1/2, from the middle; both ends are terminal. One action.

    19 states with rewards -1 and +1: Sutton & Barto 2018, example 7.1; 5 states with 0 and 1: example 6.2. The states
    are 0 (left end), 1 .. ``states``, and ``states`` + 1 (right end).
    """
    n = states + 2
    middle = np.arange(n)
    successors = np.clip(np.stack([middle - 1, middle + 1], -1), 0, n - 1)[:, None]
    rewards = np.where(successors == 0, left_reward, np.where(successors == n - 1, right_reward, 0.0))
    return from_successors(
        successors,
        np.full(successors.shape, 0.5),
        rewards,
        gamma=gamma,
        start=n // 2,
        terminal=[0, n - 1],
        name="random-walk",
    )


def gridworld_4x4(gamma: float = 1.0) -> MDP:
    """The 4 x 4 grid with two terminal corners and reward -1 a step: Sutton & Barto 2018, example 4.1."""
    text = "GSSS\nSSSS\nSSSS\nSSSG"
    return from_text(text, gamma=gamma, step_reward=-1.0, goal_reward=0.0, name="gridworld-4x4")


def gridworld_5x5(gamma: float = 0.9) -> MDP:
    """The 5 x 5 grid with two jumps (A: +10, B: +5) and -1 for the edge: Sutton & Barto 2018, example 3.5."""
    cells = np.array([(i, j) for i in range(5) for j in range(5)], np.int32)
    moves = np.array(list(MOVES.values()), np.int32)
    after = cells[:, None] + moves
    off = ((after < 0) | (after > 4)).any(-1)
    inside = np.clip(after, 0, 4)
    successors, rewards = inside[..., 0] * 5 + inside[..., 1], np.where(off, -1.0, 0.0)
    successors[1], rewards[1] = 21, 10.0
    successors[3], rewards[3] = 13, 5.0
    grid = Grid((".A.B.",) + (".....",) * 4, cells, moves)
    p = np.ones((25, 4, 1))
    return from_successors(
        successors[..., None], p, rewards, gamma=gamma, name="gridworld-5x5", action_names=tuple(MOVES), grid=grid
    )


def cliff_walking(gamma: float = 1.0) -> MDP:
    """4 x 12; -1 a step, -100 and back to the start for the cliff: Sutton & Barto 2018, example 6.6."""
    rows = ("." * 12,) * 3 + ("S" + "X" * 10 + "G",)
    cells = np.array([(i, j) for i in range(4) for j in range(12)], np.int32)
    moves = np.array(list(MOVES.values()), np.int32)
    after = np.clip(cells[:, None] + moves, 0, [3, 11])
    successors = after[..., 0] * 12 + after[..., 1]
    fell = (successors >= 37) & (successors <= 46)
    rewards = np.where(fell, -100.0, -1.0)
    successors = np.where(fell, 36, successors)
    rewards[47] = 0.0
    return from_successors(
        successors[..., None], np.ones((48, 4, 1)), rewards, gamma=gamma, start=36, terminal=[47],
        name="cliff-walking", action_names=tuple(MOVES), grid=Grid(rows, cells, moves),
    )  # fmt: skip


def windy_gridworld(gamma: float = 1.0) -> MDP:
    """7 x 10 with an upward wind of 0, 1 or 2 cells by column; -1 a step: Sutton & Barto 2018, example 6.5."""
    wind = np.array([0, 0, 0, 1, 1, 1, 2, 2, 1, 0])
    rows = tuple("".join({(3, 0): "S", (3, 7): "G"}.get((i, j), ".") for j in range(10)) for i in range(7))
    cells = np.array([(i, j) for i in range(7) for j in range(10)], np.int32)
    moves = np.array(list(MOVES.values()), np.int32)
    blown = cells[:, None] + moves - np.stack([wind[cells[:, 1]], 0 * cells[:, 1]], -1)[:, None]
    after = np.clip(blown, 0, [6, 9])
    rewards = np.full((70, 4), -1.0)
    rewards[37] = 0.0
    return from_successors(
        (after[..., 0] * 10 + after[..., 1])[..., None], np.ones((70, 4, 1)), rewards, gamma=gamma, start=30,
        terminal=[37], name="windy-gridworld", action_names=tuple(MOVES), grid=Grid(rows, cells, moves),
    )  # fmt: skip


def dyna_maze(gamma: float = 0.95) -> MDP:
    """6 x 9 with three walls, +1 at the goal: Sutton & Barto 2018, example 8.1. The shortest way takes 14 steps."""
    text = ".......#G\n..#....#.\nS.#....#.\n..#......\n.....#...\n........."
    return from_text(text, gamma=gamma, name="dyna-maze")


def shortcut_maze(opened: bool, gamma: float = 0.95) -> MDP:
    """The maze whose wall gains a short way round on the right: Sutton & Barto 2018, example 8.3."""
    wall = ".########" if not opened else ".#######."
    text = f"........G\n.........\n.........\n{wall}\n.........\n...S....."
    return from_text(text, gamma=gamma, name="shortcut-maze")


def blocking_maze(moved: bool, gamma: float = 0.95) -> MDP:
    """The maze whose opening moves from the right to the left: Sutton & Barto 2018, example 8.2."""
    wall = "########." if not moved else ".########"
    text = f"........G\n.........\n.........\n{wall}\n.........\n...S....."
    return from_text(text, gamma=gamma, name="blocking-maze")


def gamblers_problem(heads: float = 0.4, goal: int = 100) -> MDP:
    """Stake min(s, goal - s) at most on a coin; +1 for reaching the goal: Sutton & Barto 2018, example 4.3.

    Action a stakes a + 1; a stake that is too large is cut to the largest allowed.
    """
    capital = np.arange(goal + 1)
    stakes = np.minimum(np.arange(1, goal // 2 + 1), np.maximum(np.minimum(capital, goal - capital), 0)[:, None])
    successors = np.stack([capital[:, None] + stakes, capital[:, None] - stakes], -1)
    chances = np.broadcast_to([heads, 1 - heads], successors.shape)
    rewards = np.where(successors == goal, 1.0, 0.0)
    return from_successors(successors, chances, rewards, gamma=1.0, terminal=[0, goal], name="gamblers-problem")


def car_rental(cars: int = 20, gamma: float = 0.9, max_move: int = 5) -> MDP:
    """Two car lots with Poisson requests (3, 4) and returns (3, 2): Sutton & Barto 2018, example 4.2.

    +10 a rental, -2 a car moved overnight. State n1 * (cars + 1) + n2; action a moves a - 5 cars from the first lot to
    the second, cut to what is there (the order is paid for in full, so no optimal policy gives it); a full lot sends
    the surplus away. Exact: optimal values go from 421.4 to 637.0. The book's figure ends at about 612 and published
    code at 618 to 627, by Poisson sums that are cut short; 20,000 simulated games by this policy returned 637.3 +- 0.3.
    """
    n = cars + 1

    def lot(requests: float, returns: float) -> tuple[np.ndarray, np.ndarray]:
        """(distribution of tomorrow's cars, expected rentals) for every number of cars this morning."""
        move, rented = np.zeros((n, n)), np.zeros(n)
        back = poisson.pmf(np.arange(n), returns)
        for have in range(n):
            out = poisson.pmf(np.arange(have + 1), requests)
            out[have] = poisson.sf(have - 1, requests)  # all of them, and more were wanted
            rented[have] = out @ np.arange(have + 1)
            for gone, p in enumerate(out):
                left = have - gone
                room = cars - left
                move[have, left:cars] += p * back[:room]
                move[have, cars] += p * poisson.sf(room - 1, returns)
        return move, rented

    (first, rent1), (second, rent2) = lot(3, 3), lot(4, 2)
    transitions, rewards = np.zeros((n * n, 2 * max_move + 1, n * n)), np.zeros((n * n, 2 * max_move + 1))
    for n1 in range(n):
        for n2 in range(n):
            for a in range(2 * max_move + 1):
                moved = int(np.clip(a - max_move, -n2, n1))
                m1, m2 = min(n1 - moved, cars), min(n2 + moved, cars)
                transitions[n1 * n + n2, a] = np.outer(first[m1], second[m2]).ravel()
                rewards[n1 * n + n2, a] = 10 * (rent1[m1] + rent2[m2]) - 2 * abs(a - max_move)
    names = tuple(f"{a - max_move:+d}" for a in range(2 * max_move + 1))
    return from_arrays(transitions, rewards, gamma=gamma, name="car-rental", action_names=names)


MAXIMISATION_BIAS_ALLOWED = np.arange(10) < np.array([2, 10, 10])[:, None]  # at A: left and right only


def maximisation_bias(arms: int = 10, outcomes: int = 9) -> MDP:
    """A (0): left to B, right to the end (2); B (1): ``arms`` actions that end with reward N(-0.1, 1). Example 6.7.

    The normal reward is its Gauss-Hermite rule of ``outcomes`` points, which has its first moments exactly. Actions of
    A beyond the first two are "right" to a planner; a learner gets -inf for them (MAXIMISATION_BIAS_ALLOWED).
    (Sutton & Barto 2018, section 6.7.)
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(outcomes)
    successors = np.full((3, arms, outcomes), 2)
    successors[0, 0] = 1
    chances = np.broadcast_to(weights / weights.sum(), successors.shape)
    rewards = np.zeros(successors.shape)
    rewards[1] = nodes - 0.1
    return from_successors(successors, chances, rewards, gamma=1.0, start=0, terminal=[2], name="maximisation-bias")


def russell_norvig(gamma: float = 1.0, step_reward: float = -0.04) -> MDP:
    """The 4 x 3 world, 0.8 forward and 0.1 to each side: Russell & Norvig, Artificial Intelligence, section 17.1."""
    return from_text(
        "...G\n.#.X\nS...", gamma=gamma, step_reward=step_reward, goal_reward=1 - step_reward,
        pit_reward=-1 - step_reward,
        slip=0.2, name="russell-norvig",
    )  # fmt: skip


def random_mdp(
    states: int, actions: int, successors: int | None = None, *, gamma: float = 0.99, seed: int = 0, terminals: int = 0
) -> MDP:
    """A random MDP with uniform rewards in [0, 1): dense, or with ``successors`` random ones per state and action."""
    rng = np.random.default_rng(seed)
    width = states if successors is None else successors
    if successors is None:
        index = np.broadcast_to(np.arange(states, dtype=np.int32), (states, actions, states))
    else:
        index = rng.integers(0, states, (states, actions, width), dtype=np.int32)
    p = rng.random((states, actions, width))
    p /= p.sum(-1, keepdims=True)
    rewards = rng.random((states, actions))
    rewards[states - terminals :] = 0.0
    ends = np.arange(states - terminals, states)
    return from_successors(index, p, rewards, gamma=gamma, terminal=ends, name=f"random-{states}-{actions}-{width}")


PROBLEMS: dict[str, Callable[..., MDP]] = {
    "random-walk": random_walk,
    "gridworld-4x4": gridworld_4x4,
    "gridworld-5x5": gridworld_5x5,
    "cliff-walking": cliff_walking,
    "windy-gridworld": windy_gridworld,
    "dyna-maze": dyna_maze,
    "gamblers-problem": gamblers_problem,
    "car-rental": car_rental,
    "russell-norvig": russell_norvig,
    "maximisation-bias": maximisation_bias,
}


def problem(name: str, **settings: float) -> MDP:
    """A classic by name, or a Gymnasium id with a table ("FrozenLake-v1"). Raises UsageError with the nearest names."""
    if name in PROBLEMS:
        return PROBLEMS[name](**settings)
    if "-v" in name:
        from steersman.tabular.problems.builders import from_gymnasium

        return from_gymnasium(name, **settings)
    known = ", ".join(PROBLEMS)
    raise UsageError(f"No tabular problem is called {name!r}. {nearest(name, PROBLEMS)} Known: {known}.")
