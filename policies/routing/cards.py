"""Model cards: what a model does, on which images, what it needs, and how good it is.

The fields are those of the metadata of MONAI bundles (``version``, ``task``, ``intended_use``, ``data_source``,
``references``) and of the model cards of the Hugging Face hub (``license``, ``library_name``, ``eval_results``), with
what the router needs: ``id``, ``modality`` and ``findings``. Figures are copied from result files
(`policies.routing.figures`), never written by hand.

Source: "One VLM, Two Roles", section 3, prerequisite 2: a card is indexed by its ID, and described by a task caption
and the modality.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from carm_env.language.chat import check_text
from carm_env.system.errors import CArmEnvError, UnknownNameError, check_keys, finite_number, shortened
from carm_env.system.files import content_hash
from carm_env.system.structured_files import read_yaml

CARDS = Path(__file__).parents[1] / "cards"
"""Folder of the cards of the specialists of this repository."""
NOT_MEDICAL, NO_FIT, NORMAL = "None", "Other", "Normal"
"""Answers of stage 1 to an image that is not a medical scan, or is a scan of no card; and of stage 2."""
MAX_CARDS = 1000
_ID = re.compile(r"[A-Z][A-Z0-9_]{0,39}")
_SUFFIXES = (".yaml", ".yml")
_WEIGHTS_FORMATS = ("safetensors", "none")
_Part = TypeVar("_Part")


class CardError(CArmEnvError, ValueError):
    """A model card or a repository of cards is invalid; the message names the file and the field."""


@dataclass(frozen=True)
class Needs:
    """What a model needs.

    Attributes:
        image: the images, in a sentence.
        channels: channels of the images.
        extra: extra of carm-env that installs its packages; empty for none.
        target: whether the name of a target landmark is needed.
        gpu: whether a GPU is needed.
    """

    image: str
    channels: int = 1
    extra: str = ""
    target: bool = False
    gpu: bool = False


@dataclass(frozen=True)
class Weights:
    """The weights of a model.

    Attributes:
        format: ``safetensors``, or ``none`` for a model without weights that ship.
        path: folder in the repository; empty if none ship.
        command: command that trains them.
    """

    format: str
    path: str = ""
    command: str = ""


@dataclass(frozen=True)
class EvalResult:
    """A figure from a result file.

    Attributes:
        metric: name of the metric.
        dataset: whom or what it was measured on.
        source: path of the result file in the repository.
        key: keys that lead to the figure, which is a number or an estimate with an interval.
        value: the figure; None before it is filled in.
        low, high: 95 % interval; None if the file has none.
        patients: number of patients; None if the file does not say.
    """

    metric: str
    dataset: str
    source: str
    key: tuple[str, ...]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    patients: int | None = None


@dataclass(frozen=True)
class ModelCard:
    """A model card.

    Attributes:
        id: capital letters, digits and underscores; unique in a repository.
        modality: the scan type that the model knows.
        task: caption of the task, one sentence.
        findings: findings and regions that the model is meant for; empty for a model that only names what it does.
        name: title.
        version: version of the model.
        license: license of the weights.
        library_name: library that runs it.
        policy: name in `policies.registry`; empty for a model that does not drive.
        intended_use: one or two sentences.
        limits: what the figures do not say.
        data_source: what it was trained on.
        references: papers.
        needs: what it needs.
        weights: its weights.
        eval_results: figures.
    """

    id: str
    modality: str
    task: str
    findings: tuple[str, ...] = ()
    name: str = ""
    version: str = "1"
    license: str = ""
    library_name: str = ""
    policy: str = ""
    intended_use: str = ""
    limits: str = ""
    data_source: str = ""
    references: tuple[str, ...] = ()
    needs: Needs | None = None
    weights: Weights | None = None
    eval_results: tuple[EvalResult, ...] = ()

    @property
    def described(self) -> str:
        """The card as stage 3 lists it: ``ID: caption``, and what it is meant for."""
        return f"{self.id}: {self.task}" + (f" Meant for: {', '.join(self.findings)}." if self.findings else "")


@dataclass(frozen=True)
class CardRepository:
    """Model cards with different IDs.

    Attributes:
        cards: the cards, in the order of their IDs.
    """

    cards: tuple[ModelCard, ...]

    @classmethod
    def of(cls, cards: Iterable[ModelCard]) -> CardRepository:
        """Returns the repository of some cards.

        Raises:
            CardError: there is no card, there are too many, or two have one ID.
        """
        found = sorted(cards, key=lambda card: card.id)
        if not 1 <= len(found) <= MAX_CARDS:
            raise CardError(f"the repository has {len(found)} cards, expected 1 to {MAX_CARDS}.")
        for card, following in zip(found, found[1:], strict=False):
            if card.id == following.id:
                raise CardError(f"two cards have the id {card.id}, expected different ones: rename or remove one.")
        return cls(tuple(found))

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of the cards, each once, sorted."""
        return tuple(sorted({card.modality for card in self.cards}))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the router knows about the cards: IDs, modalities, captions and findings."""
        return content_hash([[card.id, card.modality, card.task, list(card.findings)] for card in self.cards])

    def of_modality(self, modality: str) -> tuple[ModelCard, ...]:
        """Returns the cards of a modality; none for `NOT_MEDICAL` and `NO_FIT`."""
        return tuple(card for card in self.cards if card.modality == modality)

    def card(self, card_id: str) -> ModelCard:
        """Returns a card; raises UnknownNameError for an unknown ID."""
        for card in self.cards:
            if card.id == card_id:
                return card
        raise UnknownNameError("card", card_id, [card.id for card in self.cards])

    def card_for(self, modality: str, finding: str) -> ModelCard | None:
        """Returns the card that is meant for a finding; None if there is none.

        Raises:
            CardError: several cards are meant for it.
        """
        found = [card for card in self.of_modality(modality) if finding in card.findings]
        if len(found) > 1:
            ids = ", ".join(card.id for card in found)
            raise CardError(f"{ids} are all meant for {finding!r} in a {modality}, expected one card.")
        return found[0] if found else None


def read_repository(folder: Path = CARDS) -> CardRepository:
    """Reads all cards of a folder: YAML files that hold one card, or a list of cards.

    Raises:
        FileNotFoundError: there is no such folder.
        CardError: a card is invalid, or two have one ID; the message names the file.
        StructuredFileError: a file is not valid YAML.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder, expected one with model cards (*.yaml).")
    cards: dict[str, tuple[ModelCard, Path]] = {}
    for path in _card_paths(folder):
        content = read_yaml(path)
        for number, values in enumerate(content if isinstance(content, list) else [content], start=1):
            source = f"{path}, card {number}" if isinstance(content, list) else str(path)
            card = parse_card(values, source)
            if card.id in cards:
                raise CardError(
                    f"{cards[card.id][1]} and {path} have the same id {card.id}, expected different ones: rename or "
                    "remove one."
                )
            cards[card.id] = card, path
    if not cards:
        raise CardError(f"{folder} has no model card, expected files *.yaml.")
    return CardRepository.of(card for card, _ in cards.values())


