"""The trainings of a specialty model and of one model for each task, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from carm_env.system.errors import CArmEnvError
from policies.model_loading import SETTINGS_FILE

ROOT = Path(__file__).parents[2]
_SHOWN_LINES = 8


class TrainingFailedError(CArmEnvError, RuntimeError):
    """A training ended with an error; the message names its log."""


def is_trained(folder: Path) -> bool:
    """Returns whether a folder holds a finished model; its settings are written last."""
    return (folder / SETTINGS_FILE).is_file()


def weight_bytes(folder: Path) -> int:
    """Returns the size of the weights of a model, or of its adapter."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def train_all(commands: Mapping[Path, Sequence[str]], jobs: int) -> None:
    """Runs trainings that are not finished, `jobs` at the same time; a training continues after its last checkpoint.

    Args:
        commands: from the folder of each model to the words of its command, without the interpreter.
        jobs: number of processes.

    Raises:
        TrainingFailedError: a training failed; the others are finished.
    """
    missing = {folder: words for folder, words in commands.items() if not is_trained(folder)}
    pool = ThreadPoolExecutor(max(jobs, 1))
    try:
        failed = list(filter(None, pool.map(_train, missing, missing.values())))
    finally:
        # After Ctrl-C, which the trainings receive as well, no other one begins.
        pool.shutdown(cancel_futures=True)
    if failed:
        raise TrainingFailedError("\n".join(failed))


def _train(folder: Path, words: Sequence[str]) -> str:
    """Trains, and returns what went wrong."""
    started, log = time.perf_counter(), folder.with_suffix(".log")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        command = [sys.executable, *words, "--output_dir", str(folder.resolve()), "--resume_from_checkpoint", "true"]
        status = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
        return f"the training of {folder.name} failed with status {status} ({log}):\n" + "\n".join(lines)
    print(f"{folder.name}: trained in {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
    return ""
