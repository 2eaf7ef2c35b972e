"""Evaluates LoFi on images with grounded reports: retrieval in both directions, and grounding of phrases."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from carm_env.evaluation.grounding import grounding_estimates
from carm_env.evaluation.intervals import Estimate
from carm_env.evaluation.retrieval import DIRECTIONS, retrieval_estimates
from carm_env.landmarks import LANDMARKS
from carm_env.xray_datasets.grounded import Box, GroundedReport, GroundedSentence, sub_reports
from policies.lofi.encoder import LofiEncoder

MAX_PHRASES = 2
"""Phrases of each image that are grounded, drawn at random."""


def retrieval(encoder: LofiEncoder, images: Any, reports: Sequence[GroundedReport]) -> dict[str, dict[str, Estimate]]:
    """Returns R@K in both directions over reports in parts of five sentences.

    Args:
        encoder: the encoder.
        images: ``(n, s, s)``.
        reports: the report of each.
    """
    parts = [sub_reports(report) for report in reports]
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    texts = encoder.embed_texts([text for part in parts for text in part])
    similarities = encoder.embed_images(images) @ texts.T
    return retrieval_estimates(similarities, owners, [report.patient for report in reports])


def mean_r_at_1(found: dict[str, dict[str, Estimate]]) -> float:
    """Returns the mean of R@1 in both directions."""
    return float(np.mean([found[direction]["r_at_1"].value for direction in DIRECTIONS]))


@runtime_checkable
class GroundingLocalizer(Protocol):
    """A localiser that marks the region of a landmark."""

    def ground(self, images: NDArray[np.uint8], targets: Sequence[int]) -> list[tuple[Box, ...]]:
        """Returns the boxes of one landmark in each image ``(n, H, W)``; none where there is no answer."""
        ...


@dataclass(frozen=True)
class Phrases:
    """Phrases to ground.

    Attributes:
        rows: image of each phrase.
        texts: the phrases.
        boxes: their true boxes.
        patients: their patients.
    """

    rows: list[int]
    texts: list[str]
    boxes: list[tuple[Box, ...]]
    patients: list[str]


def landmark_in(sentence: GroundedSentence) -> int | None:
    """Returns the id of the landmark that a sentence with one box is about; None if it is about anything else.

    >>> landmark_in(GroundedSentence("T12 is seen in the upper right zone.", ((0.1, 0.1, 0.4, 0.3),)))
    14
    """
    named = [item.id for item in LANDMARKS if re.search(rf"\b{re.escape(item.name)}\b", sentence.text, re.IGNORECASE)]
    return named[0] if len(named) == 1 and len(sentence.boxes) == 1 else None


def draw_phrases(
    reports: Sequence[GroundedReport], seed: int, count: int = MAX_PHRASES, only_landmarks: bool = False
) -> Phrases:
    """Draws sentences with boxes from each report.

    Args:
        reports: the reports.
        seed: seed of the draw.
        count: sentences of each report; 0 for all of them.
        only_landmarks: draw sentences about one landmark only (`landmark_in`).

    Raises:
        ValueError: no report has such a sentence.
    """
    found = Phrases([], [], [], [])
    for row, report in enumerate(reports):
        sentences = report.grounded
        if only_landmarks:
            sentences = tuple(sentence for sentence in sentences if landmark_in(sentence) is not None)
        order = np.random.default_rng([seed, row]).permutation(len(sentences))
        for number in order[: count or None].tolist():
            found.rows.append(row)
            found.texts.append(sentences[number].text)
            found.boxes.append(sentences[number].boxes)
            found.patients.append(report.patient)
    if not found.rows:
        raise ValueError("no report has boxes, expected at least one: grounding needs captions with boxes.")
    return found


def grounding(
    encoder: LofiEncoder,
    images: Any,
    reports: Sequence[GroundedReport],
    seed: int,
    count: int = MAX_PHRASES,
    rodeo: bool = True,
    only_landmarks: bool = False,
) -> dict[str, Estimate]:
    """Returns precision, recall and F at an IoU of 0.5, and RoDeO's scores, of drawn phrases."""
    phrases = draw_phrases(reports, seed, count, only_landmarks)
    predicted = encoder.ground(images[np.array(phrases.rows)], phrases.texts)
    return grounding_estimates(predicted, phrases.boxes, phrases.patients, rodeo)


def grounding_of_landmarks(
    localizer: GroundingLocalizer,
    images: Any,
    reports: Sequence[GroundedReport],
    seed: int,
    count: int = MAX_PHRASES,
    rodeo: bool = True,
) -> dict[str, Estimate]:
    """Returns the figures of `grounding` for a localiser that is asked for the landmarks of the same phrases."""
    phrases = draw_phrases(reports, seed, count, only_landmarks=True)
    targets = [
        landmark_in(GroundedSentence(text, boxes)) or 0
        for text, boxes in zip(phrases.texts, phrases.boxes, strict=True)
    ]
    predicted = localizer.ground(images[np.array(phrases.rows)], targets)
    return grounding_estimates(predicted, phrases.boxes, phrases.patients, rodeo)
