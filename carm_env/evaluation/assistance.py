"""Episodes in which a clinician watches the policy and speaks to it.

The clinician (`carm_env.language.clinician`) knows the truth. It objects when the policy declares a wrong alignment,
advises when the policy has moved away from the target twice in a row, and answers when the policy asks. After an
objection a declaration is not carried out and the episode continues; without one the episode ends as it would without
a clinician. A clinician whose advice can be wrong also objects to right declarations, as often as its advice is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.episodes import Episode, EpisodeTask
from carm_env.evaluation.policy import Decision, Policy
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.runner import run_to_the_end
from carm_env.language.clinician import Clinician, ClinicianSettings, Sentence
from carm_env.language.reasons import Situation
from carm_env.views.sample import label_view

MOVES_AWAY = 2
"""After this number of moves away from the target in a row the clinician speaks."""


@dataclass(frozen=True)
class AssistedResult:
    """The result of an episode with a clinician.

    Attributes:
        episode: the result, as for an episode without a clinician.
        sentences: number of sentences of the clinician.
        wrong_sentences: number of those whose advice was wrong.
        questions: number of questions of the policy.
        words: the sentences.
    """

    episode: EpisodeResult
    sentences: int
    wrong_sentences: int
    questions: int
    words: tuple[str, ...]


class AssistedEpisode(Episode):
    """An episode with a clinician, whose words `Policy.feedback` receives.

    Args:
        policy: the policy.
        env: the environment.
        task: the episode; its seed is also the clinician's.
        settings: how the clinician helps.
        transcripts: folder that receives the transcript of the episode.
    """

    def __init__(
        self,
        policy: Policy,
        env: CArmNavEnv,
        task: EpisodeTask,
        settings: ClinicianSettings,
        transcripts: Path | None = None,
    ) -> None:
        super().__init__(policy, env, task, transcripts)
        self._clinician = Clinician(settings, task.seed, env.lattice)
        self._said: list[Sentence] = []
        self._due: Sentence | None = None
        self._questions, self._moved_away = 0, 0
        self._target = task.suite.episodes[task.episode].target

    def _carry_out(self, decision: Decision) -> bool:
        self._due = self._answer_to(decision)
        if self._due is not None and (decision.question or decision.move.is_aligned):
            self._moved_away = 0
            self._stay()
            return False
        before_mm = self._info["distance_mm"]
        is_carried_out = super()._carry_out(decision)
        if is_carried_out and not self.record.has_ended:
            self._moved_away = self._moved_away + 1 if self._info["distance_mm"] > before_mm else 0
            if self._moved_away >= MOVES_AWAY:
                self._moved_away = 0
                self._due = self._clinician.advise(self._situation(), self._target)
            else:
                self._due = self._clinician.silence()
        return is_carried_out

    def _answer_to(self, decision: Decision) -> Sentence | None:
        """Returns the clinician's answer to a question, or objection to a declaration; None if there is none."""
        if decision.question:
            self._questions += 1
            return self._clinician.reply(self._situation(), self._target)
        if decision.abstain or decision.invalid or not decision.move.is_aligned:
            return None
        is_right = self._info["distance_mm"] <= self.env.tolerance_mm
        return self._clinician.objection(self._situation(), self._target, is_right)

    def _situation(self) -> Situation:
        scene, pose, size = self.env.scene, self.env.pose, self.env.image_size
        labels = label_view(scene.patient, pose, scene.camera.projection(pose, size))
        return Situation(labels.displacement_mm, labels.visible)

    def _after_decision(self) -> None:
        """Passes the clinician's sentence, if there is one, to the policy and the transcript."""
        if self._due is not None and not self.has_ended:
            self._said.append(self._due)
            self._transcript.feedback(self._due.text)
            self.policy.feedback(self._due.text)
        self._due = None

    def assisted_result(self) -> AssistedResult:
        """Ends the transcript of the episode and returns the result."""
        return AssistedResult(
            self.finish(),
            len(self._said),
            sum(sentence.is_wrong for sentence in self._said),
            self._questions,
            tuple(sentence.text for sentence in self._said),
        )


def run_assisted(
    policy: Policy,
    env: CArmNavEnv,
    task: EpisodeTask,
    settings: ClinicianSettings,
    timeout_s: float | None = None,
    transcripts: Path | None = None,
) -> AssistedResult:
    """Runs one episode with a clinician; see `carm_env.evaluation.runner.run_episode`."""
    episode = AssistedEpisode(policy, env, task, settings, transcripts)
    run_to_the_end(episode, timeout_s)
    return episode.assisted_result()
