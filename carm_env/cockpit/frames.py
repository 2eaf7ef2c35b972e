"""X-rays as messages of the socket: a header in JSON, and one byte per pixel."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.system.structured_files import parse_json

_LENGTH = struct.Struct("<I")


def encode_frame(header: Mapping[str, Any], image: NDArray[np.uint8]) -> bytes:
    """Returns a message: the length of the header as a little-endian 32-bit number, the header, and the pixels.

    Args:
        header: JSON values; width and height are added.
        image: ``(H, W)`` or ``(H, W, 1)`` grey values.
    """
    height, width = image.shape[0], image.shape[1]
    pixels = np.ascontiguousarray(image).reshape(height, width)
    text = json.dumps({**header, "width": width, "height": height}, allow_nan=False).encode()
    return b"".join((_LENGTH.pack(len(text)), text, pixels.tobytes()))


def decode_frame(message: bytes) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Returns header and pixels ``(H, W)`` of a message: the inverse of `encode_frame`."""
    (length,) = _LENGTH.unpack_from(message)
    header = parse_json(message[_LENGTH.size : _LENGTH.size + length].decode(), "the header of a frame")
    pixels = np.frombuffer(message, np.uint8, offset=_LENGTH.size + length)
    return header, pixels.reshape(header["height"], header["width"])
