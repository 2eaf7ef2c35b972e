"""Episode results as JSON lines."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_env.actions import N_ACTIONS
from carm_env.geometry import MAX_ISOCENTER_DEPTH_MM
from carm_env.landmarks import N_LANDMARKS
from carm_env.system.errors import check_keys, shortened
from carm_env.system.files import explain_full_disk
from carm_env.system.structured_files import parse_json

SCHEMA_VERSION = 1
ResultKey = tuple[str, str, str, str, int, int]
OUTCOMES = ("success", "misaligned", "timeout", "abstained", "crash")


@dataclass(frozen=True)
class EpisodeResult:
    """Result of one policy in one episode of a suite.

    Attributes:
        schema: version of this schema.
        policy: name of the policy.
        suite: name of the suite.
        suite_version: version of the suite.
        suite_hash: hash of the suite's contents.
        episode: index of the episode in the suite.
        seed: seed of the environment and the policy.
        patient: id of the patient.
        patient_fingerprint: hash of the patient's volume and landmarks; differs between builds of one patient.
        target: id of the target landmark.
        start_lps_mm: ``(3,)`` isocentre at the start.
        outcome: one of `OUTCOMES`.
        success: whether "aligned" was declared within the tolerance.
        initial_distance_mm: planar distance to the target at the start.
        final_distance_mm: planar distance to the target at the end.
        steps: number of decisions.
        exposures: number of X-rays, including the first.
        dose_mgy: reference air kerma of all exposures, mGy (`carm_env.xray.physics.exposure`).
        path_mm: length of the isocentre's path.
        path_efficiency: straight-line distance to the target divided by `path_mm`, at most 1; 0 for a failure.
        invalid_answers: number of answers that could not be parsed.
        lenient_answers: number of answers that were not in the exact form, but could be read.
        prompt_tokens, tokens: tokens that a language model read and generated.
        cost: price of a language model, in the currency of its settings.
        settings: facts about the policy, such as the settings of a language model.
        latency_ms: mean time of a decision, without rendering.
        moves: indices of the actions, in order.
        trajectory_lps_mm: ``(moves + 1, 3)`` isocentres, including the start.
        error: traceback of a crash; otherwise empty.
        prompts: hash of a language model's prompts; otherwise empty.
        privileged_info: keys of the true state that the policy received.
        run: seed, versions, commit, hardware and date of the run.
        isocenter_depth_mm: depth of the isocentre in the views (`carm_env.geometry.check_isocenter_depth`); 0 in
            results of earlier commits.
        start_displacement_mm: ``(2,)`` from the isocentre to the target at the start, in the image plane: right, up.
            Empty in results of earlier commits, as are the next four.
        tolerance_mm: largest distance at which a declaration was a success.
        dap_mgy_cm2: air kerma-area product of all exposures, mGy cm^2.
        limit_hits: number of moves that the workspace shortened.
        decision_ms: time of each decision, without rendering.
    """

    policy: str
    suite: str
    suite_version: int
    suite_hash: str
    episode: int
    seed: int
    patient: str
    patient_fingerprint: str
    target: int
    start_lps_mm: list[float]
    outcome: str
    success: bool
    initial_distance_mm: float
    final_distance_mm: float
    steps: int
    exposures: int
    dose_mgy: float
    path_mm: float
    path_efficiency: float
    invalid_answers: int
    latency_ms: float
    moves: list[int]
    trajectory_lps_mm: list[list[float]]
    error: str = ""
    prompts: str = ""
    privileged_info: list[str] = dataclasses.field(default_factory=list)
    run: dict[str, Any] = dataclasses.field(default_factory=dict)
    lenient_answers: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    cost: float = 0.0
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    isocenter_depth_mm: float = 0.0
    start_displacement_mm: list[float] = dataclasses.field(default_factory=list)
    tolerance_mm: float = 0.0
    dap_mgy_cm2: float = 0.0
    limit_hits: int = 0
    decision_ms: list[float] = dataclasses.field(default_factory=list)
    schema: int = SCHEMA_VERSION

    @property
    def key(self) -> ResultKey:
        """Identity of the result: policy, suite, suite hash, patient fingerprint, episode and seed."""
        return self.policy, self.suite, self.suite_hash, self.patient_fingerprint, self.episode, self.seed


def append_result(path: Path, result: EpisodeResult) -> None:
    """Appends a result as one line and flushes it to disk, so that a crash loses at most this line.

    Raises:
        DiskFullError: the disk is full; the file keeps its earlier lines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(dataclasses.asdict(result), allow_nan=False) + "\n"
    with explain_full_disk(path), path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                # An interrupted run left an incomplete line: without a line break it would absorb this one.
                line = "\n" + line
        try:
            rest = line.encode()
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def drop_incomplete_line(path: Path) -> None:
    """Removes what a killed process or a full disk left after the last line break of a file of results, if it exists.

    The caller holds the lock of the folder.
    """
    if not path.exists():
        return
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def read_results(path: Path) -> tuple[list[EpisodeResult], list[str]]:
    """Reads a file of results; of a repeated episode, the last line counts.

    Returns:
        The results, and an error message for each line that is not a result.
    """
    results: dict[ResultKey, EpisodeResult] = {}
    errors = []
    for number, found in read_lines(path):
        if isinstance(found, EpisodeResult):
            results[found.key] = found
        else:
            errors.append(f"{path}, line {number}: {found}")
    return list(results.values()), errors


