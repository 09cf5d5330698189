"""Run folders of format 1.0, made by the code before the house was opened: they are shown, played, loaded, resumed."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import steersman
from steersman import agents
from steersman.cli import info
from steersman.errors import UsageError
from steersman.run.disk import checkpoint, files, logs, migrate, run_folder, tensors
from steersman.run.evaluate import evaluate_run
from steersman.run.settings import reopened, split

OLD = Path(__file__).parents[1] / "data" / "runs"
LEARNED_FROM = {"ppo-compiled": 608, "dqn-host": 400}  # PPO's first 32 are random
STEPS = {"ppo-compiled": (320, 640), "dqn-host": (240, 400)}  # of their two checkpoints
pytestmark = pytest.mark.filterwarnings("ignore:.*was made with:steersman.run.disk.run_folder.RunWarning")


@pytest.fixture(params=STEPS)
def old(request, tmp_path):
    """A copy of an old run folder."""
    return Path(shutil.copytree(OLD / request.param, tmp_path / request.param))


def test_info(old):
    found = info.describe(old)
    assert (found["steps"], found["budget"], found["status"]) == (STEPS[old.name][1], STEPS[old.name][1], "done")
    assert found["checkpoint"].endswith(f"{STEPS[old.name][1]}.safetensors")
    assert len(found["parameters_sha256"]) == 64


def test_load_and_evaluate(old):
    policy = steersman.load(old)
    actions = policy(np.random.default_rng(0).uniform(-1, 1, (20, 4)))
    assert actions.shape == (20,)
    path = checkpoint.saved(old / "checkpoints")[1][1]
    with tensors.opened(path) as file:
        stored = file.read()
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path({"agent": policy.state})
    }
    counted = {name: leaves.pop(name) for name in [*leaves] if name.endswith("/steps")}  # nothing counted them then
    assert [int(steps) for steps in counted.values()] == [LEARNED_FROM[old.name]]
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(stored[name], leaf)
    played = evaluate_run(old, episodes=3)
    assert played.episodes == 3
    assert played.mean > 5


def test_resumed_for_longer(old):
    done = steersman.resume(old, steps=STEPS[old.name][1] + 96)
    assert done.summary["steps"] == STEPS[old.name][1] + 96
    newest = checkpoint.latest(old / "checkpoints", checkpoint.read)
    assert newest.content.version == 2
    assert newest.content.header["steps"] == done.summary["steps"]
    assert run_folder.open_run(old).config["format"] == "1.0"
    assert steersman.load(old)(np.zeros(4)) in (0, 1)


def test_resumed_in_the_middle_it_ends_as_it_did(old):
    middle, end = STEPS[old.name]
    checkpoint.step_path(old / "checkpoints", end).unlink()
    (old / "summary.json").unlink()
    done = steersman.resume(old)
    assert done.summary["steps"] == end
    rows, recorded = (logs.read_metrics(run / "metrics.jsonl") for run in (old, OLD / old.name))
    assert [row["steps"] for row in rows] == [row["steps"] for row in recorded]
    assert sum(row["steps"] > middle for row in rows) >= 10  # trained here, by the code of today
    for row, wanted in zip(rows, recorded, strict=True):
        assert row.keys() >= wanted.keys()
        for name in wanted.keys() - {"seconds"}:
            np.testing.assert_allclose(row[name], wanted[name], rtol=2e-3, atol=2e-5, err_msg=f"{name} {row['steps']}")


# Rules of version 1, each on a file made by hand


def version_1(path, arrays, header=None, keys=None):
    """A file as version 1 wrote it, but for the digest of each array."""
    content = json.dumps({"version": 1, "header": header or {}, "keys": keys or {}})
    tensors.write(path, arrays, {"format": "steersman-checkpoint", "content": content})
    return path


@pytest.mark.parametrize("rows", [(), (3,)])
def test_steps_come_from_the_header(tmp_path, rows):
    like = {"agent": {"w": jnp.zeros((*rows, 2)), "steps": jnp.zeros(rows, jnp.uint32)}, "steps": 0}
    arrays = {"agent/w": np.ones((*rows, 2), np.float32)}
    path = version_1(tmp_path / "a.safetensors", arrays, {"steps": 77})
    for partial in (True, False):
        state, _ = checkpoint.load(path, like, partial=partial)
        np.testing.assert_array_equal(state["agent"]["steps"], np.full(rows, 77, np.uint32))
        assert state["agent"]["steps"].dtype == jnp.uint32
        assert state["steps"] == 77
    kept = version_1(tmp_path / "b.safetensors", arrays | {"agent/steps": np.full(rows, 5, np.uint32)}, {"steps": 77})
    state, _ = checkpoint.load(kept, like)
    np.testing.assert_array_equal(state["agent"]["steps"], np.full(rows, 5))  # what it has, it keeps
    with pytest.raises(UsageError, match="missing from the file: agent/steps"):
        checkpoint.load(version_1(tmp_path / "c.safetensors", arrays), like)
    checkpoint.save(tmp_path / "d.safetensors", {"agent": {"w": like["agent"]["w"]}}, {"steps": 77})
    with pytest.raises(UsageError, match="missing from the file: agent/steps"):  # not of today's files
        checkpoint.load(tmp_path / "d.safetensors", like)


@pytest.mark.parametrize("rows", [(), (3,)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_ravelled_moments_become_a_tree(tmp_path, rows, wrapped):
    tree = {"b": jnp.zeros((*rows, 2)), "w": {"kernel": jnp.zeros((*rows, 2, 3)), "scale": jnp.zeros(rows)}}
    like = {"agent": {"optimiser": (jnp.zeros(rows, jnp.int32), {"mu": tree, "nu": tree})}}
    vector = np.random.default_rng(0).normal(size=(*rows, 9)).astype(np.float32)
    inside = "agent/learner" if wrapped else "agent"
    arrays = {
        f"{inside}/optimiser/0": np.full(rows, 7, np.int32),
        f"{inside}/optimiser/1/mu": vector,
        f"{inside}/optimiser/1/nu": -vector,
    }
    state, _ = checkpoint.load(version_1(tmp_path / "a.safetensors", arrays), like)
    count, moments = state["agent"]["optimiser"]
    np.testing.assert_array_equal(count, np.full(rows, 7))
    for sign, got in ((1, moments["mu"]), (-1, moments["nu"])):
        ravel = lambda tree: jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(tree)])
        flat = jax.vmap(ravel)(got) if rows else ravel(got)
        np.testing.assert_array_equal(flat, sign * vector)
        assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, tree)
    arrays[f"{inside}/optimiser/1/mu"] = vector[..., :-1]
    with pytest.raises(UsageError, match=r"of another shape or dtype: agent/optimiser/1/mu/b \(float32"):
        checkpoint.load(version_1(tmp_path / "b.safetensors", arrays), like)


def test_what_nobody_wants_any_more_is_left_out_and_what_was_wrapped_is_found(tmp_path):
    key = jax.random.key(3)
    arrays = {
        "agent/learner/actor/w": np.arange(3, dtype=np.float32),
        "agent/learner/key": np.asarray(jax.random.key_data(key)),
        "agent/memory/frames": np.zeros(1000, np.uint8),
        "agent/updates": np.array([9], np.int32),
    }
    path = version_1(tmp_path / "a.safetensors", arrays, keys={"agent/learner/key": "threefry2x32"})
    like = {"agent": {"actor": {"w": jnp.zeros(3)}, "key": jax.random.key(0)}}
    for partial in (True, False):
        state, _ = checkpoint.load(path, like, partial=partial)
        np.testing.assert_array_equal(state["agent"]["actor"]["w"], [0, 1, 2])
        assert state["agent"]["key"] == key
    assert "agent/memory/frames" not in checkpoint.read(path, like).arrays
    with pytest.raises(UsageError, match=r"agent/actor/w \(float32\[3\] in the file, float32\[4\] wanted\)"):
        checkpoint.load(path, {"agent": {"actor": {"w": jnp.zeros(4)}}}, partial=True)
    with pytest.raises(UsageError, match="missing from the file: agent/critic"):
        checkpoint.load(path, {"agent": {"critic": jnp.zeros(4)}}, partial=True)
    checkpoint.save(path, {"agent": {"learner": {"w": jnp.zeros(3)}, "more": 1}}, {})
    with pytest.raises(UsageError, match="missing from the file: agent/w; extra in the file: agent/learner/w"):
        checkpoint.load(path, {"agent": {"w": jnp.zeros(3)}})


def test_its_own_name_comes_before_any_other():
    names = ["agent/w", "agent/learner/w", "agent/learner/mu"]
    assert migrate.sources(["agent/w", "agent/mu/a/b", "key"], names) == {
        "agent/w": "agent/w",
        "agent/mu/a/b": "agent/learner/mu",
    }


def test_settings_that_nothing_has_any_more(old):
    config = files.read_json(old / "config.json")
    config["config"]["hue_of_the_replay"] = 3
    entry = agents.algorithm(config["algorithm"])
    wanted = split(entry, reopened(entry, files.read_json(old / "config.json")))
    assert split(entry, reopened(entry, config)) == wanted
    current = {name: value for name, value in config["config"].items() if name in entry.config.__dataclass_fields__}
    current["hue_of_the_replay"] = 3
    with pytest.raises(UsageError, match="no setting 'hue_of_the_replay'"):
        split(entry, reopened(entry, config | {"config": current, "format": "1.1"}))


def test_moments_that_are_one_vector_now(tmp_path):
    """In the order of the parameters, whatever order the file has them in."""
    before = {
        "agent/actor/params/w": np.arange(4, dtype=np.float32).reshape(2, 2),
        "agent/actor/params/b": np.arange(2, dtype=np.float32),
        "agent/actor/optimiser/mu/b": np.float32([5, 6]),
        "agent/actor/optimiser/mu/w": np.float32([[1, 2], [3, 4]]),
    }
    kinds = {name: (np.dtype(np.float32), x.shape) for name, x in before.items() if "params" in name}
    wanted = {**kinds, "agent/actor/optimiser/mu": (np.dtype(np.float32), (6,))}
    arrays, _ = migrate.renewed(dict(before), {}, wanted, {})
    np.testing.assert_array_equal(arrays["agent/actor/optimiser/mu"], [1, 2, 3, 4, 5, 6])
