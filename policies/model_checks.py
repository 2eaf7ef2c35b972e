"""Checks of the files of a language model before they are loaded, and of its weights afterwards.

A configuration is a program for the libraries: it names classes, other repositories and compiled kernels to load, and
sizes to allocate. What this module refuses, transformers and peft would act on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from carm_env.chat_models.interface import ModelError
from carm_env.system.errors import shortened
from carm_env.system.extras import optional_imports
from carm_env.system.memory import check_memory
from carm_env.system.structured_files import read_json_mapping

with optional_imports("llm", "A language model"):
    import torch
    from safetensors import safe_open
    from torch import Tensor, nn

_CONFIGS = ("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
            "video_preprocessor_config.json", "adapter_config.json", "model.safetensors.index.json")  # fmt: skip
_MAX_CONFIG_BYTES = 32 << 20
_MAX_TOKENIZER_BYTES = 256 << 20
_MAX_TEMPLATE_BYTES = 256 << 10
_MAX_ITEMS = 200_000
# From the name of a setting to its largest value: numbers of modules, sides of images, areas of images.
_LIMITS = (
    (re.compile(r"(layers?|depths?|blocks|experts|heads|stages)$"), 4096),
    (re.compile(r"^(height|width|image_size|patch_size|temporal_patch_size|merge_size|r)$"), 8192),
    (re.compile(r"^(min_pixels|shortest_edge|image_seq_length|mm_tokens_per_image)$"), 1 << 24),
    # A bound of activations, which allocates nothing: 1e10 in the audio tower of Gemma-4.
    (re.compile(r"^gradient_clipping$"), float("inf")),
)
_LARGEST = 1 << 31
_FROM_ELSEWHERE = ("attn_implementation", "_attn_implementation", "experts_implementation", "backbone")
"""Settings whose value is the name of a repository if it has a slash."""
_REFUSED = ("audio_tokenizer", "use_pretrained_backbone", "megatron_config", "loftq_config", "corda_config",
            "eva_config")  # fmt: skip
"""Settings that load further models or modules."""
_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern")
_MAX_PATTERN = 1000


def check_files(folder: Path) -> None:
    """Checks the files of a model or an adapter.

    Raises:
        ModelError: a configuration that cannot be read, a number out of range, a setting that would load code or
            models from elsewhere, or weights outside the folder.
    """
    for name in _CONFIGS:
        if (folder / name).is_file():
            try:
                config = read_json_mapping(folder / name, _MAX_CONFIG_BYTES)
            except (OSError, ValueError) as error:
                raise ModelError(f"{str(error)[:400]} Fetch the model again.") from error
            for key, value in _settings(config, folder / name):
                _check_setting(key, value, folder / name)
            if name.endswith(".index.json"):
                _check_weight_files(config.get("weight_map"), folder / name)
            if name == "adapter_config.json":
                _check_adapter(config, folder / name)
    if (folder / "audio_tokenizer_config.json").exists():
        raise ModelError(f"{folder} has an audio tokenizer, which is another model: remove the file.")
    for path, limit in (
        *((path, _MAX_TEMPLATE_BYTES) for path in folder.glob("*.jinja")),
        *((folder / name, _MAX_TOKENIZER_BYTES) for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json")),
    ):
        if path.is_file() and path.stat().st_size > limit:
            raise ModelError(f"{path} has {path.stat().st_size:,} bytes, expected at most {limit:,}.")


def _settings(config: dict[str, Any], path: Path) -> Iterator[tuple[str, Any]]:
    """Yields all keys and values of nested mappings; items of a list have the key of the list."""
    pending: list[tuple[str, Any]] = list(config.items())
    for _ in range(_MAX_ITEMS):
        if not pending:
            return
        key, value = pending.pop()
        yield key, value
        if isinstance(value, dict):
            pending += value.items()
        elif isinstance(value, list):
            pending += ((key, item) for item in value)
    raise ModelError(f"{path} has more than {_MAX_ITEMS:,} values.")


def _check_setting(key: str, value: Any, path: Path) -> None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        limit = next((limit for pattern, limit in _LIMITS if pattern.search(key)), _LARGEST)
        if abs(value) > limit:
            raise ModelError(f"{path}: {key[:100]} is {shortened(value)}, expected at most {limit}.")
    elif key in _FROM_ELSEWHERE and isinstance(value, str) and "/" in value:
        raise ModelError(f"{path}: {key} is {shortened(value)}, which would be loaded from the hub: remove it.")
    elif key in _REFUSED and value:
        raise ModelError(f"{path}: {key} is {shortened(value)}, which would load more than this model: remove it.")
    elif key in ("base_model_name_or_path", "revision") and not isinstance(value, (str, type(None))):
        raise ModelError(f"{path}: {key} is {shortened(value)}, expected text.")


def _check_weight_files(files: Any, path: Path) -> None:
    names = set(map(str, files.values())) if isinstance(files, dict) else {""}
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{path} has weights in {shortened(name)}, expected .safetensors files beside it.")


def _check_adapter(config: dict[str, Any], path: Path) -> None:
    if config.get("peft_type", "LORA") != "LORA":
        raise ModelError(f"{path}: peft_type is {shortened(config['peft_type'])}, expected LORA.")
    for key in _PATTERNS:
        value = config.get(key)
        # Names of modules are matched with the keys of a mapping, or with a text; a list holds names.
        texts = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
        for text in texts:
            if len(text) > _MAX_PATTERN or _can_backtrack(text):
                raise ModelError(f"{path}: {key} is {shortened(value)}, expected names of modules or a simple pattern.")


def _can_backtrack(pattern: str) -> bool:
    """Returns whether a regular expression repeats a part that holds a repetition or alternatives, or is invalid."""
    try:
        from re import _parser as sre  # type: ignore[attr-defined]
    except ImportError:  # Python 3.10
        import sre_parse as sre
    try:
        parsed = sre.parse(pattern)
    except (re.error, RecursionError, OverflowError):
        return True
    repeats = {sre.MAX_REPEAT, sre.MIN_REPEAT}

    def nodes(items: Any, inside: bool) -> Iterator[bool]:
        for kind, value in items:
            if inside and (kind in repeats or kind is sre.BRANCH):
                yield True
            for part in value if isinstance(value, (tuple, list)) else ():
                for piece in part if isinstance(part, list) else [part]:
                    if isinstance(piece, sre.SubPattern):
                        yield from nodes(piece, inside or (kind in repeats and value[1] > 1))

    return any(nodes(parsed, False))


def check_size(folder: Path, skeleton: nn.Module, item_bytes: int, name: str, exact: bool = True) -> None:
    """Checks that the weights in a folder are as many as the model has, and that they fit into the memory.

    Args:
        folder: folder of the weights.
        skeleton: the model of the configuration on the device ``meta``.
        item_bytes: bytes of a parameter in memory.
        name: name of the model in messages.
        exact: whether the files hold one number for each parameter; quantized files do not.

    Raises:
        ModelError: a damaged file, or fewer numbers in the files than the configuration describes.
        MemoryError: the model does not fit.
    """
    described = sum(value.numel() for value in skeleton.parameters())
    check_memory(f"loading {name}", described * item_bytes, "Choose a smaller model.")
    stored = 0
    files = [path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_")]
    if not files:
        raise ModelError(
            f"{name} cannot be loaded as a model of images and text: it has no weights as .safetensors. Pickles (.bin, "
            ".pt) can run any code and are never loaded."
        )
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118
                    shape = file.get_slice(key).get_shape()
                    stored += int(torch.Size(shape).numel())
        except Exception as error:  # safetensors raises its own kind
            raise ModelError(
                f"{name} cannot be loaded as a model of images and text ({path.name}: {str(error)[:200]}): fetch it "
                "again."
            ) from error
    if exact and described > 1.02 * stored + (1 << 16):
        raise ModelError(
            f"{name} cannot be loaded as a model of images and text: its config.json describes {described:,} "
            f"parameters and its safetensors hold {stored:,}. Fetch the model again, with all of its weights."
        )


def check_weights(tensors: Iterator[tuple[str, Tensor]], name: str) -> None:
    """Raises ModelError if a weight is NaN or infinite."""
    for key, value in tensors:
        if value.is_floating_point() and value.device.type != "meta":
            numbers = value.detach()
            # Types of eight bits have no test of their own.
            if not bool(torch.isfinite(numbers.float() if numbers.itemsize == 1 else numbers).all()):
                raise ModelError(f"{name}: weight {key} is not finite (NaN or infinity): train or fetch it again.")
