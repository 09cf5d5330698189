"""The file that goes to the robot: what it needs, what it keeps, what it refuses."""

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

import steersman
from steersman.deploy import runner
from steersman.deploy.export import write
from steersman.errors import UsageError
from steersman.run.disk.run_folder import open_run

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float64)
ACT = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32))
PARTS = spaces.Dict(
    near=BOX, count=spaces.Discrete(3, start=-1), inner=spaces.Dict(grid=spaces.Box(0, 255, (2, 2), np.uint8))
)


@pytest.fixture(scope="module")
def folder(policy_for, tmp_path_factory):
    """An exported policy that remembers."""
    out = tmp_path_factory.mktemp("exported")
    policy = policy_for("ppo", BOX, ACT, memory="gru")
    return write(out, policy, with_onnx=False, hz=50, robot={"joint_names": ["hip", "knee"]}), policy


def test_it_needs_numpy_and_python_alone(folder):
    tree = ast.parse(Path(runner.__file__).read_text())
    tops = {n.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
    tops |= {str(node.module).partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert tops - {"numpy"} <= {*sys.stdlib_module_names}
    done, policy = folder
    code = (
        "import sys; from runner import Policy; p = Policy('.'); p.reset(); print(*p([1.0, 2.0, 3.0]), *p([0, 0, 0]));"
        "assert not {'jax', 'steersman', 'gymnasium'} & {*sys.modules}"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=done.folder, capture_output=True, text=True, check=True)
    policy.reset()
    wanted = [*policy(np.array([1.0, 2.0, 3.0])), *policy(np.zeros(3))]
    np.testing.assert_allclose(list(map(float, said.stdout.split())), wanted, atol=2e-5)


def test_the_policys_group_alone_goes_in(policy_for, exported, tmp_path):
    settings = {"memory": "gru", "share_memory": False, "policy_sees": ("near",), "value_sees": ("near", "count")}
    made = exported(policy_for("ppo", PARTS, ACT, **settings))
    assert [x["name"] for x in made.contract["inputs"]] == ["near"]
    assert made.contract["unseen"] == ["count", "inner"]
    assert [x["shape"] for x in made.contract["carry"]] == [[6], [3]]  # nothing of what the value remembers
    near = np.ones(3)
    first = []
    for more in ({}, {"count": 0, "inner": {"grid": None}}):
        made.runner.reset()
        first.append(made.runner({"near": near, **more}))
    np.testing.assert_array_equal(*first)
    with pytest.raises(runner.PolicyError, match=r"has \['far'\]"):
        made.runner({"near": near, "far": near})
    with pytest.raises(runner.PolicyError, match="lacks"):
        made.runner({"count": 0})
    with pytest.raises(UsageError, match="units are given for 'count'; the policy does not see it"):
        write(tmp_path, made.policy, robot={"units": {"count": "pieces"}})


def test_the_contract_says_what_goes_in_and_what_comes_out(folder):
    done, _ = folder
    contract = json.loads((done.folder / "policy.json").read_text())
    (seen,), (acts,) = contract["inputs"], contract["outputs"]
    assert (seen["name"], seen["shape"], seen["dtype"], seen["low"]) == ("observation", [3], "float32", None)
    assert (acts["name"], acts["low"], acts["high"]) == ("action", [-2.0, 0.0], [2.0, 5.0])
    assert contract["control_period"] == 0.02
    assert [x["shape"] for x in contract["carry"]] == [[6], [3]]  # h, and the last action with a 1
    assert "own last action" in contract["previous_action"]
    assert contract["robot"]["joint_names"] == ["hip", "knee"]
    assert done.worst["numpy"] <= 1
    assert done.vectors == contract["golden"]["vectors"]
    with np.load(done.folder / "golden.npz") as golden:
        assert {*golden} == {"input/observation", "output/action", "first"}


def test_a_memory_is_kept_and_forgotten(folder):
    policy = runner.Policy(folder[0].folder)
    with pytest.raises(runner.PolicyError, match=r"call reset\(\) before the first step"):
        policy(np.zeros(3))
    policy.reset()
    first, second = policy(np.ones(3)), policy(np.ones(3))
    assert np.abs(first - second).max() > 1e-3
    assert {name: x.shape for name, x in policy.carry.items()} == {"carry/0": (6,), "carry/1": (3,)}
    policy.reset()
    np.testing.assert_array_equal(policy(np.ones(3)), first)


def test_the_result_is_the_callers(folder):
    policy = runner.Policy(folder[0].folder)
    policy.reset()
    first = policy(np.ones(3))
    kept = first.copy()
    policy(np.zeros(3))
    np.testing.assert_array_equal(first, kept)
    assert (first.dtype, first.shape) == (np.float32, (2,))


@pytest.mark.parametrize(
    ("obs", "says"),
    [
        (np.zeros(4), r"has shape \(4,\); the contract says \(3,\)"),
        (np.zeros((2, 3)), r"has shape \(2, 3\); the contract says \(3,\), one at a time"),
        (np.array([0.0, np.nan, 0.0]), "holds NaN or infinity"),
        (np.array([0.0, -np.inf, 0.0]), "holds NaN or infinity"),
        (np.array(["a", "b", "c"]), "is of <U1; the contract says float32"),
        ([[1.0], 2.0, 3.0], "has uneven parts"),
        ({"state": np.zeros(3)}, "is a dict; the contract says an array"),
    ],
)
def test_observations_that_are_not_of_the_contract(folder, obs, says):
    policy = runner.Policy(folder[0].folder)
    policy.reset()
    with pytest.raises(runner.PolicyError, match=says):
        policy(obs)


@pytest.fixture(scope="module")
def parts(policy_for, exported):
    return exported(policy_for("ppo", PARTS, ACT)).runner


GOOD = {"near": np.zeros(3), "count": 1, "inner": {"grid": np.zeros((2, 2), np.uint8)}}


@pytest.mark.parametrize(
    ("obs", "says"),
    [
        ({k: v for k, v in GOOD.items() if k != "near"}, r"lacks \['near'\]; the contract has .*inner/grid"),
        ({**GOOD, "privileged_state": np.zeros(5)}, r"has \['privileged_state'\], which the policy does not see"),
        (
            {**GOOD, "inner": {**GOOD["inner"], "mass": 1.0}},
            r"has \['inner'\]\['mass'\], which the policy does not see",
        ),
        ({**GOOD, "count": 2}, r"\['count'\] is 2; the contract counts 3 from -1"),
        ({**GOOD, "count": 0.5}, r"\['count'\] is of float64; the contract says int32"),
        (
            {**GOOD, "inner": {"grid": np.zeros((2, 2))}},
            r"\['inner'\]\['grid'\] is of float64; the contract says uint8",
        ),
    ],
)
def test_entries_of_a_dict(parts, obs, says):
    parts(GOOD)
    with pytest.raises(runner.PolicyError, match=says):
        parts(obs)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder[0].folder, tmp_path / "copy")


def test_tampered_weights_are_found(copy):
    weights = copy / "policy.npz"
    content = bytearray(weights.read_bytes())
    content[-200] ^= 1
    weights.write_bytes(content)
    with pytest.raises(runner.PolicyError, match=r"policy.npz is not what was exported: its SHA-256 is"):
        runner.Policy(copy)
    with pytest.raises(UsageError, match="not what was exported"):
        steersman.load(copy)


def test_another_version_and_what_is_no_contract(copy):
    path = copy / "policy.json"
    contract = json.loads(path.read_text())
    path.write_text(json.dumps({**contract, "version": 99}))
    with pytest.raises(runner.PolicyError, match="version 99; this runner reads steersman-policy, version 1"):
        runner.Policy(copy)
    contract["program"]["ops"][0][0] = "fft"
    path.write_text(json.dumps(contract))
    with pytest.raises(runner.PolicyError, match="an operation 'fft' that this runner does not know"):
        runner.Policy(copy)
    path.write_text("{")
    with pytest.raises(runner.PolicyError, match="cannot be read"):
        runner.Policy(copy)


def missing(content):
    del content["outputs"]


def no_program(content):
    content["program"] = None


def no_weights(content):
    content["program"]["ops"][0][1] = [10**6]


def another_shape(content):
    content["inputs"][0]["shape"] = [99]


@pytest.mark.parametrize("spoil", [missing, no_program, no_weights, another_shape])
def test_a_contract_that_somebody_changed(copy, spoil):
    path = copy / "policy.json"
    contract = json.loads(path.read_text())
    spoil(contract)
    path.write_text(json.dumps(contract))
    with pytest.raises(runner.PolicyError, match=r"policy.json does not fit together .*[Ee]rror.*steersman export"):
        runner.Policy(copy)


def test_weights_that_are_none(copy):
    (copy / "policy.npz").write_bytes(b"hello")
    path = copy / "policy.json"
    contract = json.loads(path.read_text())
    contract["weights"]["sha256"] = hashlib.sha256(b"hello").hexdigest()
    path.write_text(json.dumps(contract))
    with pytest.raises(UsageError, match="does not fit together"):
        steersman.load(copy)


def test_an_exported_folder_is_no_run(folder):
    with pytest.raises(UsageError, match="is an exported policy, not a run"):
        open_run(folder[0].folder)
    with pytest.raises(UsageError, match=r"policy.json is a file, not a run folder"):
        open_run(folder[0].folder / "policy.json")


def test_load_takes_an_exported_folder(folder):
    policy = steersman.load(folder[0].folder)
    assert isinstance(policy, runner.Policy)
    assert repr(policy) == "Policy(Place: observation float32[3] -> action float32[2])"
    with pytest.raises(UsageError, match="is an exported policy: there is one in it. Leave best out"):
        steersman.load(folder[0].folder, best=True)
    with pytest.raises(UsageError, match="backend = 'numpi'; it is jax or numpy. Did you mean numpy"):
        steersman.load(folder[0].folder, backend="numpi")
