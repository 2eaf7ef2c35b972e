"""A router's answers to images whose right answers are known, each asked once, and what follows from them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from carm_env.chat_models.top_two import TopTwo, TopTwoModel
from carm_env.evaluation.intervals import estimate, mean_interval
from carm_env.evaluation.uncertainty import expected_calibration_error, reliability_curve, risk_coverage
from carm_env.language.chat import Message
from carm_env.system.files import write_text
from policies.routing.cards import CardRepository
from policies.routing.cutoffs import Cutoffs, learn_cutoffs
from policies.routing.evaluation import FinalSample, StageSample, accuracy, final_samples, stage_samples
from policies.routing.made_images import MadeImage
from policies.routing.router import Router
from policies.routing.selection import STAGES

_DRAWS, _SIZES = 20, (5, 10, 20, 50, 100, 200)


class RememberedModel:
    """A model that is asked each question once.

    Args:
        model: the model.
    """

    def __init__(self, model: TopTwoModel) -> None:
        self.style, self.trained_on = model.style, getattr(model, "trained_on", "")
        self._model = model
        self._known: dict[str, TopTwo] = {}

    def top_two(self, messages: Sequence[Message]) -> TopTwo:
        """Returns the answers of the model, or those to an equal request before."""
        key = hashlib.sha256()
        for message in messages:
            for part in message["content"]:
                key.update(part["image"].tobytes() if part["type"] == "image" else part["text"].encode())
        digest = key.hexdigest()
        if digest not in self._known:
            self._known[digest] = self._model.top_two(messages)
        return self._known[digest]


@dataclass(frozen=True, eq=False)
class Split:
    """The answers to the images of a split.

    Attributes:
        samples: both answers of each stage.
        images: the images.
    """

    samples: list[StageSample]
    images: list[MadeImage]


def ask(model: TopTwoModel, repository: CardRepository, images: Sequence[MadeImage], name: str) -> Split:
    """Asks each stage about each image, with a progress bar."""
    router = Router(model, repository)
    samples = [
        sample
        for image in tqdm(images, desc=name, unit="image")
        for sample in stage_samples(router, [image])
    ]  # fmt: skip
    return Split(samples, list(images))


def tuned(samples: Sequence[StageSample], repository: CardRepository, model: str) -> Cutoffs:
    """Learns cutoffs from the samples of which one answer is right and the other one differs."""
    known = [sample for sample in samples if sample.tunes]
    return learn_cutoffs(
        [one.stage for one in known], [one.p2 for one in known], [one.label for one in known], repository.fingerprint,
        model,
    )  # fmt: skip


def write_samples(path: Path, samples: Sequence[StageSample]) -> None:
    """Writes the samples that cutoffs are learned from as the CSV that `training/cutoffs.py` reads."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["stage", "p2", "label", "kind"])
    writer.writerows([one.stage, repr(one.p2), one.label, one.kind] for one in samples if one.tunes)
    write_text(path, file.getvalue())


def stage_figures(split: Split, cutoffs: Cutoffs) -> dict[str, Any]:
    """Returns for each stage the accuracy with and without cutoffs, their paired difference, and ECE.

    The difference has an interval by patient, or kind of image where there is no patient.
    """
    found: dict[str, Any] = {}
    for stage in STAGES:
        own = [sample for sample in split.samples if sample.stage == stage]
        if not own:
            continue
        groups, cutoff = [sample.group for sample in own], cutoffs.of(stage)
        without = [float(sample.is_right(float("inf"))) for sample in own]
        chosen = [float(sample.is_right(cutoff)) for sample in own]
        flips = [float(a != b) for a, b in zip(chosen, without, strict=True)]
        difference = np.subtract(chosen, without)
        found[stage] = {
            "accuracy": estimate(chosen, groups)._asdict(),
            "accuracy_without_cutoffs": estimate(without, groups)._asdict(),
            "difference": float(difference.mean()),
            "difference_interval": list(mean_interval(difference, groups)),
            "changed_correctness": int(sum(flips)),
            "second_right": sum(sample.label == "SECOND" for sample in own),
            "ece": expected_calibration_error([sample.p1 for sample in own], without),
        }
    return found


