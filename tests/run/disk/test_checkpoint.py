"""Checkpoints: exact round trips, refusals that say why, and kills that leave a readable file."""

import errno
import json
import os
import subprocess
import sys
from typing import NamedTuple

import equinox as eqx
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from steersman.errors import UsageError
from steersman.run.disk import checkpoint, files, tensors
from steersman.run.disk.tensors import DamagedFile


class Inner(NamedTuple):
    weight: np.ndarray
    parts: tuple


def example():
    return {
        "params": Inner(np.arange(6, dtype=np.float32).reshape(2, 3), (np.array(True), np.zeros((0, 4), np.int32))),
        "half": jnp.asarray([1.5, -0.0, jnp.nan], jnp.bfloat16),
        "key": jax.random.split(jax.random.key(7), 3),
        "layer": eqx.nn.Linear(2, 2, key=jax.random.key(1)),
        "count": 12,
        "rate": 0.25,
        "flag": True,
        "pixel": np.uint8(200),
        "wide": np.float64(0.1),
        "nothing": None,
    }


def same(a, b):
    """Same structure, kinds, dtypes, shapes and bytes."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert x.dtype == y.dtype
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "step_000000000010.safetensors"


def test_every_kind_of_leaf_comes_back_bit_for_bit(path):
    state, header = example(), {"steps": 2**60, "seconds": 0.1, "notes": ["ü", None, float("inf")]}
    checkpoint.save(path, state, header)
    loaded, read = checkpoint.load(path, state)
    same(state, loaded)
    assert read == header == checkpoint.read_header(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_names_are_readable_tree_paths(path):
    checkpoint.save(path, example(), {})
    with tensors.opened(path) as file:
        names = list(file.entries)
    assert names == [
        *("count", "flag", "half", "key", "layer/weight", "layer/bias"),
        *("params/weight", "params/parts/0", "params/parts/1", "pixel", "rate", "wide"),
    ]


def test_another_safetensors_reader_opens_it(path):
    state = {"a": np.arange(3, dtype=np.int32), "b": np.ones((2, 2), np.float64), "c": np.array(False)}
    checkpoint.save(path, state, {})
    read = load_file(path)
    assert read.keys() == state.keys()
    for name in state:
        np.testing.assert_array_equal(read[name], state[name], strict=True)


def test_nan_payloads_and_negative_zero_survive(path):
    bits = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 0x7F800001], np.uint32)
    for state in ({"x": bits.view(np.float32)}, {"x": jnp.asarray(bits[:3].view(np.float32))}):
        checkpoint.save(path, state, {})
        same(state, checkpoint.load(path, state)[0])


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.sampled_from(
            [np.float16, np.float32, np.float64, np.int8, np.int32, np.uint64, np.bool_, np.complex64]
        ).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))),
        max_size=5,
    ),
    st.dictionaries(st.text(max_size=3), st.none() | st.booleans() | st.integers() | st.text(max_size=5), max_size=3),
)
def test_any_tree_round_trips(tmp_path_factory, state, header):
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    checkpoint.save(path, state, header)
    loaded, read = checkpoint.load(path, state)
    same(state, loaded)
    assert read == header
    if state:
        assert checkpoint.stored_sha256(path) == checkpoint.parameters_sha256(state)


def test_strides_and_byte_order_do_not_matter(path):
    plain = np.arange(12, dtype=np.int32).reshape(3, 4)
    odd = {"a": plain.T, "b": plain[::2, ::-1], "c": plain.astype(">i4"), "d": plain[1, 2:3].reshape(())}
    checkpoint.save(path, odd, {})
    loaded, _ = checkpoint.load(path, jax.tree.map(lambda x: np.zeros(x.shape, np.int32), odd))
    for name in odd:
        np.testing.assert_array_equal(loaded[name], odd[name])


def test_like_may_be_shapes_only_and_kinds_follow_it(path):
    state = {"key": jax.random.key(3), "w": jnp.ones((2,), jnp.float32)}
    checkpoint.save(path, state, {})
    like = jax.eval_shape(lambda: state)
    same(state, checkpoint.load(path, like)[0])
    as_numpy = checkpoint.load(path, {**like, "w": np.zeros((2,), np.float32)})[0]
    assert isinstance(as_numpy["w"], np.ndarray)


def test_a_part_is_loaded_from_a_larger_state(path):
    checkpoint.save(path, {"agent": {"w": np.ones(2)}, "replay": np.zeros(9)}, {"steps": 1})
    loaded, header = checkpoint.load(path, {"agent": {"w": np.zeros(2)}}, partial=True)
    assert loaded["agent"]["w"].tolist() == [1, 1]
    assert header == {"steps": 1}
    with pytest.raises(UsageError, match="extra in the file: replay"):
        checkpoint.load(path, {"agent": {"w": np.zeros(2)}})


def test_sharding_of_like_is_kept(path):
    if len(jax.devices()) < 2:
        pytest.skip("needs two devices")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("b",))
    spread = jax.device_put(jnp.arange(4, dtype=jnp.float32), jax.sharding.NamedSharding(mesh, jax.P("b")))
    checkpoint.save(path, {"x": spread}, {})
    loaded = checkpoint.load(path, {"x": spread})[0]["x"]
    assert loaded.sharding == spread.sharding
    np.testing.assert_array_equal(loaded, spread)


def test_saving_does_not_use_up_a_key(path):
    with jax.debug_key_reuse(True):
        key = jax.random.key(0)
        checkpoint.save(path, key, {})
        loaded, _ = checkpoint.load(path, key)
        assert jax.random.normal(key, ()) == jax.random.normal(loaded, ())


@pytest.mark.parametrize("leaf", ["text", len, object(), np.array(["a"]), np.array(1, "datetime64[s]"), 1j])
def test_what_is_not_an_array_is_refused_by_name(path, leaf):
    with pytest.raises(TypeError, match="a/b"):
        checkpoint.save(path, {"a": {"b": leaf}}, {})
    assert not path.exists()


def test_two_leaves_with_one_name_are_refused(path):
    with pytest.raises(ValueError, match="a/b"):
        checkpoint.save(path, {"a/b": 1, "a": {"b": 2}}, {})
    with pytest.raises(ValueError, match="__metadata__"):
        checkpoint.save(path, {"__metadata__": 1}, {})


def test_parameters_sha256_sees_bytes_dtype_shape_and_order(path):
    zero = {"a": np.zeros(4, np.float32), "b": np.ones(4, np.float32)}
    others = [
        {**zero, "a": np.zeros(4, np.int32)},
        {**zero, "a": np.zeros((2, 2), np.float32)},
        {**zero, "a": np.full(4, -0.0, np.float32)},
        {"a": zero["b"], "b": zero["a"]},
    ]
    digests = {checkpoint.parameters_sha256(s) for s in [zero, *others]}
    assert len(digests) == 5
    assert checkpoint.parameters_sha256(jax.tree.map(jnp.asarray, zero)) == checkpoint.parameters_sha256(zero)
    state = example()
    checkpoint.save(path, state, {})
    assert checkpoint.stored_sha256(path) == checkpoint.parameters_sha256(state)
    assert checkpoint.stored_sha256(path, "params") == checkpoint.parameters_sha256(state["params"])
    with pytest.raises(UsageError, match="holds nothing named 'parm'"):
        checkpoint.stored_sha256(path, "parm")


# Files that do not fit


def test_missing_extra_and_misshaped_names_come_in_one_message(path):
    checkpoint.save(path, {"a": np.zeros(3, np.float32), "b": np.zeros(2), "key": jax.random.key(0), "old": 1}, {})
    like = {"a": np.zeros(4, np.float32), "b": np.zeros(2, np.float32), "key": jax.random.key(0, impl="rbg"), "new": 1}
    with pytest.raises(UsageError) as caught:
        checkpoint.load(path, like)
    message = str(caught.value)
    for part in (
        "missing from the file: new",
        "extra in the file: old",
        "a (float32[3] in the file, float32[4] wanted)",
        "b (float64[2] in the file, float32[2] wanted)",
        "key (key<fry>[] in the file, key<rbg>[] wanted)",
    ):
        assert part in message
    assert not isinstance(caught.value, DamagedFile)


def test_a_file_from_before_sums_were_compensated_is_read(path):
    """What rounding has kept out of the running episodes' sums: nobody counted it then, and it starts at 0."""
    old = {"envs": {"episode_return": jnp.ones(3)}}
    checkpoint.save(path, old, {"steps": 1})
    new = {"envs": {"episode_return": jnp.zeros(3), "return_lost": jnp.ones(3), "cost_lost": jnp.ones((3, 2))}}
    state, _ = checkpoint.load(path, new)
    np.testing.assert_array_equal(state["envs"]["episode_return"], np.ones(3))
    np.testing.assert_array_equal(state["envs"]["return_lost"], np.zeros(3, np.float32))
    assert (state["envs"]["cost_lost"].shape, state["envs"]["cost_lost"].dtype) == ((3, 2), np.float32)
    checkpoint.save(path, new, {"steps": 1})
    np.testing.assert_array_equal(checkpoint.load(path, new)[0]["envs"]["return_lost"], np.ones(3))


