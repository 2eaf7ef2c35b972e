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

    def open(self, key: Sequence[Any]) -> list[Entry]:
        """Begins or continues an episode and returns its decisions so far; those of another episode are dropped.

        Args:
            key: JSON values that tell the episode from all others.

        Raises:
            StructuredFileError: the file is damaged.
        """
        self._key, self._entries = list(key), []
        if self._path.exists():
            found = read_json(self._path)
            if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("key"), list):
                raise StructuredFileError(
                    f"{self._path} is not the running episode of a study: remove it to start the episode again."
                )
            if found["key"] == self._key:
                self._entries = [_entry(one, self._path) for one in found.get("decisions", [])]
        return list(self._entries)

    def append(self, action: int | None, seconds: float) -> None:
        """Adds a decision; it is on the disk when the method returns.

        Raises:
            DiskFullError: the disk is full; the file is unchanged.
        """
        entries = [*self._entries, (action, seconds)]
        write_json(self._path, {"format": FORMAT, "key": self._key, "decisions": [list(entry) for entry in entries]})
        self._entries = entries

    def close(self) -> None:
        """Ends the episode, whose result is on the disk."""
        self._path.unlink(missing_ok=True)
        self._entries = []


def _entry(value: Any, path: Path) -> Entry:
    if isinstance(value, list) and len(value) == 2:
        action, seconds = value
        is_action = action is None or (type(action) is int and 0 <= action < N_ACTIONS)
        if is_action and type(seconds) in (int, float) and 0 <= seconds:
            return action, float(seconds)
    raise StructuredFileError(f"{path} has a damaged decision: remove the file to start the episode again.")
