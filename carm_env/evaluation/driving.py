"""What a person who drives the C-arm sees and can do: the interface of ``carm-env play`` and of pages.

`FreeDrive` drives any episode; `carm_env.evaluation.study.StudyDrive` drives the episodes of a suite for the
leaderboard, blinded to the truth.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import Move
from carm_env.envs.navigation import CArmNavEnv
from carm_env.envs.registration import MAX_EPISODE_STEPS
from carm_env.landmarks import landmark
from carm_env.system.errors import CArmEnvError


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
        steps_left: number of decisions that are left.
        view_quality: of the last X-ray, such as ``"misses_patient"``.
        move_clipped: whether the workspace shortened the last move.
        extents_mm: lengths of SMALL, MODERATE and LARGE, mm.
        tolerance_mm: largest distance at which a declaration is correct, mm.
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
    steps_left: int
    view_quality: str
    move_clipped: bool
    extents_mm: tuple[float, float, float]
    tolerance_mm: float
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


def drive_view(
    image: NDArray[np.uint8], info: Mapping[str, Any], *, seconds: float, title: str, has_ended: bool, message: str = ""
) -> DriveView:
    """Returns a view of the public part of `info` with the facts about the task (`carm_env.evaluation.policy`)."""
    return DriveView(
        image,
        landmark(info["target_landmark"]).name,
        info["exposures"],
        info["dose_mgy"],
        info["dap_mgy_cm2"],
        seconds,
        info["steps_left"],
        info["view_quality"],
        info["move_clipped"],
        tuple(info["extents_mm"]),
        info["tolerance_mm"],
        title,
        has_ended,
        message,
    )


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
        task = {
            "tolerance_mm": self.env.tolerance_mm,
            "extents_mm": self.env.lattice.extents_mm,
            "steps_left": self._max_steps - self._steps,
        }
        image = self._observation["image"] if isinstance(self._observation, dict) else self._observation
        return drive_view(
            image[:, :, 0], {**self._info, **task}, seconds=self._seconds,
            title=f"{self.env.episode.patient}, episode {self._number}", has_ended=bool(self._end), message=self._end,
        )  # fmt: skip

    def move(self, move: Move) -> DriveView:
        """Carries out a move, or the declaration that the view is aligned.

        Raises:
            DriveError: the episode has ended.
        """
        self._take_time()
        self._observation, _, declared, _, self._info = self.env.step(move.index)
        distance = f"the target is {self._info['distance_mm']:.0f} mm from the centre"
        if declared:
            correct = "Aligned" if self._info["is_success"] else "Not aligned"
            self._end = f"{correct}: {distance} (tolerance {self.env.tolerance_mm:g} mm)."
        elif self._steps >= self._max_steps:
            self._end = f"No decision is left: {distance}."
        return self.view()

    def hand_back(self) -> DriveView:
        """Gives the episode up.

        Raises:
            DriveError: the episode has ended.
        """
        self._take_time()
        self._end = f"Handed back: the target is {self._info['distance_mm']:.0f} mm from the centre."
        return self.view()

    def next_episode(self) -> DriveView:
        """Begins another episode with the same options.

        Raises:
            DriveError: the episode has not ended.
        """
        if not self._end:
            raise DriveError("the episode has not ended: declare the view aligned, or hand it back.")
        self._begin(None)
        return self.view()

    def _begin(self, seed: int | None) -> None:
        self._observation, self._info = self.env.reset(seed=seed, options=self._options)
        self._number += 1
        self._steps, self._seconds, self._end = 0, 0.0, ""
        self._since = time.perf_counter()

    def _take_time(self) -> None:
        if self._end:
            raise DriveError("the episode has ended: begin the next one.")
        now = time.perf_counter()
        self._seconds += now - self._since
        self._steps, self._since = self._steps + 1, now
