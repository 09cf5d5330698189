"""What the benchmarks share: subprocesses that answer in JSON, the machine's description, result files."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
STEERSMAN = [sys.executable, "-c", "from steersman.cli.main import main; main()"]


def run_json(command: Sequence[str], *, timeout: float = 1800, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a command on the CPU and read the JSON object that its output ends with."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"JAX_PLATFORMS": "cpu", **(os.environ if env is None else env)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    lines = done.stdout.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("{")), None)
    if done.returncode or start is None:
        raise SystemExit(f"{shlex.join(command)}\nended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return json.loads("\n".join(lines[start:]))


def machine() -> dict[str, Any]:
    """The machine in words: processor, cores, system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        flags = next((line for line in lines if line.startswith("flags")), "")
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
        model += " (AVX-512)" if "avx512f" in flags else ""
    return {"cpu": model, "cores": cores, "system": f"{platform.system()} {platform.machine()}"}


def _script() -> str:
    """The running script, from the project's root where it lies there."""
    path = Path(sys.argv[0]).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else f"benchmarks/{path.name}"


def curve(history: list[dict[str, Any]], points: int | None = None) -> list[list[float]]:
    """[steps, return] of the rows of a run's history in which episodes ended; about so many of them, or all."""
    rows = [[r["steps"], r["episode_return"]] for r in history if math.isfinite(r.get("episode_return", math.nan))]
    return rows[:: max(1, len(rows) // points)] if points else rows


def provenance() -> dict[str, Any]:
    """When, where, from which commit and by which command a result was made."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "src"], capture_output=True, text=True).stdout.strip()
    packages = ("jax", "jaxlib", "numpy", "gymnasium", "equinox", "optax")
    return {
        "command": shlex.join(["python", _script(), *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "commit": commit + (" and changes" if changed else ""),
        "machine": machine(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
    }


def save(name: str, content: dict[str, Any], folder: Path | None = None) -> Path:
    """Write ``results/NAME.json``."""
    folder = RESULTS if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(rounded(content), indent=1, allow_nan=False) + "\n")
    print(f"written: {path}", flush=True)
    return path


def load(name: str, folder: Path | None = None) -> dict[str, Any] | None:
    """What ``save`` wrote under this name; None where there is nothing yet."""
    path = (RESULTS if folder is None else folder) / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def rounded(value: Any) -> Any:
    """The same with numbers of four to five digits, so that a result reads and diffs well."""
    match value:
        case dict():
            return {k: rounded(v) for k, v in value.items()}
        case list() | tuple():
            return [rounded(v) for v in value]
        case float():
            return round(value) if abs(value) >= 10_000 else float(f"{value:.5g}")
    return value
