"""How well classifiers tell real CTs from virtual patients, and what they find where there is no difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks._support.discrimination import Classifier, Group, Score, halves, leave_one_out, linear_probe, small_cnn
from benchmarks._support.matched_views import Images, match_histograms
from benchmarks._support.realism_collection import REAL, VIRTUAL, ImageCollection
from carm_env.evaluation.intervals import MIN_PATIENTS, mean_interval
from policies.out_of_distribution import Backbone

_LEAST_OTHERS = 2
"""Virtual people for each CT that pose as none in a control."""


def judge(
    collection: ImageCollection, *, blurs_px: Sequence[float], steps: int, controls: int, seed: int
) -> list[dict[str, Any]]:
    """Runs every classifier on every comparison; returns one mapping for each.

    Args:
        collection: the images.
        blurs_px: standard deviations of blurs of the images, pixels; the linear probe runs for each, the CNN for the
            first.
        steps: optimizer steps of the CNN; 0 leaves it out.
        controls: random divisions of the virtual patients for a control.
        seed: seed of the divisions and of the CNN.
    """
    backbone, rows = Backbone(), []
    for number, sigma in enumerate(blurs_px):
        matched = match_histograms(_blurred(collection.images, sigma), collection.air)
        classifiers: dict[str, Classifier] = {
            "linear probe": linear_probe(backbone.features(np.rint(matched).astype(np.uint8)))
        }
        if steps and number == 0:
            classifiers["small CNN"] = small_cnn(matched, steps, seed)
        for kind, classify in classifiers.items():
            found: dict[str, list[Score]] = {}
            for name, first, second, is_matched in comparisons(collection, controls, seed):
                found.setdefault(name, []).extend(leave_one_out(first, second, classify, matched=is_matched))
            for name, scores in found.items():
                rows.append({"comparison": name, "classifier": kind, "blur_px": sigma, **summary(scores)})
    return rows


def comparisons(
    collection: ImageCollection, controls: int, seed: int
) -> Iterator[tuple[str, list[Group], list[Group], bool]]:
    """Yields name, first and second kind of each comparison, and whether the kinds are matched by CT.

    Controls of virtual patients let people pose as the real CTs, each as one of them, if there are enough people. The
    real control divides the CTs in halves in all ways.
    """
    real, virtual, cts = collection.groups[REAL], collection.groups[VIRTUAL], list(collection.axis)
    yield f"{VIRTUAL}, {REAL}", real, virtual, True
    for number in range(controls):
        first, second = _posing(virtual, cts, np.random.default_rng([seed, number]))
        if len({group.person for group in first}) > 1:
            yield f"control: {VIRTUAL}, {VIRTUAL}", first, second, True
    if len(cts) >= 4:
        for one, other in halves([group.person for group in real]):
            yield (
                f"control: {REAL}, {REAL}",
                [group for group in real if group.person in one],
                [group for group in real if group.person in other],
                False,
            )


def _posing(groups: Sequence[Group], cts: Sequence[str], rng: np.random.Generator) -> tuple[list[Group], list[Group]]:
    """Lets virtual people pose as CTs while two others are left for each CT; returns their groups and the rest."""
    roles: dict[str, str] = {}
    for ct in rng.permutation(cts).tolist():
        free = [group.person for group in groups if group.ct == ct and group.person not in roles]
        if len(free) > _LEAST_OTHERS:
            roles[str(rng.choice(free))] = ct
    first = [group for group in groups if roles.get(group.person) == group.ct]
    return first, [group for group in groups if group.person not in roles]


def _blurred(images: Images, sigma_px: float) -> Images:
    """Returns images ``(n, s, s)`` behind a Gaussian blur."""
    return (
        images if sigma_px == 0 else np.stack([gaussian_filter(image.astype(np.float32), sigma_px) for image in images])
    )


def summary(scores: Sequence[Score]) -> dict[str, Any]:
    """Returns the means of the scores, their ranges, and intervals by person if there are enough people, each once."""
    people = [score.person for score in scores]
    result: dict[str, Any] = {"people": len(set(people)), "images": sum(score.images for score in scores)}
    for name in ("balanced_accuracy", "auc"):
        values = [getattr(score, name) for score in scores]
        is_enough = MIN_PATIENTS <= result["people"] == len(scores)
        result[name] = {
            "mean": float(np.mean(values)),
            "lowest": min(values),
            "highest": max(values),
            "interval": list(mean_interval(values, people)) if is_enough else None,
        }
    return {**result, "scores": [asdict(score) for score in scores]}
