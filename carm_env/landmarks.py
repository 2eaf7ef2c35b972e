"""The paper's fourteen skeletal landmarks, with their synonyms.

Ids are 1-based wherever a person or a model sees them (manifests, `info`, prompts, tables). Only the observation
space ``Discrete(14)`` counts from 0: ``index = id - 1``.

Source: "Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control", section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from carm_env.system.errors import UnknownNameError


@dataclass(frozen=True)
class Landmark:
    """One landmark.

    Attributes:
        id: 1-based number, as in the paper.
        name: name in the paper.
        synonyms: other names of the same landmark, without `name`.
    """

    id: int
    name: str
    synonyms: tuple[str, ...]

    @property
    def slug(self) -> str:
        """Name for command lines and file names, e.g. ``right-humeral-head``."""
        return self.name.lower().replace(" ", "-")

    @property
    def index(self) -> int:
        """0-based position in `LANDMARKS` and in the observation space."""
        return self.id - 1


def _pair(first_id: int, name: str, *synonyms: str) -> Iterator[Landmark]:
    for number, side in enumerate(("Right", "Left"), first_id):
        texts = tuple(text.format(side=side.lower(), Side=side) for text in synonyms)
        yield Landmark(number, f"{side} {name}", texts)


LANDMARKS: tuple[Landmark, ...] = (
    Landmark(1, "Skull", ("Cranium", "Cranial vault", "Calvarium")),
    *_pair(2, "humeral head", "{Side} proximal humerus", "Head of {side} humerus", "{Side} glenohumeral head"),
    *_pair(4, "scapular inferior angle", "Lower tip of {side} scapula", "{Side} shoulder blade tip"),
    *_pair(6, "elbow", "{Side} olecranon", "{Side} cubital joint", "{Side} elbow joint"),
    *_pair(8, "wrist", "{Side} carpus", "{Side} radiocarpal joint", "{Side} wrist joint"),
    Landmark(10, "T1", ("First thoracic vertebra", "T1 vertebral body", "Upper thoracic vertebra")),
    Landmark(11, "Carina", ("Tracheal bifurcation", "Tracheal carina")),
    *_pair(12, "hemidiaphragm", "{Side} diaphragmatic dome", "{Side} diaphragmatic crus"),
    Landmark(14, "T12", ("Twelfth thoracic vertebra", "T12 vertebral body", "Lower thoracic vertebra")),
)
N_LANDMARKS = len(LANDMARKS)
N_CLOSEST = 3
"""Number of closest landmarks in `info`, data sets and answers."""

CRANIOCAUDAL_ORDER: tuple[int, ...] = (1, 10, 11, 4, 5, 12, 13, 14)
"""Ids from head to foot without the arms, whose pose varies; the two sides of a pair are adjacent."""
HEAD_TO_FOOT: tuple[int, ...] = (1, 2, 3, 10, 11, 4, 5, 12, 13, 8, 9, 6, 7, 14)
"""All ids from head to foot in a patient with crossed arms, for prompts; the two sides of a pair are adjacent."""


def _normalise(text: str) -> str:
    return " ".join(text.lower().replace("-", " ").replace("_", " ").split())


_BY_NAME = {_normalise(text): item for item in LANDMARKS for text in (item.name, *item.synonyms)}


def landmark(key: int | str) -> Landmark:
    """Returns the landmark with this id, name, slug or synonym; case, ``-`` and ``_`` do not matter.

    Raises:
        UnknownNameError: unknown landmark; the message names the nearest one.

    >>> landmark("carina").id, landmark(4).name, landmark("Cranial vault").id
    (11, 'Right scapular inferior angle', 1)
    """
    if isinstance(key, bool):
        raise UnknownNameError("landmark", key, [item.name for item in LANDMARKS])
    if not isinstance(key, str):
        try:
            number = int(key)
        except (TypeError, ValueError, OverflowError):
            number = 0
        if number != key or not 1 <= number <= N_LANDMARKS:
            raise UnknownNameError("landmark id", key, range(1, N_LANDMARKS + 1))
        return LANDMARKS[number - 1]
    text = _normalise(key)
    if text.isascii() and text.isdigit():
        return landmark(int(text.lstrip("0")[:9] or 0))
    if text not in _BY_NAME:
        raise UnknownNameError("landmark", key, [item.name for item in LANDMARKS])
    return _BY_NAME[text]


def mirrored(key: int | str) -> int | None:
    """Returns the id of the same landmark on the other side of the body; None for one in the midline.

    Raises:
        UnknownNameError: unknown landmark.

    >>> mirrored(6), mirrored("Carina")
    (7, None)
    """
    side, _, name = landmark(key).name.partition(" ")
    other = {"Left": "Right", "Right": "Left"}.get(side)
    return next((item.id for item in LANDMARKS if item.name == f"{other} {name}"), None)
