"""Groups of patients that policies and networks are compared on: virtual patients, families, and real CTs."""

from __future__ import annotations

from carm_env.patient_store import imported_names
from carm_env.patients.registry import real_cts

VIRTUAL_GROUPS = ("standard/test", "poses/test", "bodies/test", "bones/test")


def default_groups() -> tuple[str, ...]:
    """Returns the virtual groups, and the real CTs of the registry that are installed; prints those that are not."""
    installed = set(imported_names())
    known = [entry.name for entry in real_cts().values() if entry.landmarks is not None]
    for name in known:
        if name not in installed:
            print(f"{name} is left out: install it with `carm-env patients install {name}`.")
    return *VIRTUAL_GROUPS, *(name for name in known if name in installed)
