"""A run whose critic sees more than its policy: trained, resumed, loaded, evaluated, begun from."""

import numpy as np
import pytest

import steersman
from steersman.errors import UsageError
from steersman.run.disk.run_folder import open_run
from steersman.run.evaluate import evaluate_run

STATE = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, -3.0]])


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("groups") / "run"
    settings = {**small, "normalize_observations": True, "policy_sees": "state"}
    steersman.train("ppo", "hidden/pendulum", out=out, steps=160, **settings)
    return steersman.resume(out, steps=320)


def test_the_run_knows_all_and_its_policy_asks_for_its_own(trained):
    assert [*open_run(trained.run).config["spec"]["observation_space"]["spaces"]] == ["physics", "state"]
    policy = steersman.load(trained.run)
    assert (policy.spec.unseen, [*policy.spec.observation_space.spaces]) == (("physics",), ["state"])
    action = policy({"state": STATE})
    np.testing.assert_array_equal(action, trained.policy({"state": STATE, "physics": STATE[:, :2]}))
    numpy = steersman.load(trained.run, backend="numpy")
    np.testing.assert_allclose(numpy({"state": STATE[1]}), action[1], atol=2e-5)


def test_it_is_evaluated_where_there_is_more_to_see(trained):
    played = evaluate_run(trained.run, episodes=4, seed=7).mean
    np.testing.assert_allclose(played, trained.evaluate(4, seed=7).mean, rtol=1e-4)


def test_parameters_of_other_groups_do_not_fit(trained, small, tmp_path):
    with pytest.raises(UsageError, match=r"policy_sees is \['state'\] there, and \('all but state',\) here"):
        steersman.train(
            "ppo", "hidden/pendulum", out=tmp_path / "other", init_from=trained.run, policy_sees="all but state"
        )
