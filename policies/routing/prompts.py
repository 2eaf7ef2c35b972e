"""The prompts of the router's stages, and how their answers are read.

The style ``full`` is the paper's prompting: a medical-imaging specialist, admissible answers, and explicit abstention.
The style ``compact`` only lists the choices, for a small model that is trained on it.

Source: "One VLM, Two Roles", section 3, stages 1 to 3.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from carm_env.language.chat import Message, text_part
from carm_env.language.control_tokens import escape_control_tokens
from policies.routing.cards import NO_FIT, NORMAL, NOT_MEDICAL, CardRepository, ModelCard

PROMPT_VERSION = 1
_SPECIALIST = "You are a medical-imaging specialist."
_MODALITY = """Identify the imaging modality of this image.

Admissible answers:
{modalities}

Rules:
1. If the image is not a medical scan, answer only: None
2. If it is a medical scan, answer with the single scan name from the list that matches the image best.
3. If it is a medical scan and no name in the list fits, answer only: Other

Answer with one entry, exactly as it is written, and nothing else."""
_FINDING = (
    "Identify the single most likely disease, finding or body region apparent in this scan. If nothing stands out, "
    "respond only with: Normal"
)
_CARD = """Select the model for this scan.

Patient scan details: {modality}
Primary abnormality: {finding}

Candidate models:
{candidates}

Rules:
1. Review the task of each candidate.
2. Select a model only if its task explicitly matches both the scan and the abnormality.
3. If no candidate fits, answer only: None
4. Otherwise answer with the model's ID, a colon, and one line that says why it fits."""
_COMPACT_MODALITY, _COMPACT_FINDING = "modality : {modalities} , None , Other", "finding"
_COMPACT_CARD = "card for {modality} ; {finding} : {candidates} , None"
_NO_CARD_ANSWER = re.compile(rf"\W*{NOT_MEDICAL}\b", re.IGNORECASE)
_CARD_ANSWER = re.compile(r"\W*([A-Za-z0-9_]+)\W*(.*)", re.DOTALL)


UNKNOWN_MODALITY, UNKNOWN_ID, EMPTY = "unknown_modality", "unknown_id", "empty"


@dataclass(frozen=True)
class Reading:
    """What an answer of a stage says.

    Attributes:
        value: the modality, the finding, or the ID of the card; `NOT_MEDICAL` for no card.
        justification: the line after the ID; empty elsewhere.
        fault: kind of fault; empty for none.
        message: the sentence that explains the fault.
    """

    value: str
    justification: str = ""
    fault: str = ""
    message: str = ""


def modality_messages(image: Image.Image, modalities: Sequence[str], style: str) -> list[Message]:
    """Returns the messages of stage 1, which show the image and the modalities of the cards."""
    if style == "compact":
        return _messages("", _COMPACT_MODALITY.format(modalities=" , ".join(modalities)), image)
    listed = "\n".join(f"- {name}" for name in (*modalities, NOT_MEDICAL, NO_FIT))
    return _messages(_SPECIALIST, _MODALITY.format(modalities=listed), image)


def finding_messages(image: Image.Image, style: str) -> list[Message]:
    """Returns the messages of stage 2, which do not say what stage 1 has found."""
    return _messages(
        "" if style == "compact" else _SPECIALIST, _COMPACT_FINDING if style == "compact" else _FINDING, image
    )


def card_messages(cards: Sequence[ModelCard], modality: str, finding: str, style: str) -> list[Message]:
    """Returns the messages of stage 3, without the image: the candidates, and what the other stages have found.

    Args:
        cards: the candidates, of one modality.
        modality: answer of stage 1.
        finding: answer of stage 2; a model's words, of which what could be read as a marker is escaped.
        style: style of the prompts.
    """
    finding = escape_control_tokens(finding)
    if style == "compact":
        # A small model knows the cards from its training.
        candidates = " , ".join(card.id for card in cards)
        return _messages("", _COMPACT_CARD.format(modality=modality, finding=finding, candidates=candidates))
    candidates = "\n".join(f"- {card.described}" for card in cards)
    return _messages(_SPECIALIST, _CARD.format(modality=modality, finding=finding, candidates=candidates))


def read_modality(answer: str, modalities: Sequence[str]) -> Reading:
    """Reads an answer of stage 1; one that is not admissible counts as `NO_FIT`, and its fault says so."""
    given = _plain(answer)
    for name in (*modalities, NOT_MEDICAL, NO_FIT):
        if given == _plain(name):
            return Reading(name)
    message = f"the modality is {answer[:200]!r}, expected one of: {', '.join((*modalities, NOT_MEDICAL, NO_FIT))}"
    return Reading(NO_FIT, fault=UNKNOWN_MODALITY, message=f"{message}; it counts as {NO_FIT}.")


def read_finding(answer: str) -> Reading:
    """Reads an answer of stage 2: its first line; an empty one counts as `NORMAL`, and its fault says so."""
    line = answer.strip().split("\n")[0].strip(" .'\"*")
    if not line:
        return Reading(NORMAL, fault=EMPTY, message=f"the finding is empty; it counts as {NORMAL}.")
    return Reading(NORMAL if line.casefold() == NORMAL.casefold() else line[:200])


def read_card(answer: str, cards: Sequence[ModelCard]) -> Reading:
    """Reads an answer of stage 3; an unknown ID counts as no card, and its fault names the nearest ID."""
    if _NO_CARD_ANSWER.match(answer):
        return Reading(NOT_MEDICAL)
    ids = [card.id for card in cards]
    found = _CARD_ANSWER.fullmatch(answer.strip())
    given = found[1] if found else ""
    for known in ids:
        if given.casefold() == known.casefold() and found:
            return Reading(known, " ".join(found[2].split())[:500])
    near = difflib.get_close_matches(given.upper(), ids, n=1, cutoff=0.0)
    hint = f" The nearest id is {near[0]}." if near else ""
    message = f"the card is {answer[:200]!r}, expected one of: {', '.join(ids)}, or {NOT_MEDICAL}.{hint}"
    return Reading(NOT_MEDICAL, fault=UNKNOWN_ID, message=message)


def prompt_hash(repository: CardRepository, style: str) -> str:
    """Returns the hash of the prompts of a style with the cards of a repository."""
    texts = [PROMPT_VERSION, style, _SPECIALIST, _MODALITY, _FINDING, _CARD, _COMPACT_MODALITY, _COMPACT_FINDING,
             _COMPACT_CARD, repository.fingerprint]  # fmt: skip
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12]


def _messages(system: str, text: str, image: Image.Image | None = None) -> list[Message]:
    shown: list[Any] = [] if image is None else [{"type": "image", "image": image}]
    first = [{"role": "system", "content": [text_part(system)]}] if system else []
    return [*first, {"role": "user", "content": [*shown, text_part(text)]}]


def _plain(answer: str) -> str:
    return answer.strip().strip(" .'\"*-").casefold()
