"""What one trained variant of LoFi does on each query, the comparison of variants, and the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._support.scaling_plots import BLUE, ORANGE
from carm_env.evaluation.grounding import matched_boxes
from carm_env.evaluation.intervals import Estimate, estimate, mean_interval
from carm_env.evaluation.plots import new_figure, save_figure
from carm_env.evaluation.retrieval import DIRECTIONS, ranks
from carm_env.landmarks import N_CLOSEST, N_LANDMARKS
from carm_env.xray_datasets.grounded import GroundedReport, GroundedSentence, sub_reports
from policies.lofi.encoder import LofiEncoder
from policies.lofi.evaluation import Phrases, draw_phrases, landmark_in
from policies.lofi.index import EmbeddingIndex
from policies.lofi.knn import grounded

RETRIEVAL = tuple(f"{direction}_r_at_1" for direction in DIRECTIONS)
KS = (1, 5, 10, 20, 40)
"""Numbers of neighbours of the sweep; the paper uses 20 and 40."""
PAPER_K = 20
OWN_GROUNDING = "own_f_at_50"
"""F at an IoU of 0.5 of the boxes that the variant's own language model writes."""
_LABELS = {
    RETRIEVAL[0]: "R@1 image to text", RETRIEVAL[1]: "R@1 text to image", f"f_at_50_k{PAPER_K}": f"F@0.5, k = {PAPER_K}"
}  # fmt: skip
MAIN_METRICS = tuple(_LABELS)
"""Metrics of the paper's Fig. 4 (a), (d) and (e), and R@1 from text to image."""

Hits = dict[str, list[int]]
"""By metric, 1 or 0 for each query: whether it succeeded."""


@dataclass(frozen=True, eq=False)
class Queries:
    """The images, texts and phrases that all variants are evaluated on.

    Attributes:
        images: ``(n, s, s)``.
        reports: the report of each.
        phrases: phrases about one landmark each.
    """

    images: NDArray[np.uint8]
    reports: Sequence[GroundedReport]
    phrases: Phrases

    @classmethod
    def of(cls, images: NDArray[np.uint8], reports: Sequence[GroundedReport], seed: int) -> Queries:
        """Draws the phrases."""
        return cls(images, reports, draw_phrases(reports, seed, only_landmarks=True))

    @property
    def targets(self) -> list[int]:
        """The landmark of each phrase."""
        pairs = zip(self.phrases.texts, self.phrases.boxes, strict=True)
        return [landmark_in(GroundedSentence(text, boxes)) or 0 for text, boxes in pairs]

    def patients(self, metric: str) -> list[str]:
        """Returns the patient of each query of a metric."""
        own = [report.patient for report in self.reports]
        if metric == RETRIEVAL[0]:
            return own
        if metric == RETRIEVAL[1]:
            return [report.patient for report in self.reports for _ in sub_reports(report)]
        return list(self.phrases.patients)


def pool_of(encoder: LofiEncoder, images: Any, reports: Sequence[GroundedReport]) -> EmbeddingIndex:
    """Returns an index of images whose boxes of landmarks are those of their reports."""
    boxes = np.full((len(reports), N_LANDMARKS, 4), np.nan, np.float32)
    for row, report in enumerate(reports):
        for sentence in report.grounded:
            if (key := landmark_in(sentence)) is not None:
                boxes[row, key - 1] = sentence.boxes[0]
    names = tuple(dict.fromkeys(report.patient for report in reports))
    number = {name: position for position, name in enumerate(names)}
    return EmbeddingIndex(
        encoder.embed_images(images),
        np.zeros((len(reports), N_CLOSEST), np.int64),
        np.full((len(reports), N_LANDMARKS, 2), np.nan, np.float32),
        boxes,
        np.array([number[report.patient] for report in reports]),
        names,
        encoder.fingerprint,
        "",
    )


def hits_of(encoder: LofiEncoder, queries: Queries, pool: EmbeddingIndex, writes_boxes: bool) -> Hits:
    """Evaluates a variant.

    The paper grounds with a large language model that is shown the k nearest images; here the boxes of the k nearest
    images that show the landmark are averaged, which needs no language model and depends on the encoder alone.

    Args:
        encoder: the variant.
        queries: what it is evaluated on.
        pool: embeddings of its training images.
        writes_boxes: whether its language model has learnt grounding.

    Returns:
        Retrieval in both directions, and whether the box of each phrase fits, for each k of `KS` that the pool allows.

    Raises:
        EmbeddingIndexError: a patient of the queries is in the pool (leakage).
    """
    pool.check_queries([report.patient for report in queries.reports])
    parts = [sub_reports(report) for report in queries.reports]
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    images = encoder.embed_images(queries.images)
    similarities = images @ encoder.embed_texts([text for part in parts for text in part]).T
    found = {
        name: (rank == 1).astype(int).tolist()
        for name, rank in zip(RETRIEVAL, ranks(similarities, owners), strict=True)
    }
    phrases, targets = queries.phrases, queries.targets
    rows = np.array(phrases.rows)
    most = min(int(np.isfinite(pool.boxes[:, key - 1, 0]).sum()) for key in set(targets))
    for k in [k for k in KS if k <= most]:
        predicted = grounded(pool, images[rows], targets, k)
        found[f"f_at_50_k{k}"] = [matched_boxes(*pair) for pair in zip(predicted, phrases.boxes, strict=True)]
    if writes_boxes:
        written = encoder.ground(queries.images[rows], phrases.texts)
        found[OWN_GROUNDING] = [int(len(one) == 1 and matched_boxes(one, true)) for one, true in
                                zip(written, phrases.boxes, strict=True)]  # fmt: skip
    return found


