"""The stages of the router, and which of two candidate answers each stage takes.

Source: "One VLM, Two Roles", section 3, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from carm_env.chat_models.top_two import Candidate
from carm_env.system.errors import UnknownNameError

STAGES = ("modality", "finding", "card")
"""The stages, in order; the paper numbers them from 1."""
FIRST, SECOND = "FIRST", "SECOND"
NO_CUTOFF = math.inf
"""Cutoff of the baseline, which always takes the first answer."""


@dataclass(frozen=True)
class Selection:
    """The answer that a stage takes.

    Attributes:
        answer: the answer.
        probability: probability of its first token.
        index: `FIRST` or `SECOND`.
    """

    answer: str
    probability: float
    index: str


def select(candidates: Sequence[Candidate], cutoff: float = NO_CUTOFF) -> Selection:
    """Takes the second candidate if its probability is at least the cutoff and it differs from the first.

    Args:
        candidates: one or two answers, the likelier first.
        cutoff: the cutoff of the stage.

    Raises:
        ValueError: there is no candidate, there are more than two, or the second one is likelier.

    >>> candidates = [Candidate("None", 0.55), Candidate("chest radiograph", 0.43)]
    >>> select(candidates, 0.425925).answer, select(candidates, 0.45).answer
    ('chest radiograph', 'None')
    """
    if not 1 <= len(candidates) <= 2:
        raise ValueError(f"got {len(candidates)} candidates, expected one or two.")
    first, last = candidates[0], candidates[-1]
    if last.probability > first.probability:
        raise ValueError(f"the second candidate has probability {last.probability}, the first {first.probability}.")
    if last.probability >= cutoff and last.answer != first.answer:
        return Selection(last.answer, last.probability, SECOND)
    return Selection(first.answer, first.probability, FIRST)


def stage_name(value: object) -> str:
    """Returns the name of a stage that is given by its name or its number from 1.

    Raises:
        UnknownNameError: there is no such stage.

    >>> stage_name("2"), stage_name("card")
    ('finding', 'card')
    """
    text = str(value).strip().lower()
    if text.isdigit() and 1 <= int(text) <= len(STAGES):
        return STAGES[int(text) - 1]
    if text not in STAGES:
        raise UnknownNameError("stage", value, [*STAGES, *range(1, len(STAGES) + 1)])
    return text
