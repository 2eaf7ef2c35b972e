"""Transcripts of evaluated episodes; `carm_env.transcripts` describes the files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carm_env.actions import Move
from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.policy import Decision, Policy
from carm_env.evaluation.suite import Suite
from carm_env.transcripts.read import find_transcripts, read_start
from carm_env.transcripts.records import FORMAT, Exchange, TranscriptError
from carm_env.transcripts.write import TranscriptFolder, TranscriptRecorder, episode_folder_name


class EpisodeTranscript:
    """The transcript of one episode of a suite, written while the episode runs.

    Args:
        folder: folder of the run's transcripts; None to write nothing.
        suite: the suite.
        episode: index of the episode in the suite.
        name: name of the policy.
        seed: seed of the environment and the policy.
        policy: the policy.
        env: the environment, whose episode has begun.
        attempt: tells attempts at the same episode apart, see `carm_env.evaluation.episodes.Episode`.

    Attributes:
        folder: folder of this transcript; None if nothing is written.
    """

    def __init__(
        self,
        folder: Path | None,
        suite: Suite,
        episode: int,
        name: str,
        seed: int,
        policy: Policy,
        env: CArmNavEnv,
        attempt: str = "",
    ) -> None:
        self._recorder: TranscriptRecorder | None = None
        self.folder: Path | None = None
        self._policy, self._env = policy, env
        if folder is None:
            return
        fingerprint = env.scene.patient.fingerprint
        key = [suite.hash, fingerprint, seed, *([attempt] if attempt else [])]
        self.folder = folder / episode_folder_name(name, suite.name, episode, *key)
        self._recorder = TranscriptRecorder(TranscriptFolder(self.folder).keep)
        self._facts = {
            "format": FORMAT,
            "policy": name,
            "suite": suite.name,
            "suite_version": suite.version,
            "suite_hash": suite.hash,
            "episode": episode,
            "seed": seed,
            "max_steps": suite.max_steps,
            "prompts": policy.prompts(),
            "privileged_info": tuple(sorted(policy.privileged_info)),
        }

    def begin(self, observation: Any, info: Mapping[str, Any]) -> None:
        """Records the first X-ray."""
        if self._recorder is not None:
            self._recorder.reset(observation, info, self._env.pose, **self._facts)

    def answer(
        self,
        step: int,
        decision: Decision,
        latency_s: float,
        observation: Any,
        info: Mapping[str, Any],
        move: Move | None,
        abstained: bool,
    ) -> None:
        """Records a decision.

        Args:
            step: number of the decision, from 1.
            decision: the decision.
            latency_s: time that it took.
            observation: the observation after it.
            info: the environment's info after it.
            move: the move that took place; None if there was none.
            abstained: whether control returned to the operator.
        """
        if self._recorder is None:
            return
        # What an exchange says about itself comes before these.
        usage = {name: value or None for name, value in vars(decision.usage).items()} if decision.usage else {}
        self._recorder.answer(
            step,
            observation,
            info,
            self._env.pose,
            self._last_exchange(),
            move,
            latency_s=latency_s,
            abstained=abstained,
            lenient=bool(decision.lenient),
            closest_landmarks=decision.closest_landmarks,
            rationale=decision.rationale,
            confidence=decision.confidence,
            fault="invalid" if decision.invalid else "",
            **usage,
        )

    def feedback(self, text: str) -> None:
        """Records a clinician's words before the next decision."""
        if self._recorder is not None:
            self._recorder.feedback(text)

    def end(self, info: Mapping[str, Any], outcome: str, success: bool, error: str) -> None:
        """Records the end.

        Args:
            info: the environment's last info.
            outcome: outcome of the result.
            success: whether the episode is a success.
            error: traceback of a crash; the transcript keeps its last line.
        """
        if self._recorder is None:
            return
        if error:
            with contextlib.suppress(Exception):
                # The policy is broken, and so may be what it says about it.
                self._recorder.crash(info, self._env.pose, self._last_exchange())
        self._recorder.end(outcome, success, (error.strip().splitlines() or [""])[-1])

    def _last_exchange(self) -> Exchange | None:
        exchange = self._policy.last_exchange()
        if exchange is not None and not isinstance(exchange, Exchange):
            raise TypeError(f"last_exchange() returned {exchange!r}, expected an Exchange or None.")
        return exchange


def check_transcripts_folder(folder: Path, resume: bool, prompts: Mapping[str, str]) -> None:
    """Checks that the transcripts of a run can be written to a folder.

    Args:
        folder: the folder of ``--transcripts``.
        resume: whether an earlier run is continued.
        prompts: hash of the prompts of each policy of the run, by the policy's name.

    Raises:
        TranscriptError: the folder is in use, is a file, or holds transcripts with other prompts.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise TranscriptError(f"--transcripts {folder} is a file, expected a folder.")
    # An earlier run leaves its lock.
    if all(path.name.startswith(".") for path in folder.iterdir()):
        return
    if not resume:
        raise TranscriptError(
            f"--transcripts {folder} exists: name another folder, or continue the run of that folder with --resume."
        )
    for path in find_transcripts(folder):
        start = read_start(path)
        if start is not None and prompts.get(start.policy, start.prompts) != start.prompts:
            raise TranscriptError(
                f"--transcripts {folder}: {path.name} was written with other prompts ({start.prompts or 'none'}) than "
                f"{start.policy} has now ({prompts[start.policy] or 'none'}), and answers to different prompts are not "
                "comparable: name another folder and run all episodes again."
            )
