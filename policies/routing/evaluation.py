"""How well a router does on images whose right answers are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from policies.routing.cards import NO_FIT, NOT_MEDICAL, CardRepository
from policies.routing.cutoffs import Cutoffs
from policies.routing.made_images import MadeImage
from policies.routing.router import NO_CARD, Route, Router, StageRecord
from policies.routing.selection import FIRST, SECOND


@dataclass(frozen=True)
class StageSample:
    """One stage with one image: the two answers, and which of them is right.

    Attributes:
        stage: name of the stage.
        first, second: what the answers say; `second` is empty if there is one answer.
        p1, p2: their probabilities.
        truth: the right answer.
        kind: kind of the image.
        group: patient, or kind.
        tokens: tokens that the model read and generated.
        requests: requests to the model.
    """

    stage: str
    first: str
    second: str
    p1: float
    p2: float
    truth: str
    kind: str
    group: str
    tokens: int
    requests: int

    @property
    def label(self) -> str:
        """`FIRST` or `SECOND`, the right answer; empty if neither is."""
        return FIRST if self.first == self.truth else SECOND if self.second == self.truth else ""

    @property
    def tunes(self) -> bool:
        """Whether a cutoff can make a difference: one answer is right, and the other one is not the same."""
        return bool(self.label) and self.first != self.second

    def is_right(self, cutoff: float) -> bool:
        """Returns whether the answer that a cutoff takes is right."""
        takes_second = self.p2 >= cutoff and bool(self.second) and self.second != self.first
        return (self.second if takes_second else self.first) == self.truth


def true_modality(image: MadeImage, repository: CardRepository) -> str:
    """Returns the right modality for an image: `NO_FIT` for a scan of no card."""
    known = image.modality == NOT_MEDICAL or image.modality in repository.modalities
    return image.modality if known else NO_FIT


def true_card(image: MadeImage, repository: CardRepository) -> str:
    """Returns the right card for an image: the one that is meant for its finding; `NO_CARD` for none."""
    if true_modality(image, repository) in (NOT_MEDICAL, NO_FIT):
        return NO_CARD
    card = repository.card_for(image.modality, image.finding)
    return card.id if card else NO_CARD


def stage_samples(router: Router, images: Iterable[MadeImage]) -> Iterator[StageSample]:
    """Yields the samples of each stage, each asked as if the stages before it had been right.

    Stages 2 and 3 run for scans of a modality that has cards only.
    """
    for image in images:
        modality = true_modality(image, router.repository)
        yield _sample(router, router.identify(image.as_rgb), modality, image)
        if modality not in (NOT_MEDICAL, NO_FIT):
            yield _sample(router, router.find(image.as_rgb), image.finding, image)
            chosen = router.choose(image.modality, image.finding)
            yield _sample(router, chosen, true_card(image, router.repository), image)


def _sample(router: Router, record: StageRecord, truth: str, image: MadeImage) -> StageSample:
    cards = router.repository.of_modality(image.modality)
    said = [router.read(record.stage, candidate.answer, cards).value for candidate in record.candidates]
    probabilities = [candidate.probability for candidate in record.candidates]
    usage = record.usage
    return StageSample(
        record.stage, said[0], said[1] if len(said) > 1 else "", probabilities[0],
        probabilities[1] if len(said) > 1 else 0.0, truth, image.kind, image.group, usage.tokens + usage.prompt_tokens,
        usage.requests,
    )  # fmt: skip


@dataclass(frozen=True)
class FinalSample:
    """The route of one image.

    Attributes:
        image: the image.
        truth: the right card.
        route: the route.
    """

    image: MadeImage
    truth: str
    route: Route

    @property
    def is_right(self) -> bool:
        """Whether the card is right."""
        return self.route.card_id == self.truth


def final_samples(router: Router, images: Sequence[MadeImage]) -> Iterator[FinalSample]:
    """Yields the route of each image."""
    for image in images:
        yield FinalSample(image, true_card(image, router.repository), router.route(image.as_rgb))


def accuracy(samples: Sequence[StageSample], stage: str, cutoffs: Cutoffs) -> float:
    """Returns the share of right answers of a stage; NaN without samples."""
    own = [sample.is_right(cutoffs.of(stage)) for sample in samples if sample.stage == stage]
    return sum(own) / len(own) if own else float("nan")
