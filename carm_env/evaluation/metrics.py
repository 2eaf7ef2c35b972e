"""Static localisation metrics: which landmarks a localiser names.

Each metric returns one number per view, so that their mean is the paper's score and `estimate` adds an interval
clustered by patient. Landmark ids are 1-based. In answers ``(n, K)``, best first, 0 stands for "no answer". In relevant
ids ``(n, m)``, closest first, trailing zeros stand for landmarks that the patient lacks (m = 3 in the paper).
An answer that could not be parsed is a row of zeros and counts as a miss. The authors exclude such rows:
``answers[complete(answers)]``.

Source: "Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control", section 3.3, tables 1 and 2, and
``evaluation/`` of its repository (github.com/marszzibros/C-arm-localization-LLMs, commit 155ad47).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.evaluation.intervals import Estimate, estimate
from carm_env.evaluation.plots import new_figure, save_figure
from carm_env.landmarks import LANDMARKS, N_LANDMARKS

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]


def precision_at(answers: ArrayLike, relevant: ArrayLike, k: int, *, repeats: bool = False) -> Floats:
    """P@K ``(n,)``: the share of the first `k` answers that are relevant.

    The denominator is `k`, even if fewer answers were given or fewer landmarks are relevant: with two relevant
    landmarks P@3 is at most 2/3. The authors divide by the number of answers given, which is `k` in every row that they
    count.

    Args:
        answers: ids ``(n, K)``, K >= k.
        relevant: ids ``(n, m)``.
        k: number of answers that count.
        repeats: count a relevant answer each time it is repeated, as the authors' script does: naming one landmark
            three times can then score 1. The paper's formula uses sets.

    >>> precision_at([[11, 12, 4]], [[11, 4, 10]], 2), precision_at([[11, 12, 4]], [[11, 4, 10]], 3).round(2)
    (array([0.5]), array([0.67]))
    """
    return _n_found(answers, relevant, k, repeats) / k


def recall_at(answers: ArrayLike, relevant: ArrayLike, k: int, *, repeats: bool = False) -> Floats:
    """R@K ``(n,)``: the share of the relevant landmarks among the first `k` answers.

    The denominator is the number of relevant landmarks that the patient has. With three of them R@1 is at most 1/3.
    See `precision_at` for the arguments.
    """
    return _n_found(answers, relevant, k, repeats) / (np.asarray(relevant) > 0).sum(axis=1)


def hit_at(answers: ArrayLike, relevant: ArrayLike, k: int) -> Floats:
    """H@K ``(n,)``: 1 if a relevant landmark is among the first `k` answers, otherwise 0."""
    return (_n_found(answers, relevant, k, repeats=False) > 0).astype(float)


def centred_hit_at(answers: ArrayLike, target: ArrayLike, k: int) -> Floats:
    """H@K of table 2, ``(n,)``: 1 if the landmark at the view's centre, `target` ``(n,)``, is among the first `k`."""
    return hit_at(answers, np.asarray(target)[:, None], k)


def exact_closest(answers: ArrayLike, relevant: ArrayLike) -> Floats:
    """1 if the first answer is the closest landmark, otherwise 0, ``(n,)``; P@1 accepts any relevant landmark."""
    given, true = _checked(answers, relevant, 1)
    return (given[:, 0] == true[:, 0]).astype(float)


def average_precision(answers: ArrayLike, relevant: ArrayLike) -> Floats:
    """AP ``(n,)``, whose mean is mAP: the mean of P@K over the ranks K at which a relevant landmark is named first.

    The denominator is the number of relevant landmarks, at most the number of answers: relevant landmarks that are not
    named have a precision of 0. A landmark that is named again counts once.

    Args:
        answers: ids ``(n, K)``.
        relevant: ids ``(n, m)``.

    Source: Manning, Raghavan and Schuetze, "Introduction to information retrieval" (2008), section 8.4.

    >>> average_precision([[11, 12, 4]], [[11, 4, 10]]).round(3)
    array([0.556])
    """
    given, true = _checked(answers, relevant, 1)
    depth = given.shape[1]
    found = np.stack([_n_found(given, true, k, repeats=False) for k in range(1, depth + 1)], axis=1)
    is_new = np.diff(found, axis=1, prepend=0.0) > 0
    possible = np.minimum((true > 0).sum(axis=1), depth)
    return np.asarray((is_new * found / np.arange(1, depth + 1)).sum(axis=1) / possible)


def ranked_exact(answers: ArrayLike, relevant: ArrayLike) -> Floats:
    """1 if the answers are all relevant landmarks in their order, closest first, otherwise 0, ``(n,)``.

    Answers beyond the number of relevant landmarks do not count.

    >>> ranked_exact([[11, 4, 10], [4, 11, 10]], [[11, 4, 10], [11, 4, 10]])
    array([1., 0.])
    """
    given, true = _checked(answers, relevant, 1)
    if given.shape[1] < true.shape[1]:
        raise ValueError(f"got {given.shape[1]} answers for {true.shape[1]} relevant landmarks, expected as many.")
    same = (given[:, : true.shape[1]] == true) | (true == 0)
    return np.asarray(same.all(axis=1), float)


def complete(answers: ArrayLike) -> Flags:
    """Whether all K answers were given, ``(n,)``: the rows that the authors count."""
    given: Flags = np.asarray((np.asarray(answers) > 0).all(axis=1))
    return given


