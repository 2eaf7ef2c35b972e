"""The paper's proposal of a hybrid: a calibrated network drives, and a language model is asked in doubt.

Source: "Autonomous Skeletal Landmark Localization towards Agentic C-Arm Control", section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.actions import MoveLattice
from carm_env.chat_models.interface import ChatModel
from carm_env.evaluation.policy import Decision, Policy
from carm_env.language.chat import check_feedback
from carm_env.transcripts.records import Exchange
from policies.conformal import ConformalPolicy
from policies.mllm import MllmGrpoPolicy, MllmPolicy

KIND = "hybrid"


class HybridPolicy(Policy):
    """`ConformalPolicy`, which asks `MllmPolicy` for a second opinion when it is in doubt.

    It is in doubt when it would declare an alignment with a confidence below `confident`, when the predictions of two
    successive X-rays differ by more than `disagreement_mm` after the move, and when a clinician has spoken without
    locating the target. The language model then sees the X-ray and the clinician's words. Its move replaces a
    declaration of the network at most `overruled` times in an episode, and replaces a move of the network after a
    clinician's words. A question of the language model becomes a question of the policy.

    When the network would hand back, the language model takes over until a clinician locates the target. Once a
    clinician has spoken in the episode, the policy asks a question instead.

    Args:
        model: see `MllmPolicy`; by default the model that ships as `mllm_grpo`.
        network: checkpoint of `training/conformal.py`, or a policy; by default the networks that ship.
        confident: confidence from which the network decides alone.
        disagreement_mm: difference between predictions of two X-rays from which the network is in doubt.
        overruled: most moves of the language model against declarations of the network.
        lattice: the moves of the environment.

    Raises:
        ValueError: a number out of range.
    """

    packages = MllmPolicy.packages
    max_threads = 1

    def __init__(
        self,
        model: str | Path | ChatModel = "",
        network: str | Path | ConformalPolicy | None = None,
        confident: float = 0.7,
        disagreement_mm: float = 40.0,
        overruled: int = 1,
        lattice: MoveLattice | None = None,
    ) -> None:
        if not 0 <= confident <= 1:
            raise ValueError(f"confident is {confident}, expected 0 to 1.")
        if not disagreement_mm > 0:
            raise ValueError(f"disagreement_mm is {disagreement_mm}, expected a positive length.")
        if overruled < 0:
            raise ValueError(f"overruled is {overruled}, expected 0 or more.")
        self.network = network if isinstance(network, ConformalPolicy) else ConformalPolicy(network, lattice=lattice)
        self.language_model = MllmGrpoPolicy(model, lattice=lattice)
        self._confident, self._disagreement_mm, self._most_overruled = confident, disagreement_mm, overruled
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Starts an episode."""
        self.network.reset(seed)
        self.language_model.reset(seed)
        self._overruled = 0
        self._has_taken_over, self._is_accompanied = False, False
        self._words: list[str] = []
        self._expected_mm: np.ndarray | None = None
        self._was_asked = False
        self._target = 0

    def prompts(self) -> str:
        """Returns the hash of the language model's prompts."""
        return self.language_model.prompts()

    def description(self) -> dict[str, Any]:
        """Returns the settings of the language model and of this policy."""
        own = {
            "confident": self._confident,
            "disagreement_mm": self._disagreement_mm,
            "overruled": self._most_overruled,
        }
        return {**self.language_model.description(), **own}

    def last_exchange(self) -> Exchange | None:
        """Returns the request to the language model behind the last decision; None if it was not asked."""
        return self.language_model.last_exchange() if self._was_asked else None

    def feedback(self, text: str) -> None:
        """Hears a clinician's words; network and language model do, too.

        Raises:
            ValueError: the text may not enter a prompt (`carm_env.language.chat.check_text`); nobody hears it then.
        """
        words = check_feedback(text)
        self.network.feedback(words)
        self._words.append(words)

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Lets the network decide, and in doubt the language model."""
        own = self.network.act(observation, info)
        is_spoken_to, continues, self._was_asked = bool(self._words), self._was_asked, False
        self._is_accompanied = self._is_accompanied or is_spoken_to
        is_in_doubt = self._is_in_doubt(own, info)
        if own.abstain and not own.question:
            return own
        if is_spoken_to and self.network.has_understood:
            self._has_taken_over, self._words = False, []
            return own
        if own.abstain and not self._is_accompanied:
            self._has_taken_over = True
        if not (is_in_doubt or is_spoken_to or self._has_taken_over):
            return own
        second = self._second_opinion(observation, info, continues)
        if second.invalid:
            return replace(own, usage=second.usage)
        if second.question:
            return replace(own, abstain=True, question=second.question, usage=second.usage)
        if self._has_taken_over:
            return second
        if own.move.is_aligned and not own.abstain:
            if not second.move.is_aligned and self._overruled < self._most_overruled:
                self._overruled += 1
                return second
        elif is_spoken_to and not own.abstain:
            # The words did not tell the network where the target is.
            return second
        return replace(own, usage=second.usage)

    def _is_in_doubt(self, own: Decision, info: Mapping[str, Any]) -> bool:
        seen_mm = self.network.displacement_mm
        before, self._expected_mm = self._expected_mm, seen_mm
        before = before if self._target == int(info["target_landmark"]) else None
        self._target = int(info["target_landmark"])
        moved = np.asarray(info["moved_mm"], float)
        if before is not None and np.hypot(*(before - moved - seen_mm)) > self._disagreement_mm:
            return True
        declares = own.move.is_aligned and not own.abstain
        return declares and (own.confidence is None or own.confidence < self._confident)

    def _second_opinion(self, observation: Any, info: Mapping[str, Any], continues: bool) -> Decision:
        """Asks the language model, in the conversation that `continues` if it has decided about the last X-ray."""
        self._was_asked = True
        if not continues:
            self.language_model.begin(info)
        for text in self._words:
            self.language_model.feedback(text)
        self._words = []
        return self.language_model.act(observation, info)
