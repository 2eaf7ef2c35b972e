"""Processes of one training, as `accelerate launch` starts them, and what to do when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from carm_env.system.errors import CArmEnvError
from carm_env.system.extras import optional_imports
from carm_env.system.output_folders import lock_output

with optional_imports("train", "Training"):
    import torch
    from accelerate import PartialState


class TrainingError(CArmEnvError, RuntimeError):
    """Training cannot continue; the message says why and what to do."""


def is_main_process() -> bool:
    """Returns whether this is the process that writes and prints."""
    # As `fit_network` asks for it: the first call decides, and without `cpu` it would see no other process on CPUs.
    return bool(PartialState(cpu=not torch.cuda.is_available()).is_main_process)


def process_count() -> int:
    """Returns the number of processes of this training."""
    return int(PartialState(cpu=not torch.cuda.is_available()).num_processes)


@contextmanager
def one_training(folder: Path, option: str) -> Iterator[None]:
    """Lets one training at a time write to a folder; its processes share it (`lock_output`).

    Raises:
        BusyError: another training writes there.
    """
    with lock_output(folder, option) if is_main_process() else nullcontext():
        yield


def end_processes() -> None:
    """Waits for all processes, then leaves the process group, as torch requires before a process ends."""
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turns torch's out-of-memory errors, on a GPU or a CPU, into a `TrainingError` with advice."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise TrainingError(f"out of memory: {advice}.") from error


def smaller_batches(size: int, option: str = "batch-size") -> str:
    """Returns advice to halve a batch size that an option sets."""
    return f"batches of {size} are too large, set --{option} {max(size // 2, 1)}"