def retrieval_values(answers: ArrayLike, relevant: ArrayLike) -> dict[str, Floats]:
    """Returns ``P@1`` to ``H@3``, ``mAP``, ``exact`` and ``ranked exact`` of every view, ``(n,)`` each."""
    metrics = {"P": precision_at, "R": recall_at, "H": hit_at}
    values = {f"{name}@{k}": metric(answers, relevant, k) for name, metric in metrics.items() for k in (1, 2, 3)}
    whole = {"mAP": average_precision, "exact": exact_closest, "ranked exact": ranked_exact}
    return values | {name: metric(answers, relevant) for name, metric in whole.items()}


def centred_values(answers: ArrayLike, target: ArrayLike) -> dict[str, Floats]:
    """Returns ``H@1`` and ``H@2`` of every view with a landmark at its centre, ``(n,)`` each."""
    return {f"H@{k}": centred_hit_at(answers, target, k) for k in (1, 2)}


def share_estimate(values: ArrayLike, patients: Sequence[str]) -> Estimate:
    """Returns the `estimate` of a share ``(n,)``, with its interval within 0 to 1."""
    whole = estimate(values, patients)
    return whole._replace(low=max(whole.low, 0.0), high=min(whole.high, 1.0))


def _n_found(answers: ArrayLike, relevant: ArrayLike, k: int, repeats: bool) -> Floats:
    """Number of relevant landmarks among the first `k` answers, ``(n,)``."""
    given, true = _checked(answers, relevant, k)
    same = (given[:, :k, None] == true[:, None, :]) & (true[:, None, :] > 0)
    return (same.any(axis=2).sum(axis=1) if repeats else same.any(axis=1).sum(axis=1)).astype(float)


def _checked(answers: ArrayLike, relevant: ArrayLike, k: int) -> tuple[Ids, Ids]:
    given, true = _ids("answers", answers), _ids("relevant ids", relevant)
    if len(given) != len(true):
        raise ValueError(f"got {len(given)} rows of answers and {len(true)} of relevant ids, expected equal numbers.")
    if not 1 <= k <= given.shape[1]:
        raise ValueError(f"got k = {k} for answers of {given.shape[1]} columns, expected 1 to {given.shape[1]}.")
    if (true[:, 0] == 0).any() or (np.diff((true > 0).astype(int), axis=1) > 0).any():
        raise ValueError(
            "a row of relevant ids is empty or has a 0 before an id: remove the view, or move the 0 to the end."
        )
    ordered = np.sort(true, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] > 0)).any():
        raise ValueError("a row of relevant ids contains a landmark twice.")
    return given, true


def _ids(what: str, values: ArrayLike) -> Ids:
    array = np.asarray(values)
    if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        raise ValueError(f"{what} are {array.dtype} {array.shape}, expected integers of 0 or more, (n, columns).")
    return array.astype(np.int64)


def confusion_matrix(answered: ArrayLike, closest: ArrayLike) -> Ids:
    """Returns counts ``(14, 14)``: the row is the closest landmark, the column the landmark that was named first.

    A view without an answer (0) is in no column. `estimates_by_landmark` of `exact_closest` gives the diagonal's share
    with its interval.

    Args:
        answered: first answers ``(n,)``, 0 to 14.
        closest: true ids ``(n,)``, 1 to 14.

    Source: figure 3(a).
    """
    first, true = np.asarray(answered), np.asarray(closest)
    if first.shape != true.shape or first.ndim != 1:
        raise ValueError(f"got answers {first.shape} and closest landmarks {true.shape}, expected (n,) for both.")
    if not (np.isin(first, range(N_LANDMARKS + 1)).all() and np.isin(true, range(1, N_LANDMARKS + 1)).all()):
        raise ValueError(f"ids are 1 to {N_LANDMARKS}, and 0 for no answer.")
    matrix = np.zeros((N_LANDMARKS, N_LANDMARKS), dtype=np.int64)
    np.add.at(matrix, (true[first > 0] - 1, first[first > 0] - 1), 1)
    return matrix


def save_confusion_matrix(path: Path, matrix: ArrayLike, title: str = "") -> Path:
    """Saves counts ``(14, 14)`` as a heat map like figure 3(a); colours and numbers are percentages of a row.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    counts = np.asarray(matrix, dtype=float)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = new_figure(8.6, 7.6)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    names = [f"{landmark.name} ({landmark.id})" for landmark in LANDMARKS]
    axes.set_xticks(range(N_LANDMARKS), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(N_LANDMARKS), names)
    for row, column in np.argwhere(share >= 0.5):
        ink = "white" if share[row, column] > 55 else "black"
        axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", color=ink, fontsize=8)
    axes.set(xlabel="first answer", ylabel="closest landmark", title=title)
    figure.colorbar(image, label="% of the row", shrink=0.8)
    save_figure(figure, path)
    return path


def estimates_by_landmark(values: ArrayLike, landmarks: ArrayLike, patients: Sequence[str]) -> dict[int, Estimate]:
    """Returns the `estimate` of values ``(n,)`` for each landmark id in landmarks ``(n,)``; 0 is excluded.

    >>> estimates_by_landmark([1, 0, 1], [11, 11, 4], ["a", "b", "a"])[4].views
    1
    """
    array, ids, names = np.asarray(values, dtype=float), np.asarray(landmarks), np.asarray(patients)
    return {
        int(number): estimate(array[ids == number], names[ids == number].tolist()) for number in np.unique(ids[ids > 0])
    }
