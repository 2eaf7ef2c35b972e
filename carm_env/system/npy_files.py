"""Arrays of others in ``.npy`` files, which are checked before their values are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.system.errors import CArmEnvError

SIGNATURE = b"\x93NUMPY"
"""First bytes of the files."""
_KINDS = "biuf"


class NpyFileError(CArmEnvError, ValueError):
    """A ``.npy`` file is damaged or holds no numbers; the message names the file."""


def open_npy(path: Path) -> NDArray[Any]:
    """Maps the array of a file into memory, read-only, so that only the values that are used are read.

    Raises:
        NpyFileError: the file is missing, cut short or of another kind, the array is empty, or its values are neither
            integers nor real numbers.
    """
    if not path.is_file():
        raise NpyFileError(f"no such file: {path}")
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy raises many kinds for damaged files
        reason = " ".join(str(error).split())[:120]
        raise NpyFileError(f"{path} cannot be read as a .npy file ({reason}): save it again.") from error
    if array.dtype.kind not in _KINDS or array.size == 0:
        raise NpyFileError(f"{path} holds {array.dtype} {array.shape}, expected integers or real numbers.")
    return array
