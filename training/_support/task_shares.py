"""The tasks of a fine-tuning and their shares, as the command line names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carm_env.system.errors import UnknownNameError
from training._support.conversations import DEFAULT_WEIGHTS, TASKS
from training._support.report_conversations import REPORT_TASKS

ALL_TASKS = (*TASKS, *REPORT_TASKS)
OTHER_NAMES = {"closest_three": "localize", "correction": "correct", "navigation": "navigate"}
"""Other names of tasks: those of the paper's questions."""


def task_shares(words: str | Sequence[str]) -> dict[str, float]:
    """Returns the share of each task.

    Args:
        words: TASK or TASK=SHARE, also several with commas; tasks without a share have the share 1. Without words, the
            default mixture of the tasks about landmarks.

    Raises:
        UnknownNameError: an unknown task.
        ValueError: a share is not a number from 0, a task is named twice, or all shares are 0.

    >>> task_shares(["closest_three", "box=2"])
    {'localize': 1.0, 'box': 2.0}
    """
    given = [part for word in ([words] if isinstance(words, str) else words) for part in word.split(",") if part]
    if not given:
        return dict(DEFAULT_WEIGHTS)
    shares: dict[str, float] = {}
    for part in given:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        task = OTHER_NAMES.get(name, name)
        if task not in ALL_TASKS:
            raise UnknownNameError("task", name, (*ALL_TASKS, *OTHER_NAMES))
        if task in shares:
            raise ValueError(f"tasks names {task!r} twice, expected each task once.")
        try:
            shares[task] = float(value) if equals else 1.0
        except ValueError as error:
            raise ValueError(f"the share of {name} is {value!r}, expected a number: TASK or TASK=SHARE.") from error
        if not shares[task] >= 0:
            raise ValueError(f"the share of {name} is {value}, expected 0 or more.")
    if not sum(shares.values()) > 0:
        raise ValueError(f"tasks is {' '.join(given)}, expected at least one share above 0.")
    return shares


def of_kind(shares: Mapping[str, float], kind: Sequence[str]) -> dict[str, float]:
    """Returns the tasks of a kind whose share is above 0."""
    return {name: share for name, share in shares.items() if name in kind and share > 0}
