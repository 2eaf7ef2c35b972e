"""Whether a model in reinforcement learning can still answer the questions that are not rewarded.

Only answers about moves are rewarded, so that a model can forget how the others are written: which landmarks are the
closest, and what it says when it is asked a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.chat_models.interface import ChatModel
from carm_env.language.answers import AnswerError
from carm_env.language.chat import Message, question
from carm_env.language.grammar import parse
from carm_env.language.prompts import NEUTRAL_FEEDBACK, WRONG_FEEDBACK
from carm_env.system.extras import optional_imports
from policies.model_folders import without_hub

with optional_imports("grpo", "Reinforcement learning of a language model"), without_hub():
    from transformers import TrainerCallback

_ALARMING_SHARE = 0.9
_EARLIER_ANSWER = "[1,10]"


def readable_answers(model: ChatModel, images: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """Asks every question about every image; returns the share of answers in exactly the wanted form, by question.

    Args:
        model: the model.
        images: ``(H, W)`` or ``(H, W, 1)`` uint8, at least one.
    """
    style = model.style
    correction = {"answer": _EARLIER_ANSWER}
    questions: dict[str, tuple[str, Callable[[NDArray[np.uint8]], list[Message]]]] = {
        "closest landmarks": ("ranking", lambda image: question("localize", image, style)),
        "landmark at the center": ("pair", lambda image: question("pair", image, style)),
        "second look": (
            "correction", lambda image: question("correct", image, style, feedback=NEUTRAL_FEEDBACK, **correction)
        ),
        "correction": (
            "correction", lambda image: question("correct", image, style, feedback=WRONG_FEEDBACK, **correction)
        ),
    }  # fmt: skip
    shares: dict[str, float] = {}
    for name, (kind, ask) in questions.items():
        answers = model.generate([ask(image) for image in images], kind)
        shares[name] = float(np.mean([_is_readable(kind, answer.text) for answer in answers]))
    return shares


def _is_readable(kind: str, text: str) -> bool:
    try:
        parse(kind, text)
    except AnswerError:
        return False
    return True


@dataclass
class OtherAnswers(TrainerCallback):
    """Asks the questions that are not rewarded, before training and every few steps, and warns if a kind gets lost.

    A model that could not answer before the training is not blamed.

    Args:
        model: the model of the trainer.
        images: images to ask about.
        steps: ask every so many optimizer steps.
        log: adds figures to those of the next logging step.
    """

    model: ChatModel
    images: Sequence[NDArray[np.uint8]]
    steps: int
    log: Callable[[str, float], None]

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Asks the model from which the training starts or goes on."""
        self._first = readable_answers(self.model, self.images)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Asks the model every few steps."""
        if state.global_step % self.steps and state.global_step != state.max_steps:
            return
        found = readable_answers(self.model, self.images)
        for name, share in found.items():
            self.log(f"readable/{name.replace(' ', '_')}", share)
        lost = [
            f"{share:.0%} of the answers about {name}"
            for name, share in found.items()
            if share < _ALARMING_SHARE * self._first[name]
        ]
        if lost and state.is_world_process_zero:
            print(
                f"step {state.global_step}: WARNING: only {', '.join(lost)} can be read. The model forgets questions "
                "that are not rewarded: use it for moves alone, or train with another --seed, a lower --learning_rate "
                "or fewer steps.",
                flush=True,
            )
