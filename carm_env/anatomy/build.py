"""Builds virtual patients and caches them on disk."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carm_env.anatomy.population import VirtualPatient
from carm_env.patient import CorruptPatientError, Patient, load_saved_patient, save_patient
from carm_env.system.files import CACHE_VARIABLE, cache_dir, content_hash
from carm_env.system.leftovers import lock_path
from carm_env.system.locks import lock
from carm_env.system.messages import announce
from carm_env.system.versions import package_version

if TYPE_CHECKING:
    from carm_env.anatomy.assembly import Anatomy

ANATOMY_VERSION = "5"
"""Increased whenever the same parameters give other volumes or landmarks; older cached patients are then ignored."""

BUILD_SECONDS = {2.0: 30, 1.5: 90, 1.0: 230}
"""Approximate time of a build on one core by voxel size (mm)."""


def myo_sim_version() -> str:
    """Returns the installed version of myo-sim, the source of the skeleton."""
    return package_version("myo-sim") or "unknown"


def _identity(patient: VirtualPatient) -> dict[str, Any]:
    return {
        "id": patient_id(patient),
        "anatomy": ANATOMY_VERSION,
        "myo_sim": myo_sim_version(),
        "parameters": patient.parameters.to_json(),
    }


def patient_id(patient: VirtualPatient) -> str:
    """Returns the id of a patient: ``virtual:<seed>``, followed by the options that are set.

    >>> patient_id(VirtualPatient(3)), patient_id(VirtualPatient(0, arms="sides"))
    ('virtual:3', 'virtual:0?arms=sides')
    """
    options = [f"{name}={_option_text(value)}" for name, value in patient.given.items()]
    return f"virtual:{patient.seed}" + ("?" + "&".join(options) if options else "")


def _option_text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "+".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _card(patient: VirtualPatient) -> dict[str, Any]:
    return {
        "kind": "virtual patient",
        "origin": "skeleton of myo-sim (Apache-2.0) posed with MuJoCo; soft tissue made by carm_env.anatomy",
        "anatomy_version": ANATOMY_VERSION,
        "myo_sim_version": myo_sim_version(),
        "person": patient.person,
        "parameters": patient.parameters.to_json(),
        "notice": "Research use only, not a medical device.",
    }


def build_patient(patient: VirtualPatient) -> Patient:
    """Builds a patient without the cache; takes about 30 s of CPU time at 2 mm."""
    # Imported here: it imports mujoco, numba and scipy, which a cached patient does not need.
    from carm_env.anatomy.assembly import build_anatomy

    return as_patient(patient, build_anatomy(patient.parameters))


def as_patient(patient: VirtualPatient, anatomy: Anatomy) -> Patient:
    """Returns the volume and landmarks of a built anatomy as a patient, with id and card."""
    return Patient(patient_id(patient), anatomy.volume, anatomy.landmarks_lps_mm, _card(patient))


def cache_folder(patient: VirtualPatient) -> Path:
    """Returns the cache folder of a patient, named by a hash of id, parameters, anatomy and myo-sim version."""
    return cache_dir() / "patients" / f"virtual-{content_hash(_identity(patient))[:16]}"


def virtual_patient(seed: int = 0, *, quiet: bool = False, **options: Any) -> Patient:
    """Returns a virtual patient, from the cache or built and then cached.

    Args:
        seed: seed of the patient; 0 is the average patient.
        quiet: do not announce a build on the standard error.
        **options: values that are not drawn, e.g. ``age=80`` or ``arms="sides"``; see
            `carm_env.anatomy.population.VirtualPatient`.

    Raises:
        UnknownNameError: an option does not exist; the message suggests the nearest one.
        ValueError: an option is outside its limits.
    """
    patient = VirtualPatient(seed, **options)
    folder = cache_folder(patient)
    cached = _load_cached(folder)
    if cached is not None:
        return cached
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # One process builds; the others wait and read the result.
        with lock(lock_path(folder, "build")):
            return _load_cached(folder) or _build_into(folder, patient, quiet)
    except OSError as error:
        _warn_uncached(error)
        return _build(patient, quiet, "")


def _load_cached(folder: Path) -> Patient | None:
    try:
        return load_saved_patient(folder)
    except OSError:
        # There is none, or this user may not read the cache folder.
        return None
    except CorruptPatientError as error:
        warnings.warn(f"The cached patient is damaged and is built again: {error}", stacklevel=3)
        return None


def _build_into(folder: Path, virtual: VirtualPatient, quiet: bool) -> Patient:
    patient = _build(virtual, quiet, "once, ")
    try:
        save_patient(patient, folder)
    except OSError as error:
        _warn_uncached(error)
        return patient
    return load_saved_patient(folder)


def _build(virtual: VirtualPatient, quiet: bool, how_often: str) -> Patient:
    if not quiet:
        seconds = BUILD_SECONDS[virtual.parameters.voxel_mm]
        announce(f"building virtual patient {patient_id(virtual)} ({how_often}about {seconds} s) ...")
    return build_patient(virtual)


def _warn_uncached(error: OSError) -> None:
    warnings.warn(
        f"The patient cannot be cached ({error}) and is built again in every process; set {CACHE_VARIABLE} to a "
        "writable folder.",
        stacklevel=3,
    )
