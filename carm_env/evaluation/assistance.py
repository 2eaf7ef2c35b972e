"""Episodes in which a clinician watches the policy and speaks to it.

The clinician (`carm_env.language.clinician`) knows the truth. It objects when the policy declares a wrong alignment,
advises when the policy has moved away from the target twice in a row, and answers when the policy asks. After an
objection a declaration is not carried out and the episode continues; without one the episode ends as it would without
a clinician. A clinician whose advice can be wrong also objects to right declarations, as often as its advice is wrong.

Two more settings of `ClinicianSettings` are off by default. With a `review_rate` the clinician also objects to moves
that name a wrong closest landmark; these are not carried out either, at most once for each X-ray. With a `wish_rate` it
can wish to see another target, once in an episode. The wish changes the target of the environment, and success, final
distance and all advice from then on refer to it. Wishes belong to the task, so that they are the same with less help.
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
        episode: the result, as for an episode without a clinician. Its target, initial distance and path efficiency
            are those of the first target.
        sentences: number of sentences of the clinician, without wishes.
        wrong_sentences: number of those whose advice was wrong.
        questions: number of questions of the policy.
        words: the sentences, with wishes.
        targets: ids of the targets, in order; each after the first was a wish.
    """

    episode: EpisodeResult
    sentences: int
    wrong_sentences: int
    questions: int
    words: tuple[str, ...]
    targets: tuple[int, ...]

    @property
    def wishes(self) -> int:
        """Number of wishes to see another target."""
        return len(self.targets) - 1


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
        self._targets = [task.suite.episodes[task.episode].target]
        self._reviewed_exposures = 0

    @property
    def _target(self) -> int:
        return self._targets[-1]

    def _carry_out(self, decision: Decision) -> bool:
        self._due = self._answer_to(decision)
        if self._due is not None:
            self._moved_away = 0
            self._stay()
            return False
        before_mm = self._info["distance_mm"]
        is_carried_out = super()._carry_out(decision)
        if is_carried_out and not self.record.has_ended:
            self._moved_away = self._moved_away + 1 if self._info["distance_mm"] > before_mm else 0
            others = sorted(set(self.env.scene.patient.landmarks_lps_mm) - {self._target})
            self._due = self._clinician.wish(len(self.record.moves), others) or self._word_on_the_way()
        return is_carried_out

    def _word_on_the_way(self) -> Sentence | None:
        if self._moved_away < MOVES_AWAY:
            return self._clinician.silence()
        self._moved_away = 0
        return self._clinician.advise(self._situation(), self._target)

    def _answer_to(self, decision: Decision) -> Sentence | None:
        """Returns the clinician's answer to a question, or objection to another decision; None if there is none."""
        if decision.question:
            self._questions += 1
            return self._clinician.reply(self._situation(), self._target)
        if decision.abstain or decision.invalid:
            return None
        if not decision.move.is_aligned:
            return self._review(decision)
        is_right = self._info["distance_mm"] <= self.env.tolerance_mm
        return self._clinician.objection(self._situation(), self._target, is_right)

    def _review(self, decision: Decision) -> Sentence | None:
        if self._reviewed_exposures == self._info["exposures"]:
            return None
        self._reviewed_exposures = self._info["exposures"]
        return self._clinician.review(self._situation(), decision.closest_landmarks)

    def _situation(self) -> Situation:
        scene, pose, size = self.env.scene, self.env.pose, self.env.image_size
        labels = label_view(scene.patient, pose, scene.camera.projection(pose, size))
        return Situation(labels.displacement_mm, labels.visible)

    def _after_decision(self) -> None:
        """Passes the clinician's sentence, if there is one, to the policy and the transcript."""
        if self._due is not None and not self.has_ended:
            self._said.append(self._due)
            if self._due.advice.kind == "target":
                self._change_target(self._due.advice.landmark)
            self._transcript.feedback(self._due.text)
            self.policy.feedback(self._due.text)
        self._due = None

    def _change_target(self, target: int) -> None:
        last_move = {name: self._info[name] for name in ("moved_mm", "move_effective", "move_clipped")}
        self._observation, info = self.env.set_target(target)
        self._info = {**info, **last_move}
        self._targets.append(target)
        self._moved_away = 0

    def assisted_result(self) -> AssistedResult:
        """Ends the transcript of the episode and returns the result."""
        return AssistedResult(
            self.finish(),
            sum(sentence.advice.kind != "target" for sentence in self._said),
            sum(sentence.is_wrong for sentence in self._said),
            self._questions,
            tuple(sentence.text for sentence in self._said),
            tuple(self._targets),
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
