"""How this package compiles its loops: numba, cached on disk, without the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile `function` at its first call, or read what an earlier process compiled."""
    return _compile(function)


def compiled_fast(function: Function) -> Function:
    """Like `compiled`, for loops that meet no NaN or infinity and may reorder floating-point sums."""
    return _compile(function, fastmath=True, error_model="numpy", boundscheck=False)


def _compile(function: Function, **options: Any) -> Function:
    try:
        return njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:
        # Neither the package's folder nor the user's cache folder can be written (a read-only
        # container): every process then compiles for itself.
        return njit(nogil=True, **options)(function)