def test_damage_is_not_taken_for_another_structure(path):
    checkpoint.save(path, {"weight": np.zeros(3)}, {"steps": 1})
    whole = path.read_bytes()
    for old, new in [(b'"weight"', b'"weighu"'), (b'\\"header\\"', b'\\"heades\\"'), (b"F64", b"I64")]:
        assert old in whole
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(DamagedFile, match="checksum"):
            checkpoint.load(path, {"weight": np.zeros(3)})


def test_arrays_are_aligned_for_readers_that_map_the_file(path):
    state = [np.zeros(3, bool), np.zeros(3), np.zeros(3, np.int16), np.float32(0), np.zeros(3, np.complex64)]
    checkpoint.save(path, state, {})
    with tensors.opened(path) as file:
        starts = {name: (8 + len(file.raw) + e.begin) % min(e.dtype.itemsize, 8) for name, e in file.entries.items()}
    assert starts == dict.fromkeys("01234", 0)


def test_long_lists_of_names_are_cut(path):
    checkpoint.save(path, {}, {})
    with pytest.raises(UsageError, match=r"x07 and 12 more"):
        checkpoint.load(path, {f"x{i:02}": np.zeros(1) for i in range(20)})


def test_a_key_is_not_an_array_of_numbers(path):
    checkpoint.save(path, {"k": np.zeros(2, np.uint32)}, {})
    with pytest.raises(UsageError, match=r"uint32\[2\] in the file, key<fry>\[\] wanted"):
        checkpoint.load(path, {"k": jax.random.key(0)})


