"""The values of a checkpoint's ``config.json``: checked before anything is built or allocated from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from carm_env.geometry import MAX_ISOCENTER_DEPTH_MM
from carm_env.system.errors import CArmEnvError, shortened
from carm_env.system.structured_files import read_json_mapping

CHECKPOINT_FORMAT = 1
_MAX_BYTES = 4 << 20
_MAX_NAME = 200
_MAX_WEIGHTS = 1 << 26
_MAX_RADIUS = 1e6
MAX_ERROR_FLOOR_MM = 1e3


class CheckpointError(CArmEnvError, ValueError):
    """A folder is not a checkpoint of carm-env, or its checkpoint is of another policy or architecture."""


def read_config(path: Path) -> dict[str, Any]:
    """Reads and checks ``config.json``; keys that no policy uses are kept as they are.

    Raises:
        CheckpointError: the file cannot be read, or a value has a wrong type or is out of range.
    """
    try:
        config = read_json_mapping(path, _MAX_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): train or fetch it again.") from error
    missing = [key for key in ("kind", "format") if key not in config]
    if missing:
        raise CheckpointError(f"{path} has no {', '.join(missing)}: train or fetch it again.")
    check_config(config, str(path))
    return config


def trained_depth_mm(config: Mapping[str, Any]) -> float:
    """Returns the depth of the isocentre in the images that a network was trained on, mm.

    It is 0 in checkpoints that do not state it (`carm_env.geometry.check_isocenter_depth`).
    """
    return float(config.get("isocenter_depth_mm", 0.0))


def check_config(config: Mapping[str, Any], source: str) -> None:
    """Raises CheckpointError if a value that a policy uses has a wrong type or is out of range."""
    for key, (is_valid, expected) in _RULES.items():
        if key in config and not is_valid(config[key]):
            raise CheckpointError(
                f"{source}: {key} is {shortened(config[key])}, expected {expected}: train or fetch it again."
            )


def _integer(low: int, high: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: type(value) is int and low <= value <= high, f"an integer from {low} to {high}"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _are_levels(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 100 and all(_is_number(level, 0, 1) for level in value)


def _are_radii(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and len(row) <= 100 and all(_is_number(item, 0, _MAX_RADIUS) for item in row)
        for row in value[:101]
    )


def _are_layers(value: Any) -> bool:
    if not isinstance(value, list) or not 2 <= len(value) <= 32:
        return False
    if not all(type(width) is int and 1 <= width <= 1 << 16 for width in value):
        return False
    return sum(a * b for a, b in zip(value[:-1], value[1:], strict=True)) <= _MAX_WEIGHTS


_NAME = (_is_name, "a name")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "kind": _NAME,
    "format": _integer(1, 1000),
    "architecture": _NAME,
    "image_size": _integer(8, 4096),
    "members": _integer(1, 64),
    "box_step": _integer(1, 1000),
    "levels": (_are_levels, "coverages from 0 to 1"),
    "radius": (_are_radii, f"lists of radii from 0 to {_MAX_RADIUS:g}"),
    "features": _NAME,
    "layers": (_are_layers, f"2 to 32 widths with at most {_MAX_WEIGHTS} weights"),
    "activation": _NAME,
    "quantiles": _integer(1, 1000),
    "masked": (lambda value: isinstance(value, bool), "true or false"),
    "shipped_eye": _NAME,
    "data": _NAME,
    "test_split": _NAME,
    "error_floor_mm": (
        lambda value: _is_number(value, 0, MAX_ERROR_FLOOR_MM),
        f"a length from 0 to {MAX_ERROR_FLOOR_MM:g} mm",
    ),
    "isocenter_depth_mm": (
        lambda value: _is_number(value, -MAX_ISOCENTER_DEPTH_MM, MAX_ISOCENTER_DEPTH_MM),
        f"a depth from -{MAX_ISOCENTER_DEPTH_MM:g} to {MAX_ISOCENTER_DEPTH_MM:g} mm",
    ),
}
