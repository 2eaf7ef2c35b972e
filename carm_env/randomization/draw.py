"""Draw a CT scanner and an X-ray system from a seed.

The ranges, at severity 1. Those without a source are chosen by hand, from real CTs and X-rays seen during development:
they are meant to be wider than what occurs, not to follow its distribution. The numbers of LIDC-IDRI and of the ACR are
quoted from memory and were not compared with the documents.

| group | what is drawn | range | source |
|---|---|---|---|
| ``resolution`` | slice thickness, with probability 0.6 | 1-5 mm | LIDC-IDRI has 0.6 to 5 mm (Armato et al., Medical Physics 38:915-931, 2011) |
| | pixels of slices, a third of these | 3.5-5 mm, with slices of 4-5 mm | the OpenKBP CTs of `carm_env.patients.registry` have 4.6 to 4.9 mm; the lower end by hand |
| ``kernel`` | soft or sharp, with probability 0.6 | | by hand, see `carm_env.randomization.scan` |
| ``calibration`` | error at water, with probability 0.7 | -20 to 20 HU | ACR accredits -7 to 7 HU (Computed Tomography Quality Control Manual, 2017); wider by hand |
| | factor of positive HU | 0.93-1.07 | ACR accepts 850 to 970 HU for the bone insert, 910 +- 6.6 % |
| ``truncation`` | field of view, with probability 0.25 | 320-500 mm | 500 mm is the field of usual scanners; the lower end by hand |
| | upper end, with probability 0.4 | 20 mm below to 260 mm above T1 | from the upper chest to below the vertex, where the OpenKBP CTs end; by hand |
| | end at the belly, with probability 0.25 | 50 mm above to 120 mm below T12 | by hand |
| ``couch`` | a couch, with probability 0.5, unless the CT has or may have one | | by hand |
| ``metal`` | buttons and cables, with probability 0.3 | 1-4 | by hand |
| ``window`` | percentiles of black and white | 0-3, 97-100 | by hand |
| | gamma, log-uniform | 0.55-1.1 | by hand |
| | density curve | -0.3 to 0.5 | by hand |
| ``polarity`` | inverted, with probability 0.3 | | fluoroscopy shows bone dark; the share by hand |
| ``detector`` | mAs, log-uniform | 0.2-2 | by hand |
| | tube voltage, steps of 10 kV | 70-120 kV | usual for mobile C-arms; by hand |
| | scatter | 0-0.3 | Boone and Seibert 1988: without and with a grid, see `carm_env.xray.settings` |
| | blur, log-uniform | 0.1-1.2 mm | 0.15 mm is the scintillator's; motion and focal spot by hand |
| | electronic noise, log-uniform | 1-6 photons | by hand |
| ``collimation`` | shutters, with probability 0.4; each of four closed with probability 0.6 | 0-20 % of the side | by hand |
| | border: black, or grey with probability 0.5 | 20-170 | by hand |
| ``geometry`` | rotation in the plane of the image | -6 to 6 degrees | by hand |
| | crop around the middle | 0.85-1 | by hand |

Severity s multiplies probabilities, and moves each number from its default to the drawn one by the share s, on a
logarithmic scale for log-uniform ones. Every group has its own random numbers: leaving one out does not change another.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from carm_env.randomization.chain import ImageChain
from carm_env.randomization.scan import Scan
from carm_env.system.errors import UnknownNameError, check_keys, finite_number, shortened
from carm_env.xray.settings import XRaySettings

SCAN_GROUPS = ("resolution", "kernel", "calibration", "truncation", "couch", "metal")
CHAIN_GROUPS = ("window", "polarity", "detector", "collimation", "geometry")
GROUPS = (*SCAN_GROUPS, *CHAIN_GROUPS)
"""Groups of randomisations, for ablations; see the table above."""

_EXAMPLE = {"severity": 0.5, "groups": ["window", "polarity"]}
_SLICE_MM, _COARSE_PIXEL_MM, _COARSE_SLICE_MM = (1.0, 5.0), (3.5, 5.0), (4.0, 5.0)
_HU_OFFSET, _HU_SLOPE = (-20.0, 20.0), (0.93, 1.07)
_FIELD_MM, _ABOVE_T1_MM, _BELOW_T12_MM = (320.0, 500.0), (-20.0, 260.0), (-50.0, 120.0)
_DARK, _BRIGHT, _GAMMA, _CURVE = (0.0, 3.0), (97.0, 100.0), (0.55, 1.1), (-0.3, 0.5)
_MAS, _KVP, _SCATTER, _BLUR_MM, _ELECTRONIC = (0.2, 2.0), (70.0, 120.0), (0.0, 0.3), (0.1, 1.2), (1.0, 6.0)
_SHUTTER, _BORDER_GREY = (0.0, 0.2), (20, 170)
_ROTATION_DEG, _CROP = (-6.0, 6.0), (0.85, 1.0)
_WIDE_FIELD_MM = 500.0
_KVP_STEP = 10.0


@dataclass(frozen=True)
class DomainRandomization:
    """How much is randomised.

    Attributes:
        severity: 0 (nothing) to 1 (the whole ranges).
        groups: which of `GROUPS`.

    Raises:
        ValueError: the severity is out of range, or the groups are not a list of names.
        UnknownNameError: unknown group.
    """

    severity: float = 0.0
    groups: tuple[str, ...] = GROUPS

    def __post_init__(self) -> None:
        severity = finite_number("severity", self.severity)
        if not 0 <= severity <= 1:
            raise ValueError(f"severity is {self.severity!r}, expected 0 to 1.")
        if isinstance(self.groups, str) or not isinstance(self.groups, Iterable):
            raise ValueError(f"groups is {shortened(self.groups)}, expected a list of groups: {', '.join(GROUPS)}.")
        for name in self.groups:
            if name not in GROUPS:
                raise UnknownNameError("group of randomisations", name, GROUPS)
        object.__setattr__(self, "severity", severity)
        object.__setattr__(self, "groups", tuple(name for name in GROUPS if name in self.groups))

    @property
    def chain_groups(self) -> tuple[str, ...]:
        """The groups of the X-ray system."""
        return tuple(name for name in self.groups if name in CHAIN_GROUPS)

    @property
    def chain_settings(self) -> dict[str, Any]:
        """The argument ``domain_randomization`` of an environment: severity and groups of the X-ray system."""
        return (
            {"severity": self.severity, "groups": list(self.chain_groups)} if self.chain_groups else {"severity": 0.0}
        )

    @classmethod
    def of_chain(cls, value: float | Mapping[str, Any]) -> DomainRandomization:
        """Returns the randomisation of the X-ray system that an argument ``domain_randomization`` asks for.

        Args:
            value: a severity, or a mapping with the keys ``severity`` (1 if left out) and ``groups`` (of
                `CHAIN_GROUPS`; all if left out).

        Raises:
            ValueError: the value is neither, the severity is out of range, or the groups are empty, not a list, or of
                the CT scanner.
            UnknownNameError: an unknown key or group.

        >>> DomainRandomization.of_chain({"groups": ["polarity"]})
        DomainRandomization(severity=1.0, groups=('polarity',))
        """
        what, expected = "domain_randomization", f"a severity from 0 to 1, or a mapping such as {_EXAMPLE}"
        settings: Mapping[str, Any] = {"severity": value}
        if isinstance(value, Mapping):
            what, expected, settings = "severity of domain_randomization", "0 to 1", value
            check_keys("key of domain_randomization", settings, ("severity", "groups"))
        severity, groups = settings.get("severity", 1.0), settings.get("groups", CHAIN_GROUPS)
        is_number = isinstance(severity, int | float | np.integer | np.floating) and not isinstance(severity, bool)
        if not (is_number and 0 <= severity <= 1):
            raise ValueError(f"{what} is {shortened(severity)}, expected {expected}.")
        names = [] if isinstance(groups, str) or not isinstance(groups, Iterable) else list(groups)
        if not names:
            raise ValueError(
                f"groups of domain_randomization is {shortened(groups)}, expected a list of some of "
                f"{', '.join(CHAIN_GROUPS)}. Leave it out for all of them."
            )
        if scanner := [name for name in names if name in SCAN_GROUPS]:
            raise ValueError(
                f"domain_randomization has the groups {', '.join(scanner)} of the CT scanner, expected groups of the "
                f"X-ray system: {', '.join(CHAIN_GROUPS)}. A scanner is part of the patient's name: "
                f"patients='virtual:0?scan=7+groups:{'.'.join(dict.fromkeys(scanner))}'."
            )
        for name in names:
            if name not in CHAIN_GROUPS:
                raise UnknownNameError("group of domain_randomization", name, CHAIN_GROUPS)
        return cls(float(severity), tuple(names))


@dataclass(frozen=True)
class Domain:
    """A CT scanner and an X-ray system.

    Attributes:
        scan: the CT scanner (`carm_env.randomization.scan.acquire`).
        chain: the X-ray system (`carm_env.randomization.chain.ChainCamera`).
    """

    scan: Scan
    chain: ImageChain


def draw_domain(seed: int, severity: float = 1.0, groups: Iterable[str] = GROUPS) -> Domain:
    """Draws a CT scanner and an X-ray system; equal arguments give equal ones.

    Args:
        seed: an integer from 0.
        severity: 0 (nothing changes) to 1 (the whole ranges).
        groups: which of `GROUPS` are drawn; the others have their defaults.

    Raises:
        ValueError: the seed or the severity is out of range.
        UnknownNameError: unknown group.

    >>> draw_domain(7, severity=0.0) == Domain(Scan(seed=7), ImageChain())
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}, expected an integer from 0.")
    chosen = DomainRandomization(severity, tuple(groups))
    scan, chain = dict[str, Any](), dict[str, Any]()
    for name in chosen.groups:
        source = _Draws(np.random.default_rng([int(seed), GROUPS.index(name), 0x646F6D]), chosen.severity)
        (scan if name in SCAN_GROUPS else chain).update(_GROUP_DRAWS[name](source))
    xray = {name: chain.pop(name) for name in list(chain) if name in XRaySettings.__dataclass_fields__}
    return Domain(Scan(**scan, seed=int(seed)), ImageChain(xray, **chain))


