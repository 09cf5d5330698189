"""``steersman info [RUN]``: versions and devices, or what a run folder holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from steersman.cli.display import evaluation_rows, number, print_json, print_table
from steersman.cli.flags import parsed
from steersman.run import plugins
from steersman.run.disk import checkpoint, compile_cache, files, run_folder


@dataclass(frozen=True)
class Info:
    """Versions and devices; with a run folder, its state."""

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")] = None
    """A run folder."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = parsed(Info, arguments, "steersman info")
    if chosen.run is None:
        versions = run_folder.versions(devices=True) | {"installed_algorithms": sorted(plugins.installed())}
        if chosen.json:
            print_json({**versions, "compile_cache": _cache()})
        else:
            rows = [(k, ", ".join(v) if isinstance(v, list) else str(v)) for k, v in versions.items() if v != []]
            print_table("versions", rows)
            print(f"\n{_about_cache()}")
        return 0
    found = describe(chosen.run)
    if chosen.json:
        print_json(found)
        return 0
    rows = [
        (name.removeprefix("parameters_"), number(value) if isinstance(value, int) else str(value))
        for name, value in found.items()
        if name not in ("config", "run_config", "summary", "versions") and value not in (None, "")
    ]
    print_table(str(chosen.run), rows)
    if found["summary"] and found["summary"].get("evaluation"):
        print()
        print_table("evaluation", evaluation_rows(found["summary"]["evaluation"]))
    return 0


def _cache() -> dict[str, Any] | None:
    own = compile_cache.users_own()
    place = own or compile_cache.folder()
    if place is None:
        return None
    limit = None if own else compile_cache.LIMIT
    return {"folder": str(place), "bytes": compile_cache.size(Path(place)), "limit": limit}


def _about_cache() -> str:
    """Where compiled programs are kept, how large that is, and how to be rid of it."""
    cache, switch = _cache(), compile_cache.SWITCH
    if cache is None:
        return f"Compiled programs are not kept: {switch} is {os.environ.get(switch)}."
    kept = f"Compiled programs are kept in {cache['folder']}: {cache['bytes'] / 1e6:.1f} MB"
    if cache["limit"] is None:
        return f"{kept}. That is the folder given to JAX."
    return f"{kept} of at most {cache['limit'] / 1e6:,.0f} MB. To empty it remove the folder; {switch}=0 keeps none."


def describe(path: Path) -> dict[str, Any]:
    """What a run folder holds, as JSON values."""
    opened = run_folder.open_run(path)
    newest, note, content = checkpoint.latest(opened.checkpoints, _inside)
    header, sha256 = content or ({}, None)
    summary, by = run_folder.read_summary(opened), files.holder(opened.path)
    status = "running" if by else summary.get("status") if summary else "stopped"
    on = f"It did not end; go on with: steersman train --resume {path}" if status == "stopped" else ""
    return {
        "run": str(path),
        "algorithm": opened.config["algorithm"],
        "environment": opened.config["environment"],
        "status": status,
        "running_in": by,
        "steps": header.get("steps", 0),
        "budget": opened.config["run"].get("steps"),
        "checkpoint": str(newest) if newest else None,
        "parameters_sha256": sha256,
        "note": " ".join(filter(None, (note, opened.warning, on))),
        "summary": summary,
        "config": opened.config["config"],
        "run_config": opened.config["run"],
        "versions": opened.config["versions"],
    }


def _inside(path: Path) -> tuple[dict[str, Any], str]:
    """-> (header, digest of what was trained) of a whole checkpoint, of which every byte is read once."""
    return checkpoint.read_header(path), checkpoint.stored_sha256(path, under="agent")