def read_lines(path: Path) -> Iterator[tuple[int, EpisodeResult | str]]:
    """Yields the number of each line of a file of results, with its result, or why it is not one.

    Empty lines are left out.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, _parse_line(line)
            except (ValueError, TypeError) as error:
                yield number, f"not a result ({error})"


def _parse_line(line: bytes) -> EpisodeResult:
    value = parse_json(line.decode("utf-8").strip(), "it")
    if not isinstance(value, dict):
        raise ValueError(f"it is {shortened(value)}, expected a mapping")
    fields = dataclasses.fields(EpisodeResult)
    check_keys("key", value, [item.name for item in fields])
    if value.get("schema") != SCHEMA_VERSION:
        raise ValueError(f"schema is {shortened(value.get('schema'))}, expected {SCHEMA_VERSION}")
    without_default = (dataclasses.MISSING, dataclasses.MISSING)
    required = [item.name for item in fields if (item.default, item.default_factory) == without_default]
    if missing := [name for name in required if name not in value]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    result = EpisodeResult(**value)
    for item in dataclasses.fields(result):
        _check_value(item.name, str(item.type), getattr(result, item.name))
    if result.outcome not in OUTCOMES:
        raise ValueError(f"outcome is {shortened(result.outcome)}, expected one of: {', '.join(OUTCOMES)}")
    if result.success != (result.outcome == "success"):
        raise ValueError(f"success is {result.success}, but the outcome is {result.outcome}")
    return result


# Annotations are strings here.
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "dict": (dict,), "list": (list,),
}  # fmt: skip
_MAX_NUMBER = 1e9
"""Sums and means of larger numbers could overflow."""
_LIMITS = {
    "target": (1, N_LANDMARKS), "path_efficiency": (0, 1), "moves": (0, N_ACTIONS - 1), "seed": (0, math.inf),
    "isocenter_depth_mm": (-MAX_ISOCENTER_DEPTH_MM, MAX_ISOCENTER_DEPTH_MM), "start_displacement_mm": (-1e9, 1e9),
}  # fmt: skip
"""Lowest and highest value of a field; by default 0 and `_MAX_NUMBER`."""


def _check_value(name: str, annotation: str, value: Any) -> None:
    """Checks the type and the range of a field; numbers of a file that was read are finite."""
    outer, _, inner = annotation.rstrip("]").partition("[")
    # type() instead of isinstance(), because bool is a subclass of int.
    if type(value) not in _TYPES[outer]:
        raise TypeError(f"{name} is {shortened(value)}, expected {annotation}")
    if name == "trajectory_lps_mm":
        if not value:
            raise ValueError(f"{name} is empty, expected at least one point")
        for point in value:
            _check_point(name, point)
    elif name == "start_lps_mm":
        _check_point(name, value)
    elif outer == "list":
        for item in value:
            _check_value(name, inner, item)
    elif outer in ("int", "float"):
        low, high = _LIMITS.get(name, (0, _MAX_NUMBER))
        if not low <= value <= high:
            raise ValueError(f"{name} is {shortened(value)}, expected {low} to {high}")


def _check_point(name: str, point: Any) -> None:
    if type(point) is not list or len(point) != 3 or not all(type(value) in (int, float) for value in point):
        raise TypeError(f"{name} has {shortened(point)}, expected three numbers (LPS, mm)")
    if max(map(abs, point)) > _MAX_NUMBER:
        raise ValueError(f"{name} has {shortened(point)}, expected numbers up to {_MAX_NUMBER:g} (LPS, mm)")


def by_policy_and_suite(results: Iterable[EpisodeResult]) -> dict[tuple[str, str], list[EpisodeResult]]:
    """Groups results by (policy, suite); each group is sorted by episode."""
    groups: dict[tuple[str, str], list[EpisodeResult]] = {}
    for result in results:
        groups.setdefault((result.policy, result.suite), []).append(result)
    return {key: sorted(group, key=lambda result: result.episode) for key, group in groups.items()}
