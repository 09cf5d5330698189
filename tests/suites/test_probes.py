"""Every agent learns the known answers of the probe environments: of its value, of its policy.

Each once with each: one probe of values, where what is bootstrapped is an algorithm's own code, and one of policies.
What has exact answers elsewhere, nearer to its code, is left to that (``ELSEWHERE``).
"""

from contextlib import suppress
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.agents import ALGORITHMS
from steersman.envs.probe import PROBES, known_values
from steersman.envs.wrappers import PureEnv
from steersman.errors import UsageError
from steersman.nets.memory import remembering
from steersman.run.evaluate import device_evaluator
from steersman.run.loops.device_loop import device_loop
from steersman.types import EnvSpec, TimeStep
from steersman.vector import vectorize

GAMMA = 0.9
# What an algorithm has of these; one that needs nothing else is probed by being listed.
COMMON = {"gamma": GAMMA, "hidden_sizes": (32,), "critic_sizes": (32,), "log_std_init": -0.5, "learning_rate": 1e-2}
COMMON |= {"unroll_length": 8, "batch_size": 64, "replay_capacity": 4096, "learning_starts": 256, "tau": 0.05}
COMMON |= {"num_quantiles": 5, "drop_quantiles": 1}
COMMON |= {"normalize_observations": False, "scale_rewards": False}  # values are to be the environment's own
COMMON |= {"update_ratio": 1 / 128}  # one gradient step an update
OWN = {  # settings, updates
    "a2c": ({}, 800),
    "reinforce": ({"unroll_length": 16}, 600),
    "actor_critic": ({"unroll_length": 1}, 3000),
    "trpo": ({"unroll_length": 16, "num_minibatches": 2}, 150),
    "cpo": ({"unroll_length": 64, "num_minibatches": 2, "cost_limit": (0.25,)}, 60),
    "impala": ({"lag": 2}, 800),
}
UPDATES = 400
ELSEWHERE = ("ppo", "pqn", "dqn")  # probes in their own tests
ELSEWHERE += ("ddpg", "td3", "tqc", "crossq")  # sac with another ``learn``: a linear-quadratic regulator, in theirs
ELSEWHERE += ("cpo",)  # TRPO with another step, and a limit: below
ELSEWHERE += ("mbpo", "dyna", "pets")  # sac and dqn with other batches; it has no policy to be learned
LEARNERS = [name for name, entry in ALGORITHMS.items() if entry.data != "only" and name not in ELSEWHERE]
CRITICS = ("reinforce", "a2c", "actor_critic", "impala")  # of states, read off; TRPO's targets are PPO's
# The value probe that the two-step and truncation probes are simpler cases of, and a policy probe that needs the
# observation. REINFORCE does not bootstrap but at a truncation.
VALUE = "probe/truncation-ring"
POLICY = ("probe/continuous-action", "probe/action-observation")  # the first that an algorithm serves
DISCRETE = ("reinforce", "impala")  # they are probed with choices, the others cover continuous actions


def learn(algorithm, place):
    settings, updates = OWN.get(algorithm, ({}, UPDATES))
    entry = ALGORITHMS[algorithm]
    made = partial(envs.make, place)
    known = {k: v for k, v in (COMMON | settings).items() if k in entry.config.__dataclass_fields__}
    config = entry.config(**known)
    length, first = config.unroll_length, entry.first_length(config, 16)
    agent = entry.factory(config, made(1).spec, budget=updates * length * 16)
    loop = device_loop(agent, made, num_envs=16, unroll_length=length, first_length=first, seeds=[0], shards=1)
    state, _ = loop.advance(loop.start(), updates)
    return agent, jax.tree.map(np.asarray, state.agent), made


def policy_probe(algorithm):
    """The first probe of a policy whose actions the algorithm serves."""
    if algorithm in DISCRETE:
        return POLICY[1]
    for name in POLICY:
        with suppress(UsageError):
            ALGORITHMS[algorithm].factory(ALGORITHMS[algorithm].config(), envs.make(name, 1).spec)
            return name
    raise AssertionError(f"{algorithm} serves neither choices nor bounded actions")


