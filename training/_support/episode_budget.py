"""The number of tokens that an answer and a whole episode need, with those of the X-rays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from carm_env.actions import Move, MoveLattice
from carm_env.landmarks import LANDMARKS, N_LANDMARKS
from carm_env.language.answers import AnswerError, Fault, Navigation, quoted, render
from carm_env.language.chat import Conversation, Message
from carm_env.language.reasons import Situation, navigation_answer
from training._support.episode_prompts import PromptEncoder

_SAMPLES, _SAMPLED_MM, _MARGIN = 300, 400.0, 1.25


@dataclass(frozen=True)
class EpisodeBudget:
    """Tokens of an episode.

    Attributes:
        answer: the longest answer.
        first_prompt: the longest prompt of a first answer.
        later_turn: the longest text between two answers: with the bounded history a whole prompt.
        answers: the largest number of answers.
        is_bounded: whether each prompt has only the last X-ray.
    """

    answer: int
    first_prompt: int
    later_turn: int
    answers: int
    is_bounded: bool

    @property
    def completion(self) -> int:
        """What TRL counts as the completion of an episode: everything after the first prompt."""
        return self.answers * self.answer + (self.answers - 1) * self.later_turn

    @property
    def context(self) -> int:
        """The longest context of the model."""
        if self.is_bounded:
            return max(self.first_prompt, self.later_turn) + self.answer
        return self.first_prompt + self.completion

    def check(self, max_completion_length: int, max_positions: int | None) -> None:
        """Checks that an episode fits.

        Args:
            max_completion_length: TRL's limit.
            max_positions: the longest context that the model takes; None if it is unknown.

        Raises:
            ValueError: it does not; the message has the number that is needed.
        """
        if max_completion_length < self.answer:
            raise ValueError(
                f"max_completion_length is {max_completion_length}, but one answer has up to {self.answer} tokens and "
                f"an episode of {self.answers} answers {self.completion}: set --max_completion_length "
                f"{self.completion}."
            )
        if max_completion_length < self.completion:
            raise ValueError(
                f"max_completion_length is {max_completion_length}, but an episode of {self.answers} answers has up "
                f"to {self.completion} tokens, with its X-rays: set --max_completion_length {self.completion}, or "
                "fewer --max_answers."
            )
        if max_positions is not None and max_positions < self.context:
            remedy = "choose a model with a longer context" if self.is_bounded else "set --history bounded"
            raise ValueError(
                f"the model's context is {max_positions} tokens, but an episode of {self.answers} answers needs "
                f"{self.context}: {remedy}, or fewer --max_answers."
            )


def answer_tokens(tokenizer: Any, lattice: MoveLattice | None = None) -> int:
    """Returns the tokens of a long answer with its end, with a margin: the longest of many random ones and a quarter.

    Args:
        tokenizer: the model's tokenizer.
        lattice: the moves of the environment.
    """
    rng, lattice = np.random.default_rng(0), lattice or MoveLattice()
    longest = 0
    for _ in range(_SAMPLES):
        situation = Situation(rng.uniform(-_SAMPLED_MM, _SAMPLED_MM, (N_LANDMARKS, 2)), rng.random(N_LANDMARKS) < 0.5)
        text = render(navigation_answer(situation, int(rng.integers(N_LANDMARKS)) + 1, lattice, rng))
        longest = max(longest, len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    return math.ceil(_MARGIN * longest) + 1


def episode_budget(
    encoder: PromptEncoder, style: str, answers: int, image_size: int, is_bounded: bool, answer: int = 0
) -> EpisodeBudget:
    """Measures the tokens of an episode with the model's own processor.

    Args:
        encoder: encoder of the model's prompts.
        style: style of the prompts.
        answers: the largest number of answers.
        image_size: side of the X-rays, pixels.
        is_bounded: whether each prompt has only the last X-ray.
        answer: tokens of an answer; 0 to measure `answer_tokens`.
    """
    image = np.zeros((image_size, image_size), np.uint8)
    first, later = 0, 0
    for item in LANDMARKS:
        start = Conversation(item.id, style).show(image, {"steps_left": answers})
        first = max(first, len(encoder.encode([start]).ids[0]))
        for messages in _later(item.id, style, image, answers):
            ids = encoder.encode([messages]).ids[0] if is_bounded else encoder.turn(messages[-1])
            later = max(later, len(ids))
    return EpisodeBudget(answer or answer_tokens(encoder.processor.tokenizer), first, later, answers, is_bounded)


def _later(target: int, style: str, image: np.ndarray, answers: int) -> Iterator[list[Message]]:
    fault = f"visual_reasoning is {quoted('W' * 200)}, expected words with single spaces between them."
    longest = max(LANDMARKS, key=lambda item: len(item.name)).id
    for last in (
        AnswerError(Fault.SEVERAL, fault), Navigation(longest, Move(-2, -2), "x", "x")
    ):  # fmt: skip
        conversation = Conversation(target, style)
        conversation.start_after(last)
        yield conversation.show(image, {"steps_left": answers, "move_effective": False})