# Files that are damaged or crafted


def test_cut_short_anywhere_is_damage(path):
    state = {"a": np.arange(40, dtype=np.float32), "b": np.ones(3, bool)}
    checkpoint.save(path, state, {"steps": 1})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match="damaged"):
            checkpoint.load(path, state)
        with pytest.raises(DamagedFile):
            checkpoint.check(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedFile, match="should take"):
        checkpoint.read_header(path)


def test_a_flipped_bit_anywhere_is_found(path):
    state = {"a": np.arange(10, dtype=np.float32), "key": jax.random.key(0)}
    checkpoint.save(path, state, {"steps": 1})
    whole = path.read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << (at % 8)
        path.write_bytes(changed)
        with pytest.raises(UsageError):
            checkpoint.load(path, state)


def craft(path, header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)


META = {"__metadata__": {"sha256": "0" * 64, "content": json.dumps({"version": 1, "header": {}, "keys": {}})}}
F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
CRAFTED = {  # name -> (header, data, claimed length of the header, what the message says)
    "empty": (b"", b"", 0, "not JSON"),
    "huge header": (b"{}", b"", 2**63, "does not begin as a safetensors file does"),
    "header past the end": (b"{}", b"", 3, "cut short: 10 bytes do not hold its header"),
    "not JSON": (b"\x80\x04cos\nsystem\n", b"", None, "not JSON"),
    "not UTF-8": (b'{"\xff": 1}', b"", None, "not JSON"),
    "deep": (b"[" * 100_000, b"", None, "not JSON"),
    "a list": ([], b"", None, "not an object"),
    "a number": (b"1", b"", None, "not an object"),
    "metadata not an object": ({"__metadata__": 3}, b"", None, "not an object with metadata"),
    "metadata not strings": ({"__metadata__": {"sha256": 3}}, b"", None, "metadata of strings"),
    "a name twice": (b'{"a": {}, "a": {}}', b"", None, "a name twice"),
    "entry is a list": ({**META, "a": []}, b"", None, "malformed"),
    "unknown dtype": ({**META, "a": {**F4, "dtype": "OBJECT"}}, b"1234", None, "malformed"),
    "dtype is a list": ({**META, "a": {**F4, "dtype": ["F32"]}}, b"1234", None, "malformed"),
    "negative shape": ({**META, "a": {**F4, "shape": [-1, -1]}}, b"1234", None, "malformed"),
    "bool shape": ({**META, "a": {**F4, "shape": [True]}}, b"1234", None, "malformed"),
    "float offset": ({**META, "a": {**F4, "data_offsets": [0, 4.0]}}, b"1234", None, "malformed"),
    "three offsets": ({**META, "a": {**F4, "data_offsets": [0, 4, 4]}}, b"1234", None, "malformed"),
    "backwards": ({**META, "a": {**F4, "data_offsets": [4, 0]}}, b"1234", None, "malformed"),
    "huge shape": ({**META, "a": {**F4, "shape": [2**62, 2**62]}}, b"1234", None, "malformed"),
    "shape does not fill": ({**META, "a": {**F4, "shape": [2]}}, b"1234", None, "malformed"),
    "terabytes": ({**META, "a": {**F4, "shape": [2**40], "data_offsets": [0, 2**42]}}, b"1234", None, "should take"),
    "extra field": ({**META, "a": {**F4, "loader": "os.system"}}, b"1234", None, "malformed"),
    "overlap": ({**META, "a": F4, "b": F4}, b"1234", None, "overlap"),
    "gap": ({**META, "a": {**F4, "data_offsets": [4, 8]}}, b"12345678", None, "leave a gap"),
    "bytes after": ({**META, "a": F4}, b"12345", None, "should take"),
    "wrong checksum": ({**META, "a": F4}, b"1234", None, "checksum"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_files_are_refused(path, name):
    header, data, length, says = CRAFTED[name]
    craft(path, header, data, length)
    with pytest.raises(DamagedFile, match=says) as caught:
        checkpoint.load(path, {"a": np.zeros(1, np.float32)})
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"version": 1}',
        '{"version": 1, "header": [], "keys": {}}',
        '{"version": 1, "header": {}, "keys": {"a": "os.system"}}',
        '{"version": 1, "header": {}, "keys": {"zzz": "rbg"}}',
        '{"version": "1", "header": {}, "keys": {}}',
        '{"version": 3, "header": {}, "keys": {}}',
    ],
)
def test_crafted_metadata_is_refused(path, content):
    tensors.write(path, {"a": np.zeros(1, np.float32)}, {"content": content})
    for use in (checkpoint.read_header, checkpoint.check, lambda p: checkpoint.load(p, {"a": np.zeros(1, np.float32)})):
        with pytest.raises(UsageError, match=r"not a checkpoint's|git pull"):
            use(path)


