"""Preference pairs from corrections: the answer that a clinician rejected, and the one that is right.

`simulated_corrections` asks a model about views of training patients; where it is wrong, the clinician, who knows the
truth, gives the right answer. `transcript_corrections` reads episodes with a clinician: a declaration that was
rejected, and the next answer to the same X-ray.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.actions import MoveLattice
from carm_env.chat_models.interface import ChatModel
from carm_env.language.answers import AnswerError, Navigation, Pair, Question, render
from carm_env.language.chat import Conversation, Message, image_part, question, text_part
from carm_env.language.grammar import parse, parse_step
from carm_env.language.prompts import prompt_hash
from carm_env.language.reasons import Situation, navigation_answer
from carm_env.patients.separation import check_trainable, person_of
from carm_env.transcripts.read import Transcript, find_transcripts, read_transcript
from carm_env.transcripts.records import AnswerLine, TranscriptError
from carm_env.views.read import ViewArrays
from training._support.conversations import without_images

KINDS = ("pair", "navigate")
"""What the model is asked: the two closest landmarks, or the first step towards a target."""
_BATCH = 64
_GAIN_SHARE = 0.5
"""A move is wrong if it comes closer to the target by less than this share of what the best move does."""


def preference(messages: Sequence[Message], chosen: str, rejected: str, kind: str) -> dict[str, Any]:
    """Returns a pair in TRL's format: keys prompt, chosen, rejected and images; besides, its kind."""
    prompt, images = without_images(messages)
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": [text_part(chosen)]}],
        "rejected": [{"role": "assistant", "content": [text_part(rejected)]}],
        "images": images,
        "kind": kind,
    }


def simulated_corrections(
    model: ChatModel, views: ViewArrays, count: int, kinds: Sequence[str] = KINDS, seed: int = 0
) -> tuple[list[dict[str, Any]], int]:
    """Asks a model about views until this number of its answers was wrong.

    Each view is asked about once for each kind. An answer that cannot be read is rejected, too.

    Args:
        model: the model.
        views: labelled views of training patients.
        count: number of pairs; fewer are returned if the views are used up.
        kinds: some of `KINDS`.
        seed: draws the order of the views, the targets and the wordings of right answers.

    Returns:
        The pairs, and the number of answers that were asked for.
    """
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(views.closest_landmarks[:, 1] > 0)
    order = [(int(view), kind) for view in rng.permutation(usable) for kind in kinds]
    found: list[dict[str, Any]] = []
    asked = 0
    for start in range(0, len(order), _BATCH):
        if len(found) >= count:
            break
        drawn = order[start : start + _BATCH]
        corrected: dict[tuple[int, str], dict[str, Any]] = {}
        for kind in kinds:
            own = [view for view, asked_for in drawn if asked_for == kind]
            batch = [_asked(views, view, kind, model.style, rng) for view in own]
            answers = model.generate([messages for messages, _, _ in batch], "pair" if kind == "pair" else "navigation")
            asked += len(batch)
            for view, (messages, situation, target), answer in zip(own, batch, answers, strict=True):
                right = _right_answer(kind, answer.text, situation, target, rng)
                if right is not None:
                    corrected[view, kind] = preference(messages, right, answer.text, kind)
        found += [corrected[key] for key in drawn if key in corrected]
    return found[:count], asked


def _asked(
    views: ViewArrays, view: int, kind: str, style: str, rng: np.random.Generator
) -> tuple[list[Message], Situation, int]:
    situation = Situation(views.displacement_mm[view].astype(float), views.visible[view])
    image = views.images[view]
    if kind == "pair":
        return question("pair", image, style), situation, 0
    target = int(rng.choice(situation.closest()))
    return Conversation(target, style).show(image), situation, target


