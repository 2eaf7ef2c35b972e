"""A language model that is shown the training views most similar to an X-ray before it is asked about it.

``retrieval:mllm``, ``retrieval:CHECKPOINT`` and ``retrieval:http://HOST:PORT/v1#MODEL`` are policies and localisers for
any language model that `policies.mllm` can ask. The model is not trained for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import MoveLattice
from carm_env.chat_models.interface import ChatModel
from carm_env.chat_models.specification import ModelSpecification
from carm_env.evaluation.policy import Decision, task_lattice
from carm_env.language.chat import Conversation, Message
from policies.lofi.demonstrations import FORMS, Demonstrations
from policies.lofi.index import DEFAULT_FOLDER
from policies.lofi.search import SEARCHES
from policies.mllm import GRPO_KIND, KIND, MllmLocalizer, MllmPolicy, make_chat_model

DEFAULT_K = 20
_HASH_DIGITS = 12
_QUESTIONS_AT_ONCE = 8
"""Questions with many images each are answered in smaller batches."""


def shipped_and_model(text: str) -> tuple[str, str]:
    """Returns the policy whose shipped weights are meant, and the model of a specification.

    >>> shipped_and_model("mllm_grpo"), shipped_and_model("mllm:runs/sft"), shipped_and_model("runs/sft")
    (('mllm_grpo', ''), ('mllm', 'runs/sft'), ('mllm', 'runs/sft'))
    """
    name, _, model = text.partition(":")
    return (name, model) if name in (KIND, GRPO_KIND) else (KIND, text)


class RetrievalPolicy(MllmPolicy):
    """`MllmPolicy` with demonstrations before each question.

    Args:
        model: ``mllm`` or ``mllm_grpo`` for the models that ship, ``mllm:MODEL``, a MODEL as for `MllmPolicy`, or a
            `ChatModel`.
        index: folder of an index of `training/lofi_index.py`.
        k: number of demonstrations.
        form: ``images`` for turns with the X-ray and the answer, ``text`` for the answers alone.
        search: ``numpy`` or ``faiss``.
        encoder: folder of the encoder; by default the one that the index names.
        lattice: the moves of the environment.
        **settings: settings of `ModelSpecification`.

    Raises:
        FileNotFoundError, EmbeddingIndexError, UnknownNameError: see `Demonstrations`.
        ModelError: the model cannot be used. `act` raises it if the demonstrations do not fit into the model's context.
    """

    def __init__(
        self,
        model: str | Path | ChatModel = KIND,
        index: str | Path = DEFAULT_FOLDER,
        k: int = DEFAULT_K,
        form: str = FORMS[0],
        search: str = SEARCHES[0],
        encoder: str | Path = "",
        lattice: MoveLattice | None = None,
        **settings: Any,
    ) -> None:
        # Before the model, which may take minutes to load.
        self.demonstrations = Demonstrations(index, k, form, search, encoder)
        chosen: ModelSpecification | ChatModel
        if isinstance(model, (str, Path)):
            self._shipped, name = shipped_and_model(str(model))
            chosen = ModelSpecification.parse(name)
        else:
            chosen = model
        super().__init__(chosen, lattice, **settings)

    def make_model(self, specification: ModelSpecification) -> ChatModel:  # type: ignore[override]
        """Makes the model of a specification."""
        return make_chat_model(specification, self._shipped)

    def description(self) -> dict[str, Any]:
        """Returns the settings of the model and of the demonstrations."""
        return {**super().description(), **self.demonstrations.described()}

    def prompts(self) -> str:
        """Returns the hash of the prompts and of what determines the demonstrations."""
        whole = f"{super().prompts()} {sorted(self.demonstrations.described().items())}"
        return hashlib.sha256(whole.encode()).hexdigest()[:_HASH_DIGITS]

    def check_patients(self, names: Sequence[str]) -> None:
        """Raises EmbeddingIndexError if a patient to be evaluated is in the pool."""
        self.demonstrations.index.check_queries(names)

    def messages(self, conversation: Conversation, image: NDArray[np.uint8], info: Mapping[str, Any]) -> list[Message]:
        """Shows an X-ray in the conversation, and returns it with demonstrations."""
        shown = super().messages(conversation, image, info)
        return self.demonstrations.before(
            shown, image, "navigate", self._model.style, conversation.target.id, task_lattice(info, self._lattice)
        )

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Decides as the model answers."""
        with self.demonstrations.fitting(self._model):
            return super().act(observation, info)


class RetrievalLocalizer(MllmLocalizer):
    """`MllmLocalizer` with demonstrations before each question; `correct` has none.

    Args:
        model: see `RetrievalPolicy`.
        index, k, form, search, encoder: see `RetrievalPolicy`.
        **settings: arguments of `MllmLocalizer`.

    Raises:
        FileNotFoundError, EmbeddingIndexError, UnknownNameError: see `Demonstrations`.
        ModelError: the demonstrations do not fit into the model's context.
    """

    questions_at_once = _QUESTIONS_AT_ONCE

    def __init__(
        self,
        model: str | Path | ChatModel = KIND,
        index: str | Path = DEFAULT_FOLDER,
        k: int = DEFAULT_K,
        form: str = FORMS[0],
        search: str = SEARCHES[0],
        encoder: str | Path = "",
        **settings: Any,
    ) -> None:
        self.demonstrations = Demonstrations(index, k, form, search, encoder)
        if isinstance(model, (str, Path)):
            shipped, model = shipped_and_model(str(model))
            super().__init__(model, shipped=shipped, **settings)
        else:
            super().__init__(model, **settings)

    def check_patients(self, names: Sequence[str]) -> None:
        """Raises EmbeddingIndexError if a patient to be evaluated is in the pool."""
        self.demonstrations.index.check_queries(names)

    def described(self) -> dict[str, str | int]:
        """Returns facts about the demonstrations for results, as JSON."""
        return self.demonstrations.described()

    def _complete(
        self, messages: list[Message], image: NDArray[np.uint8], task: str, target: int | None = None
    ) -> list[Message]:
        return self.demonstrations.before(messages, image, task, self.model.style, target)

    def _parsed(self, count: int, prompt: Callable[[int], list[Message]], kind: str) -> Iterator[tuple[int, Any]]:
        with self.demonstrations.fitting(self.model):
            yield from super()._parsed(count, prompt, kind)
