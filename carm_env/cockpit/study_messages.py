"""The messages of the study page."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from carm_env.actions import N_ACTIONS
from carm_env.cockpit.parsing import check_range


@dataclass(frozen=True)
class Open:
    """Begins or continues the study of a person in a suite.

    Attributes:
        suite: name of the suite.
        name: the person's pseudonym.
    """

    suite: str
    name: str

    @property
    def key(self) -> Hashable:
        """What only one page at a time works on."""
        return self.suite, self.name


@dataclass(frozen=True, kw_only=True)
class StudyDecision:
    """A decision about the X-ray that the page shows; one about another X-ray is refused.

    Attributes:
        steps: number of decisions so far, as the page shows them: a key that was pressed before the last X-ray appeared
            is refused.
        suite, name: the study that the page shows; empty if the program opens only one.
    """

    steps: int
    suite: str = ""
    name: str = ""


@dataclass(frozen=True)
class StudyMove(StudyDecision):
    """A move, or the declaration that the view is aligned.

    Attributes:
        action: action of the environment, 0 to 48; 24 declares the view aligned.
    """

    action: int

    def __post_init__(self) -> None:
        check_range("action", self.action, 0, N_ACTIONS - 1)


@dataclass(frozen=True)
class HandBack(StudyDecision):
    """Gives the episode up."""


@dataclass(frozen=True)
class NextEpisode:
    """Begins the next episode."""


KINDS: dict[str, type[Any]] = {"open": Open, "move": StudyMove, "hand_back": HandBack, "next": NextEpisode}
"""The value of ``type`` to the class of the message."""