def test_other_files_are_refused(path, tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        checkpoint.load(path, {})
    with pytest.raises(UsageError, match="directory"):
        checkpoint.load(tmp_path, {})
    save_file({"a": np.zeros(1, np.float32)}, path)
    with pytest.raises(UsageError, match="without a steersman header"):
        checkpoint.load(path, {})


def test_key_data_of_the_wrong_shape_is_refused(path):
    state = {"k": np.zeros(3, np.uint32)}
    checkpoint.save(path, state, {})
    with tensors.opened(path) as file:
        metadata = {**file.metadata, "content": json.dumps({"version": 1, "header": {}, "keys": {"k": "threefry2x32"}})}
    tensors.write(path, state, {k: v for k, v in metadata.items() if k != "sha256"})
    with pytest.raises(UsageError, match=r"uint32\[3\] in the file"):
        checkpoint.load(path, {"k": jax.random.key(0)})


# The folder of checkpoints


def fill(folder, steps):
    for s in steps:
        checkpoint.save(checkpoint.step_path(folder, s), {"w": np.full(3, s)}, {"steps": s})


def test_latest_is_the_newest_whole_one(tmp_path):
    assert checkpoint.latest(tmp_path / "none") == (None, "", None)
    assert checkpoint.latest(tmp_path) == (None, "", None)
    fill(tmp_path, [10, 2_000_000, 300])
    (tmp_path / ".step_000009999999.123.tmp.safetensors").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert checkpoint.latest(tmp_path) == (tmp_path / "step_000002000000.safetensors", "", None)
    newest = checkpoint.step_path(tmp_path, 2_000_000)
    newest.write_bytes(newest.read_bytes()[:-1])
    path, note, _ = checkpoint.latest(tmp_path)
    assert path == checkpoint.step_path(tmp_path, 300)
    assert "step_000002000000" in note
    assert "damaged" in note
    checkpoint.set_aside(tmp_path, after=300)
    assert checkpoint.latest(tmp_path) == (path, "", None)
    assert (tmp_path / "step_000002000000.safetensors.damaged").exists()


def test_when_none_is_whole_it_says_so(tmp_path):
    fill(tmp_path, [10, 20])
    for _, path in checkpoint.saved(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(
        UsageError, match="No checkpoint.*step_000000000020.safetensors is damaged: .*Start a new run"
    ) as told:
        checkpoint.latest(tmp_path)
    assert "Use an earlier one" not in str(told.value)


def test_prune_keeps_the_newest_and_clears_temporaries(tmp_path):
    fill(tmp_path, [10, 20, 30, 40])
    (tmp_path / ".step_000000000050.123.tmp.safetensors").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoint.prune(tmp_path, 2)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["notes.txt", "step_000000000030.safetensors", "step_000000000040.safetensors"]
    with pytest.raises(UsageError, match="at least 1"):
        checkpoint.prune(tmp_path, 0)


# Disks that fail, processes that die


@pytest.mark.parametrize("what", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "Not permitted"), (errno.EIO, "file failed")]
)
def test_a_failing_disk_leaves_the_last_checkpoint(path, monkeypatch, what, number, says):
    checkpoint.save(path, {"w": np.zeros(3)}, {"steps": 1})
    before = path.read_bytes()

    def fail(*args):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        if what == "write":
            patched.setattr(tensors, "_chunks", fail)
        else:
            patched.setattr(files.os, what, fail)
        with pytest.raises(UsageError, match=says) as caught:
            checkpoint.save(path, {"w": np.ones(3)}, {"steps": 2})
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_write_past_the_limit_leaves_the_last_checkpoint(tmp_path):
    """A real failing write: the process may not make files over 1 MiB."""
    code = f"""
import resource, signal, numpy as np
from steersman.run.disk import checkpoint
from steersman.errors import UsageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
checkpoint.save(r"{tmp_path}/a.safetensors", {{"w": np.zeros(3)}}, {{"steps": 1}})
try:
    checkpoint.save(r"{tmp_path}/a.safetensors", {{"w": np.zeros(20 << 20)}}, {{"steps": 2}})
except UsageError as error:
    print(error)
print(checkpoint.load(r"{tmp_path}/a.safetensors", {{"w": np.zeros(3)}})[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "File too large" in done.stdout
    assert "{'steps': 1}" in done.stdout
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, timeout=10).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk needs privileges")
    yield disk
    subprocess.run(["umount", str(disk)], check=True, timeout=10)


def test_a_full_disk_leaves_the_last_checkpoint(small_disk):
    path = checkpoint.step_path(small_disk, 1)
    state = {"w": np.arange(50_000, dtype=np.float64)}
    checkpoint.save(path, state, {"steps": 1})
    for target in (path, checkpoint.step_path(small_disk, 2), checkpoint.step_path(small_disk, 3)):
        with pytest.raises(UsageError, match=r"disk is full.*--resume"):
            checkpoint.save(target, {"w": np.zeros(100_000)}, {"steps": 2})
    assert list(small_disk.iterdir()) == [path]
    same(state, checkpoint.load(checkpoint.latest(small_disk)[0], state)[0])


def test_large_states_take_the_threaded_path(path):
    state = {"a": np.random.default_rng(0).integers(0, 255, (5, 5_000_001), np.uint8), "b": np.float32(1)}
    checkpoint.save(path, state, {})
    same(state, checkpoint.load(path, state)[0])
    checkpoint.check(path)
    with open(path, "r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\x01\x02\x03")
    with pytest.raises(DamagedFile, match="checksum"):
        checkpoint.check(path)


KILLER = """
import os, random, signal, sys, time
import numpy as np
from steersman.run.disk import checkpoint, files

