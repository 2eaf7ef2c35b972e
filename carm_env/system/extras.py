"""Optional packages: imported on demand, with an error that names the extra that installs them."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from carm_env.system.errors import MissingExtraError, OutdatedPackageError
from carm_env.system.versions import package_version


def require(module: str, extra: str, purpose: str) -> Any:
    """Imports an optional module.

    Args:
        module: name of the module, such as ``"torch"`` or ``"matplotlib.figure"``.
        extra: the extra of carm-env that installs it.
        purpose: what needs the module; subject of the error message.

    Raises:
        MissingExtraError: the package is not installed.

    >>> require("json", "train", "This example").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if not isinstance(error, ModuleNotFoundError) or (error.name or "").partition(".")[0] != package:
            raise
        raise MissingExtraError(package, extra, purpose) from error


def require_installed(package: str, extra: str, purpose: str, note: str = "") -> None:
    """Raises MissingExtraError, with `note` in brackets, unless a package is installed; it is not imported."""
    if not is_installed(package):
        raise MissingExtraError(package, extra, purpose, note)


def is_installed(package: str) -> bool:
    """Returns whether a top-level package is installed, without importing it."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None


def require_versions(extra: str, purpose: str, **minimal: str) -> None:
    """Checks the versions of installed packages before they are imported.

    Args:
        extra: the extra of carm-env that installs the packages.
        purpose: what needs the packages; subject of the error message.
        **minimal: lowest version of each package, as numbers separated by points.

    Raises:
        OutdatedPackageError: an installed package is older.
    """
    for package, lowest in minimal.items():
        found = package_version(package)
        if found is not None and _numbers(found) < _numbers(lowest):
            raise OutdatedPackageError(package, found, lowest, extra, purpose)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


@contextmanager
def optional_imports(extra: str, purpose: str) -> Iterator[None]:
    """Names the extra to install if an import in the ``with`` block fails.

    Args:
        extra: the extra of carm-env that installs the packages.
        purpose: what needs the packages; subject of the error message.

    Raises:
        MissingExtraError: a package that the block imports is not installed.

    >>> with optional_imports("train", "This example"):
    ...     import json
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError((error.name or "").partition(".")[0], extra, purpose) from error
