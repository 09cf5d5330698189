import subprocess
import sys

from steersman import envs
from steersman.envs import families
from steersman.envs.probe import PROBES


def test_available(monkeypatch):
    rows = {row.id: row for row in envs.available()}
    assert rows["CartPole-v1"] == ("CartPole-v1", "classic", "compiled", True)
    assert rows["gymnasium/CartPole-v1"] == ("gymnasium/CartPole-v1", "gymnasium", "host", True)
    assert rows["HalfCheetah-v5"].kind == "host"
    assert {"probe/mask", "gymnax/Breakout-MinAtar", "envpool/*"} <= set(rows)
    assert "HalfCheetah-v4" not in rows  # the newest version of each
    assert {name for name in rows if name.startswith("probe/")} == set(PROBES)
    monkeypatch.setattr(families, "_installed", lambda package: package != "Box2D")
    rows = {row.id: row for row in envs.available()}
    assert not rows["LunarLander-v3"].installed
    assert rows["HalfCheetah-v5"].installed


def test_listing_imports_no_jax_and_no_simulator():
    code = "import sys; from steersman import envs; envs.available(); print({'jax', 'mujoco'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "set()"
