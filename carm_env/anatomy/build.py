"""Virtual patients by seed: built from parameters, kept in the cache."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from carm_env.anatomy.parameters import PatientParameters
from carm_env.files import CACHE_VARIABLE, cache_dir, content_hash
from carm_env.patients import CorruptPatientError, Patient, load_saved_patient, save_patient

if TYPE_CHECKING:
    from carm_env.anatomy.assembly import Anatomy

ANATOMY_VERSION = "3"
"""Raised whenever the same parameters give another volume or other landmarks: old caches are then not used."""

Progress = Callable[[str], None]


def myo_sim_version() -> str:
    """The installed version of the package that the skeleton comes from."""
    try:
        return version("myo-sim")
    except PackageNotFoundError:
        return "unknown"


def _identity(parameters: PatientParameters) -> dict[str, Any]:
    return {"anatomy": ANATOMY_VERSION, "myo_sim": myo_sim_version(), "parameters": parameters.to_json()}


def patient_id(parameters: PatientParameters) -> str:
    """``virtual:<seed>``, followed by the options that differ from what the seed alone would give.

    >>> patient_id(PatientParameters.from_seed(3)), patient_id(PatientParameters.from_seed(0, arms="sides"))
    ('virtual:3', 'virtual:0?arms=sides')
    """
    plain = PatientParameters.from_seed(parameters.seed)
    given = [
        f"{item.name}={_written(getattr(parameters, item.name))}"
        for item in fields(parameters)
        if getattr(parameters, item.name) != getattr(plain, item.name)
    ]
    return f"virtual:{parameters.seed}" + ("?" + "&".join(given) if given else "")


def _written(value: Any) -> str:
    return "+".join(value) if isinstance(value, tuple) else str(value)


def _card(parameters: PatientParameters) -> dict[str, Any]:
    return {
        "kind": "virtual patient",
        "origin": "skeleton of myo-sim (Apache-2.0) posed with MuJoCo; soft tissue made by carm_env.anatomy",
        "anatomy_version": ANATOMY_VERSION,
        "myo_sim_version": myo_sim_version(),
        "parameters": parameters.to_json(),
        "notice": "Research use only, not a medical device.",
    }


def build_patient(parameters: PatientParameters, progress: Progress | None = None) -> Patient:
    """Build a patient from its parameters, without the cache; takes about a quarter of a minute.

    Args:
        parameters: what to build.
        progress: called with a short text at the beginning of each stage.
    """
    # Brings mujoco, numba and scipy, which a patient from the cache does not need.
    from carm_env.anatomy.assembly import build_anatomy

    return as_patient(parameters, build_anatomy(parameters, progress))


def as_patient(parameters: PatientParameters, anatomy: Anatomy) -> Patient:
    """The patient of a built anatomy: its volume and landmarks with id and card."""
    return Patient(patient_id(parameters), anatomy.volume, anatomy.landmarks_lps_mm, _card(parameters))


def cache_folder(parameters: PatientParameters) -> Path:
    """Where `virtual_patient` keeps a patient: named by parameters, anatomy and skeleton version."""
    return cache_dir() / "patients" / f"virtual-{content_hash(_identity(parameters))[:16]}"


def virtual_patient(seed: int = 0, progress: Progress | None = None, **options: Any) -> Patient:
    """The virtual patient of a seed: from the cache if it was built before, else built and kept there.

    Args:
        seed: 0 is the default patient; others vary mildly, see `PatientParameters.from_seed`.
        progress: called with a short text at each stage of a build.
        **options: any of `PatientParameters` beside the seed, e.g. ``arms="sides"``.

    Raises:
        UnknownNameError: an option that does not exist; the message names the nearest one.
        ValueError: an option outside its limits.
    """
    parameters = PatientParameters.from_seed(seed, **options)
    folder = cache_folder(parameters)
    cached = _load_cached(folder)
    if cached is not None:
        return cached
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Only one process builds; the others wait for it and then read what it has written.
        with FileLock(folder.with_suffix(".lock")):
            return _load_cached(folder) or _build_into(folder, parameters, progress)
    except OSError as error:
        warnings.warn(
            f"the patient cannot be kept in the cache ({error}) and is built for this process alone; "
            f"set {CACHE_VARIABLE} to a folder that can be written",
            stacklevel=2,
        )
        return build_patient(parameters, progress)


def _load_cached(folder: Path) -> Patient | None:
    try:
        return load_saved_patient(folder)
    except FileNotFoundError:
        return None
    except CorruptPatientError as error:
        warnings.warn(f"the cached patient is damaged and will be built again: {error}", stacklevel=3)
        return None


def _build_into(folder: Path, parameters: PatientParameters, progress: Progress | None) -> Patient:
    patient = build_patient(parameters, progress)
    try:
        save_patient(patient, folder)
    except OSError as error:
        warnings.warn(
            f"the patient cannot be kept in the cache ({error}); set {CACHE_VARIABLE} to another folder", stacklevel=3
        )
        return patient
    return load_saved_patient(folder)
