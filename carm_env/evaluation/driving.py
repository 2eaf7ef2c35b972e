"""What a person who drives the C-arm sees and can do: the interface of ``carm-env play`` and of pages.

`DrivenEpisode` is an episode in which a person decides; everything in which people drive is built on it. `FreeDrive`
drives any episode; `carm_env.evaluation.study.StudyDrive` drives the episodes of a suite for the leaderboard, blinded
to the truth.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import ALIGNED, Move
from carm_env.envs.navigation import CArmNavEnv
from carm_env.envs.registration import MAX_EPISODE_STEPS
from carm_env.evaluation.episodes import Episode, EpisodeTask
from carm_env.evaluation.policy import Decision, Policy
from carm_env.evaluation.suite import Suite
from carm_env.landmarks import landmark
from carm_env.system.errors import CArmEnvError

PERSON = "person"
"""Name of the driver of an episode that is not part of a study."""
_MAX_SEED = 2**31


class DriveError(CArmEnvError, RuntimeError):
    """The episode has ended, or there is no further one."""


@dataclass(frozen=True, eq=False)
class DriveView:
    """The last X-ray and what a real C-arm reports. It holds nothing of the true position of the target.

    Attributes:
        image: ``(H, W)`` uint8, the last X-ray; it stays (last-image hold) until the next one.
        target: name of the landmark to find.
        exposures: number of X-rays of this episode.
        dose_mgy: reference air kerma of these X-rays, mGy.
        dap_mgy_cm2: air kerma-area product of these X-rays, mGy cm^2.
        seconds: time of the decisions so far.
        steps: number of decisions so far.
        steps_left: number of decisions that are left.
        view_quality: of the last X-ray, such as ``"misses_patient"``.
        move_clipped: whether the workspace shortened the last move.
        move_effective: whether the last move changed the position.
        action_mask: ``(49,)`` int8, 1 for the moves that the workspace allows.
        extents_mm: lengths of SMALL, MODERATE and LARGE, mm.
        tolerance_mm: largest distance at which a declaration is correct, mm.
        field_of_view_mm: side of the square that the image shows at the patient, mm.
        title: which episode it is.
        has_ended: whether the episode has ended.
        message: a sentence for the person; empty if there is nothing to say.
    """

    image: NDArray[np.uint8]
    target: str
    exposures: int
    dose_mgy: float
    dap_mgy_cm2: float
    seconds: float
    steps: int
    steps_left: int
    view_quality: str
    move_clipped: bool
    move_effective: bool
    action_mask: NDArray[np.int8]
    extents_mm: tuple[float, float, float]
    tolerance_mm: float
    field_of_view_mm: float
    title: str
    has_ended: bool
    message: str


class Drive(Protocol):
    """An episode that a person drives."""

    def view(self) -> DriveView:
        """Returns what the person sees now."""

    def move(self, move: Move) -> DriveView:
        """Carries out a move, or the declaration that the view is aligned; raises DriveError after the end."""

    def hand_back(self) -> DriveView:
        """Ends the episode without a declaration: the person gives it up; raises DriveError after the end."""

    def next_episode(self) -> DriveView:
        """Begins the next episode; raises DriveError before the end, or if there is none."""


class Person(Policy):
    """A person, as the policy of results. The decisions come through `DrivenEpisode.take`."""

    def reset(self, seed: int | None = None) -> None:
        """Does nothing: the state is the person's."""

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Raises RuntimeError: a person cannot be asked by a program."""
        raise RuntimeError("a person decides through carm_env.evaluation.driving, not through act().")

    def description(self) -> dict[str, Any]:
        """Returns that a person decided."""
        return {"driver": "person"}


GIVE_UP = Decision(ALIGNED, abstain=True)
"""The decision of a person who ends the episode without a declaration."""


class DrivenEpisode(Episode):
    """An episode in which a person decides, alone or in turns with a policy.

    Args:
        policy: a `Person`, or the policy that the person shares the C-arm with.
        env: the environment.
        task: the episode.
        transcripts: folder that receives the transcript of the episode.
        attempt: tells attempts at the same episode apart.
    """

    def __init__(
        self, policy: Policy, env: CArmNavEnv, task: EpisodeTask, transcripts: Path | None = None, attempt: str = ""
    ) -> None:
        super().__init__(policy, env, task, transcripts, attempt)
        self.restart_clock()

    @property
    def seconds_since_shown(self) -> float:
        """Time since the last X-ray was shown, s."""
        return time.perf_counter() - self._since

    def restart_clock(self, waited_s: float = 0.0) -> None:
        """Starts the time of the decision again: call it when the X-ray appears before the person.

        Args:
            waited_s: for how long the person has seen the same X-ray before, s.
        """
        self._since = time.perf_counter() - waited_s

    def decide_as_person(self, decision: Decision) -> None:
        """Carries out a person's decision, which took the time since the X-ray was shown.

        Raises:
            DriveError: the episode has ended.
            TranscriptError: the transcript cannot be written.
        """
        if self.has_ended:
            raise DriveError("the episode has ended: begin the next one.")
        self.take(decision, self.seconds_since_shown)

    def view(self, title: str = "", message: str = "") -> DriveView:
        """Returns what the person sees now.

        Args:
            title: which episode it is.
            message: a sentence for the person.
        """
        observation, info = self.shown()
        image = observation["image"] if isinstance(observation, dict) else observation
        return DriveView(
            image=image[:, :, 0],
            target=landmark(info["target_landmark"]).name,
            exposures=info["exposures"],
            dose_mgy=info["dose_mgy"],
            dap_mgy_cm2=info["dap_mgy_cm2"],
            seconds=sum(self.record.decisions_s),
            steps=self.record.steps,
            steps_left=info["steps_left"],
            view_quality=info["view_quality"],
            move_clipped=bool(info["move_clipped"]),
            move_effective=bool(info["move_effective"]),
            action_mask=info["action_mask"],
            extents_mm=tuple(info["extents_mm"]),
            tolerance_mm=info["tolerance_mm"],
            field_of_view_mm=info["field_of_view_mm"],
            title=title,
            has_ended=self.has_ended,
            message=message,
        )

    def _after_decision(self) -> None:
        self.restart_clock()


class FreeDrive:
    """Drives episodes of an environment outside of a study; after the end it says how far the target was.

    Args:
        env: the environment.
        options: reset options of every episode: patient, target and start, as far as they are set.
        seed: seed of the first episode; None for a random one.
        max_steps: number of decisions per episode.
    """

    def __init__(
        self,
        env: CArmNavEnv,
        options: Mapping[str, Any] | None = None,
        seed: int | None = None,
        max_steps: int = MAX_EPISODE_STEPS,
    ) -> None:
        self.env = env
        self._options, self._max_steps = dict(options or {}), max_steps
        self._number = 0
        self._begin(seed)

    def view(self) -> DriveView:
        """Returns what the person sees now."""
        message = self._end() if self._episode.has_ended else ""
        return self._episode.view(f"{self.env.episode.patient}, episode {self._number}", message)

    def move(self, move: Move) -> DriveView:
        """Carries out a move, or the declaration that the view is aligned.

        Raises:
            DriveError: the episode has ended.
        """
        self._episode.decide_as_person(Decision(move))
        return self.view()

    def hand_back(self) -> DriveView:
        """Gives the episode up.

        Raises:
            DriveError: the episode has ended.
        """
        self._episode.decide_as_person(GIVE_UP)
        return self.view()

    def next_episode(self) -> DriveView:
        """Begins another episode with the same options.

        Raises:
            DriveError: the episode has not ended.
        """
        if not self._episode.has_ended:
            raise DriveError("the episode has not ended: declare the view aligned, or hand it back.")
        self._begin(None)
        return self.view()

    def _begin(self, seed: int | None) -> None:
        # Draws what the options leave open.
        self.env.reset(seed=seed, options=self._options)
        suite = Suite("drive", 1, "An episode that a person drives.", self._max_steps, (self.env.episode,))
        noise = int(self.env.np_random.integers(_MAX_SEED)) if seed is None else seed
        self._episode = DrivenEpisode(Person(), self.env, EpisodeTask(suite, 0, PERSON, noise))
        self._number += 1

    def _end(self) -> str:
        result = self._episode.result()
        distance = f"the target is {result.final_distance_mm:.0f} mm from the centre"
        if result.outcome in ("success", "misaligned"):
            correct = "Aligned" if result.success else "Not aligned"
            return f"{correct}: {distance} (tolerance {self.env.tolerance_mm:g} mm)."
        return f"{'Handed back' if result.outcome == 'abstained' else 'No decision is left'}: {distance}."
