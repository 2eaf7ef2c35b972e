"""Provenance of measured values: versions, commit, hardware and date."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from carm_env.system.files import write_json
from carm_env.system.versions import package_versions, used_packages

PACKAGES = ("carm-env", "gymnasium", "numba", "numpy", "mujoco", "myo-sim")


@cache
def git_hash() -> str | None:
    """Returns the commit of this checkout, with ``-dirty`` if files differ from it; None outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changes else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
        encoding="utf-8",
    )
    return done.stdout.strip()


@cache
def processor() -> str:
    """Returns the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def provenance(seed: int | None = None, packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Returns date, seed, commit, versions and hardware, as JSON.

    Args:
        seed: seed of the measurement.
        packages: packages whose versions are given, beside the optional ones that this process has imported.
    """
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seed": seed,
        "git": git_hash(),
        "python": platform.python_version(),
        "packages": package_versions(dict.fromkeys((*packages, *used_packages()))),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def save_measurement(
    path: Path | None, values: Mapping[str, Any], seed: int, packages: Sequence[str] = PACKAGES
) -> None:
    """Saves measured values as JSON, with their `provenance` as ``run``; does nothing if `path` is None."""
    if path is not None:
        write_json(path, {**values, "run": provenance(seed, packages)})
