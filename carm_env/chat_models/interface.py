"""The interface of chat models, and what an answer of one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from carm_env.evaluation.policy import UnusablePolicyError
from carm_env.language.chat import Message


class ModelError(UnusablePolicyError):
    """A language model cannot be loaded or reached, or cannot be used as a chat model that sees images."""


class ContextError(ModelError):
    """A conversation and the longest answer do not fit into the context of a model.

    Attributes:
        tokens: tokens of the conversation.
        answer: longest answer, tokens.
        limit: tokens of the model's context.
    """

    def __init__(self, tokens: int, answer: int, limit: int, remedy: str) -> None:
        super().__init__(
            f"the conversation has {tokens} tokens and the answer may have {answer}, but the model's context is "
            f"{limit}: {remedy}."
        )
        self.tokens, self.answer, self.limit = tokens, answer, limit


@dataclass(frozen=True)
class Generation:
    """An answer of a chat model.

    Attributes:
        text: the answer, without special tokens; empty if the model gave none.
        tokens: number of generated tokens.
        seconds: time that the answer took; for a batch, its share of the batch's time.
        prompt_tokens: number of tokens of the conversation; 0 if unknown.
        cost: price of the answer in the currency of the specification's prices; 0 without prices.
        model: name that a server gives the model that answered, which may tell a version; empty if unknown.
        is_cut_off: whether the answer ended because it had reached the largest number of tokens.
    """

    text: str
    tokens: int
    seconds: float
    prompt_tokens: int = 0
    cost: float = 0.0
    model: str = ""
    is_cut_off: bool = False


class ChatModel(Protocol):
    """A model that answers conversations.

    Attributes:
        style: style of the prompts that the model expects (`carm_env.language.prompts.STYLES`).
    """

    style: str

    def generate(self, conversations: Sequence[Sequence[Message]], kind: str) -> list[Generation]:
        """Answers each conversation; `kind` is the wanted form of answer (`carm_env.language.ANSWER_KINDS`)."""
        ...

    def seed(self, value: int) -> None:
        """Seeds the sampling of tokens; without effect for greedy decoding."""
        ...


@runtime_checkable
class ScoringModel(Protocol):
    """A chat model that gives the probabilities of answers."""

    def probabilities(
        self, conversations: Sequence[Sequence[Message]], beginnings: Sequence[str]
    ) -> NDArray[np.float64]:
        """Returns the probability ``(n, k)`` that the answer to each conversation begins with each text."""
        ...
