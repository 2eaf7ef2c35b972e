"""Shows transcripts: an HTML page and a GIF of each episode, and a page that lists the episodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carm_env.envs.display import draw_view
from carm_env.evaluation.episode_images import save_gif
from carm_env.evaluation.replay_page import (
    EPISODE_PAGE,
    PAGE_MARK,
    describe_answer,
    episode_page,
    list_page,
    outcome,
)
from carm_env.landmarks import landmark
from carm_env.system.files import write_text
from carm_env.transcripts.read import Transcript, find_transcripts, read_transcript
from carm_env.transcripts.records import AnswerLine, ResetLine, TranscriptError

ANIMATION = "episode.gif"
MAX_FRAMES = 300
_CAPTION_CHARACTERS = 52


@dataclass(frozen=True)
class Replay:
    """What was written.

    Attributes:
        page: the page to open.
        episodes: number of episodes.
        problems: a sentence for each damaged line or image, and for each transcript that could not be read.
        refused: number of transcripts that could not be read.
    """

    page: Path
    episodes: int
    problems: tuple[str, ...]
    refused: int


def save_replay(folder: Path, out: Path | None = None, gif: bool = True) -> Replay:
    """Writes the pages and animations of transcripts.

    Args:
        folder: the folder of one transcript, or of several.
        out: folder to write to; by default beside each transcript.
        gif: write the animations.

    Raises:
        TranscriptError: there is no transcript, none can be read, or a page would replace a file of someone else.
    """
    out = folder if out is None else out
    found = find_transcripts(folder)
    alone = found == [folder]
    page = out / EPISODE_PAGE
    _check_ours(page)
    transcripts: list[Transcript] = []
    problems: list[str] = []
    refused: list[str] = []
    for path in found:
        try:
            transcript = read_transcript(path)
        except TranscriptError as error:
            refused.append(str(error))
            continue
        problems += transcript.problems
        transcripts.append(transcript)
        target = out if alone else out / path.name
        _check_ours(target / EPISODE_PAGE)
        if gif:
            problems += _save_animation(transcript, target / ANIMATION)
        back = "" if alone else f"../{EPISODE_PAGE}"
        write_text(target / EPISODE_PAGE, episode_page(transcript, ANIMATION if gif else "", back))
    if not transcripts:
        raise TranscriptError(" ".join(refused))
    if not alone:
        addresses = [f"{transcript.folder.name}/{EPISODE_PAGE}" for transcript in transcripts]
        write_text(page, list_page(transcripts, addresses, refused))
    return Replay(page, len(transcripts), (*refused, *problems), len(refused))


def _check_ours(page: Path) -> None:
    """Raises TranscriptError if a page exists that this module did not write."""
    if page.exists() and PAGE_MARK not in page.read_text(encoding="utf-8", errors="replace")[:1000]:
        raise TranscriptError(f"{page} exists and is not a page of carm-env replay: name another folder with --out.")


def _save_animation(transcript: Transcript, path: Path) -> list[str]:
    """Writes the GIF of an episode; returns a sentence for each problem."""
    frames: list[Image.Image] = []
    problems: list[str] = []
    before: ResetLine | AnswerLine = transcript.start
    name = transcript.start.policy or "chat"
    for answer in transcript.answers[: MAX_FRAMES - 1]:
        _add_frame(frames, transcript, answer.image, f"{name}: {describe_answer(answer)}", before, problems)
        before = answer
    if len(transcript.answers) >= MAX_FRAMES:
        problems.append(f"{path} shows the first {MAX_FRAMES - 1} of {len(transcript.answers)} answers.")
    last = before.next_image if isinstance(before, AnswerLine) else before.image
    if not frames or last != before.image:
        _add_frame(frames, transcript, last, f"{name}: {outcome(transcript)}", before, problems)
    if frames:
        save_gif(path, frames)
    return problems


def _add_frame(
    frames: list[Image.Image],
    transcript: Transcript,
    image: str,
    caption: str,
    state: ResetLine | AnswerLine,
    problems: list[str],
) -> None:
    try:
        grey = np.asarray(Image.fromarray(transcript.image(image)).convert("L"))
    except TranscriptError as error:
        problems.append(str(error))
        return
    away = "" if state.distance_mm is None else f", {state.distance_mm:.0f} mm away"
    target = landmark(state.target).name if state.target else "unknown"
    frames.append(_frame(grey, caption, f"X-ray {state.exposures}   target {target}{away}"))


def _frame(image: NDArray[np.uint8], top: str, bottom: str) -> Image.Image:
    # The font draws letters of western languages only.
    short = top if len(top) <= _CAPTION_CHARACTERS else f"...{top[-_CAPTION_CHARACTERS:]}"
    return Image.fromarray(draw_view(image, short, bottom))