def final_figures(router: Router, split: Split) -> tuple[dict[str, Any], list[FinalSample]]:
    """Returns the figures of the routes, and the routes."""
    final = list(final_samples(router, split.images))
    right = [float(one.is_right) for one in final]
    confidence = [one.route.confidence for one in final]
    others = [float(one.is_right) for one in final if not one.image.is_medical]
    groups = [one.image.group for one in final]
    mean_confidence, accuracies, counts = reliability_curve(confidence, right)
    figures = {
        "images": len(final),
        "final_accuracy": float(np.mean(right)),
        "final_accuracy_interval": list(estimate(right, groups)[1:3]),
        "non_medical": len(others),
        "non_medical_rejected": float(np.mean(others)) if others else None,
        "ece": expected_calibration_error(confidence, right),
        "reliability": [
            {"confidence": float(a), "accuracy": float(b), "answers": int(n)}
            for a, b, n in zip(mean_confidence, accuracies, counts, strict=True)
            if n
        ],
        "by_kind": _by_kind(final),
        "early_stopping": _saved(final),
    }
    return figures, final


def _by_kind(final: Sequence[FinalSample]) -> dict[str, Any]:
    kinds = dict.fromkeys(one.image.kind for one in final)
    rows = {kind: [one.is_right for one in final if one.image.kind == kind] for kind in kinds}
    return {kind: {"images": len(right), "accuracy": float(np.mean(right))} for kind, right in rows.items()}


def _saved(final: Sequence[FinalSample]) -> dict[str, Any]:
    """Returns what early stopping saved: the requests of stages 2 and 3, and their mean number of tokens."""
    stopped = [one.route for one in final if one.route.stopped_early]
    whole = [one.route for one in final if not one.route.stopped_early]
    later = [record.usage for route in whole for record in route.stages[1:]]
    tokens = sum(usage.tokens + usage.prompt_tokens for usage in later) / max(1, len(whole))
    requests = sum(usage.requests for usage in later) / max(1, len(whole))
    return {
        "stopped": len(stopped),
        "requests": sum(one.route.requests for one in final),
        "requests_saved": round(requests * len(stopped), 1),
        "tokens": sum(one.route.tokens for one in final),
        "tokens_saved": round(tokens * len(stopped), 1),
    }


def selective_curve(final: Sequence[FinalSample]) -> tuple[Any, Any]:
    """Returns coverage and error of the most certain share of the routes."""
    return risk_coverage([1 - one.route.confidence for one in final], [float(not one.is_right) for one in final])


def sensitivity(
    tuning: Split, held_out: Split, repository: CardRepository, seed: int, sizes: Sequence[int] = _SIZES
) -> list[dict[str, Any]]:
    """Returns the held-out accuracy of each stage with cutoffs from random parts of the tuning images.

    Args:
        tuning: images to learn cutoffs from.
        held_out: images to measure on.
        repository: the cards.
        seed: seed of the parts.
        sizes: numbers of samples of a stage; those beyond the available ones are left out.
    """
    rng, found = np.random.default_rng(seed), []
    for stage in STAGES:
        known = [sample for sample in tuning.samples if sample.stage == stage and sample.tunes]
        for size in (*[size for size in sizes if size < len(known)], len(known)):
            if not size:
                continue
            values = [
                accuracy(held_out.samples, stage, tuned([known[row] for row in rows], repository, ""))
                for rows in (rng.choice(len(known), size, replace=False) for _ in range(_DRAWS))
            ]
            found.append(
                {"stage": stage, "samples": size, "mean": float(np.mean(values)), "lowest": float(np.min(values))}
            )
    return found
