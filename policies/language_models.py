"""Multimodal language models: a local folder, an id of the hub, an adapter, or a server that speaks OpenAI's protocol.

Every model is loaded through transformers' Auto classes, so Gemma-3, MedGemma, Qwen2.5-VL and the embedded model go the
same way. Weights are read as safetensors only, and no code of a hub's repository is run.
"""

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

from carm_env.errors import MissingExtraError
from carm_env.language.chat import Message
from carm_env.language.patterns import answer_pattern
from policies.base import UnusablePolicyError
from policies.checkpoint import CheckpointError
from policies.constrained import PatternConstraint
from policies.embedded_vlm import register
from policies.networks import torch_module

SETTINGS_FILE = "carm.json"
"""Beside a model that was fine-tuned here: which prompts it knows."""
DEFAULT_STYLE = "full"
MAX_NEW_TOKENS = 512
_TIMEOUT_S = 120.0


class ModelError(UnusablePolicyError):
    """A language model that cannot be used as one that sees and talks."""


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


def load_processor(name: str | Path) -> Any:
    """The processor of a model.

    Raises:
        ModelError: it has no chat template, or none for pictures.
        MissingExtraError: transformers is not installed.
    """
    try:
        from transformers import AutoProcessor
    except ImportError as error:
        raise MissingExtraError("transformers", "llm", "a language model") from error
    register()
    try:
        processor = _load_processor(AutoProcessor, str(name))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{name} has no processor that can be loaded ({_first_line(error)}): give a local folder or the id of a "
            "model that takes pictures, and fetch it first where the hub cannot be reached."
        ) from error
    if getattr(processor, "image_processor", None) is None:
        raise ModelError(
            f"{name} has a {type(processor).__name__}, which takes no pictures: give a model that sees, such as "
            "google/gemma-3-4b-it."
        )
    if not (getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)):
        raise ModelError(f"{name} has no chat template: give the instruction-tuned model, or add its template.")
    return processor


def _load_processor(auto: Any, name: str) -> Any:
    try:
        return auto.from_pretrained(name)
    except (ImportError, OSError) as error:
        if "video processor" not in str(error) and "VideoProcessor" not in str(error):
            raise
        return _without_videos(name)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _without_videos(name: str) -> Any:
    """Qwen2.5-VL's processor without its videos, which alone need torchvision."""
    from transformers import AutoTokenizer, Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil
    from transformers.processing_utils import ProcessorMixin

    class ImageOnlyProcessor(Qwen2_5_VLProcessor):
        """Of pictures alone."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    # It is saved under the name that everybody else knows.
    ImageOnlyProcessor.__name__ = Qwen2_5_VLProcessor.__name__
    tokenizer = AutoTokenizer.from_pretrained(name)
    pictures = Qwen2VLImageProcessorPil.from_pretrained(name)
    return ImageOnlyProcessor(pictures, tokenizer, tokenizer.chat_template)


def load_model(name: str | Path, **options: Any) -> Any:
    """A model that takes pictures and text; with its adapter where `name` is the folder of one.

    Args:
        name: local folder or id of the hub.
        options: of ``from_pretrained``.

    Raises:
        ModelError: there is none, its weights are no safetensors, or an adapter's base model is missing.
        MissingExtraError: transformers or peft is not installed.
    """
    try:
        from transformers import AutoModelForImageTextToText
    except ImportError as error:
        raise MissingExtraError("transformers", "llm", "a language model") from error
    register()
    folder = Path(name)
    adapter = folder / "adapter_config.json"
    base = str(name)
    if adapter.is_file():
        try:
            base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        except (ValueError, KeyError) as error:
            raise ModelError(f"{adapter} names no base model ({error}): save the adapter again.") from error
    try:
        model = AutoModelForImageTextToText.from_pretrained(base, use_safetensors=True, **options)
    except Exception as error:  # a damaged file raises safetensors' own kind
        what = f"the base model {base} of the adapter {name}" if adapter.is_file() else str(name)
        raise ModelError(
            f"{what} cannot be loaded as a model of pictures and text ({_first_line(error)}): expected a folder or an "
            "id with config.json and safetensors; fetch it first where the hub cannot be reached."
        ) from error
    if adapter.is_file():
        model = _with_adapter(model, folder)
    return model


def _with_adapter(model: Any, folder: Path) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtraError("peft", "llm", "an adapter") from error
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors: save the adapter again, as safetensors.")
    try:
        return PeftModel.from_pretrained(model, str(folder), use_safetensors=True)
    except Exception as error:  # peft and safetensors raise many kinds
        raise ModelError(
            f"{folder} is no adapter of this base model ({_first_line(error)}): train or fetch it again."
        ) from error


def check_fit(model: Any, processor: Any, name: str | Path) -> None:
    """Refuse a processor that belongs to another model.

    Raises:
        ModelError: it marks pictures by another token, or by another number of them; the message says which.
    """
    config, vision = model.config, getattr(model.config, "vision_config", None)
    pictures = processor.image_processor
    # Gemma-3's processor calls the mark before a picture by that name, and its tokenizer the token that stands for one.
    token = getattr(processor.tokenizer, "image_token_id", None) or getattr(processor, "image_token_id", None)
    pairs = {
        "the token of a picture": (token, getattr(config, "image_token_id", None)),
        "tokens of a picture": (
            getattr(processor, "image_seq_length", None), getattr(config, "mm_tokens_per_image", None)
        ),
        "pixels of a patch": (getattr(pictures, "patch_size", None), getattr(vision, "patch_size", None)),
    }  # fmt: skip
    for what, (got, expected) in pairs.items():
        if isinstance(got, int) and isinstance(expected, int) and got != expected:
            raise ModelError(
                f"{name} has the processor of another model: {what}: {got}, but the model expects {expected}. Put the "
                "model's own processor beside it."
            )


def read_settings(name: str | Path) -> dict[str, Any]:
    """What `training/sft.py` wrote beside a model; empty for any other."""
    path = Path(name) / SETTINGS_FILE
    if not path.is_file():
        return {}
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): train or fetch it again.") from error
    return found


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
