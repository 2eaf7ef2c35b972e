"""CPUs and threads: how many this process may use, and how many the numeric libraries start."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carm_env.system.cgroups import group_folders, read_numbers

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)  # fmt: skip
"""Environment variables that OpenMP (and with it torch), BLAS and ITK read when they are imported."""

_worker_share: int | None = None


def usable_cpus() -> int:
    """Returns the number of CPUs that this process may use: the machine's, its affinity's and its container's."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in group_folders("cpu") if (quota := _cpu_quota(folder)) is not None]
    return max(1, min([allowed, *map(int, quotas)]))


def _cpu_quota(group: Path) -> float | None:
    """Returns the CPU quota of a control group (version 2 or 1) in CPUs, or None without a quota."""
    numbers = read_numbers(group / "cpu.max")
    if numbers is None:
        quota, period = read_numbers(group / "cpu.cfs_quota_us"), read_numbers(group / "cpu.cfs_period_us")
        numbers = [*(quota or []), *(period or [])]
    if len(numbers) != 2 or min(numbers) <= 0:
        return None
    return numbers[0] / numbers[1]


def available_threads() -> int:
    """Returns the number of threads this process should use at most: its share in a worker, else all usable CPUs."""
    return _worker_share or usable_cpus()


def threads_per_worker(workers: int) -> int:
    """Returns each worker's share, so that ``workers * threads`` does not exceed `available_threads`."""
    return max(1, available_threads() // workers)


def limit_threads(threads: int) -> None:
    """Limits the threads that torch, OpenMP, BLAS and numba use in this process.

    Torch and numba also obey if they are already imported. A lower limit in an environment variable stays.
    """
    os.environ.update(_thread_environment(threads))
    if numba := sys.modules.get("numba"):
        # Numba refuses a change of its variable once its threads run.
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    else:
        os.environ["NUMBA_NUM_THREADS"] = str(threads)
    # After numba, which sets OpenMP's number of threads when it starts its own.
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


@contextmanager
def torch_threads(limit: int | None) -> Iterator[None]:
    """Lets torch use at most `limit` threads inside the block; None for no limit. Does nothing without torch."""
    torch = sys.modules.get("torch")
    if torch is None or limit is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(min(limit, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def become_worker(threads: int) -> None:
    """Declares this process to be a worker with a share of `threads` threads."""
    global _worker_share
    _worker_share = threads
    limit_threads(threads)


@contextmanager
def thread_environment(threads: int) -> Iterator[None]:
    """Sets `THREAD_VARIABLES` inside the block, so that a process started in it begins with `threads` threads."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(_thread_environment(threads))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _thread_environment(threads: int) -> dict[str, str]:
    given = {name: os.environ.get(name, "") for name in THREAD_VARIABLES}
    return {name: str(min(threads, _positive(text) or threads)) for name, text in given.items()}


def _positive(text: str) -> int | None:
    """Returns the positive whole number that `text` holds; None for any other text."""
    return int(text) or None if text.isascii() and text.isdigit() and len(text) < 10 else None
