"""The model of LoFi: SigLIP's encoders, 64 attention-pooling queries, and a light language model.

Source: "LoFi: Location-Aware Fine-Grained Representation Learning for Chest X-ray", section 2. The paper starts from
SigLIP2-400M and Gemma-3-270M; checkpoints of SigLIP2 with a fixed resolution are of the class `SiglipModel`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.system.extras import optional_imports, require
from policies.lofi.text import PackedExchanges
from policies.lofi.vision import IMAGE_LAYERS, PATCH_SIZE, SMALL_TOWER, ConvolutionalStem

with optional_imports("llm", "LoFi"):
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, SiglipConfig, SiglipModel

N_QUERIES = 64
ENCODERS = "encoders."
"""Prefix of the weights of the encoders in a `LofiModel`; the others serve the language model."""
_IMAGE = -2
"""Exchange number of the image tokens; padding has -1."""
_INITIAL_TEMPERATURE, _INITIAL_BIAS = 10.0, -10.0
_LANGUAGE_STD = 0.08
"""Standard deviation of the initial weights of a small language model: about its width to the power of -1/2."""
_ENCODER_LAYERS = r".*encoder\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|out_proj)"
_LANGUAGE_LAYERS = r".*self_attn\.(q_proj|v_proj)"


@dataclass(frozen=True)
class LofiInputs:
    """A batch.

    Attributes:
        images: ``(n, 3, s, s)`` from `as_pixels`.
        texts: ``(n, 64)`` token ids of the text of each image, padded.
        exchanges: the exchanges with the language model, in rows of one image each.
    """

    images: Tensor
    texts: Tensor
    exchanges: PackedExchanges

    def to(self, device: torch.device) -> LofiInputs:
        """Returns the batch on a device."""
        return LofiInputs(self.images.to(device), self.texts.to(device), self.exchanges.to(device))


@dataclass(frozen=True)
class LofiOutputs:
    """What the losses need.

    Attributes:
        images: ``(n, d)`` embeddings of length 1.
        texts: ``(n, d)`` embeddings of length 1.
        temperature: factor of the similarities.
        bias: added to the similarities.
        logits: ``(k, v)`` scores where a target token is predicted.
        targets: ``(k,)`` the target tokens.
        sequences: ``(k,)`` the exchange of each.
    """

    images: Tensor
    texts: Tensor
    temperature: Tensor
    bias: Tensor
    logits: Tensor
    targets: Tensor
    sequences: Tensor


class AttentionPooling(nn.Module):
    """Pools the tokens of an image into 64 by attention from learnt queries.

    Args:
        width: width of the image tokens.
        heads: number of heads.
        queries: number of queries.
    """

    def __init__(self, width: int, heads: int, queries: int = N_QUERIES) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, queries, width) * width**-0.5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps image tokens ``(n, p, d)`` to ``(n, queries, d)``."""
        probe = self.probe.expand(len(tokens), -1, -1)
        pooled: Tensor = self.norm(probe + self.attention(probe, tokens, tokens, need_weights=False)[0])
        return pooled


