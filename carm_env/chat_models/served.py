"""Chat models behind a server, with the official clients of OpenAI's and Anthropic's protocols.

``vllm serve``, SGLang, ``trl vllm-serve``, llama.cpp and Ollama speak OpenAI's protocol as well.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from carm_env.chat_models.interface import Generation, ModelError
from carm_env.chat_models.messages import anthropic_messages, openai_messages
from carm_env.chat_models.specification import ModelSpecification
from carm_env.language.chat import Message
from carm_env.language.patterns import answer_pattern
from carm_env.language.prompts import STYLES
from carm_env.language.schemas import answer_schema
from carm_env.system.extras import require

_NO_KEY = "none"
_LONGEST_QUOTATION = 200
_FULL = STYLES[0]


class ServedModel:
    """A chat model behind a server.

    Requests run concurrently on one event loop, also when several threads call `generate`. Dropped connections,
    timeouts and the statuses 408, 409, 429 and 5xx are tried again with increasing pauses by the client.

    Args:
        specification: the model; its `url` is set.

    Attributes:
        style: style of the prompts.

    Raises:
        MissingExtraError: the client of the protocol is not installed (extra ``serve``).
        ModelError: the environment variable that the specification names holds no key.
    """

    def __init__(self, specification: ModelSpecification) -> None:
        self.specification = specification
        self.style = specification.style or _FULL
        self._seed: int | None = specification.seed
        self._protocol = _PROTOCOLS[specification.api](specification)
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(specification.concurrency)
        threading.Thread(target=self._loop.run_forever, name="served model", daemon=True).start()

    def for_episode(self) -> ServedModel:
        """Returns a model with the same connections and its own seed."""
        return copy.copy(self)

    def seed(self, value: int) -> None:
        """Sends this seed with every request that samples, unless the specification has one."""
        if self.specification.seed is None:
            self._seed = value

    def generate(self, conversations: Sequence[Sequence[Message]], kind: str) -> list[Generation]:
        """Answers each conversation with concurrent requests.

        Raises:
            ModelError: the server cannot be reached, refuses the request, or does not speak the protocol.
        """
        answers = asyncio.run_coroutine_threadsafe(self._generate(conversations, kind, self._seed), self._loop)
        try:
            return answers.result()
        except BaseException:
            answers.cancel()
            raise

    def complete(self, messages: Sequence[Message], options: Mapping[str, Any]) -> Completion:
        """Answers one conversation with further options of OpenAI's protocol, such as ``logprobs``.

        Raises:
            ModelError: as `generate`; or the protocol is another one.
        """
        if not isinstance(self._protocol, _OpenAI):
            raise ModelError(
                f"{self.specification.url} is a server of the protocol {self.specification.api}, which gives no "
                "probabilities of tokens: use a server of OpenAI's protocol."
            )
        task = asyncio.run_coroutine_threadsafe(self._complete(self._protocol, messages, options), self._loop)
        try:
            return task.result()
        except BaseException:
            task.cancel()
            raise

    async def _complete(self, protocol: _OpenAI, messages: Sequence[Message], options: Mapping[str, Any]) -> Completion:
        async with self._slots:
            started = time.perf_counter()
            raw, reply = await protocol.send(messages, "", None, options)
            seconds = time.perf_counter() - started
        cost = self._cost(reply)
        return Completion(reply.text, reply.tokens, reply.prompt_tokens, seconds, cost, reply.model, raw)

    def _cost(self, reply: _Reply) -> float:
        prices = self.specification
        whole = (
            reply.prompt_tokens * prices.price_per_million_input_tokens
            + reply.tokens * prices.price_per_million_output_tokens
        )
        return whole / 1e6

    async def _generate(
        self, conversations: Sequence[Sequence[Message]], kind: str, seed: int | None
    ) -> list[Generation]:
        return list(await asyncio.gather(*(self._ask(messages, kind, seed) for messages in conversations)))

    async def _ask(self, messages: Sequence[Message], kind: str, seed: int | None) -> Generation:
        async with self._slots:
            started = time.perf_counter()
            _, reply = await self._protocol.send(messages, kind, seed)
            seconds = time.perf_counter() - started
        return Generation(
            reply.text, reply.tokens, seconds, reply.prompt_tokens, self._cost(reply), reply.model, reply.is_cut_off
        )


@dataclass(frozen=True)
class Completion:
    """A reply to one conversation.

    Attributes:
        text: the answer.
        tokens: number of generated tokens.
        prompt_tokens: number of tokens of the conversation.
        seconds: time that the reply took.
        cost: price in the currency of the specification's prices.
        model: name of the model that answered.
        raw: the reply as the client of the protocol gives it.
    """

    text: str
    tokens: int
    prompt_tokens: int
    seconds: float
    cost: float
    model: str
    raw: Any


@dataclass(frozen=True)
class _Reply:
    text: str
    prompt_tokens: int
    tokens: int
    model: str
    is_cut_off: bool


class _Protocol(ABC):
    """A protocol: how a conversation is sent, and how the reply is read."""

    package: str
    key_variable: str

    def __init__(self, specification: ModelSpecification) -> None:
        self.specification = specification
        self.module = require(self.package, "serve", "A model behind a server")
        variable = specification.api_key_variable or self.key_variable
        key = os.environ.get(variable, "")
        if specification.api_key_variable and not key:
            raise ModelError(f"the environment variable {variable} is not set, expected the key of the server's API.")
        self.variable, self._key = variable, key
        self.client = self.make_client(key or _NO_KEY)

    @abstractmethod
    def make_client(self, key: str) -> Any:
        """Returns the asynchronous client."""

    @abstractmethod
    async def request(self, messages: Sequence[Message], kind: str, seed: int | None, more: Mapping[str, Any]) -> Any:
        """Sends a conversation with `more` options of the protocol, and returns the client's reply."""

    @abstractmethod
    def read(self, reply: Any) -> _Reply:
        """Returns what the server answered; raises any error for a malformed reply."""

    async def send(
        self, messages: Sequence[Message], kind: str, seed: int | None, more: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[Any, _Reply]:
        """Sends a conversation; returns the client's reply and what it says; raises ModelError."""
        model, server = self.specification.name, self.specification.url
        try:
            reply = await self.request(messages, kind, seed, more)
        except (self.module.AuthenticationError, self.module.PermissionDeniedError) as error:
            raise ModelError(f"{server} refuses the key in {self.variable} ({self._short(error)}).") from error
        except self.module.NotFoundError as error:
            raise ModelError(
                f"{server} has no model {model!r} ({self._short(error)}). Check the model's name, and that the URL "
                "ends with the version, such as /v1."
            ) from error
        except self.module.APIStatusError as error:
            if error.status_code >= 500 or error.status_code in (408, 409, 429):
                failed = f"{server} answered {self._attempts} with status {error.status_code} ({self._short(error)})."
                raise ModelError(f"{failed} Finished episodes are kept: continue with --resume.") from error
            raise ModelError(
                f"{server} refuses the request with status {error.status_code} ({self._short(error)}). Change the "
                "model's settings."
            ) from error
        except self.module.APIConnectionError as error:
            raise ModelError(
                f"{server} did not answer {self._attempts} ({self._short(error)}). Is the server running? "
                "Finished episodes are kept: continue with --resume."
            ) from error
        except (self.module.APIError, ValueError, TypeError) as error:
            raise ModelError(f"{server} answered with something else than JSON ({self._short(error)}).") from error
        # Some servers report an error with the status of success.
        if message := _field(reply, "error"):
            raise ModelError(
                f"{server} answered with an error ({self._short(message)}). Finished episodes are kept: continue with "
                "--resume."
            )
        try:
            return reply, self.read(reply)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ModelError(
                f"{server} answered {self._short(reply)}, expected a reply of the {self.specification.api} protocol: "
                "check that the URL ends with the version, such as /v1, and the setting api."
            ) from error

    @property
    def _attempts(self) -> str:
        count = 1 + self.specification.retries
        return f"{count} attempt{'s' if count > 1 else ''}"

    def _short(self, value: Any) -> str:
        """Returns the beginning of what a server said, without the key, which some servers repeat."""
        text = " ".join(str(value).split()).removesuffix(".") or type(value).__name__
        if self._key:
            text = text.replace(self._key, "(the key)")
        return text if len(text) <= _LONGEST_QUOTATION else f"{text[:_LONGEST_QUOTATION]}..."


class _OpenAI(_Protocol):
    package, key_variable = "openai", "OPENAI_API_KEY"

    def make_client(self, key: str) -> Any:
        own = self.specification
        return self.module.AsyncOpenAI(
            api_key=key, base_url=own.url, timeout=own.timeout_s, max_retries=own.retries
        )  # fmt: skip

    async def request(self, messages: Sequence[Message], kind: str, seed: int | None, more: Mapping[str, Any]) -> Any:
        own = self.specification
        options: dict[str, Any] = {own.max_tokens_field: own.max_tokens}
        if own.temperature is not None:
            options["temperature"] = own.temperature
        if own.temperature != 0 and seed is not None:
            options["seed"] = seed
        if own.structure == "json" and kind:
            schema = {"name": kind, "schema": answer_schema(kind), "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif own.structure == "regex" and kind:
            options["extra_body"] = {"guided_regex": answer_pattern(kind)}
        sent = openai_messages(messages)
        return await self.client.chat.completions.create(model=own.name, messages=sent, **{**options, **more})

    def read(self, reply: Any) -> _Reply:
        usage = reply.usage
        counts = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
        if not isinstance(reply.choices, list):
            raise TypeError(f"its choices are {reply.choices!r}")
        if not reply.choices:
            return _Reply("", *counts, _name(reply), False)
        choice = reply.choices[0]
        text = _text(choice.message.content or getattr(choice.message, "refusal", None) or "")
        return _Reply(text, *counts, _name(reply), choice.finish_reason == "length")


class _Anthropic(_Protocol):
    package, key_variable = "anthropic", "ANTHROPIC_API_KEY"

    def make_client(self, key: str) -> Any:
        own = self.specification
        # The client adds the version to the path of every request.
        base = own.url.rstrip("/").removesuffix("/v1")
        return self.module.AsyncAnthropic(
            api_key=key, base_url=base, timeout=own.timeout_s, max_retries=own.retries
        )  # fmt: skip

    async def request(self, messages: Sequence[Message], kind: str, seed: int | None, more: Mapping[str, Any]) -> Any:
        own = self.specification
        system, turns = anthropic_messages(messages)
        options: dict[str, Any] = {}
        if own.structure == "json":
            options["output_config"] = {"format": {"type": "json_schema", "schema": answer_schema(kind)}}
        if own.temperature:
            # Not sent if it is 0, because some models of this protocol take no temperature.
            options["extra_body"] = {"temperature": own.temperature}
        return await self.client.messages.create(
            model=own.name, system=system, messages=turns, max_tokens=own.max_tokens, **options
        )  # fmt: skip

    def read(self, reply: Any) -> _Reply:
        text = "".join(_text(part.text) for part in reply.content if part.type == "text")
        counts = (reply.usage.input_tokens or 0, reply.usage.output_tokens or 0)
        return _Reply(text, *counts, _name(reply), reply.stop_reason == "max_tokens")


_PROTOCOLS: dict[str, type[_Protocol]] = {"openai": _OpenAI, "anthropic": _Anthropic}


def _text(content: Any) -> str:
    # Some servers answer with parts, of which one may be reasoning.
    if isinstance(content, list):
        return "".join(_text(part["text"]) for part in content if part["type"] == "text")
    if not isinstance(content, str):
        raise TypeError(f"its content is a {type(content).__name__}")
    return content


def _name(reply: Any) -> str:
    name = _field(reply, "model")
    return name if isinstance(name, str) else ""


def _field(reply: Any, name: str) -> Any:
    """Returns a field that a reply may lack, also if it is something else than a reply."""
    return getattr(reply, name, None)
