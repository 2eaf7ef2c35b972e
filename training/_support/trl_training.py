"""What the scripts around TRL's trainers share: training from a checkpoint on, and the exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from carm_env.system.command_line import INTERRUPTED, exit_status
from carm_env.system.files import explain_full_disk
from training._support.processes import explain_out_of_memory, smaller_batches
from training._support.trainer_checkpoints import checkpoint_step


def fit(trainer: Any, checkpoint: str | None) -> float | None:
    """Trains from a checkpoint on.

    Args:
        trainer: a trainer of TRL.
        checkpoint: folder of the checkpoint; None to train from the beginning.

    Returns:
        The mean loss; None if all steps were done before.
    """
    if checkpoint is not None and checkpoint_step(checkpoint) >= trainer.args.max_steps:
        # The trainer would take one more step before it compares.
        trainer._load_from_checkpoint(checkpoint)
        return None
    size = trainer.args.per_device_train_batch_size
    out_of_memory = explain_out_of_memory(smaller_batches(size, "per_device_train_batch_size"))
    with out_of_memory, explain_full_disk(Path(trainer.args.output_dir) / "checkpoint"):
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
    return float(outcome.training_loss)


def run_trl_script(run: Callable[[Sequence[str]], None], given: Sequence[str] | None) -> int:
    """Runs a script with the words of a command line, and returns its exit status.

    Args:
        run: the script.
        given: the words; None for those of the process.
    """
    words = sys.argv[1:] if given is None else given
    status = exit_status(lambda: run(words))
    if status == INTERRUPTED:
        print(
            "Run the same command with --resume_from_checkpoint true to continue after the last checkpoint.",
            file=sys.stderr,
        )
    return status