folder, rounds = sys.argv[1], int(sys.argv[2])
like = {"w": np.zeros(200_000, np.int64), "v": np.zeros(3)}
leftovers = 0
for round_ in range(rounds):
    start = checkpoint.saved(folder)
    step = start[-1][0] if start else 0
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            step += 1
            state = {"w": np.full(200_000, step), "v": np.ones(3)}
            checkpoint.save(checkpoint.step_path(folder, step), state, {"steps": step})
            os.write(write, step.to_bytes(8, "little"))
            checkpoint.prune(folder, 2)
    os.close(write)
    done = int.from_bytes(os.read(read, 8), "little")
    time.sleep(random.Random(round_).uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while report := os.read(read, 8):
        done = int.from_bytes(report, "little")
    os.close(read)
    path, note, _ = checkpoint.latest(folder)
    state, header = checkpoint.load(path, like)
    assert note == "" and header["steps"] >= done and (state["w"] == header["steps"]).all(), (note, header, done)
    leftovers += len(files.clean(folder))
    assert not [name for name in os.listdir(folder) if ".tmp" in name]
print(leftovers)
"""


def test_sigkill_while_saving_never_costs_the_checkpoint(tmp_path):
    """A fresh process forks savers and kills them: a saved checkpoint stays whole, what was half-written is cleared."""
    command = [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path), "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5  # some kills did fall into a save
