"""The errors of the package, and checks that raise them."""

from __future__ import annotations

import difflib
import math
import reprlib
import sys
from collections.abc import Iterable
from numbers import Real
from typing import Any


class CArmEnvError(Exception):
    """Base class of the errors that carm_env defines."""


class _Repr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 6, 8, 8
        self.maxstring = self.maxother = 200

    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to print integers of more than 4,300 digits.
        return repr(value) if value.bit_length() <= 256 else f"<integer of {value.bit_length():,} bits>"


def shortened(value: object) -> str:
    """Returns the ``repr`` of a value for an error message; long texts and collections are cut.

    >>> shortened("a" * 1000) == repr("a" * 1000)
    False
    >>> shortened(10**5000)
    '<integer of 16,610 bits>'
    """
    return _Repr().repr(value)


class UnknownNameError(CArmEnvError, ValueError):
    """An unknown name; the message suggests the nearest valid name.

    Args:
        what: what is named, such as ``"landmark"``.
        got: the given name.
        valid: all valid names.

    Example:
        >>> raise UnknownNameError("suite", "smok", ["smoke", "uniform"])
        Traceback (most recent call last):
            ...
        carm_env.system.errors.UnknownNameError: unknown suite 'smok'. Did you mean 'smoke'? Valid: smoke, uniform.
    """

    def __init__(self, what: str, got: object, valid: Iterable[object]) -> None:
        names = [str(name) for name in valid]
        by_lower = {name.lower(): name for name in names}
        near = difflib.get_close_matches(shortened(got).strip("'").lower(), by_lower, n=1, cutoff=0.0)
        hint = f" Did you mean {by_lower[near[0]]!r}?" if near else ""
        super().__init__(f"unknown {what} {shortened(got)}.{hint} Valid: {', '.join(names)}.")
        self.what, self.got, self.valid = what, got, names


class MissingExtraError(CArmEnvError, ImportError):
    """An optional package is not installed; the message names the extra that installs it. See `require`."""

    def __init__(self, package: str, extra: str, purpose: str, note: str = "") -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'carm-env[{extra}]'{note and f' ({note})'}"
        )
        self.package, self.extra, self._arguments = package, extra, (package, extra, purpose, note)

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str, str]]:
        # Worker processes send it back to the main process.
        return type(self), self._arguments


class OutdatedPackageError(CArmEnvError, ImportError):
    """An optional package is installed in a version that is too old; see `carm_env.system.extras.require_versions`."""

    def __init__(self, package: str, found: str, lowest: str, extra: str, purpose: str) -> None:
        old_python = sys.version_info < (3, 11)
        python = " It needs Python 3.11 or later, and this is Python 3.10, for which pip takes old versions."
        super().__init__(
            f"{purpose} needs {package} {lowest} or later, but {package} {found} is installed. Install it with: "
            f"pip install --upgrade 'carm-env[{extra}]'.{python if old_python else ''}"
        )
        self._arguments = (package, found, lowest, extra, purpose)

    def __reduce__(self) -> tuple[type[OutdatedPackageError], tuple[str, str, str, str, str]]:
        return type(self), self._arguments


class BackendError(CArmEnvError, RuntimeError):
    """A backend cannot run on this machine or needs more memory; the message says what to do."""


def check_keys(what: str, given: Iterable[str], valid: Iterable[str]) -> None:
    """Raises `UnknownNameError` for the first key of `given` that is not in `valid`."""
    allowed = list(valid)
    for key in given:
        if key not in allowed:
            raise UnknownNameError(what, key, allowed)


def finite_number(name: str, value: Any) -> float:
    """Returns a value as a float.

    Args:
        name: name of the value in the error message.
        value: the value.

    Raises:
        ValueError: the value is not a finite real number; bools and strings are not accepted.
    """
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is {shortened(value)}, expected a finite number.")
    return number
