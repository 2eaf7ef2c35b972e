"""Evaluates LoFi on images with grounded reports: retrieval in both directions, and grounding of phrases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from carm_env.evaluation.grounding import grounding_estimates
from carm_env.evaluation.intervals import Estimate
from carm_env.evaluation.retrieval import DIRECTIONS, retrieval_estimates
from carm_env.xray_datasets.grounded import Box, GroundedReport, sub_reports
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


def draw_phrases(reports: Sequence[GroundedReport], seed: int, count: int = MAX_PHRASES) -> Phrases:
    """Draws sentences with boxes from each report; 0 takes all of them.

    Raises:
        ValueError: no report has boxes.
    """
    found = Phrases([], [], [], [])
    for row, report in enumerate(reports):
        sentences = report.grounded
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
) -> dict[str, Estimate]:
    """Returns precision, recall and F at an IoU of 0.5, and RoDeO's scores, of drawn phrases."""
    phrases = draw_phrases(reports, seed, count)
    predicted = encoder.ground(images[np.array(phrases.rows)], phrases.texts)
    return grounding_estimates(predicted, phrases.boxes, phrases.patients, rodeo)
