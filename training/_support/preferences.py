"""Preference pairs from corrections: the answer that a clinician rejected, and the one that is right.

`simulated_corrections` asks a model about views of training patients; where it is wrong, the clinician, who knows the
truth, gives the right answer, and where it is right, its answer is preferred to one about another view.
`transcript_corrections` reads episodes with a clinician: a declaration that was rejected, and the next answer to the
same X-ray.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.actions import MoveLattice
from carm_env.chat_models.interface import ChatModel
from carm_env.language.answers import AnswerError, Navigation, Pair, Question, render
from carm_env.language.chat import Conversation, Message, question, text_part
from carm_env.language.grammar import parse, parse_step
from carm_env.language.reasons import Situation, navigation_answer
from carm_env.transcripts.read import Transcript
from carm_env.transcripts.records import AnswerLine
from carm_env.views.read import ViewArrays
from training._support.conversations import without_images
from training._support.transcripts import model_answer, prompt_and_images, read_for_training

KINDS = ("pair", "navigate")
"""What the model is asked: the two closest landmarks, or the first step towards a target."""
_BATCH = 64
_GAIN_SHARE = 0.5
"""A move is wrong if it comes closer to the target by less than this share of what the best move does."""


def preference(
    prompt: Sequence[Message],
    images: Sequence[Any],
    chosen: str,
    rejected: str,
    kind: str,
    is_correction: bool = True,
) -> dict[str, Any]:
    """Returns a pair in TRL's format: keys prompt, chosen, rejected and images; besides, kind and is_correction."""
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": [text_part(chosen)]}],
        "rejected": [{"role": "assistant", "content": [text_part(rejected)]}],
        "images": images,
        "kind": kind,
        "is_correction": is_correction,
    }


def simulated_corrections(
    model: ChatModel,
    views: ViewArrays,
    count: int,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    kept_share: float = 0.0,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Asks a model about views until this number of its answers was wrong.

    Each view is asked about once for each kind. An answer that cannot be read is rejected, too.

    Args:
        model: the model.
        views: labelled views of training patients.
        count: number of pairs; fewer are returned if the views are used up.
        kinds: some of `KINDS`.
        seed: draws the order of the views, the targets and the wordings of right answers.
        kept_share: pairs from right answers for each correction. The rejected answer is one that the model gave to the
            same question about another view, and that is wrong here.

    Returns:
        Pairs from wrong answers, pairs from right answers, and the number of answers that were asked for.
    """
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(views.closest_landmarks[:, 1] > 0)
    order = [(int(view), kind) for view in rng.permutation(usable) for kind in kinds]
    found: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
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
            others = [*answers[1:], *answers[:1]]
            for view, (messages, situation, target), answer, other in zip(own, batch, answers, others, strict=True):
                right = _right_answer(kind, answer.text, situation, target, rng)
                if right is not None:
                    corrected[view, kind] = preference(*without_images(messages), right, answer.text, kind)
                elif kept_share and _right_answer(kind, other.text, situation, target, rng) is not None:
                    kept.append(preference(*without_images(messages), answer.text, other.text, kind, False))
        found += [corrected[key] for key in drawn if key in corrected]
    found = found[:count]
    return found, kept[: round(kept_share * len(found))], asked


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
    return [
        pair
        for transcript in read_for_training(folders, style, held_out)
        for pair in _rejected_declarations(transcript)
    ]


def _rejected_declarations(transcript: Transcript) -> Iterator[dict[str, Any]]:
    for index, line in enumerate(transcript.events):
        if not isinstance(line, AnswerLine) or line.action is not None or line.fault:
            continue
        following = transcript.events[index + 1 :]
        answers = [event for event in following if isinstance(event, AnswerLine)]
        # Without words in between, the declaration was not rejected.
        if not following or isinstance(following[0], AnswerLine) or not answers:
            continue
        rejected, chosen = (model_answer(transcript, answer) for answer in (line, answers[0]))
        if rejected is not None and chosen is not None and rejected.move.is_aligned and not chosen.move.is_aligned:
            prompt, images = prompt_and_images(transcript, line)
            yield preference(prompt, images, render(chosen), render(rejected), "navigate")
