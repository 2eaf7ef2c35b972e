"""The two likeliest answers of a local model, from its logits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carm_env.chat_models.interface import ModelError
from carm_env.chat_models.served import ServedModel
from carm_env.chat_models.specification import ModelSpecification
from carm_env.chat_models.top_two import Candidate, ServedTopTwo, TopTwo, TopTwoModel
from carm_env.language.chat import Message
from carm_env.system.extras import optional_imports
from policies.checkpoint import SHIPPED
from policies.local_model import LocalModel
from policies.model_folders import model_folder
from policies.model_loading import read_settings

with optional_imports("llm", "A language model"):
    import torch
    from torch import Tensor
    from transformers import LogitsProcessor, LogitsProcessorList

KIND = "router"
"""Folder of the model that ships."""
MAX_ANSWER_TOKENS = 64


class FirstTokens(LogitsProcessor):
    """Lets the rows of a batch of equal prompts begin with the likeliest tokens: row k with the k-th.

    Args:
        prompt_length: number of tokens of the prompts.

    Attributes:
        probabilities: probability of the first token of each row; empty before the first step.
    """

    def __init__(self, prompt_length: int) -> None:
        self._prompt_length = prompt_length
        self.probabilities: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Sets all scores ``(n, vocabulary)`` of the first step but one of each row to minus infinity."""
        if input_ids.shape[1] != self._prompt_length:
            return scores
        # Rows of a batch may differ in the last bits: one decides for all.
        found = scores[0].float().softmax(-1).topk(len(scores))
        self.probabilities = found.values.tolist()
        return torch.full_like(scores, float("-inf")).scatter(1, found.indices[:, None], 0.0)


class LocalTopTwo:
    """The two likeliest answers of a chat model in this process.

    Args:
        model: the model.
        max_tokens: largest number of tokens of an answer.
        trained_on: fingerprint of the cards that the model was trained on; empty for any.
    """

    def __init__(self, model: LocalModel, max_tokens: int = MAX_ANSWER_TOKENS, trained_on: str = "") -> None:
        self.style, self.trained_on = model.style, trained_on
        self._model, self._max_tokens = model, max_tokens

    def top_two(self, messages: Sequence[Message]) -> TopTwo:
        """Generates both answers in one batch.

        Raises:
            ModelError: see `LocalModel.generate`.
        """
        started = time.perf_counter()
        processors: list[FirstTokens] = []

        def processor(length: int) -> Any:
            processors.append(FirstTokens(length))
            return LogitsProcessorList(processors)

        answers = self._model.generate_with([messages, messages], self._max_tokens, processor)
        candidates = tuple(
            Candidate(answer.text.strip(), probability)
            for answer, probability in zip(answers, processors[0].probabilities, strict=True)
        )
        tokens = sum(answer.tokens for answer in answers)
        name = self._model.specification.name
        return TopTwo(candidates, tokens, answers[0].prompt_tokens, time.perf_counter() - started, 1, 0.0, name)


def make_top_two_model(model: str | Path | TopTwoModel = "", ask_for_two: bool = False) -> TopTwoModel:
    """Makes the model of a router.

    Args:
        model: local folder, id on the hub, ``http://HOST:PORT/v1#MODEL``, each with settings as ``?SETTING=VALUE&..``,
            or a model; by default the one that ships.
        ask_for_two: ask a served model for two answers in words, instead of reading its ``logprobs``.

    Raises:
        ModelError: the model cannot be used.
        UnknownNameError: an unknown setting.
    """
    if not isinstance(model, (str, Path)):
        return model
    specification = ModelSpecification.parse(str(model))
    if specification.is_served:
        return ServedTopTwo(ServedModel(specification), ask_for_two)
    if ask_for_two:
        raise ModelError(
            f"{str(model) or 'the shipped model'} is a local model, whose logits are read: --ask-for-two is for served "
            "models, leave it out."
        )
    if not specification.name:
        if not (SHIPPED / KIND).is_dir():
            raise ModelError(
                "no weights of the router ship with this version: train them with `python training/router.py`, and "
                "give their folder as the model."
            )
        specification = specification.changed({"name": str(SHIPPED / KIND)})
    settings = read_settings(model_folder(specification.name, specification.revision or None))
    return LocalTopTwo(
        LocalModel(specification), min(MAX_ANSWER_TOKENS, specification.max_tokens), str(settings.get("repository", ""))
    )
