"""Parsing of the messages that pages send: JSON objects, checked before anything is done with them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from carm_env.cockpit.refusals import MESSAGE, RefusedError
from carm_env.system.errors import CArmEnvError, check_keys, shortened
from carm_env.system.structured_files import parse_json

MAX_MESSAGE_BYTES = 32 << 10
MAX_TEXT = 500
"""Longest text of a message; a clinician's words have as much room in a prompt."""


def parse(text: str, kinds: Mapping[str, type[Any]]) -> Any:
    """Parses a message.

    Args:
        text: a JSON object whose ``type`` names the class and whose other keys are the fields.
        kinds: from the value of ``type`` to a dataclass with fields of type int, float, bool, str or tuple of str.

    Raises:
        RefusedError: it is no valid message; the text says why.
    """
    if len(text) > MAX_MESSAGE_BYTES:
        raise RefusedError(MESSAGE, f"A message has {len(text):,} characters, expected at most {MAX_MESSAGE_BYTES:,}.")
    try:
        value = parse_json(text, "the message")
        if not isinstance(value, dict) or not isinstance(value.get("type"), str) or value["type"] not in kinds:
            raise RefusedError(MESSAGE, f"A message is {shortened(value)}, expected a type: {', '.join(kinds)}.")
        kind = kinds[value.pop("type")]
        fields = {item.name: item for item in dataclasses.fields(kind)}
        check_keys(f"key of {kind.__name__}", value, fields)
        given = {name: _checked(name, str(fields[name].type), item) for name, item in value.items()}
        return kind(**given)
    except RefusedError:
        raise
    except (CArmEnvError, TypeError, ValueError) as error:
        raise RefusedError(MESSAGE, f"A message cannot be read: {error}") from error


def _checked(name: str, kind: str, value: Any) -> Any:
    # Annotations are strings here.
    if kind == "float" and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in ("int", "str", "bool") and type(value).__name__ == kind:
        if kind == "str" and len(value) > 4 * MAX_TEXT:
            raise RefusedError(MESSAGE, f"{name} has {len(value):,} characters, expected at most {4 * MAX_TEXT}.")
        return value
    if kind.startswith("tuple") and isinstance(value, list) and all(type(item) is str for item in value):
        return tuple(value)
    raise RefusedError(MESSAGE, f"{name} is {shortened(value)}, expected {kind}.")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises RefusedError unless a number of a message is within its range."""
    if not low <= value <= high:
        raise RefusedError(MESSAGE, f"{name} is {shortened(value)}, expected {low} to {high}.")
