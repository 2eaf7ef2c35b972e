"""Imported patients on disk: their names and folders; saving, loading and removing them.

A virtual patient can be built again and is saved in the cache. An imported patient cannot, so it is saved in the data
folder (`carm_env.system.files.data_dir`), in the format of `carm_env.patient.save_patient`.
"""

from __future__ import annotations

import re
from pathlib import Path

from carm_env.patient import CorruptPatientError, Patient, load_saved_patient, save_patient
from carm_env.system.errors import UnknownNameError
from carm_env.system.files import DATA_VARIABLE, data_dir, remove_folder
from carm_env.system.folders import folder_errors
from carm_env.system.leftovers import restore, settle

IMPORTED, VIRTUAL = "imported", "virtual"
"""Kinds of patients: an id is ``imported:NAME``, ``virtual:SEED`` or ``virtual:SEED?OPTIONS``."""
RESERVED_NAMES = frozenset({IMPORTED, VIRTUAL, "standard", "wide", "broad", "diverse", "poses", "bodies", "bones"})
"""Names that no imported patient may have: the kinds above and the cohorts (`carm_env.patients.cohorts`)."""

_DEVICES = frozenset(("CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))))
"""Names of devices, which Windows does not accept as names of folders, also with a suffix."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_imported_name(name: str) -> str:
    """Returns `name` if an imported patient may have it.

    Raises:
        ValueError: `name` has other characters than letters, digits, dots, hyphens and underscores, begins with one of
            the last three, is longer than 64 characters, or is reserved.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"the patient's name is {name!r}, expected 1 to 64 letters, digits, '.', '-' and '_', beginning with a "
            "letter or digit. Choose a name that does not identify the person."
        )
    if name in RESERVED_NAMES or name.partition(".")[0].upper() in _DEVICES:
        raise ValueError(f"the patient's name is {name!r}, which is reserved: choose another one.")
    return name


def imported_folder(name: str) -> Path:
    """Returns the folder of an imported patient, whether or not it exists."""
    return data_dir() / "patients" / check_imported_name(name)


def imported_names() -> list[str]:
    """Returns the names of all imported patients, sorted.

    Raises:
        FolderError: the data folder cannot be read; the message names the environment variable that sets another one.
    """
    folder = data_dir() / "patients"
    with folder_errors(folder, DATA_VARIABLE):
        if not folder.is_dir():
            return []
        for place in (folder.parent, folder):
            settle(place)
        return sorted(item.name for item in folder.iterdir() if _NAME.fullmatch(item.name) and item.is_dir())


def load_imported(name: str) -> Patient:
    """Loads an imported patient; its volume is memory-mapped.

    Raises:
        UnknownNameError: there is no imported patient of this name; the message names the nearest one.
        CorruptPatientError: the saved patient is damaged; the message says how to import it again or remove it.
    """
    try:
        return load_saved_patient(_existing_folder(name))
    except CorruptPatientError as error:
        raise CorruptPatientError(
            f"the imported patient {name} is damaged ({error}): import its CT again with `carm-env import CT --name "
            f"{name} --replace`, or remove it with `carm-env patients remove {name}`."
        ) from error


def save_imported(patient: Patient, *, replace: bool = False) -> Path:
    """Saves a patient whose id is ``imported:NAME``, atomically; returns its folder.

    Raises:
        ValueError: the patient's id has another form.
        FileExistsError: there is an imported patient of this name and `replace` is false.
        FolderError: the data folder cannot be written; the message names the environment variable that sets another.
    """
    kind, _, name = patient.id.partition(":")
    if kind != IMPORTED:
        raise ValueError(f"the patient's id is {patient.id!r}, expected {IMPORTED}:NAME.")
    folder = imported_folder(name)
    try:
        with folder_errors(folder.parent, DATA_VARIABLE):
            save_patient(patient, folder, replace=replace)
    except FileExistsError as error:
        raise FileExistsError(
            f"an imported patient {name!r} exists already ({folder}): choose another name, or replace it."
        ) from error
    return folder


def remove_imported(name: str) -> None:
    """Removes an imported patient, whether or not it is damaged.

    Raises:
        UnknownNameError: there is no imported patient of this name.
    """
    remove_folder(_existing_folder(name))


def _existing_folder(name: str) -> Path:
    folder = imported_folder(name)
    if not restore(folder):
        raise UnknownNameError("imported patient", name, imported_names())
    return folder
