"""Manifest of a cohort: its built patients, their parameters and hashes, and a check of the files against it."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from carm_env.landmarks import landmark
from carm_env.patient import CorruptPatientError, load_saved_patient, read_description
from carm_env.patients.cohorts import SPLITS, Cohort, find_cohort
from carm_env.patients.reference import PatientRef
from carm_env.system.errors import CArmEnvError
from carm_env.system.files import cache_dir, content_hash, write_json
from carm_env.system.leftovers import settle
from carm_env.system.messages import announce
from carm_env.system.structured_files import read_json_mapping
from carm_env.system.versions import package_versions

MANIFEST_FORMAT = 1
_PACKAGES = ("carm-env", "mujoco", "myo-sim", "numpy", "scipy")


class ManifestError(CArmEnvError, ValueError):
    """A manifest cannot be read."""


def cohort_folder(cohort: Cohort, options: str = "") -> Path:
    """Returns the default folder of manifest and dataset card: ``cohorts/NAME``, or ``cohorts/NAME-OPTIONS``."""
    suffix = "".join(f"-{part.replace('=', '-')}" for part in options.split("&") if part)
    return cache_dir() / "cohorts" / f"{cohort.name}{suffix}"


def make_manifest(cohort: Cohort, options: str = "") -> dict[str, Any]:
    """Returns the manifest of all patients of a cohort that have been built, as JSON values.

    A damaged patient is announced and left out.

    Args:
        cohort: the cohort.
        options: options of every patient, as in its name, e.g. ``"voxel_mm=1.5"``.
    """
    members = [(ref, split) for split in cohort.splits for ref in PatientRef.expand(cohort.names(split, options))]
    settle(cache_dir() / "patients")
    patients = []
    for ref, split in members:
        if not ref.folder.is_dir():
            continue
        try:
            patients.append(_entry(ref, split))
        except CorruptPatientError as error:
            announce(f"{ref} is damaged and left out of the manifest ({error}): build the cohort again.")
    manifest = {
        "format": MANIFEST_FORMAT,
        "cohort": cohort.name,
        "version": cohort.version,
        "description": cohort.description,
        "purpose": cohort.purpose,
        "options": options,
        "anatomy_version": sorted({str(entry["anatomy_version"]) for entry in patients}),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "packages": package_versions(_PACKAGES),
        "sizes": {split: len(cohort.seeds.get(split, ())) for split in SPLITS},
        "built": {split: sum(entry["split"] == split for entry in patients) for split in SPLITS},
        "patients": patients,
    }
    return {**manifest, "manifest_sha256": content_hash(manifest)}


def write_manifest(manifest: dict[str, Any], folder: Path) -> None:
    """Writes a manifest to ``manifest.json`` in `folder`, atomically."""
    write_json(folder / "manifest.json", manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads a manifest.

    Raises:
        FileNotFoundError: there is no manifest; the message says how to make one.
        ManifestError: the manifest was altered or truncated, or has another format.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"no manifest at {path}: make one with `carm-env patients build`.")
    try:
        manifest = read_json_mapping(path)
        expected = manifest.pop("manifest_sha256")
        if content_hash(manifest) != expected:
            raise ValueError("it does not match its own hash")
        if manifest["format"] != MANIFEST_FORMAT:
            raise ValueError(f"format is {manifest['format']}, expected {MANIFEST_FORMAT}")
        if not isinstance(manifest["cohort"], str) or not isinstance(manifest["version"], int):
            raise TypeError("it names no cohort or no version")
        for entry in manifest["patients"]:
            if not isinstance(entry, dict) or not {str} == {type(entry["name"]), type(entry["split"])}:
                raise TypeError("a patient has no name or no split")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path} is not a valid manifest: {error}. Build the cohort again.") from error
    return {**manifest, "manifest_sha256": expected}


def differences(manifest: dict[str, Any]) -> list[str]:
    """Compares the files on disk with a manifest, hashing every volume; returns one line per difference.

    Raises:
        UnknownNameError: the manifest names a cohort that does not exist.
    """
    found = []
    version = find_cohort(manifest["cohort"]).version
    if manifest["version"] != version:
        found.append(f"cohort: version {manifest['version']} in the manifest, {version} now; build it again")
    for entry in manifest["patients"]:
        name = entry["name"]
        try:
            current = _entry(PatientRef.parse(name), entry["split"])
        except FileNotFoundError:
            found.append(f"{name}: not found; build the cohort again")
        except CorruptPatientError as error:
            found.append(f"{name}: damaged ({error}); build the cohort again")
        except ValueError as error:
            found.append(f"{name!r}: no patient of this version ({error})")
        else:
            changed = [key for key in entry if key not in current or current[key] != entry[key]]
            if changed:
                found.append(f"{name}: differs from the manifest in {', '.join(changed)}")
    return found


def _entry(ref: PatientRef, split: str) -> dict[str, Any]:
    patient = load_saved_patient(ref.folder)
    description = read_description(ref.folder)
    person, parameters = patient.card.get("person", {}), patient.card.get("parameters", {})
    if not isinstance(person, dict) or not isinstance(parameters, dict):
        raise CorruptPatientError(f"{ref.folder}: person and parameters of the card are no mappings")
    return {
        "name": str(ref),
        "split": split,
        "anatomy_version": patient.card.get("anatomy_version"),
        "person": person,
        "parameters": parameters,
        "fingerprint": patient.fingerprint,
        "volume_sha256": description.volume_sha256,
        "shape": list(description.shape),
        "spacing_mm": list(description.spacing_mm),
        "origin_lps_mm": list(description.origin_lps_mm),
        "bytes": description.nbytes,
        "landmarks_lps_mm": {landmark(key).slug: list(at) for key, at in description.landmarks_lps_mm.items()},
    }
