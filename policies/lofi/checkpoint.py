"""Checkpoints of LoFi: the whole small model, or what was trained beside pretrained encoders and language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_env.chat_models.interface import ModelError
from carm_env.system.extras import optional_imports
from policies.checkpoint import CheckpointError, fill_network, load_checkpoint, save_checkpoint
from policies.lofi.model import LofiModel, add_adapters, build_model, trained_tensors
from policies.lofi.text import SMALL_STEP
from policies.model_checks import check_files, check_weights
from policies.model_folders import model_folder, without_hub

with optional_imports("llm", "LoFi"):
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoTokenizer, Gemma3ForCausalLM, PreTrainedTokenizerFast, SiglipModel

KIND = "lofi"
TOKENIZER_FILE = "tokenizer.json"
_TRUSTED: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
_MAX_TOKENIZER_BYTES = 64 << 20
_KEYS = ("queries", "image_size", "image_text_model", "language_model", "encoder_rank", "language_rank", "box_step")
_SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
_MODEL_TYPES = {"image_text_model": "siglip", "language_model": "gemma3_text"}
_EXAMPLES = {
    "image_text_model": "a SigLIP or fixed-resolution SigLIP2 model, such as google/siglip2-so400m-patch16-512",
    "language_model": "a Gemma-3 text model, such as google/gemma-3-270m",
}


@dataclass
class Lofi:
    """A model with its tokenizers.

    Attributes:
        model: the model.
        text_tokenizer: tokenizer of the text encoder.
        tokenizer: tokenizer of the language model.
        config: what a checkpoint states of it.
    """

    model: LofiModel
    text_tokenizer: Any
    tokenizer: Any
    config: dict[str, Any]

    @property
    def image_size(self) -> int:
        """Side of the images that it was trained on, pixels."""
        return int(self.config["image_size"])

    @property
    def box_step(self) -> int:
        """Coordinates of boxes are multiples of this, of 0 to 1000."""
        return int(self.config["box_step"])


def small_lofi(
    encoders: Mapping[str, Any],
    language: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerFast,
    queries: int,
    seed: int,
) -> Lofi:
    """Builds a small model with random weights; its two tokenizers are the same."""
    config = {
        "queries": queries, "image_size": encoders["vision_config"]["image_size"], "image_text_model": "",
        "language_model": "", "encoder_rank": 0, "language_rank": 0, "box_step": SMALL_STEP, "encoders": dict(encoders),
        "language": dict(language),
    }  # fmt: skip
    return Lofi(build_model(encoders, language, queries, seed), tokenizer, tokenizer, config)


def pretrained_lofi(
    image_text_model: str, language_model: str, image_size: int, ranks: tuple[int, int], queries: int
) -> Lofi:
    """Loads pretrained encoders and a language model, and adds LoRA.

    Args:
        image_text_model: folder or id of the encoders (`policies.model_folders.model_folder`).
        language_model: folder or id of the language model.
        image_size: side of the images, pixels; 0 for that of the encoders.
        ranks: rank of LoRA in the encoders and in the language model.
        queries: number of image tokens.

    Raises:
        ModelError: a model does not exist or is of another class.
    """
    encoders = _load(SiglipModel, image_text_model, "image_text_model")
    language = _load(Gemma3ForCausalLM, language_model, "language_model")
    model = LofiModel(encoders, language, queries)
    add_adapters(model, *ranks)
    config = {
        "queries": queries, "image_size": image_size or model.image_size, "image_text_model": image_text_model,
        "language_model": language_model, "encoder_rank": ranks[0], "language_rank": ranks[1],
        "box_step": 1,
    }  # fmt: skip
    return Lofi(model, _tokenizer(image_text_model), _tokenizer(language_model), config)


def _load(kind: Any, name: str, option: str) -> Any:
    folder = model_folder(name)
    check_files(folder)
    expected = _MODEL_TYPES[option]
    try:
        with without_hub():
            found = AutoConfig.from_pretrained(folder, **_TRUSTED)
            if found.model_type != expected:
                raise ModelError(
                    f"{option} is {name}, a model of type {found.model_type!r}, expected {expected!r}: give "
                    f"{_EXAMPLES[option]}."
                )
            model = kind.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **_TRUSTED)
    except ModelError:
        raise
    except Exception as error:  # a damaged file raises safetensors' own kind
        first = str(error).strip().split("\n")[0][:200]
        raise ModelError(f"{option} is {name}, which cannot be loaded ({first}): give {_EXAMPLES[option]}.") from error
    check_weights(model.named_parameters(), name)
    return model


def _tokenizer(name: str) -> Any:
    try:
        with without_hub():
            tokenizer = AutoTokenizer.from_pretrained(model_folder(name), **_TRUSTED)
    except ModelError:
        raise
    except Exception as error:  # damaged files raise many kinds
        raise ModelError(f"{name} has no tokenizer that can be loaded ({str(error)[:200]}): fetch it again.") from error
    for token in ("pad_token_id", "eos_token_id"):
        if getattr(tokenizer, token) is None:
            raise ModelError(f"the tokenizer of {name} has no {token}, expected one: give another model.")
    return tokenizer


def save_lofi(folder: Path, lofi: Lofi, about: Mapping[str, Any], card: str) -> None:
    """Writes a checkpoint atomically.

    Args:
        folder: folder of the checkpoint.
        lofi: the model.
        about: further values of ``config.json``.
        card: the model card.
    """
    is_small = not lofi.config["image_text_model"]
    tensors = lofi.model.state_dict() if is_small else trained_tensors(lofi.model)
    files = {TOKENIZER_FILE: lofi.tokenizer.backend_tokenizer.to_str()} if is_small else {}
    save_checkpoint(folder, {"kind": KIND, **about, **lofi.config}, tensors, card, files)


def load_lofi(folder: str | Path) -> Lofi:
    """Loads a checkpoint; the pretrained models of one with LoRA must be on this computer.

    Raises:
        CheckpointError, FileNotFoundError: see `policies.checkpoint.load_checkpoint`.
        ModelError: a pretrained model is missing.
    """
    config, tensors = load_checkpoint(folder, KIND, _KEYS)
    if config["image_text_model"]:
        ranks = int(config["encoder_rank"]), int(config["language_rank"])
        names = str(config["image_text_model"]), str(config["language_model"])
        lofi = pretrained_lofi(*names, int(config["image_size"]), ranks, int(config["queries"]))
        own = lofi.model.state_dict()
        fill_network(lofi.model, {**own, **tensors}, str(folder))
        lofi.config = config
        return lofi
    try:
        with torch.device("meta"):
            # Before anything is allocated that the file asks for.
            skeleton = build_model(config["encoders"], config["language"], int(config["queries"]))
        _check_shapes(skeleton, tensors, str(folder))
        model = build_model(config["encoders"], config["language"], int(config["queries"]))
    except CheckpointError:
        raise
    except Exception as error:  # transformers raises many kinds for a wrong configuration
        raise CheckpointError(
            f"{folder}/config.json describes no model ({str(error)[:200]}): train or fetch it again."
        ) from error
    fill_network(model, tensors, str(folder))
    tokenizer = read_tokenizer(Path(folder) / TOKENIZER_FILE)
    return Lofi(model, tokenizer, tokenizer, config)


def _check_shapes(skeleton: LofiModel, tensors: Mapping[str, Any], origin: str) -> None:
    for name, value in skeleton.state_dict().items():
        if name not in tensors or tensors[name].shape != value.shape:
            found = tuple(tensors[name].shape) if name in tensors else "absent"
            raise CheckpointError(
                f"{origin} is of another architecture: {name} is {found}, expected {tuple(value.shape)}."
            )


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Reads the tokenizer of a small model; raises CheckpointError if the file is missing or damaged."""
    try:
        if path.stat().st_size > _MAX_TOKENIZER_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path} cannot be read ({str(error)[:200]}): train or fetch it again.") from error
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL)
