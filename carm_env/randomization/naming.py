"""Scans in the names of patients: ``virtual:1000?scan=7`` or ``my-ct?scan=slice_mm:5+kernel:sharp``.

The value of the option ``scan`` has parts joined by plus signs, in any order:

| part | meaning |
|---|---|
| ``7`` | draw the scanner with this seed (`carm_env.randomization.draw.draw_domain`); each patient has its own draw |
| ``severity:0.5`` | severity of the draw, 0 to 1; 1 if left out |
| ``groups:kernel.couch`` | groups to draw, joined by dots; all if left out |
| ``slice_mm:5`` | a field of `carm_env.randomization.scan.Scan`, instead of the drawn or default value |

A name identifies the scan: numbers keep all their digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from carm_env.landmarks import N_CLOSEST
from carm_env.patient import Patient
from carm_env.patient_store import VIRTUAL
from carm_env.randomization.draw import SCAN_GROUPS, DomainRandomization, draw_domain
from carm_env.randomization.scan import Scan, acquire, scanned_landmarks
from carm_env.system.errors import UnknownNameError, check_keys
from carm_env.system.files import content_hash

OPTION = "scan"
_FIELDS = {item.name: item for item in fields(Scan) if item.name != "seed"}
_DRAW_KEYS = ("severity", "groups")


@dataclass(frozen=True)
class ScanName:
    """A scan as part of a patient's name; ``str(name)`` is its canonical text, which `parse` reads.

    Attributes:
        seed: seed of the draw; None for a scan that is not drawn.
        severity: severity of the draw.
        groups: groups that are drawn.
        given: fields of `carm_env.randomization.scan.Scan` that are set instead, as sorted pairs.

    Raises:
        ValueError: a value is out of range, groups or the whole scan are empty, or a severity has no seed.
        UnknownNameError: an unknown group or field.

    >>> str(ScanName.parse("kernel:sharp+7+slice_mm:5.0"))
    '7+kernel:sharp+slice_mm:5'
    """

    seed: int | None = None
    severity: float = 1.0
    groups: tuple[str, ...] = SCAN_GROUPS
    given: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0):
            raise ValueError(f"seed of the scan is {self.seed!r}, expected an integer from 0.")
        for name in self.groups:
            if name not in SCAN_GROUPS:
                raise UnknownNameError("group of a scan", name, SCAN_GROUPS)
        if not self.groups:
            raise ValueError(f"groups of the scan is empty, expected some of {', '.join(SCAN_GROUPS)}.")
        chosen = DomainRandomization(self.severity, self.groups)
        if self.seed is None and (chosen.severity != 1.0 or chosen.groups != SCAN_GROUPS):
            raise ValueError("the scan has a severity or groups but no seed to draw with: add one, as in scan=7.")
        if self.seed is None and not self.given:
            raise ValueError("the scan is empty, expected a seed or fields, as in scan=7 or scan=slice_mm:5.")
        object.__setattr__(self, "severity", _positive_zero(chosen.severity))
        object.__setattr__(self, "groups", chosen.groups)
        object.__setattr__(self, "given", _checked(self.given))

    @classmethod
    def parse(cls, text: str) -> ScanName:
        """Parses the value of the option ``scan``; see the errors of the class."""
        return _parse(text)

    def __str__(self) -> str:
        parts = [] if self.seed is None else [str(self.seed)]
        if self.severity != 1.0:
            parts.append(f"severity:{_text(self.severity)}")
        if self.groups != SCAN_GROUPS:
            parts.append(f"groups:{'.'.join(self.groups)}")
        return "+".join([*parts, *(f"{name}:{_text(value)}" for name, value in self.given)])

    def scan_of(self, patient: Patient) -> Scan:
        """Returns the scan of a patient.

        A drawn scan has no couch if the CT is real and may have one, or has one. It is not truncated if fewer than
        three landmarks would be left of those that the patient has.
        """
        given = dict(self.given)
        if self.seed is None:
            return Scan(**given)
        # Each patient has a scan of its own, whatever the order of loading.
        seed = int(content_hash([patient.id, self.seed])[:12], 16)
        drawn = draw_domain(seed, self.severity, self.groups).scan
        if drawn.couch and not _lies_on_nothing(patient):
            drawn = replace(drawn, couch=False)
        scan = replace(drawn, **given)
        needed = min(N_CLOSEST, len(patient.landmarks_lps_mm))
        for name in ("field_of_view_mm", "above_t1_mm", "below_t12_mm"):
            if len(scanned_landmarks(patient, scan)) >= needed:
                break
            scan = scan if name in given else replace(scan, **{name: getattr(Scan(), name)})
        return scan

    def scan(self, patient: Patient) -> Patient:
        """Returns the scanned patient; its id is the patient's with this scan."""
        return acquire(patient, self.scan_of(patient), with_scan(patient.id, self))


