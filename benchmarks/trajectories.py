"""Draw episodes in the form of the paper's Fig. 4: each X-ray, the closest landmark, the move and the reasons.

    python benchmarks/trajectories.py --policy mllm --suite paper-routes --episodes 0 1 2 3 --out runs/trajectories

Writes one PNG and one GIF for each episode.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from carm_env.envs.display import CAPTION_HEIGHT, draw_view
from carm_env.evaluation.episode_images import (
    FAILURE_COLOUR,
    SUCCESS_COLOUR,
    TEXT_COLOUR,
    save_episode_gif,
    tile_panels,
)
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.policy import Decision, Policy
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.runner import run_episode, suite_environment
from carm_env.evaluation.suite import Suite, load_suite
from carm_env.landmarks import landmark
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.system.command_line import run_script
from carm_env.system.files import atomic_write
from policies.images import image_of
from policies.registry import make_policy

_PANEL_SIZE, _PANELS_PER_ROW = 320, 5
_LINE_HEIGHT, _LINE_LETTERS, _MAX_LINES = 17, 46, 12
REASON_COLOUR = (190, 190, 190)


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        policy: name of the policy, as on the leaderboard.
        suite: name of a suite, or a YAML file.
        episodes: indices of the episodes.
        seed: seed of the environment and the policy.
        out: folder for the images.
    """

    policy: str = "mllm"
    suite: str = "paper-routes"
    episodes: tuple[int, ...] = (0, 1, 2, 3)
    seed: int = 0
    out: Path = Path("runs/trajectories")


@dataclass(frozen=True, eq=False)
class Step:
    """One X-ray of an episode.

    Attributes:
        image: ``(H, W)`` uint8.
        decision: the policy's answer.
    """

    image: NDArray[np.uint8]
    decision: Decision


class RecordingPolicy(Policy):
    """Records the X-rays and decisions of another policy.

    Args:
        policy: the other policy.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.steps: list[Step] = []

    def reset(self, seed: int | None = None) -> None:
        """Starts an episode and discards the recorded steps."""
        self.steps = []
        self._policy.reset(seed)

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Returns and records the other policy's decision."""
        decision = self._policy.act(observation, info)
        self.steps.append(Step(np.array(image_of(observation)[..., 0]), decision))
        return decision

    def prompts(self) -> str:
        """Returns the hash of the other policy's prompts."""
        return self._policy.prompts()

    def visible_info(self, info: Mapping[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """Returns the part of `info` that the other policy may read."""
        return self._policy.visible_info(info)


def draw_episode(steps: Sequence[Step], result: EpisodeResult) -> Image.Image:
    """Draws the X-rays of an episode side by side, each above its decision.

    Raises:
        ValueError: there are no steps.
    """
    if not steps:
        raise ValueError("steps is empty, expected at least one X-ray to draw.")
    lines = max(len(_reason_lines(step)) for step in steps)
    panels = [_panel(number, step, lines) for number, step in enumerate(steps, 1)]
    sheet = tile_panels(panels, _PANELS_PER_ROW, top=CAPTION_HEIGHT)
    colour = SUCCESS_COLOUR if result.success else FAILURE_COLOUR
    text = (
        f"{result.policy}, {result.patient}: target {landmark(result.target).name}, initial distance "
        f"{result.initial_distance_mm:.0f} mm; {result.outcome} at {result.final_distance_mm:.0f} mm"
    )
    ImageDraw.Draw(sheet).text((8, 5), text, fill=colour, font=ImageFont.load_default(size=15))
    return sheet


def _reason_lines(step: Step) -> list[str]:
    sentences = re.split(r"(?<=\.)\s+", step.decision.rationale)
    return [line for sentence in sentences for line in textwrap.wrap(sentence, _LINE_LETTERS)][:_MAX_LINES]


def _panel(number: int, step: Step, lines: int) -> Image.Image:
    closest = ", ".join(landmark(key).name for key in step.decision.closest_landmarks[:1]) or "-"
    view = Image.fromarray(draw_view(step.image, f"X-ray {number}", f"closest: {closest}", _PANEL_SIZE))
    panel = Image.new("RGB", (view.width, view.height + (lines + 1) * _LINE_HEIGHT + 12))
    panel.paste(view, (0, 0))
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(size=13)
    draw.text((8, view.height), describe(step.decision), fill=TEXT_COLOUR, font=ImageFont.load_default(size=15))
    for row, line in enumerate(_reason_lines(step), 1):
        draw.text((8, view.height + row * _LINE_HEIGHT + 4), line, fill=REASON_COLOUR, font=font)
    return panel


def describe(decision: Decision) -> str:
    """Returns a decision in words.

    >>> from carm_env.actions import Move
    >>> describe(Decision(Move(1, -3)))
    'LEFT SMALL / DOWN LARGE'
    """
    if decision.abstain:
        return "abstained"
    if decision.invalid:
        return "invalid answer: no move"
    return "aligned" if decision.move.is_aligned else str(decision.move)


def check_episodes(suite: Suite, episodes: Sequence[int]) -> None:
    """Raises ValueError for an index outside the suite."""
    for number in episodes:
        if not 0 <= number < len(suite.episodes):
            raise ValueError(f"episode is {number}, expected 0 to {len(suite.episodes) - 1} in the suite {suite.name}.")


def save_episodes(
    name: str, policy: Policy, suite: Suite, episodes: Sequence[int], seed: int, folder: Path
) -> list[Path]:
    """Runs episodes and saves a PNG and a GIF of each.

    Args:
        name: name of the policy in the images and file names.
        policy: the policy.
        suite: the suite.
        episodes: indices of the episodes.
        seed: seed of the environment and the policy.
        folder: folder for the files.

    Returns:
        The files.

    Raises:
        ValueError: an index outside the suite, or a policy that crashed.
    """
    check_episodes(suite, episodes)
    recorder = RecordingPolicy(policy)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number in episodes:
        result = run_episode(recorder, suite_environment(suite), EpisodeTask(suite, number, name, seed))
        if result.error:
            raise ValueError(f"{name} crashed in episode {number}:\n{result.error}")
        base = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}_{suite.name}_{number}"
        with atomic_write(base.with_suffix(".png")) as temporary:
            draw_episode(recorder.steps, result).save(temporary)
        save_episode_gif(base.with_suffix(".gif"), suite, result)
        written += [base.with_suffix(".png"), base.with_suffix(".gif")]
        print(f"episode {number}: {result.outcome}, {result.final_distance_mm:.0f} mm, {result.exposures} X-rays")
    return written


def run(arguments: Arguments) -> None:
    """Runs and draws the episodes."""
    suite = load_suite(arguments.suite)
    check_episodes(suite, arguments.episodes)
    policy = make_policy(arguments.policy)
    policy.check_patients(suite.patients)
    prepare_patients(list(dict.fromkeys(suite.episodes[n].patient for n in arguments.episodes)), default_workers())
    for path in save_episodes(arguments.policy, policy, suite, arguments.episodes, arguments.seed, arguments.out):
        print(path)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
