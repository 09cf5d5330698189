"""The peers' own environments: ``python benchmarks/peers.py setup`` makes them under benchmarks/.venvs.

They pin other versions than ours, so each lives apart. PEERS_SB3_PYTHON, PEERS_REJAX_PYTHON, PEERS_MDP_PYTHON,
PEERS_LM_PYTHON and PEERS_TRL_PYTHON name interpreters that are there already.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = ("sb3", "rejax", "mdp", "lm", "trl")  # SBX lives with SB3; mdp holds exact planners, lm and trl torch


def python_of(peer: str) -> str:
    """The interpreter of a peer's environment; ends the program with what to do if there is none."""
    variable = f"PEERS_{peer.upper()}_PYTHON"
    path = Path(os.environ.get(variable) or _python(HERE / ".venvs" / peer))
    if not path.exists():
        raise SystemExit(f"No environment for {peer}: run `python benchmarks/peers.py setup`, or set {variable}.")
    return str(path)


def setup(peer: str, python: str) -> None:
    """Make a peer's environment and install its exact packages."""
    venv, requirements = HERE / ".venvs" / peer, HERE / f"requirements-{peer}.txt"
    if uv := shutil.which("uv"):
        commands = [
            [uv, "venv", "--clear", "--python", python, str(venv)],
            [uv, "pip", "install", "--python", str(_python(venv)), "-r", str(requirements)],
        ]
    else:
        commands = [
            [python, "-m", "venv", "--clear", str(venv)],
            [str(_python(venv)), "-m", "pip", "install", "-r", str(requirements)],
        ]
    for command in commands:
        subprocess.run(command, check=True)


def _python(venv: Path) -> Path:
    return venv / "bin" / "python"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("setup", "show"))
    parser.add_argument("--only", choices=PEERS, action="append")
    parser.add_argument("--python", default=sys.executable, help="interpreter to build them with (3.11 or 3.12)")
    args = parser.parse_args()
    for name in args.only or PEERS:
        if args.command == "setup":
            setup(name, args.python)
        print(name, python_of(name))