def split_scan(patient: str) -> tuple[str, ScanName | None]:
    """Splits the name of a patient into the name without a scan and the scan; None if it has none.

    >>> split_scan("virtual:3?arms=sides&scan=7")[0], split_scan("virtual:3?arms=sides")
    ('virtual:3?arms=sides', ('virtual:3?arms=sides', None))

    Raises:
        ValueError: the scan is wrong, or given twice; the message names the patient.
    """
    # The path of a CT file may have question marks.
    is_virtual = patient.startswith(f"{VIRTUAL}:")
    base, _, query = patient.partition("?") if is_virtual else patient.rpartition("?")
    options = query.split("&")
    scans = [option.partition("=")[2] for option in options if option.partition("=")[0] == OPTION]
    if not base or not scans:
        return patient, None
    if len(scans) > 1:
        raise ValueError(f"patient {patient!r}: {OPTION} is given twice, expected once.")
    others = "&".join(option for option in options if option.partition("=")[0] != OPTION)
    try:
        scan = ScanName.parse(scans[0])
    except UnknownNameError as error:
        raise UnknownNameError(f"{error.what} of patient {patient!r}", error.got, error.valid) from None
    except ValueError as error:
        raise ValueError(f"patient {patient!r}: {error}") from None
    return f"{base}?{others}" if others else base, scan


def with_scan(patient: str, scan: ScanName | str) -> str:
    """Returns the name of a patient with a scan.

    >>> with_scan("virtual:3?arms=sides", "7")
    'virtual:3?arms=sides&scan=7'
    """
    return f"{patient}{'&' if '?' in patient else '?'}{OPTION}={scan}"


def with_scans(patients: Iterable[str], randomization: DomainRandomization, seed: int = 0) -> list[str]:
    """Returns the names of patients with a drawn scan; a patient that has a scan, or all without one, are unchanged.

    Args:
        patients: names of single patients.
        randomization: severity and groups of the draw.
        seed: seed of the draw.
    """
    groups = tuple(name for name in randomization.groups if name in SCAN_GROUPS)
    if not randomization.severity or not groups:
        return list(patients)
    scan = ScanName(seed, randomization.severity, groups)
    return [name if split_scan(name)[1] else with_scan(name, scan) for name in patients]


def _lies_on_nothing(patient: Patient) -> bool:
    parameters = patient.card.get("parameters")
    return isinstance(parameters, dict) and parameters.get("table") is False


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _checked(given: Iterable[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    values: dict[str, Any] = {}
    for name, value in given:
        check_keys("part of a scan", [name], _FIELDS)
        if name in values:
            raise ValueError(f"{name} of the scan is given twice, expected once.")
        if value is None:
            raise ValueError(f"{name} of the scan is None, expected a value: leave it out for the default.")
        values[name] = value
    Scan(**values)
    return tuple(
        (name, _positive_zero(value) if str(_FIELDS[name].type).startswith("float") else value)
        for name, value in sorted(values.items())
    )


def _positive_zero(number: float) -> float:
    # One scan has one name: -0 would be a second name of 0.
    return float(number) + 0.0


# Every one of hundreds of environments asks for the same names.
@lru_cache(maxsize=1024)
def _parse(text: str) -> ScanName:
    values: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for part in text.split("+"):
        name, colon, value = part.partition(":")
        name = name if colon else "seed"
        if name in values or name in given:
            raise ValueError(f"{name} of the scan is given twice, expected once.")
        if not colon:
            # One scan has one name: 07 would be a second name of 7.
            if not (part.isascii() and part.isdigit() and str(int(part)) == part):
                raise ValueError(f"the scan is {text!r}, expected parts such as 7, severity:0.5 or slice_mm:5.")
            values["seed"] = int(part)
        elif name == "severity":
            values[name] = _number(name, value)
        elif name == "groups":
            values[name] = tuple(value.split("."))
        elif name in _FIELDS:
            given[name] = _value(name, value)
        else:
            raise UnknownNameError("part of a scan", name, (*_DRAW_KEYS, *_FIELDS))
    return ScanName(**values, given=tuple(given.items()))


def _value(name: str, text: str) -> Any:
    kind = _FIELDS[name].type
    if name == "kernel":
        return text
    if kind == "bool":
        if text not in ("true", "false"):
            raise ValueError(f"{name} of the scan is {text!r}, expected true or false.")
        return text == "true"
    number = _number(name, text)
    return int(number) if kind == "int" and number == int(number) else number


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} of the scan is {text!r}, expected a finite number.")
    return number
