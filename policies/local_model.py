"""Chat models in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.chat_models.interface import ContextError, Generation, ModelError
from carm_env.chat_models.specification import ModelSpecification
from carm_env.language.chat import Message
from carm_env.language.patterns import answer_pattern
from carm_env.language.prompts import STYLES
from carm_env.system.errors import CArmEnvError
from carm_env.system.extras import optional_imports, require_installed
from policies.constrained import PatternConstraint
from policies.model_folders import model_folder
from policies.model_loading import check_fit, load_model, load_processor, read_settings
from policies.prompt_safety import PromptGuard

with optional_imports("llm", "A language model"):
    import torch
    from transformers import LogitsProcessorList

_DEFAULT_STYLE = STYLES[0]


class LocalModel:
    """A chat model that runs in this process.

    Args:
        specification: the model, or its name: local folder of a model or an adapter, or id on the Hugging Face hub.
        device: ``cpu``, ``cuda``, ...; by default a GPU if there is one.

    Attributes:
        style: style of the prompts: the one of the specification, or the one that the model was fine-tuned with, or
            ``full``.

    Raises:
        ModelError: the model cannot be used; see `load_model`, `load_processor` and `check_fit`.
    """

    def __init__(self, specification: ModelSpecification | str | Path, device: str | None = None) -> None:
        if not isinstance(specification, ModelSpecification):
            specification = ModelSpecification(name=str(specification))
        name, revision = specification.name, specification.revision or None
        processor = load_processor(name, revision)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        options: dict[str, Any] = {"dtype": _dtype(specification.dtype, device)}
        if specification.quantisation != "none":
            options |= {"quantization_config": _quantisation(specification.quantisation), "device_map": device}
        model = load_model(name, revision, adapter=specification.adapter, **options)
        check_fit(model, processor, name)
        style = specification.style or trained_style(specification) or _DEFAULT_STYLE
        self._use((model if "device_map" in options else model.to(device)).eval(), processor, specification, style)

    @classmethod
    def of_loaded(cls, model: Any, processor: Any, specification: ModelSpecification, style: str) -> LocalModel:
        """Returns the chat model of a model that is loaded already, for instance of one that is being trained.

        Args:
            model: the model; the caller sets its mode of evaluation.
            processor: its processor; its tokenizer will pad on the left.
            specification: how the model is asked.
            style: style of the prompts.
        """
        loaded = cls.__new__(cls)
        loaded._use(model, processor, specification, style)
        return loaded

    def _use(self, model: Any, processor: Any, specification: ModelSpecification, style: str) -> None:
        self._model, self._processor, self.specification, self.style = model, processor, specification, style
        self._processor.tokenizer.padding_side = "left"
        self._guard = PromptGuard(self._processor)
        self._temperature, self._limit = specification.temperature or 0.0, specification.max_tokens

    def seed(self, value: int) -> None:
        """Seeds torch's global generator, which sampling draws from; a seed of the specification comes first."""
        torch.manual_seed(value if self.specification.seed is None else self.specification.seed)

    def generate(self, conversations: Sequence[Sequence[Message]], kind: str) -> list[Generation]:
        """Answers all conversations in one batch.

        Raises:
            ContextError: a conversation is longer than the model's context.
            ModelError: the model's chat template reads turns or images in the texts, or its files do not work together.
        """

        def constraint(length: int) -> Any:
            pattern = answer_pattern(kind)
            return LogitsProcessorList([PatternConstraint(self._processor.tokenizer, pattern, length, self._stops)])

        return self.generate_with(
            conversations, self._limit, constraint if self.specification.constrained else None, self._temperature
        )

    def generate_with(
        self,
        conversations: Sequence[Sequence[Message]],
        max_tokens: int,
        make_processors: Callable[[int], Any] | None = None,
        temperature: float = 0.0,
    ) -> list[Generation]:
        """Answers all conversations in one batch.

        Args:
            conversations: the conversations.
            max_tokens: largest number of tokens of an answer.
            make_processors: makes the logits processors from the number of tokens of the padded prompts.
            temperature: sampling temperature; 0 for greedy decoding.

        Raises:
            ModelError: as `generate`.
        """
        with self._explained():
            return self._generate(conversations, max_tokens, make_processors, temperature)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what a broken model raises into a ModelError."""
        try:
            yield
        except (CArmEnvError, MemoryError):
            raise
        except Exception as error:  # values of any kind in the files of a model get this far
            raise ModelError(
                f"the model {self.specification.name} fails ({type(error).__name__}: {str(error)[:200]}): if its files "
                "were changed, use those of the original model."
            ) from error

    @property
    def _stops(self) -> list[int]:
        settings = self._model.generation_config
        return settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]

    def _generate(
        self,
        conversations: Sequence[Sequence[Message]],
        max_tokens: int,
        make_processors: Callable[[int], Any] | None,
        temperature: float,
    ) -> list[Generation]:
        inputs = self._inputs(conversations).to(self._model.device)
        length = inputs["input_ids"].shape[1]
        self._check_context(length, max_tokens)
        options: dict[str, Any] = {"max_new_tokens": max_tokens, "do_sample": temperature > 0}
        if temperature > 0:
            options["temperature"] = temperature
        if make_processors is not None:
            options["logits_processor"] = make_processors(length)
        started = time.perf_counter()
        with torch.inference_mode():
            generated = self._model.generate(**inputs, **options)[:, length:]
        seconds = (time.perf_counter() - started) / len(conversations)
        texts = self._processor.batch_decode(generated, skip_special_tokens=True)
        pad = self._processor.tokenizer.pad_token_id
        read = inputs["attention_mask"].sum(1).tolist()
        return [
            Generation(text, int((row != pad).sum()), seconds, int(count))
            for text, row, count in zip(texts, generated, read, strict=True)
        ]

    def probabilities(
        self, conversations: Sequence[Sequence[Message]], beginnings: Sequence[str]
    ) -> NDArray[np.float64]:
        """Returns the probability ``(n, k)`` that the answer to each conversation begins with each of ``k`` texts.

        The texts are tokenized alone; the prompt of each conversation is computed once.

        Raises:
            ModelError: as in `generate`.
        """
        with self._explained():
            return self._probabilities(conversations, beginnings)

    def _probabilities(
        self, conversations: Sequence[Sequence[Message]], beginnings: Sequence[str]
    ) -> NDArray[np.float64]:
        tokenizer = self._processor.tokenizer
        texts = [tokenizer.encode(text, add_special_tokens=False) for text in beginnings]
        longest = max(len(tokens) for tokens in texts)
        answers = torch.tensor([tokens + [tokenizer.pad_token_id] * (longest - len(tokens)) for tokens in texts])
        is_text = torch.tensor([[column < len(tokens) for column in range(longest)] for tokens in texts])
        inputs = self._inputs(conversations).to(self._model.device)
        self._check_context(inputs["input_ids"].shape[1], longest)
        n, device = len(conversations), self._model.device
        answers, is_text = (table.repeat(n, 1).to(device) for table in (answers, is_text))
        with torch.inference_mode():
            prompt = self._model(**inputs, use_cache=True, logits_to_keep=1)
            past = prompt.past_key_values
            past.batch_repeat_interleave(len(texts))
            mask = torch.cat([inputs["attention_mask"].repeat_interleave(len(texts), 0), is_text.long()], 1)
            rest = self._model(
                input_ids=answers,
                attention_mask=mask,
                position_ids=self._positions(mask, longest),
                past_key_values=past,
                use_cache=True,
            )
        logits = torch.cat([prompt.logits[:, -1:].repeat_interleave(len(texts), 0), rest.logits[:, :-1]], 1)
        each = logits.float().log_softmax(-1).gather(-1, answers[..., None])[..., 0]
        total = (each * is_text).sum(1).exp()
        return np.asarray(total.view(n, len(texts)).cpu().numpy(), float)

    def _positions(self, mask: torch.Tensor, count: int) -> torch.Tensor | None:
        """Returns the positions of the last tokens in models with multimodal positions; None for any other model."""
        deltas = [part.rope_deltas for part in self._model.modules() if getattr(part, "rope_deltas", None) is not None]
        if not deltas:
            return None
        positions = (mask.cumsum(1) - 1)[:, -count:] + deltas[0].repeat_interleave(len(mask) // len(deltas[0]), 0)
        return positions[None].repeat(3, 1, 1)

    def _inputs(self, conversations: Sequence[Sequence[Message]]) -> Any:
        escaped = [self._guard.escape(messages) for messages in conversations]
        for messages in escaped:
            self._guard.check(messages)
        return self._processor.apply_chat_template(
            escaped, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        )  # fmt: skip

    def _check_context(self, length: int, max_tokens: int) -> None:
        config = self._model.config
        limit = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
        if limit is not None and length + max_tokens > limit:
            raise ContextError(length, max_tokens, limit, "keep fewer exchanges, or allow fewer new tokens")

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Returns the number of tokens of a conversation, with those of its images."""
        return int(self._inputs([messages])["input_ids"].shape[1])


def trained_style(specification: ModelSpecification) -> str | None:
    """Returns the style of prompts that a model was fine-tuned with by `training/sft.py`; None for any other model."""
    for name in (specification.adapter, specification.name):
        if name and (style := read_settings(model_folder(name, specification.revision or None)).get("style")):
            return str(style)
    return None


def _dtype(name: str, device: str) -> Any:
    if name != "auto":
        return getattr(torch, name)
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def _quantisation(name: str) -> Any:
    from transformers import BitsAndBytesConfig

    require_installed("bitsandbytes", "qlora", "A quantised language model")
    if name == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_quant_type="nf4")
