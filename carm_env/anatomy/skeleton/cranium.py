"""The centre of the cranial vault by the rule for CTs, which label maps are measured with as well."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_VAULT_MM = 90.0
"""Height of the part of the skull that is cranium only, without face and mandible."""
_CENTRE_BELOW_VERTEX = 0.5
"""Depth of the centre of the vault below the vertex, in breadths of the cranium."""


def vault_centre_mm(skull_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the centre ``(3,)`` of the cranial vault, LPS mm.

    It lies half of the cranium's breadth below the vertex, in the middle of the breadth and length of the upper 90 mm.

    Args:
        skull_mm: ``(n, 3)`` vertices of the skull on the table, LPS mm.
    """
    vertex = skull_mm[:, 2].max()
    vault = skull_mm[skull_mm[:, 2] > vertex - _VAULT_MM]
    low, high = vault.min(0), vault.max(0)
    x, y = ((low + high) / 2)[:2]
    return np.array([x, y, vertex - _CENTRE_BELOW_VERTEX * (high[0] - low[0])])
