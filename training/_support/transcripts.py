"""Transcripts as training data: the valid answers of episodes, with the prompts that led to them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from carm_env.language.answers import AnswerError, Navigation, render
from carm_env.language.chat import Message, image_part, text_part
from carm_env.language.grammar import parse
from carm_env.language.prompts import prompt_hash
from carm_env.patients.separation import check_trainable, person_of
from carm_env.transcripts.read import Transcript, find_transcripts, read_transcript
from carm_env.transcripts.records import AnswerLine, FeedbackLine, TranscriptError

TASK = "navigate"


class Examples(Protocol):
    """An infinite sequence of examples, such as `training._support.conversations.Conversations`."""

    def example(self, number: int) -> dict[str, Any]:
        """Returns example `number` in TRL's format."""
        ...

    def stream(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields the examples from number `start` up to `stop`."""
        ...


@dataclass(frozen=True)
class _Answer:
    transcript: Transcript
    line: AnswerLine
    text: str


class TranscriptExamples:
    """An infinite sequence of examples from transcripts: every answer once, in random order, then again.

    Answers that cannot be read, answers whose prompt is damaged, and those to which a clinician objected are left out.
    An answer is given in the strict form, also if the model wrote it in another one.

    Args:
        folders: folders of ``--transcripts``, or of single episodes.
        style: style of the prompts of the training.
        seed: seed of the order.
        held_out: names of patients that must not be trained on, whatever their options.
        successes_only: use the answers of successful episodes only.

    Raises:
        TranscriptError: no transcript can be read, a transcript has other prompts than those of the style or a patient
            that is held out, or no answer can be used.
        HeldOutPatientError: a transcript has a patient that is reserved for tests.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        style: str = "full",
        seed: int = 0,
        held_out: Collection[str] = (),
        successes_only: bool = True,
    ) -> None:
        self._seed = seed
        self._turn = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._answers: list[_Answer] = []
        for transcript in read_for_training(folders, style, held_out):
            if not successes_only or (transcript.end is not None and transcript.end.success):
                self._answers += _usable(transcript)
        if not self._answers:
            which = "successful episode" if successes_only else "episode"
            raise TranscriptError(
                f"{', '.join(map(str, folders))}: no {which} of a language model has an answer that can be read."
            )

    def __len__(self) -> int:
        return len(self._answers)

    def example(self, number: int) -> dict[str, Any]:
        """Returns example `number` in TRL's format: keys prompt, completion and images; besides, task and view.

        Raises:
            TranscriptError: an X-ray cannot be read.
        """
        turn, place = divmod(number, len(self._answers))
        if turn != self._turn:
            self._turn = turn
            self._order = np.random.default_rng([self._seed, turn]).permutation(len(self._answers))
        view = int(self._order[place])
        answer = self._answers[view]
        prompt, images = prompt_and_images(answer.transcript, answer.line)
        completion = [{"role": "assistant", "content": [text_part(answer.text)]}]
        return {"prompt": prompt, "completion": completion, "images": images, "task": TASK, "view": view}

    def stream(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields the examples from number `start` up to `stop`."""
        for number in range(start, stop):
            yield self.example(number)


def read_for_training(folders: Sequence[Path], style: str, held_out: Collection[str]) -> Iterator[Transcript]:
    """Yields the transcripts of language models in folders, each after checking that it may be trained on.

    Args:
        folders: folders of ``--transcripts``, or of single episodes.
        style: style of the prompts of the training.
        held_out: names of patients that must not be trained on, whatever their options.

    Raises:
        TranscriptError: a transcript cannot be read, or has other prompts than those of the style or a patient that is
            held out.
        HeldOutPatientError: a transcript has a patient that is reserved for tests.
    """
    prompts, people = prompt_hash(style), {person_of(name) for name in held_out}
    for folder in folders:
        for path in find_transcripts(folder):
            transcript = read_transcript(path)
            if not transcript.start.prompts:
                # The episode of a policy without a language model.
                continue
            _check(transcript, style, prompts, people)
            yield transcript


def _check(transcript: Transcript, style: str, prompts: str, people: Collection[str]) -> None:
    start = transcript.start
    if start.prompts != prompts:
        raise TranscriptError(
            f"{transcript.folder} was written with the prompts {start.prompts}, but the style {style} has the prompts "
            f"{prompts}: choose the style of the transcripts, or write them again."
        )
    if person_of(start.patient) in people:
        raise TranscriptError(
            f"{transcript.folder} is an episode of {start.patient}, on which the training is evaluated: write "
            "transcripts of the training patients, with --patients standard/train."
        )
    check_trainable([start.patient], str(transcript.folder))


def model_answer(transcript: Transcript, line: AnswerLine) -> Navigation | None:
    """Returns a language model's answer about a move.

    Returns:
        None if the answer cannot be read, its prompt is damaged, or the policy made another move than the model said.
    """
    parts = [part for message in line.messages for part in message["content"]]
    if not parts or any("text" in part and part["text"] not in transcript.texts for part in parts):
        return None
    try:
        answer: Navigation = parse("navigation", line.text, "lenient")
    except AnswerError:
        return None
    return answer if line.action in (None, answer.move.index) else None


def prompt_and_images(transcript: Transcript, line: AnswerLine) -> tuple[list[Message], list[Any]]:
    """Returns the prompt of an answer in TRL's format, and its images.

    Raises:
        TranscriptError: an X-ray cannot be read.
    """
    images: list[Any] = []
    prompt = []
    for message in line.messages:
        parts = []
        for part in message["content"]:
            if "image" in part:
                images.append(image_part(transcript.image(part["image"]))["image"])
                parts.append({"type": "image"})
            else:
                parts.append(text_part(transcript.texts[part["text"]]))
        prompt.append({"role": message["role"], "content": parts})
    return prompt, images


def _usable(transcript: Transcript) -> Iterator[_Answer]:
    for line, following in zip(transcript.events, (*transcript.events[1:], None), strict=True):
        if not isinstance(line, AnswerLine) or (answer := model_answer(transcript, line)) is None:
            continue
        if line.action is None and (answer.move.is_aligned or isinstance(following, FeedbackLine)):
            # A clinician can have objected to it.
            continue
        yield _Answer(transcript, line, render(answer))


class MixedExamples:
    """Examples of two sequences, interleaved.

    Args:
        first: the sequence that gives a share of ``1 - share``.
        second: the other sequence.
        share: share of `second`, 0 to 1.

    Raises:
        ValueError: `share` is not within 0 and 1.
    """

    def __init__(self, first: Examples, second: Examples, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}, expected 0 to 1.")
        self._first, self._second, self._share = first, second, share

    def example(self, number: int) -> dict[str, Any]:
        """Returns example `number` of the mixture."""
        before, after = int(number * self._share), int((number + 1) * self._share)
        return self._second.example(before) if after > before else self._first.example(number - before)

    def stream(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yields the examples from number `start` up to `stop`."""
        for number in range(start, stop):
            yield self.example(number)
