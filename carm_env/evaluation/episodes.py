"""Episodes of suites: how a policy and an environment go through one, and what its result is."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.decisions import DecisionThread
from carm_env.evaluation.policy import Decision, Policy, UnusablePolicyError, Usage
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.suite import Suite
from carm_env.evaluation.transcripts import EpisodeTranscript
from carm_env.system.errors import MissingExtraError
from carm_env.transcripts.records import TranscriptError


@dataclass(frozen=True)
class EpisodeTask:
    """One episode to run.

    Attributes:
        suite: the suite.
        episode: index of the episode in the suite.
        policy: name of the policy.
        seed: seed of the environment and the policy.
        source: what constructs the policy, if it is not its name (`carm_env.evaluation.policy_specification`).
    """

    suite: Suite
    episode: int
    policy: str
    seed: int
    source: str = ""


@dataclass
class EpisodeRecord:
    """The record of an episode, from which `episode_result` computes its result.

    Attributes:
        initial_mm: planar distance to the target at the start.
        trajectory: ``(moves + 1, 3)`` isocentres, including the start, LPS mm.
        moves: indices of the actions, in order.
        start_displacement_mm: ``(2,)`` from the isocentre to the target at the start: right, up.
        limit_hits: number of moves that the workspace shortened.
        decisions_s: time of each decision.
        steps: number of decisions.
        invalid_answers: number of answers that could not be parsed.
        lenient_answers: number of answers that were not in the exact form, but could be read.
        usage: what the decisions took from a language model.
        abstained: whether the policy returned control to the operator.
        declared: whether the policy declared the view aligned.
        timed_out: whether a decision did not come in time.
        error: traceback of a crash.
    """

    initial_mm: float
    trajectory: list[list[float]]
    start_displacement_mm: list[float] = field(default_factory=list)
    moves: list[int] = field(default_factory=list)
    limit_hits: int = 0
    decisions_s: list[float] = field(default_factory=list)
    steps: int = 0
    invalid_answers: int = 0
    lenient_answers: int = 0
    usage: Usage = Usage()
    abstained: bool = False
    declared: bool = False
    timed_out: bool = False
    error: str = ""

    @classmethod
    def begin(cls, info: Mapping[str, Any]) -> EpisodeRecord:
        """Returns the record of an episode that begins with this `info` of the environment."""
        return cls(info["distance_mm"], [info["isocenter_lps_mm"].tolist()], info["displacement_mm"].tolist())

    def add_move(self, action: int, declared: bool, info: Mapping[str, Any]) -> None:
        """Adds an action and the environment's `info` after it."""
        self.moves.append(action)
        self.trajectory.append(info["isocenter_lps_mm"].tolist())
        self.limit_hits += bool(info["move_clipped"])
        self.declared = declared

    @property
    def has_ended(self) -> bool:
        """Whether the policy ended the episode."""
        return self.declared or self.abstained


class Episode:
    """One episode in progress: a policy decides, and the environment carries the decision out.

    Args:
        policy: the policy.
        env: the environment.
        task: the episode.
        transcripts: folder that receives the transcript of the episode.
        attempt: tells attempts at the same episode apart, each with a transcript; by default the last attempt replaces
            the transcript of an earlier one.
    """

    def __init__(
        self, policy: Policy, env: CArmNavEnv, task: EpisodeTask, transcripts: Path | None = None, attempt: str = ""
    ) -> None:
        self.policy, self.env, self.task = policy, env, task
        self._observation, self._info = reset_episode(env, task)
        self.record = EpisodeRecord.begin(self._info)
        self._transcript = EpisodeTranscript(
            transcripts, task.suite, task.episode, task.policy, task.seed, policy, env, attempt
        )
        self._transcript.begin(self._observation, self._info)
        self._is_policy_reset = False

    @property
    def has_ended(self) -> bool:
        """Whether no further decision is asked for."""
        return self.record.has_ended or bool(self.record.error) or self.record.steps >= self.task.suite.max_steps

    def decide(self, thread: DecisionThread) -> Future[tuple[Any, float]]:
        """Starts the next decision; the first one includes `Policy.reset`."""
        return thread.submit(self.policy, self._observation, self._full_info(), self._reset_policy)

    def shown(self) -> tuple[Any, dict[str, Any]]:
        """Returns what the policy may see before its next decision: the observation, and the visible part of `info`."""
        return self._observation, self.policy.visible_info(self._full_info())

    def _full_info(self) -> dict[str, Any]:
        task = {
            "tolerance_mm": self.env.tolerance_mm,
            "field_of_view_mm": self.env.field_of_view_mm,
            "extents_mm": self.env.lattice.extents_mm,
            "steps_left": self.task.suite.max_steps - self.record.steps,
        }
        return {**self._info, **task}

    def _reset_policy(self) -> None:
        if not self._is_policy_reset:
            self._is_policy_reset = True
            self.policy.reset(self.task.seed)

    def advance(self, decision: Future[tuple[Any, float]]) -> None:
        """Carries out a decision that was made; an exception of the policy is recorded as a crash.

        Raises:
            UnusablePolicyError, MissingExtraError: the policy failed for an external reason.
            TranscriptError: the transcript cannot be written.
        """
        with self._recorded_crash():
            self.take(*decision.result())

    def take(self, made: Decision, seconds: float) -> None:
        """Carries out a decision that took `seconds`; unlike in `advance`, an exception passes through.

        Raises:
            TypeError: it is not a `Decision`.
            TranscriptError: the transcript cannot be written.
        """
        self.record.decisions_s.append(seconds)
        self.record.steps += 1
        if not isinstance(made, Decision):
            raise TypeError(
                f"{self.task.policy} returned {made!r:.200}, expected a carm_env.Decision, such as "
                "Decision(Move.from_index(24))."
            )
        self.record.lenient_answers += made.lenient
        self.record.usage += made.usage or Usage()
        is_carried_out = self._carry_out(made)
        self._transcript.answer(
            self.record.steps, made, seconds, self._observation, self._info,
            move=made.move if is_carried_out else None, abstained=self.record.abstained,
        )  # fmt: skip
        self._after_decision()

    def give_up(self, timeout_s: float) -> None:
        """Ends the episode, because the policy made no decision in time."""
        self.record.timed_out = True
        self.record.error = f"The policy made no decision within {timeout_s:g} s."

    def _after_decision(self) -> None:
        """Is called when a decision has been carried out and recorded."""

    def _carry_out(self, decision: Decision) -> bool:
        """Carries out a decision; returns whether it was a move or a declaration that took place."""
        record = self.record
        if decision.abstain:
            record.abstained = True
            return False
        if decision.invalid:
            record.invalid_answers += 1
            self._stay()
            return False
        self._observation, _, declared, _, self._info = self.env.step(decision.move.index)
        record.add_move(decision.move.index, declared, self._info)
        return True

    def _stay(self) -> None:
        """Lets `info` say that the C-arm did not move: it must not report the last move again."""
        self._info = {**self._info, "moved_mm": np.zeros(2), "move_effective": False, "move_clipped": False}

    @contextmanager
    def _recorded_crash(self) -> Iterator[None]:
        try:
            yield
        except (UnusablePolicyError, MissingExtraError, TranscriptError):
            raise
        except Exception:
            # Half a surrogate pair, as of a file name, or a NUL character would make the result unreadable.
            text = traceback.format_exc(limit=-4)
            self.record.error = text.encode(errors="replace").decode().replace("\0", " ")

    def result(self) -> EpisodeResult:
        """Returns the result so far; an episode that has not ended is a timeout."""
        return episode_result(
            self.task, self.env, self._info, self.record, self.policy.prompts(), self.policy.privileged_info,
            self.policy.description(),
        )  # fmt: skip

    def finish(self) -> EpisodeResult:
        """Ends the transcript of the episode and returns the result."""
        result = self.result()
        self._transcript.end(self._info, result.outcome, result.success, result.error)
        return result


