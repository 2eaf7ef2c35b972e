"""From a patient's name to the patient.

| name | patient |
|---|---|
| ``virtual:SEED`` | the virtual patient of that seed; built once, then read from the cache |
| ``virtual:SEED?arms=sides`` | the same with options of `carm_env.anatomy.population.VirtualPatient` |
| ``virtual:SEED?findings=pacemaker+pneumothorax:right`` | the same with findings, joined by plus signs |
| ``path/to/ct.nii.gz`` | a NIfTI CT; it has no landmarks, so it can be rendered but not navigated |
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from carm_env.ct.nifti import is_nifti, load_nifti
from carm_env.errors import check_keys
from carm_env.patients import Patient

VIRTUAL = "virtual"


def load_patient(name: str) -> Patient:
    """Load the patient called `name`; see the table above.

    Raises:
        ValueError: the name has none of the forms above, or an option has a bad value.
        UnknownNameError: an unknown option; the message names the nearest one.
        FileNotFoundError: no such file.
    """
    kind, rest = _split(name)
    if kind == VIRTUAL:
        from carm_env.anatomy.build import virtual_patient

        return virtual_patient(**_virtual_options(name, rest))
    if is_nifti(name):
        volume = load_nifti(name)
        return Patient(f"nifti:{Path(name).name}", volume, {}, {"origin": "NIfTI file"})
    raise ValueError(
        f"unknown patient {name!r}. Did you mean 'virtual:0'? Expected virtual:SEED (with options as in "
        "virtual:0?arms=sides) or the path of a .nii or .nii.gz file."
    )


def check_patient_name(name: str) -> None:
    """Raise what `load_patient` would raise for a bad `name`, without loading anything."""
    kind, rest = _split(name)
    if kind == VIRTUAL:
        from carm_env.anatomy.population import VirtualPatient

        VirtualPatient(**_virtual_options(name, rest))
    elif not is_nifti(name):
        load_patient(name)
    elif not Path(name).is_file():
        raise FileNotFoundError(f"no such file: {name}")


def _split(name: str) -> tuple[str, str]:
    if not isinstance(name, str):
        raise ValueError(f"patient is {name!r}, expected a name such as 'virtual:0'.")
    kind, _, rest = name.partition(":")
    return kind, rest


def _virtual_options(name: str, rest: str) -> dict[str, Any]:
    from carm_env.anatomy.population import option_defaults

    seed, _, query = rest.partition("?")
    # One patient has one name: 00 would be a second one of 0.
    if not (seed.isascii() and seed.isdigit() and str(int(seed)) == seed):
        raise ValueError(f"patient {name!r}: the seed is {seed!r}, expected a whole number as in virtual:0.")
    defaults = option_defaults()
    options: dict[str, Any] = {}
    # A plus sign joins findings; in a query it would stand for a blank.
    for key, text in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
        check_keys("patient option", [key], defaults)
        if key in options:
            raise ValueError(f"patient {name!r}: {key} is given twice, expected once.")
        options[key] = _convert(name, key, text, defaults[key])
    return {"seed": int(seed), **options}


def _convert(name: str, key: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(f"patient {name!r}: {key} is {text!r}, expected true or false.")
        return text == "true"
    if not isinstance(default, (int, float)):
        return text
    try:
        return type(default)(text)
    except ValueError:
        raise ValueError(f"patient {name!r}: {key} is {text!r}, expected a number.") from None