def read_card_files(folder: Path) -> dict[Path, ModelCard]:
    """Reads a folder whose cards are to be written again: one card in each file.

    Raises:
        CardError: a card is invalid, or a file holds a list of cards.
        StructuredFileError: a file is not valid YAML.
    """
    contents = {path: read_yaml(path) for path in _card_paths(folder)}
    for path, content in contents.items():
        if isinstance(content, list):
            raise CardError(
                f"{path} holds a list of cards, expected one card in each file to write: divide it. Nothing has been "
                "written."
            )
    return {path: parse_card(content, str(path)) for path, content in contents.items()}


def _card_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())


def parse_card(values: Any, source: str) -> ModelCard:
    """Returns the card of a mapping.

    Args:
        values: the fields of `ModelCard`.
        source: name of the file, for error messages.

    Raises:
        CardError: a field is missing, unknown, or of another type.
    """
    try:
        given = _mapping(values, "the card")
        for name in ("id", "modality", "task"):
            if not given.get(name):
                raise ValueError(f"it has no {name}: add it")
        needs = _part(Needs, given.pop("needs", None))
        weights = _part(Weights, given.pop("weights", None))
        if weights and weights.format not in _WEIGHTS_FORMATS:
            raise UnknownNameError("format of weights", weights.format, _WEIGHTS_FORMATS)
        results = given.pop("eval_results", [])
        if not isinstance(results, list):
            raise ValueError(f"eval_results is {shortened(results)}, expected a list")
        evaluated = tuple(_result(one) for one in results)
        card = _built(ModelCard, {**given, "needs": needs, "weights": weights, "eval_results": evaluated})
        if not _ID.fullmatch(card.id):
            raise ValueError(f"id is {shortened(card.id)}, expected capital letters, digits and underscores, up to 40")
        if card.id.casefold() == NOT_MEDICAL.casefold():
            raise ValueError(f"id is {card.id}, which is the answer for no card: choose another one")
        for name in ("modality", "task"):
            _check_line(name, getattr(card, name))
        for finding in card.findings:
            _check_line("a finding", finding)
        if len(card.name.splitlines()) > 1:
            raise ValueError(f"name is {shortened(card.name)}, expected one line")
        if card.modality.casefold() in (NOT_MEDICAL.casefold(), NO_FIT.casefold()):
            raise ValueError(f"modality is {card.modality!r}, which is an answer of its own: name the scan")
    except (ValueError, TypeError) as error:
        raise CardError(f"{source} is not a model card: {str(error).rstrip('.')}.") from error
    return card


