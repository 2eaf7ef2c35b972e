"""The embedded vision-language model: Gemma-3's own class, a few million parameters, and its own tokenizer.

The language model is a stock `Gemma3ForConditionalGeneration`; its vision tower is a trained displacement network
(`policies/vision_tower.py`). Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.landmarks import LANDMARKS
from carm_env.language.reasons import MIDDLE_NAME, in_sentence
from carm_env.system.extras import optional_imports
from policies.networks import find_architecture
from policies.vision_tower import N_IMAGE_TOKENS, LandmarkVisionConfig, register

with optional_imports("llm", "A language model"):
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from torch import Tensor, nn
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessorPil,
        Gemma3Processor,
        PreTrainedTokenizerFast,
    )

_IMAGE_TOKENS_PER_SIDE = 4
_HEAD_SIZE = 32
SPECIAL_TOKENS = (
    "<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>",
    "<image_soft_token>",
)  # fmt: skip
_NAMES = "|".join(
    sorted(
        {
            re.escape(form)
            for item in LANDMARKS
            for name in (item.name, *item.synonyms)
            for form in (name, in_sentence(name))
        }
        | {re.escape(MIDDLE_NAME)},
        key=lambda name: (-len(name), name),
    )
)
PIECES = (
    rf"</?[a-z_0-9]+>\s*(?=<|$)|</?[a-z_0-9]+>|\b(?:{_NAMES})\b|(?:(?!\b(?:{_NAMES})\b)[A-Za-z_' ,.:?])+|[0-9]|\s|."
)
"""Tags, landmark names and the text between them: each can become one token, so that an answer is a few tokens."""
_ROLES, _ROLE_REPEATS = ("system", "user", "model"), 1000
CHAT_TEMPLATE = (
    "{{ bos_token }}{%- for message in messages %}"
    "{%- set role = 'model' if message.role == 'assistant' else message.role %}"
    "{{- '<start_of_turn>' + role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}"
    "{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- '<start_of_image>' }}"
    "{%- elif part.type == 'text' %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{%- endif %}{{- '<end_of_turn>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"
)


def build_tokenizer(corpus: Iterable[str], vocabulary: int = 2500, pieces: str = PIECES) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer; a landmark name, or a tag with the white space after it, is one piece.

    Args:
        corpus: texts like those that the model will read and write.
        vocabulary: maximum number of tokens.
        pieces: regular expression of the pieces that a token does not reach beyond.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain(corpus, _ROLES * _ROLE_REPEATS), trainer)
    result = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
        padding_side="left",
        extra_special_tokens={
            "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>",
        },
    )  # fmt: skip
    result.chat_template = CHAT_TEMPLATE
    return result


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    backbone: Mapping[str, Tensor] | None = None,
    architecture: str = "medium",
    hidden: int = 192,
    layers: int = 4,
    seed: int = 0,
    isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM,
) -> tuple[nn.Module, Any]:
    """Builds the model, with random weights except for its backbone, and its processor.

    Args:
        tokenizer: from `build_tokenizer`.
        backbone: weights of a displacement network of the architecture.
        architecture: architecture of the vision tower.
        hidden: width of the language model; a multiple of 32.
        layers: layers of the language model.
        seed: seed of the weights.
        isocenter_depth_mm: depth of the isocentre in the images of the backbone.
    """
    register()
    size = find_architecture(architecture).image_size
    tower = LandmarkVisionConfig(
        hidden_size=hidden, image_size=size, patch_size=size // _IMAGE_TOKENS_PER_SIDE, architecture=architecture,
        isocenter_depth_mm=isocenter_depth_mm,
    )  # fmt: skip
    model, processor = assemble(tokenizer, tower, N_IMAGE_TOKENS, layers, seed)
    with torch.no_grad():
        _align_names(model, tokenizer)
    if backbone is not None:
        model.model.vision_tower.backbone.load_state_dict(dict(backbone))
    return model, processor


def assemble(
    tokenizer: PreTrainedTokenizerFast, tower: Any, image_tokens: int, layers: int, seed: int
) -> tuple[Any, Any]:
    """Builds a small Gemma-3 with random weights around a vision tower, and its processor.

    Args:
        tokenizer: from `build_tokenizer`.
        tower: configuration of the vision tower, with `hidden_size`, the width of the language model, `image_size`,
            and `patch_size`.
        image_tokens: number of image tokens, a square number.
        layers: layers of the language model.
        seed: seed of the weights.
    """
    hidden, size = int(tower.hidden_size), int(tower.image_size)
    ids = tokenizer.convert_tokens_to_ids
    stops = [ids("<eos>"), ids("<end_of_turn>")]
    heads = hidden // _HEAD_SIZE
    config = Gemma3Config(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": hidden, "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads,
            "head_dim": _HEAD_SIZE, "query_pre_attn_scalar": _HEAD_SIZE, "max_position_embeddings": 4096,
            "sliding_window": 1024,
            "bos_token_id": ids("<bos>"), "eos_token_id": ids("<eos>"), "pad_token_id": ids("<pad>"),
        },
        vision_config=tower,
        mm_tokens_per_image=image_tokens,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
        eos_token_id=stops,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Gemma3ForConditionalGeneration(config)
    with torch.no_grad():
        # The stock projection begins with zeros, which would hide the image from the language model.
        nn.init.eye_(model.model.multi_modal_projector.mm_input_projection_weight)
    model.generation_config.eos_token_id = stops
    model.generation_config.pad_token_id = ids("<pad>")
    image_processor = Gemma3ImageProcessorPil(size={"height": size, "width": size})
    processor = Gemma3Processor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
        image_seq_length=image_tokens,
    )
    return model, processor


def _align_names(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Gives all names of a landmark one embedding, and adds it to the landmark's image token, to be found by it."""
    embeddings, image_tokens = model.get_input_embeddings().weight, model.model.vision_tower.position_embedding
    for item in LANDMARKS:
        forms = [form for name in (item.name, *item.synonyms) for form in (name, in_sentence(name))]
        encoded = [tokenizer.encode(form, add_special_tokens=False) for form in forms]
        single = [tokens[0] for tokens in encoded if len(tokens) == 1]
        if single:
            embeddings[single] = embeddings[single[0]].clone()
            image_tokens[0, item.index] = embeddings[single[0]] / embeddings[single[0]].square().mean().sqrt()
