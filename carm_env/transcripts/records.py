"""The lines of a transcript.

Every line of ``transcript.jsonl`` is a JSON object whose ``event`` names its class: ``reset`` (`ResetLine`, the first
line), ``text`` (`TextLine`), ``feedback`` (`FeedbackLine`), ``answer`` (`AnswerLine`) and ``end`` (`EndLine`). The keys
are the fields of the class. X-rays are PNG files beside it, one per exposure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carm_env.system.errors import CArmEnvError

FORMAT = 1
"""Increases with every change that older readers would misunderstand."""
TRANSCRIPT_FILE = "transcript.jsonl"
MAX_TEXT_CHARACTERS = 1_000_000
_HASH_DIGITS = 16
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
Message = Mapping[str, Any]
"""``{"role": .., "content": [{"type": "image", "image": PIL.Image} | {"type": "text", "text": ..}]}``."""


class TranscriptError(CArmEnvError, OSError):
    """A transcript cannot be written, read or used; the message names the folder."""


@dataclass(frozen=True)
class Exchange:
    """One request to a language model, and its answer.

    Attributes:
        messages: the messages that the model received.
        text: its answer in full.
        fault: kind of error if the answer is invalid (`carm_env.language.answers.Fault`); otherwise empty.
        message: the sentence that explains the fault.
        tokens: number of generated tokens; None if it is unknown.
        prompt_tokens: number of tokens of the messages; None if it is unknown.
        seconds: time that the answer took; None if it is unknown.
        cost: price of the request in the currency of the model's settings; None if it is unknown.
        model: name of the model.
        stage: what the request decides, of a policy that asks in stages; otherwise empty.
        candidates: answers with their probabilities, the likelier first; empty if only the answer is known.
        cutoff: probability from which the second candidate is taken; None without one.
        decision: which candidate was taken, and why it ends there or goes on.
    """

    messages: Sequence[Message]
    text: str
    fault: str = ""
    message: str = ""
    tokens: int | None = None
    prompt_tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None
    model: str = ""
    stage: str = ""
    candidates: Sequence[tuple[str, float]] = ()
    cutoff: float | None = None
    decision: str = ""


@dataclass(frozen=True, kw_only=True)
class CArmState:
    """The state of an episode after its start or after an answer.

    Attributes:
        patient: name of the patient in the catalogue.
        target: id of the target landmark; 0 if it is unknown.
        distance_mm: true planar distance from the isocentre to the target.
        exposures: number of X-rays taken.
        dose_mgy: reference air kerma of all X-rays, mGy.
        success: whether the view was declared aligned within the tolerance.
        isocenter_lps_mm: ``(3,)`` the isocentre.
        alpha_deg: rotation of the C-arm about the patient's long axis.
        beta_deg: rotation of the C-arm about the patient's left-right axis.
        projection: AP or PA.
    """

    patient: str = ""
    target: int = 0
    distance_mm: float | None = None
    exposures: int = 0
    dose_mgy: float | None = None
    success: bool = False
    isocenter_lps_mm: tuple[float, ...] = ()
    alpha_deg: float | None = None
    beta_deg: float | None = None
    projection: str = ""


@dataclass(frozen=True, kw_only=True)
class ResetLine(CArmState):
    """The start of an episode.

    Attributes:
        format: `FORMAT`.
        policy: name of the policy; empty for a chat without one.
        suite: name of the suite; empty outside an evaluation.
        suite_version: version of the suite.
        suite_hash: hash of the suite.
        episode: index of the episode in the suite.
        seed: seed of the environment and the policy.
        max_steps: maximum number of answers.
        prompts: hash of the prompts of a language model; otherwise empty.
        privileged_info: keys of the true state that the policy received.
        image: file of the first X-ray.
    """

    format: int
    policy: str = ""
    suite: str = ""
    suite_version: int = 0
    suite_hash: str = ""
    episode: int = 0
    seed: int | None = None
    max_steps: int = 0
    prompts: str = ""
    privileged_info: tuple[str, ...] = ()
    image: str = ""


@dataclass(frozen=True, kw_only=True)
class TextLine:
    """A text of a prompt, written once and named by its hash from then on.

    Attributes:
        hash: `text_hash` of the text.
        text: the text.
    """

    hash: str
    text: str


@dataclass(frozen=True, kw_only=True)
class FeedbackLine:
    """A clinician's feedback before the next answer.

    Attributes:
        text: the feedback.
    """

    text: str


@dataclass(frozen=True, kw_only=True)
class AnswerLine(CArmState):
    """An answer of the policy to an X-ray, and the state after it.

    Attributes:
        step: number of the answer, from 1.
        image: file of the X-ray that was answered.
        next_image: file of the X-ray after the move; the same one if none was taken.
        messages: the messages that a language model received: ``{"role": .., "content": [{"text": HASH}, {"image":
            FILE}]}``; empty for other policies.
        text: answer of a language model in full.
        fault: kind of error of an invalid answer; otherwise empty.
        message: the sentence that explains the fault.
        tokens: number of generated tokens.
        prompt_tokens: number of tokens of the messages.
        seconds: time that the model took for the answer.
        cost: price of the request in the currency of the model's settings.
        model: name of the model.
        lenient: whether the answer was read although it has not the exact form.
        latency_s: time of the whole decision.
        action: index of the move that was carried out; None if the C-arm did not move.
        move: the move in words.
        moved_mm: ``(2,)`` displacement to the patient's left and cranially.
        abstained: whether the policy returned control to the operator.
        closest_landmarks: ids of the landmarks that the policy named as the closest.
        rationale: explanation of the policy.
        confidence: confidence of the policy, 0 to 1.
        reward: reward of the environment; None in an evaluation.
        stage: what the request decided, of a policy that asks in stages; otherwise empty.
        candidates: answers with their probabilities, ``{"answer": .., "probability": ..}``, the likelier first.
        cutoff: probability from which the second candidate is taken; None without one.
        decision: which candidate was taken.
    """

    step: int
    image: str = ""
    next_image: str = ""
    messages: tuple[dict[str, Any], ...] = ()
    text: str = ""
    fault: str = ""
    message: str = ""
    tokens: int | None = None
    prompt_tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None
    model: str = ""
    lenient: bool = False
    latency_s: float | None = None
    action: int | None = None
    move: str = ""
    moved_mm: tuple[float, ...] = ()
    abstained: bool = False
    closest_landmarks: tuple[int, ...] = ()
    rationale: str = ""
    confidence: float | None = None
    reward: float | None = None
    stage: str = ""
    candidates: tuple[dict[str, Any], ...] = ()
    cutoff: float | None = None
    decision: str = ""


@dataclass(frozen=True, kw_only=True)
class EndLine:
    """The end of an episode. A transcript without it was interrupted.

    Attributes:
        outcome: outcome of an evaluated episode (`carm_env.evaluation.results.OUTCOMES`).
        success: whether the view was declared aligned within the tolerance.
        error: type and message of an exception of the policy; otherwise empty.
    """

    outcome: str = ""
    success: bool = False
    error: str = ""


Line = ResetLine | TextLine | FeedbackLine | AnswerLine | EndLine
LINES: dict[str, type[Any]] = {
    "reset": ResetLine, "text": TextLine, "feedback": FeedbackLine, "answer": AnswerLine, "end": EndLine,
}  # fmt: skip
"""The value of ``event`` to the class of the line."""


def text_hash(text: str) -> str:
    """Returns the hash by which the lines name a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]


def writable(text: object) -> str:
    r"""Returns a text as a transcript holds it.

    NUL characters and halves of surrogate pairs, which UTF-8 files and JSON readers refuse, become U+FFFD. The end of a
    text of more than a million characters is replaced by its length. Other values are written as their ``repr``.

    >>> writable("a\0b") == "a\ufffdb"
    True
    """
    whole = text if isinstance(text, str) else repr(text)
    if len(whole) > MAX_TEXT_CHARACTERS:
        whole = f"{whole[:MAX_TEXT_CHARACTERS]}... ({len(whole):,} characters)"
    return _UNWRITABLE.sub("\ufffd", whole)
