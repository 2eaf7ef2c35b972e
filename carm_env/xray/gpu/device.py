"""Devices of torch: finding one, and launching kernels on it."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def find_device(device: str | torch.device | None) -> torch.device:
    """CUDA or the CPU as torch names them; None means CUDA where there is one.

    Raises:
        ValueError: another device (float64, which Poisson's law needs, is not everywhere), or one that is not there.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cuda", "cpu"):
        raise ValueError(f"device is {str(device)!r}, expected 'cuda', 'cuda:1' or the like, or 'cpu'.")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {str(device)!r}, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices. "
            "Use device='cpu', or a torch built for CUDA on a machine with a GPU (carm-env doctor)."
        )
    return found


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make `device` the one on which Triton launches: torch's current one, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
