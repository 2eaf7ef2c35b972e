"""Checkpoints of learned policies: ``config.json``, ``model.safetensors`` and ``README.md``, never a pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from carm_env.system.extras import optional_imports
from carm_env.system.files import atomic_folder, write_json, write_text
from carm_env.system.memory import check_memory
from policies.checkpoint_config import CHECKPOINT_FORMAT, CheckpointError, read_config

with optional_imports("train", "A learned policy"):
    import torch
    from safetensors.torch import load_file, save_file
    from torch import Tensor, nn

__all__ = ["CHECKPOINT_FORMAT", "LANGUAGE_MODEL_KEYS", "SHIPPED", "CheckpointError", "fill_network", "fingerprint",
           "load_checkpoint", "save_checkpoint", "with_module_names"]  # fmt: skip

SHIPPED = Path(__file__).parent / "checkpoints"
"""Folder of the trained weights that are part of the repository."""
_PICKLES = (".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth", ".zip")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)

# Format 1 stores the modules that are now called `backbone` and `resnet` under their first names.
_STORED_NAMES = {"backbone": "eye", "resnet": "trunk"}
_MODULE_NAMES = {stored: name for name, stored in _STORED_NAMES.items()}
LANGUAGE_MODEL_KEYS = {
    r"vision_tower\.eye\.trunk\.": "vision_tower.backbone.resnet.",
    r"vision_tower\.eye\.head\.": "vision_tower.backbone.head.",
    r"vision_tower\.look\.": "vision_tower.appearance.",
    r"vision_tower\.picture\.": "vision_tower.image.",
}
"""The same for the embedded language model's vision tower: ``key_mapping`` of transformers' ``from_pretrained``."""


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    return {".".join(names.get(part, part) for part in name.split(".")): value for name, value in tensors.items()}


def with_module_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames stored tensors to the names of the modules that hold them today."""
    return _renamed(tensors, _MODULE_NAMES)


def _stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {name: value.detach().cpu().contiguous() for name, value in _renamed(tensors, _STORED_NAMES).items()}
    return {name: value.half() if value.is_floating_point() else value for name, value in plain.items()}


def save_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    card: str,
    files: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes a checkpoint atomically; replaces the whole folder.

    Args:
        folder: folder of the checkpoint.
        config: JSON values; must hold ``kind``, the name of the policy.
        tensors: tensors by name; floating-point tensors are stored as float16.
        card: the model card, Markdown.
        files: further text files by name, such as a tokenizer.
    """
    with atomic_folder(folder) as temporary:
        save_file(_stored(tensors), temporary / "model.safetensors")
        write_json(temporary / "config.json", {"format": CHECKPOINT_FORMAT, **config})
        write_text(temporary / "README.md", card)
        for name, text in files.items():
            write_text(temporary / name, text)


def load_checkpoint(
    folder: str | Path, kind: str, keys: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Loads the config and the tensors of a checkpoint; floating-point tensors as float32.

    Args:
        folder: folder of the checkpoint.
        kind: name of the policy.
        keys: keys that the config must have.

    Raises:
        FileNotFoundError: there is no checkpoint in the folder.
        CheckpointError: a pickle, a damaged file, a value out of range, a weight that is not finite, or the checkpoint
            of another kind of policy.
        MemoryError: the weights do not fit.
    """
    path = Path(folder)
    if path.is_file() or path.suffix in _PICKLES:
        raise CheckpointError(
            f"{path} is a file, expected the folder of a checkpoint with config.json and model.safetensors. Pickles "
            "(.pt, .zip, ..) can run any code and are never loaded: export the weights with the script that trained "
            "them."
        )
    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path}, expected config.json and model.safetensors there. "
            f"Train it, or give the folder of its weights: {kind}:FOLDER."
        )
    config = read_config(path / "config.json")
    found = config["kind"], config["format"]
    if found != (kind, CHECKPOINT_FORMAT):
        raise CheckpointError(
            f"{path} is a checkpoint of kind {found[0]!r}, format {found[1]!r}, expected {kind!r}, {CHECKPOINT_FORMAT}."
        )
    missing = [key for key in keys if key not in config]
    if missing:
        raise CheckpointError(f"{path}/config.json has no {', '.join(missing)}: train or fetch it again.")
    return config, _load_tensors(path / "model.safetensors")


def _load_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}: train or fetch it again.")
    # Float16 of the file as float32, beside the file itself.
    check_memory(f"loading {path}", 3 * path.stat().st_size, "Close other programs, or choose a smaller checkpoint.")
    try:
        tensors = with_module_names(load_file(path))
        if other := next((value.dtype for value in tensors.values() if value.dtype not in _DTYPES), None):
            raise ValueError(f"it holds {other}, expected floating-point numbers and integers")
        found = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    except Exception as error:  # safetensors raises its own error type, and OSError
        raise CheckpointError(f"{path} cannot be read ({str(error)[:300]}): fetch it again.") from error
    for name, value in found.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {name[:200]} is not finite (NaN or infinity): train or fetch it again.")
    return found


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of tensors and their names, as `save_checkpoint` stores them."""
    digest = hashlib.sha256()
    for name, value in sorted(_stored(tensors).items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Loads tensors into a network.

    Args:
        network: the network, changed in place.
        tensors: its weights and buffers by name.
        origin: where the tensors are from, for the error message.

    Raises:
        CheckpointError: the tensors belong to another architecture; the message names the first that does not fit.
    """
    own = network.state_dict()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    reshaped = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if missing or unknown or reshaped:
        name = (missing or unknown or reshaped)[0]
        got = tuple(tensors[name].shape) if name in tensors else "absent"
        expected = tuple(own[name].shape) if name in own else "absent"
        raise CheckpointError(f"{origin} is of another architecture: {name} is {got}, expected {expected}.")
    network.load_state_dict(dict(tensors))