class _Draws:
    """Random numbers whose distance from a default grows with the severity.

    A number is drawn whether or not it is used, so that severities share their draws.
    """

    def __init__(self, rng: Generator, severity: float) -> None:
        self._rng, self._severity = rng, severity

    @property
    def is_none(self) -> bool:
        return self._severity == 0

    def happens(self, probability: float) -> bool:
        return bool(self._rng.random() < self._severity * probability)

    def plain(self, limits: tuple[float, float]) -> float:
        return round(float(self._rng.uniform(*limits)), 4)

    def uniform(self, default: float, limits: tuple[float, float]) -> float:
        return self._towards(default, float(self._rng.uniform(*limits)))

    def log_uniform(self, default: float, limits: tuple[float, float]) -> float:
        drawn = math.exp(self._rng.uniform(*np.log(limits)))
        return default if self.is_none else round(math.exp(self._between(math.log(default), math.log(drawn))), 4)

    def _towards(self, default: float, drawn: float) -> float:
        return default if self.is_none else round(self._between(default, drawn), 4)

    def _between(self, default: float, drawn: float) -> float:
        return default + self._severity * (drawn - default)


def _draw_resolution(draws: _Draws) -> dict[str, Any]:
    changed, coarse = draws.happens(0.6), draws.plain((0.0, 1.0)) < 1 / 3
    slice_mm, pixel_mm, coarse_mm = draws.plain(_SLICE_MM), draws.plain(_COARSE_PIXEL_MM), draws.plain(_COARSE_SLICE_MM)
    if not changed:
        return {}
    return {"pixel_mm": pixel_mm, "slice_mm": coarse_mm} if coarse else {"slice_mm": slice_mm}


