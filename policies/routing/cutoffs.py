"""Cutoffs of the router's stages: the sweep that finds all optimal ones, and the file that keeps them.

Source: "One VLM, Two Roles", section 3, algorithm 2 and table 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from carm_env.system.errors import CArmEnvError, check_keys, finite_number, shortened
from carm_env.system.files import write_json
from carm_env.system.structured_files import read_json_mapping
from policies.routing.selection import FIRST, NO_CUTOFF, SECOND, STAGES

CUTOFFS_FORMAT = 1
SHIPPED_MODEL = "shipped"
"""Name of the model that ships, in files of cutoffs and results."""


class CutoffsError(CArmEnvError, ValueError):
    """Cutoffs cannot be learned or read, or belong to another model or repository of cards."""


@dataclass(frozen=True)
class Sweep:
    """The optimal cutoffs of one stage.

    Attributes:
        intervals: ``(low, high)`` of every optimal interval, in order, written ``[low, high)`` as in the paper. The
            ends are runner-up probabilities; the score is that of the interior. ``low == high`` only at 0, if a
            runner-up of probability 0 is right.
        score: number of samples for which an optimal cutoff selects the right answer.
        samples: number of samples.
        cutoff: midpoint of the widest interval, of equally wide ones the lowest.
    """

    intervals: tuple[tuple[float, float], ...]
    score: int
    samples: int
    cutoff: float


def sweep(probabilities: ArrayLike, is_second: ArrayLike) -> Sweep:
    """Finds all cutoffs with which `policies.routing.selection.select` is right most often, in one pass.

    Args:
        probabilities: ``(n,)`` probability of the runner-up of each sample, 0 to 1.
        is_second: ``(n,)`` whether the runner-up is right.

    Raises:
        CutoffsError: a probability is not from 0 to 1, or the shapes differ.

    >>> sweep([0.1, 0.3, 0.2], [False, True, False])
    Sweep(intervals=((0.2, 0.3),), score=3, samples=3, cutoff=0.25)
    """
    values, second = np.asarray(probabilities, float), np.asarray(is_second, bool)
    if values.ndim != 1 or values.shape != second.shape:
        raise CutoffsError(f"got probabilities {values.shape} and labels {second.shape}, expected (n,) for both.")
    if not ((values >= 0) & (values <= 1)).all():
        bad = values[~((values >= 0) & (values <= 1))][0]
        raise CutoffsError(f"a runner-up has probability {bad:g}, expected 0 to 1.")
    events, at = np.unique(values, return_inverse=True)
    # Crossing a value: samples whose runner-up is right are lost, the others are gained.
    gain = np.bincount(at, np.where(second, -1, 1), len(events)) if len(events) else np.zeros(0)
    scores = np.concatenate([[second.sum()], second.sum() + np.cumsum(gain)]).astype(int)
    # No probability exceeds 1, so that a cutoff just above 1 is the largest that can differ from others.
    end = 1.0 if not len(events) or events[-1] < 1 else math.nextafter(1.0, 2.0)
    edges = [0.0, *events.tolist(), end]
    best = int(scores.max())
    intervals = tuple(
        (low, high) for low, high, score in zip(edges[:-1], edges[1:], scores.tolist(), strict=True) if score == best
    )
    low, high = max(intervals, key=lambda ends: ends[1] - ends[0])
    middle = low + (high - low) / 2
    # Between neighbouring floating-point numbers there is none; the upper end has the score of the interior.
    return Sweep(intervals, best, len(values), middle if middle > low else high)


@dataclass(frozen=True)
class Cutoffs:
    """The cutoffs of the stages.

    Attributes:
        by_stage: stage to cutoff; a stage that is absent takes the first answer.
        repository: fingerprint of the cards that they were learned with; empty for any.
        sweeps: stage to the sweep behind its cutoff.
        model: name of the model that they were learned with; empty if unknown.
    """

    by_stage: Mapping[str, float] = field(default_factory=dict)
    repository: str = ""
    sweeps: Mapping[str, Sweep] = field(default_factory=dict)
    model: str = ""

    def of(self, stage: str) -> float:
        """Returns the cutoff of a stage."""
        return self.by_stage.get(stage, NO_CUTOFF)

    def check_repository(self, fingerprint: str, source: str = "the cutoffs") -> None:
        """Raises CutoffsError if the cutoffs were learned with other cards."""
        if self.repository and self.repository != fingerprint:
            raise CutoffsError(
                f"{source} were learned with the card repository {self.repository[:12]}, but this one is "
                f"{fingerprint[:12]}: learn them again with `python training/cutoffs.py`, or give the cards that they "
                "belong to."
            )

    def check_model(self, model: str, source: str = "the cutoffs") -> None:
        """Raises CutoffsError if the cutoffs were learned with another model; an unknown one, ``""``, is any."""
        if self.model and model and _plain_name(self.model) != _plain_name(model):
            raise CutoffsError(
                f"{source} were learned with the model {self.model}, but this one is {model}: learn them again with "
                "`python training/cutoffs.py --model MODEL`, or give the model that they belong to."
            )


def _plain_name(model: str) -> Path:
    """Returns the name of a model without its settings; a folder with its full path."""
    return Path(model.partition("?")[0]).resolve()


def learn_cutoffs(
    stages: Sequence[str], probabilities: Sequence[float], labels: Sequence[str], repository: str = "", model: str = ""
) -> Cutoffs:
    """Learns the cutoff of each stage that has samples.

    Args:
        stages: stage of each sample.
        probabilities: probability of its runner-up.
        labels: `FIRST` or `SECOND`, the right answer.
        repository: fingerprint of the cards.
        model: name of the model.

    Raises:
        CutoffsError: see `sweep`; or an unknown label.
    """
    for label in labels:
        if label not in (FIRST, SECOND):
            raise CutoffsError(f"label is {shortened(label)}, expected {FIRST} or {SECOND}.")
    sweeps = {}
    for stage in STAGES:
        rows = [row for row, name in enumerate(stages) if name == stage]
        if rows:
            sweeps[stage] = sweep([probabilities[row] for row in rows], [labels[row] == SECOND for row in rows])
    return Cutoffs({stage: found.cutoff for stage, found in sweeps.items()}, repository, sweeps, model)


def write_cutoffs(path: Path, cutoffs: Cutoffs) -> None:
    """Writes cutoffs as JSON, atomically."""
    stages: dict[str, Any] = {}
    for stage, value in cutoffs.by_stage.items():
        found = cutoffs.sweeps.get(stage)
        about = {"intervals": found.intervals, "score": found.score, "samples": found.samples} if found else {}
        stages[stage] = {"cutoff": value, **about}
    about_all = {"format": CUTOFFS_FORMAT, "repository": cutoffs.repository, "model": cutoffs.model}
    write_json(path, {**about_all, "stages": stages})


def read_cutoffs(path: Path, fingerprint: str, model: str = "") -> Cutoffs:
    """Reads cutoffs and checks that they belong to a repository of cards and to a model.

    Args:
        path: file of `write_cutoffs`.
        fingerprint: fingerprint of the repository.
        model: name of the model; empty if unknown.

    Raises:
        FileNotFoundError: the file does not exist.
        CutoffsError: it is damaged, or belongs to another repository or model.
    """
    try:
        values = read_json_mapping(path)
        check_keys(f"key in {path}", values, ["format", "repository", "model", "stages"])
        if values.get("format") != CUTOFFS_FORMAT:
            raise ValueError(f"its format is {shortened(values.get('format'))}, expected {CUTOFFS_FORMAT}")
        by_stage, sweeps = {}, {}
        for stage, about in dict(values["stages"]).items():
            check_keys("stage", [stage], STAGES)
            by_stage[stage] = finite_number(f"the cutoff of {stage}", about["cutoff"])
            if "intervals" in about:
                intervals = tuple((float(low), float(high)) for low, high in about["intervals"])
                sweeps[stage] = Sweep(intervals, int(about["score"]), int(about["samples"]), by_stage[stage])
        found = Cutoffs(by_stage, str(values["repository"]), sweeps, str(values.get("model", "")))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CutoffsError(
            f"{path} holds no cutoffs ({error}): write them with `python training/cutoffs.py`."
        ) from error
    found.check_repository(fingerprint, str(path))
    found.check_model(model, str(path))
    return found
