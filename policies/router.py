"""A policy that lets the router choose the specialist that drives, and that drives on no image but X-rays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from carm_env.actions import ALIGNED, MoveLattice
from carm_env.chat_models.top_two import TopTwoModel
from carm_env.evaluation.policy import Decision, Policy, Usage
from carm_env.language.chat import check_feedback
from carm_env.system.errors import UnknownNameError
from carm_env.transcripts.records import Exchange
from policies.conformal import ConformalPolicy
from policies.hybrid import HybridPolicy
from policies.images import image_of
from policies.mllm import MllmGrpoPolicy, MllmPolicy
from policies.routing.cards import NO_FIT, NOT_MEDICAL
from policies.routing.load import load_router
from policies.routing.local_top_two import KIND
from policies.routing.made_images import FRONTAL, INVERTED, region_of
from policies.routing.record import exchange_of
from policies.routing.router import Router, StageRecord
from policies.sb3 import MaskablePpoPolicy, PpoPolicy

__all__ = ["KIND", "RouterPolicy"]

SPECIALISTS: dict[str, Callable[[MoveLattice | None], Policy]] = {
    "conformal": lambda lattice: ConformalPolicy(lattice=lattice),
    "hybrid": lambda lattice: HybridPolicy(lattice=lattice),
    "mllm": lambda lattice: MllmPolicy(lattice=lattice),
    "mllm_grpo": lambda lattice: MllmGrpoPolicy(lattice=lattice),
    "ppo": lambda lattice: PpoPolicy(),
    "maskable_ppo": lambda lattice: MaskablePpoPolicy(),
}
"""Policies that a card may name, by the name of `policies.registry`."""


class RouterPolicy(Policy):
    """Asks the router for the card of the X-ray and the target, and lets the policy of the card drive.

    Stage 1 sees every image: if it answers that this is not a medical scan, or a scan of no card, the policy abstains.
    The C-arm takes frontal X-rays, so that an X-ray of another modality counts as one of these. Stages 2 and 3 run at
    the first X-ray of an episode and when the target changes. The finding that stage 3 receives is the region of the
    target, or inverted polarity if stage 2 sees it. Without a card, or with one whose model does not drive, the
    policy `default` drives.

    Args:
        model: see `policies.routing.load.load_router`; by default the model that ships.
        cards: folder of model cards; by default those of the repository.
        cutoffs: see `load_router`.
        default: the policy without a card: a name in `SPECIALISTS`.
        lattice: the moves of the environment.

    Attributes:
        router: the router.

    Raises:
        UnknownNameError: an unknown default.
        FileNotFoundError, CardError, CutoffsError, ModelError: see `load_router`.
    """

    packages = MllmPolicy.packages
    max_threads = 1

    def __init__(
        self,
        model: str | Path | TopTwoModel = "",
        cards: str | Path = "",
        cutoffs: str | Path = "",
        default: str = "conformal",
        lattice: MoveLattice | None = None,
    ) -> None:
        if default not in SPECIALISTS:
            raise UnknownNameError("specialist", default, SPECIALISTS)
        self.router: Router = load_router(model, cards, cutoffs)
        self._default, self._lattice = default, lattice
        self._specialists: dict[str, Policy] = {}
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Starts an episode."""
        self._seed = seed
        self._target = 0
        self._words: list[str] = []
        self._exchange: Exchange | None = None
        self.card_id = ""
        """ID of the card that drives; empty for the default, and before the first X-ray."""
        self._driver: Policy | None = None

    def prompts(self) -> str:
        """Returns the hash of the router's prompts and cards."""
        return self.router.prompts

    def description(self) -> dict[str, Any]:
        """Returns the cards, the cutoffs and the default."""
        return {
            "cards": self.router.repository.fingerprint[:12],
            "cutoffs": {stage: round(value, 6) for stage, value in self.router.cutoffs.by_stage.items()},
            "default": self._default,
        }

    def last_exchange(self) -> Exchange | None:
        """Returns the last request to the router behind the last decision."""
        return self._exchange

    def feedback(self, text: str) -> None:
        """Hands a clinician's words on to the policy that drives; raises ValueError for words of no prompt."""
        self._words.append(check_feedback(text))

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Abstains on an image that is not an X-ray; otherwise the chosen policy decides."""
        image = Image.fromarray(image_of(observation)[..., 0]).convert("RGB")
        first = self.router.identify(image)
        records = [first]
        modality = first.reading.value
        if modality in (NOT_MEDICAL, NO_FIT):
            what = "not a medical scan" if modality == NOT_MEDICAL else "a scan that no model here is for"
            self._exchange = exchange_of(first)
            return Decision(
                ALIGNED, rationale=f"The image is {what}.", confidence=first.selection.probability, abstain=True,
                usage=_usage(records),
            )  # fmt: skip
        if self._driver is None or self._target != int(info["target_landmark"]):
            records += self._choose(image, info)
        self._exchange = exchange_of(records[-1])
        assert self._driver is not None
        for text in self._words:
            self._driver.feedback(text)
        self._words = []
        decision = self._driver.act(observation, info)
        return replace(decision, usage=_usage(records) + (decision.usage or Usage()))

    def _choose(self, image: Image.Image, info: Mapping[str, Any]) -> list[StageRecord]:
        """Chooses the policy that drives; returns the stages that ran."""
        self._target = int(info["target_landmark"])
        second = self.router.find(image)
        is_inverted = second.reading.value == INVERTED
        records, name, self.card_id = [second], self._default, ""
        if FRONTAL in self.router.repository.modalities:
            third = self.router.choose(FRONTAL, INVERTED if is_inverted else region_of(self._target))
            records.append(third)
            found = [card for card in self.router.repository.cards if card.id == third.reading.value]
            if found and found[0].policy in SPECIALISTS:
                name, self.card_id = found[0].policy, found[0].id
        driver = self._specialist(name)
        if driver is not self._driver:
            driver.reset(self._seed)
            if isinstance(driver, MllmPolicy):
                driver.begin(info)
            self._driver = driver
        return records

    def _specialist(self, name: str) -> Policy:
        if name not in self._specialists:
            self._specialists[name] = SPECIALISTS[name](self._lattice)
        return self._specialists[name]


def _usage(records: list[StageRecord]) -> Usage:
    return Usage(
        sum(one.usage.prompt_tokens for one in records), sum(one.usage.tokens for one in records),
        sum(one.usage.seconds for one in records), sum(one.usage.cost for one in records),
    )  # fmt: skip
