"""Loading of processors, models and adapters from a local folder or the hub, through transformers' Auto classes.

Gemma-3, MedGemma, Qwen2.5-VL and the embedded model are loaded alike. Only safetensors weights are read, no code of a
folder or repository is run, nothing is asked on the terminal, and what is loaded is on this computer already: models of
the hub are fetched before (`policies/model_folders.py`).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from carm_env.chat_models.interface import ModelError
from carm_env.language.prompts import STYLES
from carm_env.system.errors import MissingExtraError, shortened
from carm_env.system.extras import optional_imports, require
from carm_env.system.structured_files import read_json_mapping
from policies.chat_templates import check_chat_template
from policies.checkpoint import LANGUAGE_MODEL_KEYS, CheckpointError
from policies.image_only_processors import image_only_kinds
from policies.model_checks import check_files, check_size, check_weights
from policies.model_folders import HUB_PREFIX, model_folder, without_hub
from policies.routing import statistics_tower
from policies.vision_tower import register

with optional_imports("llm", "A language model"):
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

SETTINGS_FILE = "carm.json"
"""File in the folder of a fine-tuned model: the style of its prompts."""
_OTHER_PARTS = ("video processor", "VideoProcessor", "feature extractor")
"""What transformers calls the parts of a processor for videos and sound, in its errors."""
_TRUSTED: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
"""Arguments of every ``from_pretrained``: no code is run, and nobody is asked whether to."""


def load_processor(name: str | Path, revision: str | None = None) -> Any:
    """Loads the processor of a model.

    Args:
        name: local folder or id on the hub; see `policies.model_folders.model_folder`.
        revision: branch, tag or commit on the hub.

    Raises:
        ModelError: there is no model or no processor, or it takes no images, or has no chat template that can be used.
    """
    register()
    statistics_tower.register()
    folder = model_folder(name, revision)
    check_files(folder)
    try:
        with without_hub():
            processor = _load_processor(str(folder))
    except Exception as error:  # damaged files raise many kinds
        raise ModelError(
            f"{name} has no processor that can be loaded ({_first_line(error)}): give a local folder or the id of a "
            "model that takes images; without access to the hub, download it first."
        ) from error
    if getattr(processor, "image_processor", None) is None:
        raise ModelError(
            f"{name} has a {type(processor).__name__}, which takes no images: give a model that sees, such as "
            "google/gemma-3-4b-it."
        )
    if not (getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)):
        raise ModelError(f"{name} has no chat template: give the instruction-tuned model, or add its template.")
    check_chat_template(processor, str(name))
    return processor


def _load_processor(name: str) -> Any:
    try:
        return AutoProcessor.from_pretrained(name, **_TRUSTED)
    except (ImportError, OSError) as error:
        if not any(part in str(error) for part in _OTHER_PARTS):
            raise
        kind, image_kind = image_only_kinds(Path(name))
        tokenizer = AutoTokenizer.from_pretrained(name, **_TRUSTED)
        return kind(image_kind.from_pretrained(name, **_TRUSTED), tokenizer, tokenizer.chat_template)


def _first_line(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is never run"
    return str(error).strip().split("\n")[0][:200]


def load_model(name: str | Path, revision: str | None = None, *, adapter: str | Path = "", **options: Any) -> Any:
    """Loads a model that takes images and text; if `name` is the folder of an adapter, the base model with it.

    A base model on the hub must be in the cache: a folder of others does not start a download.

    Args:
        name: local folder or id on the hub; see `policies.model_folders.model_folder`.
        revision: branch, tag or commit on the hub.
        adapter: folder of an adapter for the model, if `name` is the base model.
        **options: arguments of ``from_pretrained``.

    Raises:
        ModelError: the model does not exist, its weights are not safetensors, are incomplete or are not finite, its
            files would load code or models from elsewhere, or an adapter's base model is missing.
        MemoryError: the model does not fit into the memory.
        MissingExtraError: the model is an adapter and peft is not installed.
    """
    register()
    statistics_tower.register()
    folder = model_folder(name, revision)
    check_files(folder)
    if not (folder / "adapter_config.json").is_file():
        model = _load_base(folder, str(name), name, options)
        return _adapted(model, model_folder(adapter), str(adapter)) if adapter else model
    if adapter:
        raise ModelError(f"{name} is an adapter itself, expected the base model of {adapter}.")
    base = read_json_mapping(folder / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{folder}/adapter_config.json names no base model: save the adapter again.")
    described = f"the base model {base[:200]} of the adapter {name}"
    try:
        base_folder = model_folder(base, fetch=False)
        check_files(base_folder)
    except ModelError as error:
        raise ModelError(f"{described} cannot be loaded: {error}") from error
    if (base_folder / "adapter_config.json").is_file():
        raise ModelError(f"{described} is an adapter itself, expected a whole model.")
    return _adapted(_load_base(base_folder, described, base, options), folder, str(name))


def _adapted(model: Any, folder: Path, described: str) -> Any:
    """Returns a model with an adapter, whose weights are checked."""
    check_files(folder)
    adapted = _with_adapter(model, folder)
    added = ("lora_", "modules_to_save")
    parameters = ((key, value) for key, value in adapted.named_parameters() if any(part in key for part in added))
    check_weights(parameters, described)
    return adapted


def _load_base(folder: Path, described: str, name: str | Path, options: dict[str, Any]) -> Any:
    try:
        with without_hub():
            config = AutoConfig.from_pretrained(folder, **_TRUSTED)
            with torch.device("meta"):
                skeleton = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
            is_quantized = getattr(config, "quantization_config", None) is not None
            item_bytes = 1 if is_quantized or "quantization_config" in options else _item_bytes(options.get("dtype"))
            check_size(folder, skeleton, item_bytes, described, exact=not is_quantized)
            model, found = AutoModelForImageTextToText.from_pretrained(
                folder, use_safetensors=True, key_mapping=LANGUAGE_MODEL_KEYS, output_loading_info=True,
                **_TRUSTED, **options,
            )  # fmt: skip
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # a damaged file raises safetensors' own kind
        raise ModelError(
            f"{described} cannot be loaded as a model of images and text ({_first_line(error)}): expected a folder or "
            "an id with config.json and safetensors; without access to the hub, download it first."
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{described} cannot be loaded as a model of images and text: its safetensors lack {missing[0]} and "
            f"{len(missing) - 1} other weights. Fetch the model again."
        )
    check_weights(model.named_parameters(), described)
    # An adapter of this model is saved with its name; the folder of a model of the hub is one in the cache.
    model.name_or_path = model.config._name_or_path = str(name).removeprefix(HUB_PREFIX)
    return model


def _item_bytes(dtype: Any) -> int:
    found = getattr(torch, str(dtype).removeprefix("torch."), None)
    return found.itemsize if isinstance(found, torch.dtype) else torch.float16.itemsize


def _with_adapter(model: Any, folder: Path) -> Any:
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors: save the adapter again, as safetensors.")
    try:
        with without_hub(), warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            peft = require("peft", "llm", "An adapter")
            return peft.PeftModel.from_pretrained(model, str(folder), use_safetensors=True, local_files_only=True)
    except MissingExtraError:
        raise
    except Exception as error:  # peft and safetensors raise many kinds
        raise ModelError(
            f"{folder} is not an adapter of this base model ({_first_line(error)}): train or fetch it again."
        ) from error


def check_fit(model: Any, processor: Any, name: str | Path) -> None:
    """Checks that a processor belongs to a model.

    Raises:
        ModelError: the processor uses another image token, number of image tokens, or patch size.
    """
    config, vision = model.config, getattr(model.config, "vision_config", None)
    # In Gemma-3's processor this name is the marker before an image; its tokenizer has the token that stands for one.
    token = getattr(processor.tokenizer, "image_token_id", None) or getattr(processor, "image_token_id", None)
    pairs = {
        "id of the image token": (token, getattr(config, "image_token_id", None)),
        "tokens of an image": (
            getattr(processor, "image_seq_length", None), getattr(config, "mm_tokens_per_image", None)
        ),
        "patch size": (getattr(processor.image_processor, "patch_size", None), getattr(vision, "patch_size", None)),
    }  # fmt: skip
    for what, (got, expected) in pairs.items():
        if isinstance(got, int) and isinstance(expected, int) and got != expected:
            raise ModelError(
                f"{name} has the processor of another model: {what} is {got}, but the model expects {expected}. Save "
                "the model's own processor in its folder."
            )


def read_settings(folder: Path) -> dict[str, Any]:
    """Reads the settings that `training/sft.py` wrote in a model's folder; empty for any other model.

    Raises:
        CheckpointError: the file cannot be read, or its style is unknown.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return {}
    try:
        settings = read_json_mapping(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): train or fetch it again.") from error
    style = settings.get("style")
    if style is not None and style not in STYLES:
        raise CheckpointError(f"{path}: style is {shortened(style)}, expected one of: {', '.join(STYLES)}.")
    return settings
