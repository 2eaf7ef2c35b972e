"""The router: modality, then finding, then the card of the model for an image, or nobody.

Source: "One VLM, Two Roles", section 3. Early termination occurs in stage 1 alone. Stage 2 does not know what stage 1
has found. Stage 3 does not see the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from carm_env.chat_models.top_two import Candidate, TopTwo, TopTwoModel
from carm_env.language.chat import Message
from policies.routing.cards import NO_FIT, NOT_MEDICAL, CardError, CardRepository, ModelCard
from policies.routing.cutoffs import Cutoffs
from policies.routing.prompts import (
    Reading,
    card_messages,
    finding_messages,
    modality_messages,
    prompt_hash,
    read_card,
    read_finding,
    read_modality,
)
from policies.routing.selection import STAGES, Selection, select

NO_CARD = NOT_MEDICAL
"""Final answer for an image that no model is for."""


@dataclass(frozen=True)
class StageRecord:
    """What happened in one stage.

    Attributes:
        stage: one of `STAGES`.
        messages: the request.
        candidates: the two likeliest answers.
        cutoff: the cutoff; infinite without one.
        selection: the answer that was taken.
        reading: what it says.
        usage: tokens, time and requests.
    """

    stage: str
    messages: tuple[Message, ...]
    candidates: tuple[Candidate, ...]
    cutoff: float
    selection: Selection
    reading: Reading
    usage: TopTwo


@dataclass(frozen=True)
class Route:
    """The way of an image through the stages.

    Attributes:
        card_id: the ID of the card; `NO_CARD` for none.
        reason: why no card was taken, or the justification of the one that was.
        confidence: probability of the answer of the last stage that ran.
        stages: the stages that ran.
    """

    card_id: str
    reason: str
    confidence: float
    stages: tuple[StageRecord, ...]

    @property
    def stopped_early(self) -> bool:
        """Whether the first stage has ended the route."""
        return len(self.stages) == 1

    def answer(self, stage: str) -> str:
        """Returns what a stage has found; empty if it did not run."""
        return next((record.reading.value for record in self.stages if record.stage == stage), "")

    @property
    def requests(self) -> int:
        """Number of requests to the model."""
        return sum(record.usage.requests for record in self.stages)

    @property
    def tokens(self) -> int:
        """Number of tokens that the model read and generated."""
        return sum(record.usage.tokens + record.usage.prompt_tokens for record in self.stages)


class Router:
    """Finds the card for an image.

    Args:
        model: the vision-language model.
        repository: the cards.
        cutoffs: the cutoffs of the stages; by default none, the paper's baseline.

    Attributes:
        repository: the cards.
        cutoffs: the cutoffs.

    Raises:
        CutoffsError: the cutoffs were learned with other cards.
        CardError: the model was trained on other cards.
    """

    def __init__(self, model: TopTwoModel, repository: CardRepository, cutoffs: Cutoffs | None = None) -> None:
        self._model, self.repository, self.cutoffs = model, repository, cutoffs or Cutoffs()
        self.cutoffs.check_repository(repository.fingerprint)
        trained_on = getattr(model, "trained_on", "")
        if trained_on and trained_on != repository.fingerprint:
            raise CardError(
                f"the model was trained on the cards {trained_on[:12]}, but these are {repository.fingerprint[:12]}: "
                "run `python training/router.py --cards FOLDER`, or give another model."
            )

    @property
    def prompts(self) -> str:
        """Hash of the prompts."""
        return prompt_hash(self.repository, self._model.style)

    def route(self, image: Image.Image) -> Route:
        """Asks the model stage by stage.

        Args:
            image: the image, RGB.

        Raises:
            ModelError: the model cannot be used.
        """
        style = self._model.style
        first = self.identify(image)
        modality = first.reading.value
        if modality in (NOT_MEDICAL, NO_FIT):
            reason = "the image is not a medical scan" if modality == NOT_MEDICAL else "no card fits the modality"
            return Route(NO_CARD, first.reading.message or f"{reason}.", first.selection.probability, (first,))
        second = self.find(image)
        candidates = self.repository.of_modality(modality)
        third = self._ask("card", card_messages(candidates, modality, second.reading.value, style), candidates)
        reading = third.reading
        without_words = "no candidate fits." if reading.value == NO_CARD else "the model gave no reason."
        reason = reading.message or reading.justification or without_words
        return Route(reading.value, reason, third.selection.probability, (first, second, third))

    def identify(self, image: Image.Image) -> StageRecord:
        """Runs stage 1 alone."""
        return self._ask("modality", modality_messages(image, self.repository.modalities, self._model.style))

    def find(self, image: Image.Image) -> StageRecord:
        """Runs stage 2 alone."""
        return self._ask("finding", finding_messages(image, self._model.style))

    def choose(self, modality: str, finding: str) -> StageRecord:
        """Runs stage 3 alone, with what the other stages would have found.

        Raises:
            ValueError: no card has the modality.
        """
        candidates = self.repository.of_modality(modality)
        if not candidates:
            raise ValueError(
                f"no card has the modality {modality!r}, expected one of: {', '.join(self.repository.modalities)}."
            )
        return self._ask("card", card_messages(candidates, modality, finding, self._model.style), candidates)

    def _ask(self, stage: str, messages: Sequence[Message], cards: Sequence[ModelCard] = ()) -> StageRecord:
        usage = self._model.top_two(messages)
        cutoff = self.cutoffs.of(stage)
        selection = select(usage.candidates, cutoff)
        reading = self.read(stage, selection.answer, cards)
        return StageRecord(stage, tuple(messages), usage.candidates, cutoff, selection, reading, usage)

    def read(self, stage: str, answer: str, cards: Sequence[ModelCard] = ()) -> Reading:
        """Reads an answer of a stage; see `policies.routing.prompts`."""
        if stage == STAGES[0]:
            return read_modality(answer, self.repository.modalities)
        return read_finding(answer) if stage == STAGES[1] else read_card(answer, cards)