def reset_episode(env: CArmNavEnv, task: EpisodeTask) -> tuple[Any, dict[str, Any]]:
    """Starts the episode of a task in the environment of its suite; returns observation and info."""
    spec = task.suite.episodes[task.episode]
    return env.reset(seed=task.seed, options={"patient": spec.patient, "target": spec.target, "start": spec.start})


def episode_result(
    task: EpisodeTask,
    env: CArmNavEnv,
    info: Mapping[str, Any],
    record: EpisodeRecord,
    prompts: str = "",
    privileged_info: Collection[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> EpisodeResult:
    """Computes the result of an episode.

    Args:
        task: the episode.
        env: the environment, in which it has ended.
        info: the environment's info at the end.
        record: what happened.
        prompts: hash of a language model's prompts.
        privileged_info: keys of the true state that the policy received.
        settings: facts about the policy.
    """
    suite, spec, patient = task.suite, task.suite.episodes[task.episode], env.scene.patient
    success = bool(info["is_success"]) and not record.error
    path_mm = float(np.linalg.norm(np.diff(np.array(record.trajectory), axis=0), axis=1).sum())
    return EpisodeResult(
        policy=task.policy,
        suite=suite.name,
        suite_version=suite.version,
        suite_hash=suite.hash,
        episode=task.episode,
        seed=task.seed,
        patient=patient.id,
        patient_fingerprint=patient.fingerprint,
        target=spec.target,
        start_lps_mm=record.trajectory[0],
        outcome=_outcome(record, success),
        success=success,
        initial_distance_mm=record.initial_mm,
        final_distance_mm=info["distance_mm"],
        steps=record.steps,
        exposures=info["exposures"],
        dose_mgy=info["dose_mgy"],
        path_mm=path_mm,
        path_efficiency=_path_efficiency(record.initial_mm, path_mm) if success else 0.0,
        invalid_answers=record.invalid_answers,
        lenient_answers=record.lenient_answers,
        prompt_tokens=record.usage.prompt_tokens,
        tokens=record.usage.tokens,
        cost=record.usage.cost,
        settings=dict(settings or {}),
        latency_ms=1e3 * sum(record.decisions_s) / max(record.steps, 1),
        moves=record.moves,
        trajectory_lps_mm=record.trajectory,
        error=record.error,
        prompts=prompts,
        privileged_info=sorted(privileged_info),
        isocenter_depth_mm=suite.isocenter_depth_mm,
        start_displacement_mm=record.start_displacement_mm,
        tolerance_mm=env.tolerance_mm,
        dap_mgy_cm2=info["dap_mgy_cm2"],
        limit_hits=record.limit_hits,
        decision_ms=[round(1e3 * seconds, 3) for seconds in record.decisions_s],
    )


def _outcome(record: EpisodeRecord, success: bool) -> str:
    if record.timed_out:
        return "timeout"
    if record.error:
        return "crash"
    if record.abstained:
        return "abstained"
    if not record.declared:
        return "timeout"
    return "success" if success else "misaligned"


def _path_efficiency(initial_mm: float, path_mm: float) -> float:
    # A path that ends within the tolerance may be shorter than the straight line to the target.
    return min(1.0, initial_mm / path_mm) if path_mm > 0 else 1.0


def make_suite_environment(suite: Suite) -> CArmNavEnv:
    """Makes an environment for a suite's episodes."""
    return CArmNavEnv(**{"patients": suite.patients, **suite.environment})
