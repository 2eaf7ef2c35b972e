"""The decisions of a study's running episode, on the disk before they are carried out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carm_env.actions import N_ACTIONS
from carm_env.system.files import write_json
from carm_env.system.structured_files import StructuredFileError, read_json

FORMAT = 1
Entry = tuple[int | None, float]
"""Action (None if the person gave the episode up) and seconds of a decision."""


class StudyJournal:
    """A JSON file with the decisions of one episode, replaced atomically at each decision.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: Sequence[Any] = ()
        self._entries: list[Entry] = []
        self._waited_s = 0.0

    @property
    def waited_s(self) -> float:
        """For how long the person had seen the last X-ray when the study was closed, s."""
        return self._waited_s

    def open(self, key: Sequence[Any]) -> list[Entry]:
        """Begins or continues an episode and returns its decisions so far; those of another episode are dropped.

        Args:
            key: JSON values that tell the episode from all others.

        Raises:
            StructuredFileError: the file is damaged.
        """
        self._key, self._entries, self._waited_s = list(key), [], 0.0
        if self._path.exists():
            found = read_json(self._path)
            if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("key"), list):
                raise StructuredFileError(
                    f"{self._path} is not the running episode of a study: remove it to start the episode again."
                )
            if found["key"] == self._key:
                self._entries = [_entry(one, self._path) for one in found.get("decisions", [])]
                self._waited_s = _seconds(found.get("waited_s", 0.0), self._path)
        return list(self._entries)

    def append(self, action: int | None, seconds: float) -> None:
        """Adds a decision; it is on the disk when the method returns.

        Raises:
            DiskFullError: the disk is full; the file is unchanged.
        """
        entries = [*self._entries, (action, seconds)]
        self._write(entries, 0.0)

    def wait(self, seconds: float) -> None:
        """Saves for how long the person has seen the last X-ray, when the study is closed.

        Raises:
            DiskFullError: the disk is full; the file is unchanged.
        """
        self._write(self._entries, seconds)

    def close(self) -> None:
        """Ends the episode, whose result is on the disk."""
        self._path.unlink(missing_ok=True)
        self._entries, self._waited_s = [], 0.0

    def _write(self, entries: list[Entry], waited_s: float) -> None:
        decisions = [list(entry) for entry in entries]
        write_json(self._path, {"format": FORMAT, "key": self._key, "decisions": decisions, "waited_s": waited_s})
        self._entries, self._waited_s = entries, waited_s


def _seconds(value: Any, path: Path) -> float:
    if type(value) not in (int, float) or not value >= 0:
        raise StructuredFileError(f"{path} has a damaged time: remove the file to start the episode again.")
    return float(value)


def _entry(value: Any, path: Path) -> Entry:
    if isinstance(value, list) and len(value) == 2:
        action, seconds = value
        is_action = action is None or (type(action) is int and 0 <= action < N_ACTIONS)
        if is_action:
            return action, _seconds(seconds, path)
    raise StructuredFileError(f"{path} has a damaged decision: remove the file to start the episode again.")
