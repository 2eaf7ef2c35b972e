"""Multimodal language models that answer: in this process, or behind a server that speaks OpenAI's protocol."""

from __future__ import annotations

import base64
import http.client
import io
import json
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from carm_env.language.chat import Message
from carm_env.language.patterns import answer_pattern
from policies.constrained import PatternConstraint
from policies.model_loading import ModelError, check_fit, load_model, load_processor, read_settings
from policies.networks import torch_module

DEFAULT_STYLE = "full"
MAX_NEW_TOKENS = 512
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Generation:
    """What a model said.

    Attributes:
        text: without special tokens.
        tokens: that it took.
        seconds: that it took; those of its batch divided among its members.
    """

    text: str
    tokens: int
    seconds: float


class Talker(Protocol):
    """What answers conversations."""

    style: str

    def generate(self, conversations: Sequence[Sequence[Message]], kind: str) -> list[Generation]:
        """Answer each; `kind` is the form of answer that is wanted (`carm_env.language.ANSWER_KINDS`)."""
        ...

    def seed(self, value: int) -> None:
        """What is drawn from now on follows from this, where decoding is not greedy."""
        ...


class LocalModel:
    """A model in this process.

    Args:
        name: local folder (of a model or of an adapter) or id of the hub.
        style: of the prompts; by default what it was fine-tuned with, ``full`` for models from elsewhere.
        device: ``cpu``, ``cuda``, ...; by default a GPU where there is one.
        constrained: let it say nothing but answers of the wanted form.
        temperature: 0 for greedy decoding.
        max_new_tokens: of an answer.

    Raises:
        ModelError, MissingExtraError: see `load_model`, `load_processor` and `check_fit`.
        ValueError: a temperature for constrained decoding, which takes the likeliest token that is allowed.
    """

    def __init__(
        self,
        name: str | Path,
        style: str | None = None,
        device: str | None = None,
        constrained: bool = False,
        temperature: float = 0.0,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        if constrained and temperature > 0:
            raise ValueError(f"temperature is {temperature}, expected 0 where decoding is constrained: it is greedy.")
        torch = torch_module()
        self.style = style or read_settings(name).get("style", DEFAULT_STYLE)
        self._processor = load_processor(name)
        self._processor.tokenizer.padding_side = "left"
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if place.startswith("cuda") else torch.float32
        self._model = load_model(name, dtype=dtype).to(place).eval()
        check_fit(self._model, self._processor, name)
        self._constrained, self._temperature, self._limit = constrained, temperature, max_new_tokens

    def seed(self, value: int) -> None:
        """As of `Talker`."""
        torch_module().manual_seed(value)

    def generate(self, conversations: Sequence[Sequence[Message]], kind: str) -> list[Generation]:
        """Answer each conversation, all in one batch.

        Raises:
            ModelError: a conversation is longer than the model's context.
        """
        torch = torch_module()
        inputs = self._processor.apply_chat_template(
            [list(messages) for messages in conversations],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self._model.device)  # fmt: skip
        length = inputs["input_ids"].shape[1]
        self._check_context(length)
        settings = self._model.generation_config
        stops = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
        own: dict[str, Any] = {"max_new_tokens": self._limit, "do_sample": self._temperature > 0}
        if self._temperature > 0:
            own["temperature"] = self._temperature
        if self._constrained:
            from transformers import LogitsProcessorList

            rule = PatternConstraint(self._processor.tokenizer, answer_pattern(kind), length, stops)
            own["logits_processor"] = LogitsProcessorList([rule])
        started = time.perf_counter()
        with torch.inference_mode():
            said = self._model.generate(**inputs, **own)[:, length:]
        seconds = (time.perf_counter() - started) / len(conversations)
        texts = self._processor.batch_decode(said, skip_special_tokens=True)
        pad = self._processor.tokenizer.pad_token_id
        return [Generation(text, int((row != pad).sum()), seconds) for text, row in zip(texts, said, strict=True)]

    def _check_context(self, length: int) -> None:
        config = self._model.config
        limit = getattr(getattr(config, "text_config", config), "max_position_embeddings", None)
        if limit is not None and length + self._limit > limit:
            raise ModelError(
                f"the conversation has {length} tokens and the answer may have {self._limit}, but the model's context "
                f"is {limit}: keep fewer exchanges, or allow fewer new tokens."
            )


class ServedModel:
    """A model behind an OpenAI-compatible server: ``vllm serve``, SGLang, ``trl vllm-serve``.

    Args:
        url: of the server with its version, e.g. ``http://localhost:8000/v1``, and ``#MODEL`` behind it.
        style: of the prompts.
        temperature: 0 for greedy decoding.
        max_new_tokens: of an answer.
        timeout_s: to wait for an answer.

    Raises:
        ValueError: the url names no model.
    """

    def __init__(
        self,
        url: str,
        style: str = DEFAULT_STYLE,
        temperature: float = 0.0,
        max_new_tokens: int = MAX_NEW_TOKENS,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        base, _, self._model = url.partition("#")
        if not base.startswith(("http://", "https://")) or not self._model:
            raise ValueError(f"url is {url!r}, expected http://HOST:PORT/v1#MODEL.")
        self._url = base.rstrip("/") + "/chat/completions"
        self.style, self._temperature, self._limit, self._timeout_s = style, temperature, max_new_tokens, timeout_s
        self._seed: int | None = None

    def seed(self, value: int) -> None:
        """As of `Talker`; the server is told."""
        self._seed = value

    def generate(self, conversations: Sequence[Sequence[Message]], kind: str) -> list[Generation]:
        """Answer each conversation; the server batches.

        Raises:
            ModelError: the server cannot be reached, or answers something else.
        """
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max_workers=min(len(conversations), 16) or 1) as pool:
            return list(pool.map(self._ask, conversations))

    def _ask(self, messages: Sequence[Message]) -> Generation:
        body = {
            "model": self._model,
            "messages": [_for_server(message) for message in messages],
            "temperature": self._temperature,
            "max_tokens": self._limit,
            **({"seed": self._seed} if self._temperature > 0 and self._seed is not None else {}),
        }
        request = urllib.request.Request(
            self._url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        started = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                found = json.load(answer)
            text = found["choices"][0]["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError(f"its content is a {type(text).__name__}")
            tokens = int((found.get("usage") or {}).get("completion_tokens") or 0)
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self._url} gave no answer ({error}): is the server running, with this model?"
            ) from error
        return Generation(text, tokens, time.perf_counter() - started)


def _for_server(message: Message) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    for part in message["content"]:
        if part["type"] == "image":
            file = io.BytesIO()
            part["image"].save(file, format="PNG")
            data = base64.b64encode(file.getvalue()).decode()
            parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
        else:
            parts.append({"type": "text", "text": part["text"]})
    return {"role": message["role"], "content": parts}


def make_talker(name: str | Path, **options: Any) -> Talker:
    """A `ServedModel` for a url, a `LocalModel` for anything else; `options` are theirs.

    Raises:
        ValueError: constrained decoding is asked of a server.
    """
    if str(name).startswith(("http://", "https://")):
        if options.pop("constrained", False):
            raise ValueError(f"{name} is a server, but only a local model can be constrained: leave it out.")
        return ServedModel(str(name), **options)
    return LocalModel(name, **options)
