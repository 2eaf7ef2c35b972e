"""Keeps text from being read as control tokens by the tokenizer of a local model.

A tokenizer maps the text of a control token to the token itself, wherever it stands: feedback of a person or an answer
of a model could end a turn, begin one of another role, or take the place of an image. Here the tokenizer is asked which
parts of a text it would read so, and the finished prompt is compared with one whose texts are neutral.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from carm_env.chat_models.interface import ModelError
from carm_env.language.chat import Message
from carm_env.language.control_tokens import find_control_token

_ROUNDS = 8
_NEUTRAL = "x"


class PromptGuard:
    """Escapes and checks the conversations of one model.

    Args:
        processor: processor of the model, with its tokenizer and chat template.
    """

    def __init__(self, processor: Any) -> None:
        self._processor, self._tokenizer = processor, processor.tokenizer
        self._tokens = control_tokens(processor)
        self._neutral_counts: dict[Any, Counter[int]] = {}

    def escape(self, messages: Sequence[Message]) -> list[Message]:
        """Returns messages whose texts hold no control token of the tokenizer."""
        return [
            {**message, "content": [
                {**part, "text": self._escaped(part["text"])} if part["type"] == "text" else part
                for part in message["content"]
            ]}
            for message in messages
        ]  # fmt: skip

    def check(self, messages: Sequence[Message]) -> None:
        """Checks that the texts of messages add no turn and no image to the prompt.

        Raises:
            ModelError: the prompt has other control tokens than one with the same messages and neutral texts.
        """
        shape = tuple((message["role"], tuple(part["type"] for part in message["content"])) for message in messages)
        if shape not in self._neutral_counts:
            neutral = [{**message, "content": [
                {**part, "text": _NEUTRAL} if part["type"] == "text" else part for part in message["content"]
            ]} for message in messages]  # fmt: skip
            self._neutral_counts[shape] = self._counts(neutral)
        if self._counts(messages) != self._neutral_counts[shape]:
            raise ModelError(
                "a text of the conversation changes its turns or images in the chat template of this model: leave out "
                "text that looks like the markers of the template."
            )

    def _counts(self, messages: Sequence[Message]) -> Counter[int]:
        prompt = self._processor.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        return Counter(token for token in self._encode(prompt) if token in self._tokens)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _escaped(self, text: str) -> str:
        for _ in range(_ROUNDS):
            spans = self._spans(text)
            if not spans:
                return text
            for start, end in reversed(spans):
                token = text[start:end].strip()
                text = text[:start] + (f"{token[0]} {token[1:]}" if len(token) > 1 else " ") + text[end:]
        # Spaces do not separate it: this tokenizer ignores them.
        for start, end in reversed(self._spans(text)):
            text = f"{text[:start]} {text[end:]}"
        return text

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Returns where the tokenizer reads control tokens in a text."""
        if not getattr(self._tokenizer, "is_fast", False):
            tokens = "|".join(map(re.escape, sorted(self._tokens.values(), key=len, reverse=True)))
            return [found.span() for found in re.finditer(tokens, text)]
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [(start, end) for token, (start, end) in pairs if token in self._tokens and end > start]


def control_tokens(processor: Any) -> dict[int, str]:
    """Returns the control tokens of a processor: ids and texts."""
    tokenizer = processor.tokenizer
    found = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    for key, token in tokenizer.added_tokens_decoder.items():
        if getattr(token, "special", True) or find_control_token(str(token)):
            found[int(key)] = str(token)
    for owner in (processor, tokenizer):
        for name in ("image_token", "boi_token", "eoi_token", "video_token", "audio_token", "fake_image_token"):
            token = getattr(owner, name, None)
            if isinstance(token, str) and token:
                found[int(tokenizer.convert_tokens_to_ids(token))] = token
    # Unknown characters are read as this one.
    found.pop(tokenizer.unk_token_id, None)
    return found