def _draw_kernel(draws: _Draws) -> dict[str, Any]:
    changed, soft = draws.happens(0.6), draws.plain((0.0, 1.0)) < 0.5
    return {"kernel": "soft" if soft else "sharp"} if changed else {}


def _draw_calibration(draws: _Draws) -> dict[str, Any]:
    changed = draws.happens(0.7)
    offset, slope = draws.uniform(0.0, _HU_OFFSET), draws.uniform(1.0, _HU_SLOPE)
    return {"hu_offset": offset, "hu_slope": slope} if changed else {}


def _draw_truncation(draws: _Draws) -> dict[str, Any]:
    drawn = {
        "field_of_view_mm": (draws.happens(0.25), draws.uniform(_WIDE_FIELD_MM, _FIELD_MM)),
        "above_t1_mm": (draws.happens(0.4), draws.plain(_ABOVE_T1_MM)),
        "below_t12_mm": (draws.happens(0.25), draws.plain(_BELOW_T12_MM)),
    }
    return {name: value for name, (happens, value) in drawn.items() if happens}


def _draw_couch(draws: _Draws) -> dict[str, Any]:
    return {"couch": True} if draws.happens(0.5) else {}


def _draw_metal(draws: _Draws) -> dict[str, Any]:
    present, number = draws.happens(0.3), 1 + int(draws.plain((0.0, 3.9999)))
    return {"metal": number} if present else {}


