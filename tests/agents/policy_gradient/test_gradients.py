"""On a small MDP the sampled gradient of every rung agrees with the exact one, and its variance falls rung by rung."""

import importlib.util
import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.agents.policy_gradient import common
from steersman.agents.policy_gradient.a2c import A2CConfig
from steersman.agents.policy_gradient.a2c import estimator as a2c_estimator
from steersman.agents.policy_gradient.common import Estimates
from steersman.agents.policy_gradient.impala import ImpalaConfig
from steersman.agents.policy_gradient.impala import estimator as impala_estimator
from steersman.agents.policy_gradient.reinforce import ReinforceConfig
from steersman.agents.policy_gradient.reinforce import estimator as reinforce_estimator
from steersman.nets.table import Table
from steersman.tabular.planning import dynamic_programming, objectives

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def gradients():
    """The benchmark that measures them: benchmarks/gradients.py."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        location = importlib.util.spec_from_file_location("gradients", BENCHMARKS / "gradients.py")
        module = importlib.util.module_from_spec(location)
        location.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_each_rung_agrees_with_the_exact_gradient_and_the_variance_falls(gradients):
    rows = {row["rung"]: row for row in gradients.measure(1024)}
    assert {
        name: row["bias_in_standard_errors"] for name, row in rows.items() if row["bias_in_standard_errors"] > 4
    } == {}
    variance = lambda name: rows[name]["variance"]
    climbs = [
        ["REINFORCE, whole return", "REINFORCE, reward-to-go", "REINFORCE, constant baseline"],
        ["REINFORCE, constant baseline", "REINFORCE, value baseline", "A2C, lambda 1", "A2C, lambda 0.5"],
        ["A2C, lambda 0.5", "online actor-critic, TD error"],
        ["online actor-critic, q as given", "online actor-critic, TD error"],
    ]
    for climb in climbs:
        for lower, upper in itertools.pairwise(climb):
            assert variance(upper) < variance(lower), (lower, upper)


def test_with_discounting_it_is_the_gradient_of_the_discounted_start_value(gradients):
    mdp, pi = gradients.corridor(0.8), objectives.softmax_policy(gradients.THETA)
    ways = {}
    for settings in ({"returns": "whole"}, {"discount_states": True}, {}):
        config = ReinforceConfig(gamma=0.8, baseline="none", value_coefficient=0.0, **settings)
        ways[str(settings)] = gradients.of_loss(config, reinforce_estimator(config, gradients.STATES))
    found = gradients.sample(mdp, gradients.table_of(mdp), ways, 4096)
    episodes = gradients.visits_and_openings(mdp, pi)[1]
    right = objectives.policy_gradient(mdp, gradients.THETA) * episodes / gradients.LENGTH
    bias = [gradients.compare(way, right)[0] for way in found.values()]
    assert max(bias[:2]) < 4
    assert bias[2] > 5  # without the factor it is another gradient, as the docstring says


def test_learning_from_whatever_episodes_are_complete_would_be_biased(gradients):
    mdp, pi = gradients.corridor(), objectives.softmax_policy(gradients.THETA)
    config = ReinforceConfig(gamma=1.0, baseline="none", value_coefficient=0.0)
    proper = reinforce_estimator(config, gradients.STATES)

    def naive(rollout, *values):
        ended = jax.lax.cummax(rollout.terminated[::-1].astype(jnp.float32), axis=0)[::-1]
        return Estimates(proper(rollout, *values).advantage, None, ended)

    found = gradients.sample(mdp, gradients.table_of(mdp), {"naive": gradients.of_loss(config, naive)}, 16384)["naive"]
    right = gradients.exact(mdp, pi, whole=True)
    scale = (found.mean(0) * right).sum() / np.square(right).sum()  # whatever the number of episodes is
    assert gradients.compare(found, right * scale)[0] > 6


def test_impala_with_fresh_data_is_a2c(gradients):
    mdp, ways = gradients.corridor(0.9), {}

    def whole(config, estimate):
        loss = common.policy_gradient_loss(config, estimate)

        def gradient(table, rollout, key):
            found = jax.grad(lambda t: loss(t, rollout)[0])(table)
            return jnp.append(found.logits.ravel(), found.values)

        return gradient

    for lambda_ in (1.0, 0.7):
        settings = {"gamma": 0.9, "gae_lambda": lambda_, "entropy_coefficient": 0.01}
        one, other = A2CConfig(**settings), ImpalaConfig(**settings)
        ways[f"a2c {lambda_}"] = whole(one, a2c_estimator(one))
        ways[f"impala {lambda_}"] = whole(other, impala_estimator(other))
    found = gradients.sample(mdp, gradients.table_of(mdp), ways, 4)
    for lambda_ in (1.0, 0.7):
        np.testing.assert_allclose(found[f"a2c {lambda_}"], found[f"impala {lambda_}"], rtol=1e-5, atol=1e-6)
    assert np.abs(found["a2c 1.0"] - found["a2c 0.7"]).max() > 1e-3  # lambda matters


def test_stale_data_is_corrected_for(gradients):
    """The behaviour policy is another: V-trace's advantage, uncut, still gives the gradient of the learner's policy
    in the states that the behaviour visits."""
    mdp = gradients.corridor()
    behaviour = gradients.table_of(mdp)
    pi_mu, pi = objectives.softmax_policy(gradients.THETA), objectives.softmax_policy(gradients.THETA[:, ::-1])
    value = dynamic_programming.evaluate(mdp, pi, method="direct").value
    target = Table(behaviour.logits[:, ::-1], jnp.asarray(value, jnp.float32))
    config = ImpalaConfig(gamma=1.0, clip_rho=1e6, clip_c=1e6, value_coefficient=0.0)
    plain = A2CConfig(gamma=1.0, value_coefficient=0.0)
    of = lambda config, estimate: lambda _, *args: gradients.of_loss(config, estimate)(target, *args)
    ways = {"impala": of(config, impala_estimator(config)), "a2c": of(plain, a2c_estimator(plain))}
    found = gradients.sample(mdp, behaviour, ways, 2048)
    visits, _ = gradients.visits_and_openings(mdp, pi_mu)
    right = visits[:, None] * pi * objectives.advantages(mdp, pi) / gradients.LENGTH
    assert gradients.compare(found["impala"], right)[0] < 4
    assert gradients.compare(found["a2c"], right)[0] > 6
