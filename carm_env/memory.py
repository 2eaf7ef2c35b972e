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


def check_memory(voxels: tuple[int, ...], needed: int, purpose: str) -> None:
    """Raise MemoryError unless `needed` bytes for a volume of so many `voxels` are free; `purpose` says what for."""
    available = available_bytes()
    if available is not None and needed > available:
        raise MemoryError(
            f"a volume of {' x '.join(map(str, voxels))} voxels needs {needed:,} bytes {purpose}, "
            f"and {available:,} are free. Crop the volume, resample it to larger voxels, or free memory."
        )