def _draw_window(draws: _Draws) -> dict[str, Any]:
    drawn = {
        "dark_percent": draws.uniform(XRaySettings.dark_percent, _DARK),
        "bright_percent": draws.uniform(XRaySettings.bright_percent, _BRIGHT),
        "gamma": draws.log_uniform(XRaySettings.gamma, _GAMMA),
        "curve": draws.uniform(0.0, _CURVE),
    }
    return {} if draws.is_none else drawn


def _draw_polarity(draws: _Draws) -> dict[str, Any]:
    return {"inverted": True} if draws.happens(0.3) else {}


def _draw_detector(draws: _Draws) -> dict[str, Any]:
    # Every tube voltage has a table of its own, which takes a second to compute.
    kvp = _KVP_STEP * round(draws.uniform(XRaySettings.kvp, _KVP) / _KVP_STEP)
    drawn = {
        "kvp": kvp,
        "mas": draws.log_uniform(XRaySettings.mas, _MAS),
        "scatter": draws.uniform(XRaySettings.scatter, _SCATTER),
        "scintillator_mm": draws.log_uniform(XRaySettings.scintillator_mm, _BLUR_MM),
        "electronic_noise": draws.log_uniform(XRaySettings.electronic_noise, _ELECTRONIC),
    }
    return {} if draws.is_none else drawn


def _draw_collimation(draws: _Draws) -> dict[str, Any]:
    closed = draws.happens(0.4)
    depths = [(draws.plain((0.0, 1.0)) < 0.6, draws.uniform(0.0, _SHUTTER)) for _ in range(4)]
    is_grey, grey = draws.plain((0.0, 1.0)) < 0.5, int(draws.plain(_BORDER_GREY))
    shutters = tuple(depth if used else 0.0 for used, depth in depths)
    return {"shutters": shutters, "border_grey": grey if is_grey else 0} if closed else {}


def _draw_geometry(draws: _Draws) -> dict[str, Any]:
    drawn = {"rotation_deg": draws.uniform(0.0, _ROTATION_DEG), "crop": draws.uniform(1.0, _CROP)}
    return {} if draws.is_none else drawn


_GROUP_DRAWS = {
    "resolution": _draw_resolution,
    "kernel": _draw_kernel,
    "calibration": _draw_calibration,
    "truncation": _draw_truncation,
    "couch": _draw_couch,
    "metal": _draw_metal,
    "window": _draw_window,
    "polarity": _draw_polarity,
    "detector": _draw_detector,
    "collimation": _draw_collimation,
    "geometry": _draw_geometry,
}
