"""Scores of the answers of a specialty model and of models for one task, with intervals by patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks._support.specialty_questions import Asked
from carm_env.chat_models.interface import ChatModel
from carm_env.evaluation.class_metrics import f1_scores
from carm_env.evaluation.grounding import IOU, overlaps
from carm_env.evaluation.intervals import CONFIDENCE, Estimate
from carm_env.language.answers import BOX_SCALE, AnswerError
from carm_env.language.grammar import parse, parse_step
from carm_env.language.image_tasks import read_class
from carm_env.reports.view_questions import FINDINGS
from policies.images import batches

KINDS = {
    "localize": "ranking", "pair": "pair", "box": "box", "correct": "correction", "navigate": "navigation",
    "findings": "class", "grounding": "box",
}  # fmt: skip
"""Kind of the answers of each task."""
SPECIALTY, SINGLE, START = "specialty", "single", "start"
"""The model of all tasks, the models of one task each, and the model that they were trained from."""
NO_LABEL = -1
"""Class of an answer that cannot be read, or that is a question to the operator."""

Values = NDArray[np.float64]
Statistic = Callable[[NDArray[np.int64]], float]
"""From the numbers of the questions that are counted to a score."""


def answer_values(model: ChatModel, task: str, asked: Sequence[Asked], reading: str = "strict") -> Values:
    """Asks a model, and returns the class of each answer, or for box tasks its intersection over union, ``(n,)``.

    Args:
        model: the model.
        task: name of the task.
        asked: the questions.
        reading: ``strict`` or ``lenient``.
    """
    values = np.zeros(len(asked)) if asked[0].label is None else np.full(len(asked), float(NO_LABEL))
    for part in batches(len(asked)):
        texts = [found.text for found in model.generate([one.messages for one in asked[part]], KINDS[task])]
        for row, text in zip(range(len(asked))[part], texts, strict=True):
            try:
                values[row] = _value(task, text, asked[row], reading)
            except AnswerError:
                continue
    return values


def _value(task: str, text: str, asked: Asked, reading: str) -> float:
    if asked.box is not None:
        corners = parse("box", text, reading).corners
        left, top, right, bottom = (corner / BOX_SCALE for corner in corners)
        return float(overlaps([(left, top, right, bottom)], [asked.box])[0, 0])
    if task == "findings":
        return read_class(text, FINDINGS, reading)
    if task == "navigate":
        step = parse_step(text, reading)
        return step.move.index if hasattr(step, "move") else NO_LABEL
    return float(parse(KINDS[task], text, reading).landmarks[0])


def metrics(asked: Sequence[Asked], values: Values) -> dict[str, Statistic]:
    """Returns the metrics of a task by name: of its classes, or of its boxes.

    F1 is averaged over the classes of all questions, without weights and weighted by their frequency; a class that no
    counted question has is left out. An answer that cannot be read is wrong.

    Args:
        asked: the questions.
        values: see `answer_values`.
    """
    if asked[0].label is None:
        return {
            "box_accuracy": lambda rows: float((values[rows] >= IOU).mean()),
            "mean_iou": lambda rows: float(values[rows].mean()),
        }
    truth = np.array([one.label for one in asked])

    return {
        "accuracy": lambda rows: float((values[rows] == truth[rows]).mean()),
        "macro_f1": lambda rows: f1_scores(values[rows], truth[rows])[0],
        "weighted_f1": lambda rows: f1_scores(values[rows], truth[rows])[1],
    }


def compare(asked: Sequence[Asked], values: Mapping[str, Values]) -> dict[str, dict[str, Estimate]]:
    """Returns each metric of each model, and the ``difference`` of `SPECIALTY` to `SINGLE` on the same questions.

    Args:
        asked: the questions of a task.
        values: values of each model, see `answer_values`; with `SPECIALTY` and `SINGLE`.
    """
    patients = [one.patient for one in asked]
    scores = {model: metrics(asked, found) for model, found in values.items()}
    compared: dict[str, dict[str, Estimate]] = {}
    for name in scores[SPECIALTY]:
        compared[name] = {model: jackknife(own[name], patients, (0.0, 1.0)) for model, own in scores.items()}
        ours, theirs = scores[SPECIALTY][name], scores[SINGLE][name]
        compared[name]["difference"] = jackknife(_difference(ours, theirs), patients)
    return compared


def _difference(one: Statistic, other: Statistic) -> Statistic:
    return lambda rows: one(rows) - other(rows)


def jackknife(statistic: Statistic, patients: Sequence[str], bounds: tuple[float, float] = (-1.0, 1.0)) -> Estimate:
    """Returns a score with the interval of a jackknife over patients, for scores that are not means, such as F1.

    Args:
        statistic: the score of questions.
        patients: ``(n,)`` patient of each question.
        bounds: smallest and largest possible score.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 11, with Student's t.

    >>> jackknife(lambda rows: float(rows.mean()), ["a", "b"], (0, 9)).value
    0.5
    """
    names = np.asarray(patients)
    unique = list(dict.fromkeys(patients))
    value, k = statistic(np.arange(len(names))), len(unique)
    if k < 2:
        return Estimate(value, *bounds, len(names), k)
    without = np.array([statistic(np.flatnonzero(names != name)) for name in unique])
    error = np.sqrt((k - 1) / k * ((without - without.mean()) ** 2).sum())
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, k - 1) * error)
    return Estimate(value, max(value - half, bounds[0]), min(value + half, bounds[1]), len(names), k)
