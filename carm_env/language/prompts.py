"""Prompts, as text files with the paper's rules.

The style ``full`` explains the task to a model that was not trained on it. The style ``compact`` only names the task,
for small models that are trained on it and would spend most of their time on a long prompt. Every result contains the
hash of the prompts, because results from different prompts are not comparable.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from carm_env.actions import MoveLattice
from carm_env.body_parts import BODY_PARTS
from carm_env.envs.registration import DEFAULT_TOLERANCE_MM
from carm_env.geometry import DEFAULT_GEOMETRY, DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.landmarks import HEAD_TO_FOOT, LANDMARKS, landmark
from carm_env.system.errors import UnknownNameError

PROMPT_VERSIONS = {"full": 4, "compact": 1}
"""Version of the texts of each style; it increases with every change."""
STYLES = tuple(PROMPT_VERSIONS)
PROMPTS = (
    "localize.system", "localize.user", "pair.system", "pair.user", "box.system", "box.user", "correct.system",
    "correct.user", "navigate.system", "navigate.user", "navigate.next", "navigate.invalid", "navigate.feedback",
)  # fmt: skip
"""The prompts of the C-arm's tasks, which `prompt_hash` covers."""
BODY_PART_PROMPTS = ("body_parts.system", "body_parts.user")
"""The prompts of the question which body parts an X-ray shows, which `body_part_prompt_hash` covers."""
BODY_PART_PROMPT_VERSIONS = {"full": 1, "compact": 1}
"""Version of these texts in each style."""
IMAGE_PROMPTS = ("classify.system", "classify.user", "ground.system", "ground.user")
"""The prompts of `carm_env.language.image_tasks`, which `image_prompt_hash` covers."""
IMAGE_PROMPT_VERSIONS = {"full": 1, "compact": 1}
"""Version of these texts in each style."""
NEUTRAL_FEEDBACK = "Look at the picture once more."
WRONG_FEEDBACK = "That response is incorrect."
_FOLDER = Path(__file__).parent / "texts"
_HASH_DIGITS = 12


@dataclass(frozen=True)
class TaskFacts:
    """What a model must know about a task besides its target.

    Attributes:
        field_of_view_mm: side of the square that the image shows, at mid-depth of the body.
        tolerance_mm: largest distance of the target from the center at which a declared alignment is correct.
    """

    field_of_view_mm: float = DEFAULT_GEOMETRY.field_of_view_at_mm(DEFAULT_ISOCENTER_DEPTH_MM)
    tolerance_mm: float = DEFAULT_TOLERANCE_MM

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> TaskFacts:
        """Returns the facts in the `info` of an evaluation; the default ones where it has none."""
        return cls(**{name: float(info[name]) for name in ("field_of_view_mm", "tolerance_mm") if name in info})


@dataclass(frozen=True)
class Prompt:
    """A prompt with ``$placeholders``.

    Attributes:
        name: one of `PROMPTS`, `BODY_PART_PROMPTS` or `IMAGE_PROMPTS`.
        style: one of `STYLES`.
        text: the text, without a final line break.
    """

    name: str
    style: str
    text: str

    def fill(self, **values: str) -> str:
        """Returns the text with all placeholders replaced; raises KeyError if a value is missing."""
        return Template(self.text).substitute(values)


@cache
def prompt(name: str, style: str = "full") -> Prompt:
    """Loads a prompt.

    Args:
        name: one of `PROMPTS`, `BODY_PART_PROMPTS` or `IMAGE_PROMPTS`.
        style: one of `STYLES`.

    Raises:
        UnknownNameError: unknown prompt or style.

    >>> prompt("box.user").fill(target="Carina")
    'Mark the region of this landmark: Carina'
    """
    names = (*PROMPTS, *BODY_PART_PROMPTS, *IMAGE_PROMPTS)
    if name not in names:
        raise UnknownNameError("prompt", name, names)
    if style not in STYLES:
        raise UnknownNameError("style of prompts", style, STYLES)
    return Prompt(name, style, (_FOLDER / style / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n"))


def system_prompt(
    task: str, style: str = "full", lattice: MoveLattice | None = None, facts: TaskFacts | None = None
) -> str:
    """Returns the complete system prompt of a task.

    Args:
        task: ``localize``, ``pair``, ``box``, ``correct``, ``navigate`` or ``body_parts``.
        style: one of `STYLES`.
        lattice: the moves of the environment.
        facts: facts about the task.
    """
    facts = facts or TaskFacts()
    small, moderate, large = (f"{length:g}" for length in (lattice or MoveLattice()).extents_mm)
    order = ", ".join(landmark(key).name for key in HEAD_TO_FOOT)
    return prompt(f"{task}.system", style).fill(
        landmarks=landmark_table(), order=order, small=small, moderate=moderate, large=large,
        width=f"{facts.field_of_view_mm:.0f}", tolerance=f"{facts.tolerance_mm:g}", body_parts=body_part_table(),
    )  # fmt: skip


def landmark_table() -> str:
    """Returns the landmarks with their synonyms, one per line."""
    return "\n".join(f"{item.id}: {', '.join((item.name, *item.synonyms))}" for item in LANDMARKS)


def body_part_table() -> str:
    """Returns the body parts with their numbers, one per line."""
    return "\n".join(f"{number}: {name}" for number, name in enumerate(BODY_PARTS))


def prompt_hash(style: str = "full") -> str:
    """Returns the hash of all prompts of a style for the C-arm's tasks and the names of the landmarks."""
    return _hash(PROMPT_VERSIONS[style], PROMPTS, style, landmark_table())


def body_part_prompt_hash(style: str = "full") -> str:
    """Returns the hash of the prompts of a style that ask for body parts and the names of these."""
    return _hash(BODY_PART_PROMPT_VERSIONS[style], BODY_PART_PROMPTS, style, body_part_table())


def image_prompt_hash(style: str = "full") -> str:
    """Returns the hash of the prompts of a style that ask for the class of an image or the region of a phrase."""
    return _hash(IMAGE_PROMPT_VERSIONS[style], IMAGE_PROMPTS, style, "")


def _hash(version: int, names: Sequence[str], style: str, table: str) -> str:
    texts = {name: prompt(name, style).text for name in names}
    whole = json.dumps([version, texts, table], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:_HASH_DIGITS]