def _right_answer(kind: str, text: str, situation: Situation, target: int, rng: np.random.Generator) -> str | None:
    """Returns the right answer if the given one is wrong; None if it is right."""
    if kind == "pair":
        first, second = situation.closest()[:2]
        try:
            is_right = parse("pair", text).landmarks[0] == first
        except AnswerError:
            is_right = False
        return None if is_right else render(Pair((first, second)))
    lattice = MoveLattice()
    best = navigation_answer(situation, target, lattice, rng)
    try:
        step = parse_step(text)
    except AnswerError:
        return render(best)
    return None if isinstance(step, Question) or _is_good(step, best, situation, target, lattice) else render(best)


def _is_good(step: Navigation, best: Navigation, situation: Situation, target: int, lattice: MoveLattice) -> bool:
    if step.move.is_aligned or best.move.is_aligned:
        return step.move == best.move
    way = situation.position_mm(target)
    gained, possible = (
        np.hypot(*way) - np.hypot(*(way - lattice.displacement_mm(answer.move))) for answer in (step, best)
    )
    return bool(gained >= _GAIN_SHARE * possible)


def transcript_corrections(folders: Sequence[Path], style: str, held_out: Collection[str] = ()) -> list[dict[str, Any]]:
    """Returns pairs from transcripts of episodes with a clinician.

    A pair is a declaration that was rejected, and the next answer of the model to the same X-ray, if it is a move. The
    clinician of the transcripts is believed: use episodes without wrong advice.

    Args:
        folders: folders of ``--transcripts``, or of single episodes.
        style: style of the prompts of the training.
        held_out: names of patients that must not be trained on.

    Raises:
        TranscriptError: a transcript has other prompts than those of the style, or a patient that is held out.
        HeldOutPatientError: a transcript has a patient that is reserved for tests.
    """
    found: list[dict[str, Any]] = []
    people = {person_of(name) for name in held_out}
    for folder in folders:
        for path in find_transcripts(folder):
            transcript = read_transcript(path)
            if not transcript.start.prompts:
                continue
            if transcript.start.prompts != prompt_hash(style):
                raise TranscriptError(
                    f"{path} was written with the prompts {transcript.start.prompts}, but the style {style} has the "
                    f"prompts {prompt_hash(style)}: choose the style of the transcripts, or write them again."
                )
            if person_of(transcript.start.patient) in people:
                raise TranscriptError(
                    f"{path} is an episode of {transcript.start.patient}, on which the training is evaluated: write "
                    "transcripts of the training patients, with --patients standard/train."
                )
            check_trainable([transcript.start.patient], str(path))
            found += _rejected_declarations(transcript)
    return found


def _rejected_declarations(transcript: Transcript) -> Iterator[dict[str, Any]]:
    for index, line in enumerate(transcript.events):
        if not isinstance(line, AnswerLine) or line.action is not None or line.fault:
            continue
        following = transcript.events[index + 1 :]
        answers = [event for event in following if isinstance(event, AnswerLine)]
        # Without words in between, the declaration was not rejected.
        if not following or isinstance(following[0], AnswerLine) or not answers:
            continue
        rejected, chosen = (_carried_out(answer, transcript) for answer in (line, answers[0]))
        if rejected is not None and chosen is not None and rejected.move.is_aligned and not chosen.move.is_aligned:
            yield preference(_messages(transcript, line), render(chosen), render(rejected), "navigate")


def _carried_out(line: AnswerLine, transcript: Transcript) -> Navigation | None:
    """Returns a model's answer; None if it cannot be read, its prompt is damaged, or another move was carried out."""
    parts = [part for message in line.messages for part in message["content"]]
    if not parts or any("text" in part and part["text"] not in transcript.texts for part in parts):
        return None
    try:
        answer: Navigation = parse("navigation", line.text, "lenient")
    except AnswerError:
        return None
    return answer if line.action in (None, answer.move.index) else None


def _messages(transcript: Transcript, line: AnswerLine) -> list[Message]:
    return [
        {
            "role": message["role"],
            "content": [
                image_part(transcript.image(part["image"])) if "image" in part
                else text_part(transcript.texts[part["text"]])
                for part in message["content"]
            ],
        }
        for message in line.messages
    ]  # fmt: skip