class LofiModel(nn.Module):
    """Encoders of images and texts, and a language model that sees the image as 64 tokens.

    Args:
        encoders: image and text encoder.
        language: causal language model.
        queries: number of image tokens.
    """

    def __init__(self, encoders: SiglipModel, language: Gemma3ForCausalLM, queries: int = N_QUERIES) -> None:
        super().__init__()
        vision, text = encoders.config.vision_config, language.config
        self.encoders, self.language = encoders, language
        self.pooling = AttentionPooling(vision.hidden_size, vision.num_attention_heads, queries)
        self.projection = nn.Linear(vision.hidden_size, text.hidden_size)

    @property
    def image_size(self) -> int:
        """Side of the images of the encoder's position embeddings, pixels."""
        return int(self.encoders.config.vision_config.image_size)

    def image_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images ``(n, 3, s, s)`` to embeddings ``(n, d)`` of length 1 and the tokens ``(n, p, d)``."""
        found = self.encoders.vision_model(
            pixel_values=images, interpolate_pos_encoding=images.shape[-1] != self.image_size
        )
        return functional.normalize(found.pooler_output, dim=-1), found.last_hidden_state

    def text_features(self, texts: Tensor) -> Tensor:
        """Maps token ids ``(n, t)`` to embeddings ``(n, d)`` of length 1. As in SigLIP, padding is attended to."""
        pooled = self.encoders.text_model(input_ids=texts).pooler_output
        return functional.normalize(pooled, dim=-1)

    def image_tokens(self, tokens: Tensor) -> Tensor:
        """Maps image tokens of the encoder to those of the language model, ``(n, 64, h)``."""
        projected: Tensor = self.projection(self.pooling(tokens))
        return projected

    def forward(self, inputs: LofiInputs) -> LofiOutputs:
        """Computes embeddings, and the scores of the target tokens."""
        images, tokens = self.image_features(inputs.images)
        texts = self.text_features(inputs.texts)
        temperature, bias = self.encoders.logit_scale.exp(), self.encoders.logit_bias
        packed = inputs.exchanges
        rows, columns = packed.is_target.nonzero(as_tuple=True)
        if packed.tokens.shape[1]:
            hidden = self._hidden(self.image_tokens(tokens), packed)
            # The token before predicts; only these need scores over a large vocabulary.
            logits = self.language.lm_head(hidden[rows, hidden.shape[1] - packed.tokens.shape[1] + columns - 1])
        else:
            logits = images.new_zeros(0, self.language.config.vocab_size)
        targets, sequences = packed.tokens[rows, columns], packed.numbers[rows, columns]
        return LofiOutputs(images, texts, temperature, bias, logits, targets, sequences)

    def _hidden(self, image_tokens: Tensor, packed: PackedExchanges) -> Tensor:
        """Returns the language model's states ``(n, q + t, h)`` of image tokens ``(n, q, h)`` and exchanges.

        The image tokens are computed once. Each exchange follows them as if it were the only one.
        """
        words = self.language.get_input_embeddings()(packed.tokens)
        embeddings = torch.cat([image_tokens.to(words.dtype), words], 1)
        n, queries = image_tokens.shape[:2]
        before = torch.arange(queries, device=words.device).expand(n, -1)
        positions = torch.cat([before, queries + packed.positions], 1)
        numbers = torch.cat([before.new_full((n, queries), _IMAGE), packed.numbers], 1)
        order = torch.arange(positions.shape[1], device=words.device)
        is_earlier = order[:, None] >= order
        is_seen = (numbers[:, None] == _IMAGE) | (numbers[:, :, None] == numbers[:, None])
        is_near = positions[:, :, None] - positions[:, None] < self.language.config.sliding_window
        masks = {"full_attention": is_earlier & is_seen, "sliding_attention": is_earlier & is_seen & is_near}
        least = torch.finfo(embeddings.dtype).min
        added = {
            name: torch.zeros(mask.shape, dtype=embeddings.dtype, device=mask.device).masked_fill(~mask, least)[:, None]
            for name, mask in masks.items()
        }
        states: Tensor = self.language.model(
            inputs_embeds=embeddings, attention_mask=added, position_ids=positions
        ).last_hidden_state
        return states


def as_pixels(images: NDArray[np.uint8], size: int) -> Tensor:
    """Converts greyscale images ``(n, s, s)`` to the encoder's input ``(n, 3, size, size)``, -1 to 1."""
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(f"images are {images.shape}, expected square greyscale images (n, s, s).")
    grey = torch.as_tensor(np.ascontiguousarray(images))[:, None].float() / 127.5 - 1
    if grey.shape[-1] > size:
        grey = functional.interpolate(grey, (size, size), mode="area")
    elif grey.shape[-1] < size:
        grey = functional.interpolate(grey, (size, size), mode="bilinear")
    return grey.expand(-1, 3, -1, -1)


def build_model(
    encoders: Mapping[str, Any], language: Mapping[str, Any], queries: int = N_QUERIES, seed: int = 0
) -> LofiModel:
    """Builds a model with random weights from the configurations of its parts, which are JSON values.

    A `ConvolutionalStem` takes the place of SigLIP's patch embedding. Temperature and bias begin at 10 and -10, as in
    SigLIP: almost all pairs of a batch are negative.
    """
    torch.manual_seed(seed)
    found = SiglipModel(SiglipConfig(**encoders))
    nn.init.constant_(found.logit_scale, math.log(_INITIAL_TEMPERATURE))
    nn.init.constant_(found.logit_bias, _INITIAL_BIAS)
    found.vision_model.embeddings.patch_embedding = ConvolutionalStem(found.config.vision_config.hidden_size)
    return LofiModel(found, Gemma3ForCausalLM(Gemma3TextConfig(**language)), queries)


def small_configs(vocabulary: int, stops: Mapping[str, int], image_size: int = 128) -> tuple[dict[str, Any], ...]:
    """Returns the configurations of a small model that two CPU cores can train: encoders and language model.

    Args:
        vocabulary: number of tokens.
        stops: ids of ``bos_token_id``, ``eos_token_id`` and ``pad_token_id``.
        image_size: side of the images, pixels; a multiple of 16.
    """
    text = {**SMALL_TOWER, "num_hidden_layers": 2, "vocab_size": vocabulary, "max_position_embeddings": 64,
            "projection_size": 128, **stops}  # fmt: skip
    language = {
        "vocab_size": vocabulary, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "query_pre_attn_scalar": 32,
        "max_position_embeddings": 512, "sliding_window": 512, "initializer_range": _LANGUAGE_STD, **stops,
    }  # fmt: skip
    return {
        "vision_config": {
            **SMALL_TOWER,
            "num_hidden_layers": IMAGE_LAYERS,
            "image_size": image_size,
            "patch_size": PATCH_SIZE,
        },
        "text_config": text,
    }, language


def add_adapters(model: LofiModel, encoder_rank: int, language_rank: int) -> None:
    """Adds LoRA and freezes all other weights of the pretrained parts.

    Rank ``encoder_rank`` on query, key, value and output of both encoders, and ``language_rank`` on query and value of
    the language model. The scale of LoRA is 1 (``lora_alpha`` is the rank), which the paper does not name. Pooling,
    projection, temperature and bias are trained.

    Raises:
        MissingExtraError: peft is not installed.
    """
    peft = require("peft", "llm", "LoRA")
    for part, rank, layers in (
        (model.encoders, encoder_rank, _ENCODER_LAYERS), (model.language, language_rank, _LANGUAGE_LAYERS)
    ):  # fmt: skip
        part.requires_grad_(False)
        peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=layers), part)
    model.encoders.logit_scale.requires_grad_(True)
    model.encoders.logit_bias.requires_grad_(True)


def trained_tensors(model: LofiModel) -> dict[str, Tensor]:
    """Returns the weights that training changes, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}
