"""References to patients: a name, parsed once.

| name | patient |
|---|---|
| ``virtual:SEED`` | the virtual patient of that seed; built at first use, then read from the cache |
| ``virtual:SEED?arms=sides`` | the same with options of `carm_env.anatomy.population.VirtualPatient` |
| ``virtual:SEED?findings=pacemaker+pneumothorax:right`` | the same with findings, joined by plus signs |
| ``virtual:SEED?anatomy=5`` | ``virtual:SEED``, which must be of this `carm_env.anatomy.build.ANATOMY_VERSION` |
| ``imported:NAME`` or ``NAME`` | a CT that was imported under that name |
| ``path/to/ct.nii.gz`` | a CT file; it has no landmarks, so it can be rendered but not navigated |
| any of these with ``?scan=7`` | the same, scanned by another CT scanner (`carm_env.randomization.naming`) |
| ``standard``, ``standard/test`` | all patients of a cohort, or of one split (`PatientRef.expand` only) |
| ``standard/test?voxel_mm=1.5`` | the same with options |
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote

from carm_env.ct.kinds import is_ct
from carm_env.patient import Patient
from carm_env.patient_store import IMPORTED, VIRTUAL, imported_folder, imported_names, load_imported
from carm_env.patients.cohorts import cohort_patients, cohort_references, is_cohort_reference
from carm_env.system.editions import Edition, edition
from carm_env.system.errors import UnknownNameError, check_keys

if TYPE_CHECKING:
    from carm_env.anatomy.population import VirtualPatient
    from carm_env.randomization.naming import ScanName

_ANATOMY = "anatomy"
"""Option of the name of a virtual patient that states the version of the anatomy; full names omit it."""
CT_KINDS = "a DICOM folder or zip, or a .nii, .nii.gz, .nrrd or .mha file"


@dataclass(frozen=True)
class PatientRef:
    """A reference to one patient. ``str(ref)`` is the patient's full name, as it appears in results.

    The full name identifies the patient: ``PatientRef.parse(str(ref)) == ref``.

    Attributes:
        kind: ``"virtual"``, ``"imported"`` or ``"file"``.
        name: the name within its kind: ``"0?arms=sides"``, ``"thorax"``, or the path of the CT file.
        virtual: seed and options of a virtual patient; None for other kinds.
        path: absolute path of the CT file, which stays right if the working folder changes; None for other kinds.
        scan: the scan by another CT scanner; None for the patient as it is. It is not part of `name`.

    >>> ref = PatientRef.parse("virtual:0?arms=sides")
    >>> ref.kind, ref.name, ref.virtual.arms, str(ref)
    ('virtual', '0?arms=sides', 'sides', 'virtual:0?arms=sides')
    """

    kind: Literal["virtual", "imported", "file"]
    name: str
    virtual: VirtualPatient | None = field(default=None, compare=False, repr=False)
    path: Path | None = field(default=None, repr=False)
    scan: ScanName | None = None

    @classmethod
    def parse(cls, patient: PatientName) -> PatientRef:
        """Parses the name of one patient; a `PatientRef` is returned as it is. Nothing is loaded or built.

        Raises:
            UnknownNameError: no patient, or no option, has that name; the message names the nearest one.
            ValueError: an option has a bad value, or the name is a cohort's, which has many patients.
            FileNotFoundError: the file does not exist.
        """
        if isinstance(patient, PatientRef):
            return patient
        if not isinstance(patient, (str, os.PathLike)) or not os.fspath(patient):
            raise ValueError(f"patient is {patient!r}, expected a name such as 'virtual:0'.")
        text = os.fspath(patient)
        if "?" in text and "scan" in text:
            from carm_env.randomization.naming import split_scan

            base, scan = split_scan(text)
            if scan is not None:
                ref = cls.parse(base)
                if ref.scan is not None:
                    raise ValueError(f"patient {text!r}: scan is given twice, expected once.")
                return replace(ref, scan=scan)
        kind, colon, name = text.partition(":")
        if kind == VIRTUAL:
            return _parse_virtual(text, name)
        if kind == IMPORTED and colon:
            if name not in imported_names():
                raise UnknownNameError("imported patient", name, imported_names())
            return cls("imported", name)
        if is_cohort_reference(text):
            first = cohort_patients(text)[0]
            raise ValueError(f"{text!r} names a cohort, expected one patient, e.g. {first!r}.")
        # A path needs no data folder that can be read.
        if not set(text) & {"/", os.sep} and text in imported_names():
            return cls("imported", text)
        _check_file(text)
        return cls("file", text, path=Path(text).absolute())

    @classmethod
    def expand(cls, patients: PatientName | Iterable[PatientName]) -> tuple[PatientRef, ...]:
        """Returns references to all patients that `patients` names, in order and without duplicates.

        Args:
            patients: the name of a patient, a cohort or a split (``"standard/train"``), or several of them.

        Raises:
            ValueError: `patients` is empty, or an option has a bad value.
            UnknownNameError: no patient, cohort, split or option has that name; the message names the nearest one.
            FileNotFoundError: the file does not exist.
        """
        refs: list[PatientRef] = []
        for given in [patients] if isinstance(patients, (str, os.PathLike, PatientRef)) else patients:
            members = cohort_patients(given) if isinstance(given, str) and is_cohort_reference(given) else (given,)
            refs += [cls.parse(member) for member in members]
        if not refs:
            raise ValueError("patients is empty, expected at least one name, e.g. 'virtual:0'.")
        return tuple(dict.fromkeys(refs))

    def __str__(self) -> str:
        text = self.name if self.kind == "file" else f"{self.kind}:{self.name}"
        return text if self.scan is None else f"{text}{'&' if '?' in text else '?'}scan={self.scan}"

    @property
    def folder(self) -> Path:
        """Folder of the saved patient, whether or not it exists yet; raises ValueError for a CT file.

        A scan is not saved: the folder is that of the patient as it is.
        """
        if self.kind == "file":
            raise ValueError(f"{self} is a CT file, expected a virtual or an imported patient: import it first.")
        if self.virtual is None:
            return imported_folder(self.name)
        from carm_env.anatomy.build import cache_folder

        return cache_folder(self.virtual)

    @property
    def edition(self) -> Edition | None:
        """A value that changes when the name leads to another CT or imported patient; None for a virtual patient."""
        if self.path is not None:
            return edition(self.path)
        return edition(self.folder) if self.kind == "imported" else None

    def load(self, *, quiet: bool = False) -> Patient:
        """Loads the patient; a virtual patient that is not in the cache is built, and a scan takes about a second.

        Args:
            quiet: do not announce a build on the standard error.

        Raises:
            UnknownNameError: the imported patient has been removed.
            CorruptPatientError: the saved imported patient is damaged.
            CTImportError: the CT file cannot be read.
            ValueError: the scan leaves nothing of the patient.
        """
        patient = self.load_unscanned(quiet=quiet)
        return patient if self.scan is None else self.scan.scan(patient)

    def load_unscanned(self, *, quiet: bool = False) -> Patient:
        """Loads the patient without the scan of its name; for arguments and errors see `load`."""
        if self.virtual is not None:
            from carm_env.anatomy.build import virtual_patient

            return virtual_patient(self.virtual.seed, quiet=quiet, **self.virtual.given)
        if self.kind == "imported":
            return load_imported(self.name)
        from carm_env.ct.importer import load_ct

        return load_ct(self.path or self.name)


PatientName: TypeAlias = "str | os.PathLike[str] | PatientRef"
"""How a public function takes a patient."""


# Every one of hundreds of environments asks for the same names.
@lru_cache(maxsize=4096)
def _parse_virtual(text: str, name: str) -> PatientRef:
    from carm_env.anatomy.population import VirtualPatient, option_defaults

    seed, _, query = name.partition("?")
    # One patient has one name: 00 would be a second name of 0.
    if not (seed.isascii() and seed.isdigit() and str(int(seed)) == seed):
        raise ValueError(f"patient {text!r}: the seed is {seed!r}, expected a whole number as in virtual:0.")
    defaults = option_defaults()
    options: dict[str, Any] = {}
    # A plus sign joins findings; in a query it would stand for a blank.
    for key, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
        check_keys("patient option", [key], (*defaults, _ANATOMY, "scan"))
        if key == "scan":
            raise ValueError(f"patient {text!r}: scan is percent-encoded, expected plain text as in scan=7.")
        if key in options:
            raise ValueError(f"patient {text!r}: {key} is given twice, expected once.")
        options[key] = value if key == _ANATOMY else _convert(text, key, value, defaults[key])
    if _ANATOMY in options:
        _check_anatomy(text, options.pop(_ANATOMY))
        rest = "&".join(part for part in query.split("&") if unquote(part.partition("=")[0]) != _ANATOMY)
        name = f"{seed}?{rest}" if rest else seed
    return PatientRef("virtual", name, VirtualPatient(int(seed), **options))


def _check_anatomy(patient: str, version: str) -> None:
    """Raises ValueError unless `version` is the version of the anatomy."""
    from carm_env.anatomy.build import ANATOMY_VERSION

    if version != ANATOMY_VERSION:
        raise ValueError(
            f"patient {patient!r}: anatomy is {version!r}, but this version of carm-env builds anatomy "
            f"{ANATOMY_VERSION} only: omit the option. Earlier commits build earlier versions."
        )


def _convert(patient: str, key: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(f"patient {patient!r}: {key} is {text!r}, expected true or false.")
        return text == "true"
    if not isinstance(default, (int, float)):
        return text
    try:
        return type(default)(text)
    except ValueError:
        raise ValueError(f"patient {patient!r}: {key} is {text!r}, expected a number.") from None


def _check_file(text: str) -> None:
    """Raises unless `text` is the path of a CT."""
    exists = _exists(text)
    if is_ct(text):
        if not exists:
            raise FileNotFoundError(f"no such file: {text}")
        return
    if exists:
        raise ValueError(f"{text} is not a CT that can be read, expected {CT_KINDS}.")
    raise UnknownNameError(
        "patient", text, ["virtual:0", *cohort_references(), *imported_names(), f"the path of a CT ({CT_KINDS})"]
    )


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        # A folder that this user may not read, or a text that cannot be a path.
        return False
