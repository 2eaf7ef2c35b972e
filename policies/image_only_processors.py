"""Processors of models that also take videos or sound, with their images and texts alone.

The video part of the processors of Qwen2.5-VL, Qwen3-VL and Gemma-4 cannot be loaded on a computer without torchvision.
A processor that was saved without its other parts cannot be loaded by the original class. X-rays are images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carm_env.system.extras import optional_imports
from carm_env.system.structured_files import read_json_mapping

with optional_imports("llm", "A language model"):
    from transformers import (
        Gemma4ImageProcessorPil,
        Gemma4Processor,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessorPil,
        Qwen3VLProcessor,
    )
    from transformers.processing_utils import ProcessorMixin


class _ImageOnly(ProcessorMixin):
    """Part of a processor that has images and texts only."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None) -> None:
        for name in self._tokens:
            token = getattr(tokenizer, f"{name}_token", None) or self._tokens[name]
            setattr(self, f"{name}_token", token)
            setattr(self, f"{name}_token_id", None if token is None else tokenizer.convert_tokens_to_ids(token))
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    _tokens: dict[str, str | None] = {}


_QWEN_TOKENS: dict[str, str | None] = {
    "image": "<|image_pad|>", "video": "<|video_pad|>", "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
}  # fmt: skip


class _Qwen2_5_VL(_ImageOnly, Qwen2_5_VLProcessor):  # noqa: N801
    _tokens = _QWEN_TOKENS


class _Qwen3VL(_ImageOnly, Qwen3VLProcessor):
    _tokens = _QWEN_TOKENS


class _Gemma4(_ImageOnly, Gemma4Processor):
    # No audio: a token that is None is never looked for.
    _tokens = {"image": "<|image|>", "boi": "<|image>", "eoi": "<image|>", "video": "<|video|>", "audio": "<|audio|>",
               "boa": "<|audio>", "eoa": "<audio|>"}  # fmt: skip


_KINDS = {
    "qwen2_5_vl": (_Qwen2_5_VL, Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil),
    "qwen3_vl": (_Qwen3VL, Qwen3VLProcessor, Qwen2VLImageProcessorPil),
    "gemma4": (_Gemma4, Gemma4Processor, Gemma4ImageProcessorPil),
}
for _own, _original, _ in _KINDS.values():
    # The name is saved with the processor; other programs know only the original class.
    _own.__name__ = _original.__name__


_NAMES = (
    ("processor_config.json", "processor_class"),
    ("preprocessor_config.json", "processor_class"),
    ("config.json", "model_type"),
)
"""Files of a model that may name its processor, or its kind."""


def image_only_kinds(folder: Path) -> tuple[Any, Any]:
    """Returns the class of a model's processor of images and texts alone, and the class of its image processor.

    Args:
        folder: folder of a model, or of an adapter, which has a processor and no ``config.json``.

    Raises:
        ValueError: there is none for the model's kind.
    """
    named = [_named(folder / name, key) for name, key in _NAMES]
    for kind, (own, original, image_kind) in _KINDS.items():
        if kind in named or original.__name__ in named:
            return own, image_kind
    name = next(filter(None, named), "of an unknown kind")
    raise ValueError(f"the processor {name} has parts for videos or sound, which need torchvision or missing files")


def _named(path: Path, key: str) -> str | None:
    value = read_json_mapping(path).get(key) if path.is_file() else None
    return value if isinstance(value, str) else None