def scores(runs: Mapping[int, Hits], queries: Queries) -> dict[str, dict[str, Any]]:
    """Returns the mean of each metric over queries and seeds, its interval by patient, and the mean of each seed."""
    return {
        metric: {
            **estimate(values, queries.patients(metric))._asdict(),
            "seeds": {str(seed): float(np.mean(hits[metric])) for seed, hits in runs.items()},
        }
        for metric, values in _means(runs).items()
    }


def difference(better: Mapping[int, Hits], other: Mapping[int, Hits], queries: Queries) -> dict[str, dict[str, Any]]:
    """Returns the mean difference of each common metric on the same queries.

    The values of a query are averaged over the seeds, and the intervals are clustered by patient.
    """
    mine, theirs = _means(better), _means(other)
    found = {}
    for metric in [metric for metric in mine if metric in theirs]:
        values, patients = mine[metric] - theirs[metric], queries.patients(metric)
        mean = Estimate(float(values.mean()), *mean_interval(values, patients), len(values), len(set(patients)))
        each = {str(seed): float(np.mean(better[seed][metric]) - np.mean(other[seed][metric])) for seed in better}
        found[metric] = {**mean._asdict(), "seeds": each}
    return found


def _means(runs: Mapping[int, Hits]) -> dict[str, NDArray[np.float64]]:
    metrics = [name for name in next(iter(runs.values())) if all(name in hits for hits in runs.values())]
    return {name: np.mean([hits[name] for hits in runs.values()], axis=0) for name in metrics}


def save_ablation(
    path: Path,
    found: Mapping[str, Mapping[str, Any]],
    losses: Sequence[str],
    weights: Mapping[str, float],
) -> None:
    """Draws the paper's Fig. 4: the losses, the number of neighbours, and lambda if it has several values.

    Args:
        path: PNG file.
        found: `scores` by variant.
        losses: variants with other losses, from all to few.
        weights: variants with other lambdas, and their values.
    """
    points = sorted((value, name) for name, value in weights.items() if name in found)
    columns = 3 if len(points) > 1 else 2
    figure, panels = new_figure(1 + 4 * columns, 4, columns=columns)
    shown = [name for name in losses if name in found]
    _draw_losses(panels[0], found, shown)
    _draw_neighbours(panels[1], found, shown)
    if columns == 3:
        _draw_weights(panels[2], found, points)
    for axes in panels:
        axes.grid(True, axis="y", alpha=0.25)
        axes.set_ylim(bottom=0)
    save_figure(figure, path)


def _draw_losses(axes: Any, found: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        known = [metric for metric in MAIN_METRICS if metric in found[name]]
        places = [MAIN_METRICS.index(metric) + number * width for metric in known]
        values, low, high = (
            np.array([found[name][metric][part] for metric in known]) for part in ("value", "low", "high")
        )
        error = np.stack([values - low, high - values])
        axes.bar(places, values, width, yerr=error, capsize=2, color=BLUE, alpha=1 - 0.35 * number, label=name)
    axes.set_xticks(np.arange(len(MAIN_METRICS)) + 0.4 - width / 2, list(_LABELS.values()), fontsize=8)
    axes.set_title("losses")
    axes.set_ylim(top=1.15 * axes.get_ylim()[1])
    axes.legend(loc="upper left", ncols=len(names))


def _draw_weights(axes: Any, found: Mapping[str, Mapping[str, Any]], points: Sequence[tuple[float, str]]) -> None:
    for metric, style, color in zip(MAIN_METRICS, ("o-", "s--", "^:"), (BLUE, BLUE, ORANGE), strict=True):
        shown = [(value, found[name][metric]["value"]) for value, name in points if metric in found[name]]
        axes.plot([value for value, _ in shown], [value for _, value in shown], style, color=color,
                  label=_LABELS[metric])  # fmt: skip
    axes.set_xlabel("lambda")
    axes.set_title("weight of the autoregressive loss")
    axes.legend()


def _draw_neighbours(axes: Any, found: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        ks = [k for k in KS if f"f_at_50_k{k}" in found[name]]
        values = [found[name][f"f_at_50_k{k}"]["value"] for k in ks]
        axes.plot(ks, values, "o-", color=BLUE, alpha=1 - 0.35 * number, label=name)
    axes.set_xlabel("number of neighbours k")
    axes.set_title("F@0.5 of boxes of the neighbours")
    axes.legend()
