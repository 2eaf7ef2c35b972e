"""What the server refuses: a sentence for the page, and a reason without personal data for the log."""

from __future__ import annotations

import traceback
from pathlib import Path

from carm_env.system.errors import CArmEnvError, MissingExtraError, UnknownNameError

MESSAGE, RATE, EXPIRED, TAKEN, FULL, TURN, VALUE, FAILURE = (
    "not a valid message", "too many messages", "unknown or expired session", "opened in another tab",
    "too many sessions", "not possible now", "unknown name or value", "failure",
)  # fmt: skip
"""Reasons, as the log names them."""


class RefusedError(CArmEnvError, ValueError):
    """A message or request is refused.

    Args:
        reason: kind of refusal, which the log names; never a text of the user.
        text: the sentence that the page shows.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def refusal_of(error: Exception) -> RefusedError:
    """Returns the refusal of what raised an error: for the user's input, the surroundings, or a fault of a policy."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, UnknownNameError):
        return RefusedError(f"unknown {error.what}", _sentence(error))
    if isinstance(error, MissingExtraError):
        return RefusedError(f"the package {error.package} is not installed", _sentence(error))
    if isinstance(error, (CArmEnvError, ValueError, OSError, MemoryError)):
        return RefusedError(f"{VALUE} ({type(error).__name__})", _sentence(error))
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
    return RefusedError(f"{FAILURE} ({where})", f"Something failed: {where}. {_sentence(error)}")


def _sentence(error: Exception) -> str:
    # Not capitalised: the first word can be the name of a setting.
    return " ".join(str(error).split()) or type(error).__name__
