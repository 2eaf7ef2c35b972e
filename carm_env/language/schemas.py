"""JSON schemas of the answer formats, for servers with structured output.

The fields are those of the tagged answers; the lenient reading (`carm_env.language.lenient`) reads the objects.
"""

from __future__ import annotations

from typing import Any

from carm_env.actions import X_DIRECTIONS, Y_DIRECTIONS, Extent
from carm_env.body_parts import N_BODY_PARTS
from carm_env.landmarks import LANDMARKS, N_LANDMARKS
from carm_env.language.answers import BOX_SCALE, MAX_CLASSES
from carm_env.system.errors import UnknownNameError

_ID = {"type": "integer", "minimum": 1, "maximum": N_LANDMARKS}
_TEXT = {"type": "string"}
_EXTENT = {"type": "string", "enum": [extent.value for extent in Extent]}
_PROPERTIES: dict[str, dict[str, Any]] = {
    "ranking": {"landmarks": {"type": "array", "items": _ID, "minItems": 1, "maxItems": 3}},
    "pair": {"landmarks": {"type": "array", "items": _ID, "minItems": 2, "maxItems": 2}},
    "body_parts": {
        "body_parts": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": N_BODY_PARTS - 1},
            "minItems": 2,
            "maxItems": 2,
        }
    },
    "class": {
        "class": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": MAX_CLASSES - 1},
            "minItems": 1,
            "maxItems": 1,
        }
    },
    "box": {
        "box": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": BOX_SCALE},
            "minItems": 4,
            "maxItems": 4,
        }
    },
    "correction": {
        "visual_reasoning": _TEXT,
        "landmarks": {"type": "array", "items": _ID, "minItems": 2, "maxItems": 2},
    },
    "navigation": {
        "context": {"type": "string", "enum": [item.name for item in LANDMARKS]},
        "x": {"type": "string", "enum": list(X_DIRECTIONS)},
        "extent_x": _EXTENT,
        "reason_x": _TEXT,
        "y": {"type": "string", "enum": list(Y_DIRECTIONS)},
        "extent_y": _EXTENT,
        "reason_y": _TEXT,
    },
    "question": {"about": {"type": "string", "enum": [item.name for item in LANDMARKS]}, "text": _TEXT},
}


def answer_schema(kind: str) -> dict[str, Any]:
    """Returns the JSON schema of a kind of answer; raises UnknownNameError for an unknown kind.

    >>> answer_schema("pair")["required"]
    ['landmarks']
    """
    if kind not in _PROPERTIES:
        raise UnknownNameError("kind of answer", kind, _PROPERTIES)
    properties = _PROPERTIES[kind]
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
