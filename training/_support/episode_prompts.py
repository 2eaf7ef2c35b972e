"""Conversations of whole episodes as tokens, through chat templates that take the results of tools.

TRL refuses chat templates without tools. Gemma-3's raises on the role ``tool``, and Qwen2.5-VL's drops tool calls.
`with_tool_turns` puts a template of our own before that of the model, which turns tool results into user turns: the
prompt of a training is then token for token that of fine-tuning and of inference.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from carm_env.language.chat import Message
from carm_env.system.extras import optional_imports
from policies.prompt_safety import PromptGuard, control_tokens

with optional_imports("llm", "Reinforcement learning of a language model"):
    import torch
    from torch import Tensor

_TOOL_TURNS = Path(__file__).parents[1] / "chat_templates" / "tool_turns.jinja"
_RESPONSE: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": r"\Z",
    "fields": {"content": {"content": "text"}},
}
"""A response is text as a whole: the environment parses it, and an answer that cannot be parsed is answered."""
_TYPE_IDS = ("token_type_ids", "mm_token_type_ids")
IMAGE_INPUTS = ("pixel_values", "image_grid_thw", "image_position_ids", "pixel_attention_mask", "image_sizes")
_LOWEST_BIAS = -100.0
_DUMMY = [{"role": "user", "content": [{"type": "text", "text": "x"}]},
          {"role": "assistant", "content": [{"type": "text", "text": "x"}]}]  # fmt: skip


def with_tool_turns(processor: Any) -> Any:
    """Returns a copy of a processor for TRL's environments; the given one stays as it is, to be saved with the model.

    Args:
        processor: processor with a chat template for user and assistant turns with images.
    """
    ours = copy.copy(processor)
    ours.tokenizer = copy.copy(processor.tokenizer)
    ours.tokenizer.padding_side = "left"
    ours.tokenizer.response_template = _RESPONSE
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template["default"]
    ours.chat_template = ours.tokenizer.chat_template = _TOOL_TURNS.read_text(encoding="utf-8").rstrip("\n") + template
    return ours


@dataclass(frozen=True)
class Encoded:
    """Prompts as tokens.

    Attributes:
        ids: tokens of each prompt, with those of its images.
        images: images of each prompt.
        fields: further inputs of the model: pixel values of all images, types of the tokens of each prompt, ...
    """

    ids: list[list[int]]
    images: list[list[Any]]
    fields: dict[str, Any] = field(default_factory=dict)


class PromptEncoder:
    """Encodes conversations as inference does (`policies.local_model.LocalModel`).

    Args:
        processor: from `with_tool_turns`.
        image_token: id of the token that stands for a part of an image.
        stops: ids of the tokens that end an answer.

    Attributes:
        type_key: name of the model's input for the types of tokens; None if it has none, or before `encode`.
    """

    def __init__(self, processor: Any, image_token: int, stops: Sequence[int]) -> None:
        self.processor, self.image_token, self.stops = processor, image_token, frozenset(stops)
        self.type_key: str | None = None
        self._guard = PromptGuard(processor)

    def encode(self, conversations: Sequence[Sequence[Message]]) -> Encoded:
        """Encodes conversations as prompts for the next answer."""
        found = self.processor.apply_chat_template(
            [self._guard.escape(messages) for messages in conversations],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        )  # fmt: skip
        masks = found["attention_mask"].bool()
        ids = [row[mask].tolist() for row, mask in zip(found["input_ids"], masks, strict=True)]
        fields = {key: value for key, value in found.items() if key not in ("input_ids", "attention_mask", *_TYPE_IDS)}
        self.type_key = next((key for key in _TYPE_IDS if key in found), None)
        if self.type_key:
            fields[self.type_key] = [self.types(row) for row in ids]
        return Encoded(ids, [images_of(messages) for messages in conversations], fields)

    def types(self, ids: Sequence[int]) -> list[int]:
        """Returns 1 for each token of an image, and 0 for others."""
        return [int(token == self.image_token) for token in ids]

    def turn(self, message: Message, after_end: bool = True) -> list[int]:
        """Returns the tokens between an answer and the next one, if a user turn is added to the history.

        TRL cuts at the tokenizer's own end of a text, which is not the end of a turn in Gemma's templates, and so
        loses the line break after an answer.

        Args:
            message: the user turn.
            after_end: whether the answer has ended; otherwise the token that ends it comes first.
        """
        before = self.encode_history(_DUMMY)
        whole = self.encode([[*_DUMMY, message]]).ids[0]
        last = max(index for index, token in enumerate(before) if token in self.stops)
        if whole[: last + 1] != before[: last + 1]:
            raise ValueError("the chat template of this model renders earlier turns differently when one is added.")
        return whole[last + after_end :]

    def encode_history(self, messages: Sequence[Message]) -> list[int]:
        """Returns the tokens of a conversation without images that ends with an answer."""
        text = self.processor.apply_chat_template(list(messages), tokenize=False)
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns an answer as the environment receives it."""
        text: str = self.processor.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def image_fields(self, images: Sequence[Any]) -> dict[str, Tensor]:
        """Returns the model's inputs for images: tensors, also where the image processor gives lists."""
        found = self.processor.image_processor(images=list(images), return_tensors="pt")
        # The number of crops of Gemma-3 is for its processor, and no input of the model.
        return {key: torch.as_tensor(np.asarray(value)) for key, value in found.items() if key in IMAGE_INPUTS}


def images_of(messages: Sequence[Message]) -> list[Any]:
    """Returns the images of a conversation, in order."""
    return [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]


def suppressed_tokens(processor: Any, stops: Sequence[int]) -> list[int]:
    """Returns the ids of the tokens that an answer must not have: all control tokens but those that end it.

    TRL suppresses the token of an image only; a marker of a video, for instance, makes Qwen2.5-VL fail.
    """
    return sorted(set(control_tokens(processor)) - set(stops))


def suppressed_in_vllm(processor: Any, stops: Sequence[int]) -> dict[str, Any]:
    """Returns vLLM's sampling parameters that suppress the same tokens: its lowest bias of logits."""
    return {"logit_bias": dict.fromkeys(suppressed_tokens(processor, stops), _LOWEST_BIAS)}
