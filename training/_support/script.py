"""The frame of the training scripts: arguments in, results out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from carm_env.evaluation.provenance import save_measurement
from carm_env.system.command_line import INTERRUPTED, run_script
from training._support.processes import end_processes, explain_out_of_memory, is_main_process, one_training


class TrainingArguments(Protocol):
    """What `run_training` needs of the arguments of a script."""

    @property
    def output_dir(self) -> str:
        """Folder of the checkpoint."""
        ...

    @property
    def json(self) -> str:
        """File to write the results to; empty for none."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the training."""
        ...

    def check(self) -> None:
        """Raises ValueError for a wrong value."""
        ...


Arguments = TypeVar("Arguments", bound=TrainingArguments)


@dataclass(frozen=True)
class TrainingResult:
    """Results of a training.

    Attributes:
        test: metrics on the test patients, which were never trained on; empty if they were not evaluated.
        training: duration, loss and the like.
        about: what was trained on or asked, for the file of results.
    """

    test: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)


def print_result(result: TrainingResult) -> None:
    """Prints the metrics on the test patients, then the metrics of the training."""
    for heading, figures in (("on patients never trained on", result.test), ("training", result.training)):
        if figures:
            print(f"\n{heading}:")
            for name, value in figures.items():
                print(f"  {name:17} {value:.3f}")


def run_training(
    train: Callable[[Arguments, Sequence[str]], TrainingResult],
    kind: type[Arguments],
    description: str | None,
    policy: str,
    given: Sequence[str] | None,
) -> int:
    """Reads the arguments, trains, and prints and writes the results; returns the exit status.

    Args:
        train: trains with the arguments; it gets the words of the command line for the model card.
        kind: dataclass of the arguments.
        description: shown by ``--help``.
        policy: name of the policy that loads the checkpoint; empty if none does.
        given: words of the command line; None for ``sys.argv[1:]``.
    """
    words = _without_flag_values(list(sys.argv[1:] if given is None else given))

    def run(arguments: Arguments) -> None:
        # Not in __post_init__: tyro would wrap the message.
        arguments.check()
        with one_training(Path(arguments.output_dir), "--output-dir"):
            with explain_out_of_memory("take fewer images, or a smaller --architecture"):
                result = train(arguments, words)
            if is_main_process():
                print_result(result)
                if arguments.json:
                    save_measurement(
                        Path(arguments.json), {**result.about, **result.test, **result.training}, arguments.seed
                    )
                checkpoint = f"{arguments.output_dir}/checkpoint"
                print(f"\npolicy: {policy}:{checkpoint}" if policy else f"\ncheckpoint: {checkpoint}", flush=True)
        end_processes()

    status = run_script(run, kind, description, words)
    if status == INTERRUPTED:
        print("Run the same command with --resume to continue after the last whole epoch.", file=sys.stderr)
    return status


def _without_flag_values(words: list[str]) -> list[str]:
    """Drops the value of ``--resume true``, which was needed before it was a flag; ``--resume false`` is dropped."""
    for value in ("true", "false"):
        for at in reversed(range(len(words) - 1)):
            if words[at] == "--resume" and words[at + 1].lower() == value:
                words[at : at + 2] = ["--resume"] if value == "true" else []
    return words
