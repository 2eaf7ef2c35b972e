"""The two likeliest answers of a chat model: the first token's top two, each completed to a full answer.

Source: "One VLM, Two Roles: Stage-Wise Routing and Specialty-Level Deployment for Clinical Workflows", section 3,
selector logic.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from carm_env.chat_models.interface import ModelError
from carm_env.chat_models.served import ServedModel
from carm_env.language.chat import Message, text_part

_TWO_ANSWERS = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*[:,-]?\s*(\S.*)")
ASK_FOR_TWO = (
    "Give your two likeliest answers, each on its own line, the likelier first. Begin each line with its probability "
    "in percent, as in '70 %: ANSWER'."
)


@dataclass(frozen=True)
class Candidate:
    """A candidate answer.

    Attributes:
        answer: the full answer, without white space around it.
        probability: probability of its first token.
    """

    answer: str
    probability: float


@dataclass(frozen=True)
class TopTwo:
    """The two likeliest answers to one request.

    Attributes:
        candidates: one or two, the likelier first.
        tokens: number of generated tokens of all answers.
        prompt_tokens: number of tokens of the messages; 0 if unknown.
        seconds: time that the answers took.
        requests: number of requests to the model.
        cost: price in the currency of the model's prices.
        model: name of the model that answered; empty if unknown.
    """

    candidates: tuple[Candidate, ...]
    tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    requests: int = 1
    cost: float = 0.0
    model: str = ""


class TopTwoModel(Protocol):
    """A model that gives its two likeliest answers.

    Attributes:
        style: style of the prompts that the model expects (`carm_env.language.prompts.STYLES`).
    """

    style: str

    def top_two(self, messages: Sequence[Message]) -> TopTwo:
        """Returns the two likeliest answers to a conversation."""
        ...


class ServedTopTwo:
    """The two likeliest answers of a model behind a server of OpenAI's protocol, from its ``logprobs``.

    The first answer is the greedy one. The second continues the runner-up of its first token, given as the beginning of
    the assistant's turn (``continue_final_message`` of vLLM and SGLang).

    Args:
        model: the served model.
        ask_for_two: ask a server that gives no ``logprobs`` for two answers and their probabilities in words.
    """

    def __init__(self, model: ServedModel, ask_for_two: bool = False) -> None:
        self.style = model.style
        self._model, self._ask_for_two = model, ask_for_two

    def top_two(self, messages: Sequence[Message]) -> TopTwo:
        """Asks for both answers.

        Raises:
            ModelError: the server cannot be reached, or gives no ``logprobs`` and may not be asked for two answers.
        """
        if self._ask_for_two:
            return self._asked(messages)
        first = self._model.complete(messages, {"logprobs": True, "top_logprobs": 2, "temperature": 0})
        tokens = _first_tokens(first.raw)
        if tokens is None:
            raise ModelError(
                f"{self._model.specification.url} gives no logprobs for {self._model.specification.name!r}, which the "
                "router needs: serve the model with vLLM, SGLang or llama.cpp, or let it be asked for two answers "
                "instead (--ask-for-two)."
            )
        candidates = [Candidate(first.text.strip(), tokens[0][1])]
        if len(tokens) == 1:
            return TopTwo(
                tuple(candidates), first.tokens, first.prompt_tokens, first.seconds, 1, first.cost, first.model
            )
        start, probability = tokens[1]
        continued = [*messages, {"role": "assistant", "content": [text_part(start)]}]
        options = {"extra_body": {"continue_final_message": True, "add_generation_prompt": False}, "temperature": 0}
        second = self._model.complete(continued, options)
        answer = second.text if second.text.startswith(start) else start + second.text
        candidates.append(Candidate(answer.strip(), probability))
        return TopTwo(
            tuple(candidates), first.tokens + second.tokens, first.prompt_tokens + second.prompt_tokens,
            first.seconds + second.seconds, 2, first.cost + second.cost, first.model,
        )  # fmt: skip

    def _asked(self, messages: Sequence[Message]) -> TopTwo:
        *before, last = messages
        asked = {**last, "content": [*last["content"], text_part(ASK_FOR_TWO)]}
        reply = self._model.complete([*before, asked], {"temperature": 0})
        candidates = parse_two_answers(reply.text)
        if not candidates:
            raise ModelError(
                f"{self._model.specification.name!r} answered {reply.text[:200]!r}, expected lines such as "
                "'70 %: ANSWER': use a model that follows the instruction, or one with logprobs."
            )
        return TopTwo(candidates, reply.tokens, reply.prompt_tokens, reply.seconds, 1, reply.cost, reply.model)


def parse_two_answers(text: str) -> tuple[Candidate, ...]:
    r"""Reads up to two lines such as ``70 %: ANSWER``, the likelier first; other lines are left out.

    >>> parse_two_answers("30 %: None\n60 %: chest CT scan")
    (Candidate(answer='chest CT scan', probability=0.6), Candidate(answer='None', probability=0.3))
    """
    found = [match for line in text.splitlines() if (match := _TWO_ANSWERS.fullmatch(line))]
    candidates = [Candidate(match[2].strip(), min(float(match[1]) / 100, 1.0)) for match in found[:2]]
    return tuple(sorted(candidates, key=lambda candidate: -candidate.probability))


def _first_tokens(reply: Any) -> list[tuple[str, float]] | None:
    """Returns text and probability of the two likeliest first tokens of a reply, the likelier first."""
    try:
        top = reply.choices[0].logprobs.content[0].top_logprobs
        found = [(str(item.token), math.exp(float(item.logprob))) for item in top]
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
        return None
    found.sort(key=lambda item: -item[1])
    return found[:2] or None