def network_of(state):
    """The agent's own state may lie inside a wrapper's."""
    return state.params if hasattr(state, "params") else network_of(state.agent)


@pytest.mark.parametrize("algorithm", CRITICS)
def test_learns_the_value(algorithm):
    _, state, _ = learn(algorithm, VALUE)
    known = known_values(VALUE, GAMMA)
    value = jax.vmap(network_of(state))(known.obs)[1]
    np.testing.assert_allclose(value, known.value, atol=0.06 * np.abs(known.value).max())


@pytest.mark.parametrize("algorithm", LEARNERS)
def test_learns_the_policy(algorithm):
    name = policy_probe(algorithm)
    agent, state, made = learn(algorithm, name)
    evaluation = device_evaluator(agent, made(64))(state, 1)
    assert evaluation.mean == pytest.approx(known_values(name, GAMMA).mean_return, abs=0.1)


def toll():
    """One step: action 1 pays 1 and costs 1, action 0 neither. Under a limit the best policy draws 1 so often."""
    space, choice = spaces.Box(0.0, 1.0, (1,)), spaces.Discrete(2)
    obs, never = jnp.zeros((1,)), jnp.zeros((), bool)

    def step(state, action, key):
        paid = (action == 1).astype(jnp.float32)
        return state, TimeStep(obs, paid, ~never, never, obs, paid[None], {})

    spec = EnvSpec("toll", space, choice, choice, 1, cost_names=("cost",))
    return PureEnv(spec, lambda key: (jnp.zeros(()), obs), step)


def test_goes_up_to_its_limit():
    agent, state, made = learn("cpo", toll())
    played = device_evaluator(agent, made(1000), explore=True)(state, 1)
    assert played.mean == played.mean_cost[0] == pytest.approx(0.25, abs=0.1)  # a step goes as far: a KL of 0.01


# Of replay: what learns from sequences. A policy that is nearly certain has the value of the best.
RECALL = {"memory": "window", "sequence_length": 16, "burn_in": 4, "batch_size": 16}
RECALL |= {"exploration_end": 0.2, "learn_temperature": False, "temperature": 1e-3, "target_period": 1}
RECALL |= {"exploration_std": 0.3}


@pytest.mark.parametrize("algorithm", ["dqn", "sac", "td3"])
def test_remembers_from_replay(algorithm):
    """The cue, and what it is worth: probe/memory."""
    continuous = algorithm == "td3"
    made = lambda num: vectorize(PROBES["probe/memory"](continuous), num)
    entry, updates = ALGORITHMS[algorithm], 300
    memory = {"memory": "gru", "memory_size": 16} if algorithm == "dqn" else {}  # compiles for longer than windows do
    known = {k: v for k, v in (COMMON | RECALL | memory).items() if k in entry.config.__dataclass_fields__}
    config = entry.config(**known)
    length, first = config.unroll_length, entry.first_length(config, 16)
    agent = entry.factory(config, made(1).spec, budget=updates * length * 16)
    loop = device_loop(agent, made, num_envs=16, unroll_length=length, first_length=first, seeds=[0], shards=1)
    state, _ = loop.advance(loop.start(), updates)
    assert device_evaluator(agent, made(64))(state.agent, 1).mean == 1
    learner, known = state.agent.learner, known_values("probe/memory", GAMMA)
    opens = np.ones(len(known.obs), bool)
    if algorithm == "dqn":
        best = lambda net: jax.vmap(net)(remembering.step(net, remembering.begin(net, 2), known.obs, opens)[1]).max(1)
        value = jax.jit(best)(learner.params)
    else:
        act = jax.jit(partial(agent.act, explore=False))
        action, _, _ = act(state.agent, agent.begin(2), known.obs, opens, jax.random.key(0))

        def judged(critic):
            seen = remembering.step(critic, remembering.begin(critic, 2), known.obs, opens)[1]
            return jax.vmap(critic)(seen, action)[:, 0] if continuous else jax.vmap(critic)(seen).max(1)

        value = jax.jit(jax.vmap(judged))(learner.critics.params).min(0)
    np.testing.assert_allclose(value, known.value, atol=0.05)