def _check_line(name: str, text: str) -> None:
    check_text(name, text)
    if len(text.splitlines()) > 1:
        raise ValueError(f"{name} is {shortened(text)}, expected one line")


def card_values(card: ModelCard) -> dict[str, Any]:
    """Returns the fields of a card as YAML holds them; fields with their defaults are left out."""
    defaults = {item.name: item.default for item in fields(card)}
    values = {name: value for name, value in asdict(card).items() if value != defaults[name]}
    for name in ("needs", "weights"):
        if part := getattr(card, name):
            values[name] = _changed(part)
    if card.eval_results:
        values["eval_results"] = [{**_changed(one), "key": list(one.key)} for one in card.eval_results]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _changed(part: Any) -> dict[str, Any]:
    return {
        item.name: getattr(part, item.name)
        for item in fields(part)
        if item.default is MISSING or getattr(part, item.name) != item.default
    }


def _mapping(values: Any, what: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} is {shortened(values)}, expected a mapping of fields")
    return dict(values)


def _part(kind: type[_Part], values: Any) -> _Part | None:
    return None if values is None else _built(kind, _mapping(values, kind.__name__.lower()))


def _result(values: Any) -> EvalResult:
    given = _mapping(values, "a result")
    for name in ("value", "low", "high"):
        if given.get(name) is not None:
            given[name] = finite_number(name, given[name])
    return _built(EvalResult, given)


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "bool": (bool,), "int": (int,), "int | None": (int, type(None)), "float | None": (float, type(None)),
}  # fmt: skip


def _built(kind: type[_Part], values: Mapping[str, Any]) -> _Part:
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    check_keys(f"field of {kind.__name__}", values, known)
    made: dict[str, Any] = {}
    for name, value in values.items():
        wanted = str(known[name].type)
        if wanted == "tuple[str, ...]":
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ValueError(f"{name} is {shortened(value)}, expected a list of texts")
            value = tuple(value)
        elif wanted in _TYPES and (
            not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) != (wanted == "bool"))
        ):
            raise ValueError(f"{name} is {shortened(value)}, expected {wanted}")
        made[name] = value
    missing = [item.name for item in known.values() if item.default is MISSING and item.name not in made]
    if missing:
        raise ValueError(f"{kind.__name__.lower()} has no {', '.join(missing)}: add it")
    return kind(**made)
