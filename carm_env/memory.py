"""Whether a large array will fit, told before it is made."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not tell."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) * 1024
    return None


def check_memory(purpose: str, needed: int, remedy: str) -> None:
    """Raise MemoryError, with what to do, unless `needed` bytes for `purpose` are free."""
    available = available_bytes()
    if available is not None and needed > available:
        raise MemoryError(f"{purpose}: {needed:,} bytes are needed and {available:,} are free. {remedy}")
