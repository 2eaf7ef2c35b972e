"""Episodes that a policy and a person share: the person watches, speaks, takes over and hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from carm_env.actions import Move
from carm_env.cockpit.demonstrations import demonstration, style_of
from carm_env.cockpit.refusals import TURN, RefusedError
from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.decisions import DecisionThread
from carm_env.evaluation.driving import DrivenEpisode
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.policy import Decision, Policy
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.transcripts import EpisodeTranscript
from carm_env.landmarks import landmark
from carm_env.language.advice_reader import read_advice
from carm_env.language.prompts import STYLES, prompt_hash
from carm_env.transcripts.records import Exchange


class SharedControl(Policy):
    """What drives the C-arm: a policy, a person, or both in turns. The policy decides, the person's moves are given.

    Args:
        agent: the policy; None if only a person drives.
    """

    def __init__(self, agent: Policy | None) -> None:
        self.agent = agent
        self.person_said: Exchange | None = None
        """The last decision as a language model would have made it, if it was the person's."""

    @property
    def privileged_info(self) -> frozenset[str]:  # type: ignore[override]
        """Keys of the true state that the policy reads."""
        return frozenset() if self.agent is None else self.agent.privileged_info

    @property
    def max_threads(self) -> int | None:  # type: ignore[override]
        """Limit of torch's threads during a decision."""
        return None if self.agent is None else self.agent.max_threads

    def visible_info(self, info: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """Returns the part of the environment's `info` that the policy may read."""
        return Policy.visible_info(info) if self.agent is None else self.agent.visible_info(info)

    def reset(self, seed: int | None = None) -> None:
        """Starts an episode."""
        if self.agent is not None:
            self.agent.reset(seed)

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Lets the policy decide.

        Raises:
            RefusedError: there is no policy.
        """
        if self.agent is None:
            raise RefusedError(TURN, "There is no policy in this episode: you drive.")
        self.person_said = None
        return self.agent.act(observation, info)

    def feedback(self, text: str) -> None:
        """Passes a clinician's words to the policy."""
        if self.agent is not None:
            self.agent.feedback(text)

    def description(self) -> dict[str, Any]:
        """Returns facts about the policy."""
        return {} if self.agent is None else self.agent.description()

    def prompts(self) -> str:
        """Returns the hash of the prompts of the policy, or of those that a person's moves are written with."""
        return (self.agent.prompts() if self.agent is not None else "") or prompt_hash(STYLES[0])

    def last_exchange(self) -> Exchange | None:
        """Returns the exchange behind the last decision."""
        if self.person_said is not None or self.agent is None:
            return self.person_said
        return self.agent.last_exchange()


class _LateTranscript:
    """A transcript whose lines are written when `flush` is called: the next X-ray is shown before they are."""

    def __init__(self, transcript: EpisodeTranscript) -> None:
        self._transcript = transcript
        self._due: list[Callable[[], None]] = []

    def answer(self, *arguments: Any, **options: Any) -> None:
        self._due.append(lambda: self._transcript.answer(*arguments, **options))

    def feedback(self, text: str) -> None:
        self._due.append(lambda: self._transcript.feedback(text))

    def end(self, *arguments: Any) -> None:
        self._due.append(lambda: self._transcript.end(*arguments))

    def flush(self) -> None:
        due, self._due = self._due, []
        for write in due:
            write()


class SteeredEpisode(DrivenEpisode):
    """An episode that a policy and a person share.

    A declaration of the policy, and a decision to hand back, wait for the person, who accepts or objects. An objection
    is recorded as that of a clinician (`carm_env.evaluation.assistance`): the declaration is not carried out, and the
    policy hears the words with the same X-ray.

    Args:
        control: policy and person.
        env: the environment.
        task: the episode.
        transcripts: folder that receives the transcript.
        attempt: tells sessions apart that run the same episode.

    Attributes:
        folder: folder of the transcript.
    """

    control: SharedControl

    def __init__(
        self, control: SharedControl, env: CArmNavEnv, task: EpisodeTask, transcripts: Path, attempt: str
    ) -> None:
        self.control = control
        super().__init__(control, env, task, transcripts, attempt)
        self.folder = self._transcript.folder
        self._late = _LateTranscript(self._transcript)
        self._transcript = self._late  # type: ignore[assignment]
        self._refused = False
        self._finished: EpisodeResult | None = None

    @property
    def info(self) -> Mapping[str, Any]:
        """The environment's info after the last action, with the true state."""
        return self._info

    @property
    def observation(self) -> Any:
        """The last observation."""
        return self._observation

    @property
    def result_at_end(self) -> EpisodeResult | None:
        """The result; None before the end."""
        if self.has_ended and self._finished is None:
            self._finished = self.finish()
        return self._finished

    def flush(self) -> None:
        """Writes the lines of the transcript that are due.

        Raises:
            TranscriptError: the transcript cannot be written.
        """
        self._late.flush()

    def ask(self, thread: DecisionThread) -> Future[tuple[Any, float]]:
        """Starts the policy's next decision."""
        self.flush()
        return self.decide(thread)

    def waits_for_person(self, decision: Any) -> bool:
        """Returns whether a decision is shown to the person before it is carried out."""
        if not isinstance(decision, Decision) or decision.invalid:
            return False
        return decision.abstain or decision.move.is_aligned

    def move(self, move: Move) -> None:
        """Carries out a person's move, or their declaration.

        Raises:
            DriveError: the episode has ended.
        """
        self.flush()
        style = style_of(self.control.prompts())
        self.control.person_said = demonstration(
            move, self._observation, {**self._info, **self._facts()}, self.env.lattice, style
        )
        self.decide_as_person(Decision(move, rationale="A person drove."))

    def reject(self, decision: Future[tuple[Any, float]], words: str = "") -> None:
        """Records a decision that waited, without carrying it out.

        Args:
            decision: the decision.
            words: the objection, or the answer to a question; empty if the person takes over without a word.

        Raises:
            RefusedError: the policy cannot hear the words; the decision still waits.
        """
        self.flush()
        wish = self._pass_on(words) if words else 0
        self._refused = True
        try:
            self.advance(decision)
        finally:
            self._refused = False
        if words:
            self._record(words, wish)

    def say(self, text: str) -> None:
        """Passes a clinician's words to the policy and the transcript, and follows a wish to see another target.

        Raises:
            RefusedError: the policy cannot hear these words now, or the patient lacks the target.
        """
        self._record(text, self._pass_on(text))

    def _pass_on(self, text: str) -> int:
        """Passes words to the policy; returns the id of the target that they wish to see instead, or 0."""
        words = " ".join(text.split())
        wish = next((advice.landmark for advice in read_advice(words) if advice.kind == "target"), 0)
        if wish and wish not in self.env.scene.patient.landmarks_lps_mm:
            raise RefusedError(TURN, f"The patient has no landmark {landmark(wish).name}: the target stays.")
        try:
            self._reset_policy()
            self.control.feedback(words)
        except Exception as error:
            raise RefusedError(TURN, f"The policy could not hear this: {error}") from error
        return wish

    def _record(self, text: str, wish: int) -> None:
        self._transcript.feedback(" ".join(text.split()))
        if wish and wish != self._info["target_landmark"] and not self.has_ended:
            last_move = {name: self._info[name] for name in ("moved_mm", "move_effective", "move_clipped")}
            self._observation, info = self.env.set_target(wish)
            self._info = {**info, **last_move}

    def hand_back(self, agent: Policy) -> None:
        """Gives the C-arm to a policy, which begins with the X-ray that is shown: it did not see the person's moves."""
        self.control.agent = agent
        self._is_policy_reset = False
        self._stay()

    def _carry_out(self, decision: Decision) -> bool:
        if not self._refused:
            return super()._carry_out(decision)
        self._stay()
        return False

    def _facts(self) -> dict[str, Any]:
        return {"tolerance_mm": self.env.tolerance_mm, "field_of_view_mm": self.env.field_of_view_mm}
