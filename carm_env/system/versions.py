"""Versions of installed packages."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import metadata

OPTIONAL_PACKAGES = {
    "torch": "torch",
    "transformers": "transformers",
    "trl": "trl",
    "peft": "peft",
    "accelerate": "accelerate",
    "bitsandbytes": "bitsandbytes",
    "stable_baselines3": "stable-baselines3",
    "sb3_contrib": "sb3-contrib",
    "openai": "openai",
    "anthropic": "anthropic",
    "lm_eval": "lm-eval",
}
"""Modules of optional packages that models are made of, to the names of the packages."""


def package_version(package: str) -> str | None:
    """Returns the version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def package_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Returns the version of each package; None for one that is not installed."""
    return {package: package_version(package) for package in packages}


def used_packages() -> list[str]:
    """Returns the optional packages that this process has imported."""
    # A module whose import failed may be None.
    return [package for module, package in OPTIONAL_PACKAGES.items() if sys.modules.get(module) is not None]
