"""Models in the trainers of TRL: how they are loaded, and how a training of one is resumed."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from carm_env.chat_models.interface import ModelError
from carm_env.system.extras import optional_imports, require_installed
from policies.model_folders import without_hub
from policies.model_loading import load_model, load_processor

with optional_imports("llm", "Training a language model"), without_hub():
    import torch
    from trl import ModelConfig, get_peft_config, get_quantization_config
    from trl.trainer import grpo_trainer

_AUDIO_TOWER = "audio_tower"


def load_pretrained(model_arguments: ModelConfig) -> tuple[Any, Any]:
    """Loads the model to train and its processor.

    Raises:
        MissingExtraError: the arguments quantise the model, and bitsandbytes is not installed.
        ModelError: the model cannot be loaded.
    """
    name = model_arguments.model_name_or_path
    if model_arguments.load_in_4bit or model_arguments.load_in_8bit:
        require_installed("bitsandbytes", "qlora", "A quantised language model")
    processor = load_processor(name, model_arguments.model_revision)
    options = {
        "attn_implementation": model_arguments.attn_implementation,
        "dtype": model_arguments.dtype if torch.cuda.is_available() else "float32",
        "quantization_config": get_quantization_config(model_arguments),
    }
    options = {key: value for key, value in options.items() if value is not None}
    return load_model(name, model_arguments.model_revision, **options), processor


def new_adapter(model: Any, model_arguments: ModelConfig, frozen: Sequence[str] = ()) -> Any:
    """Returns the configuration of a new adapter of a model; None to train the whole model.

    Towers of audio get no adapter, since there is no sound here.

    Args:
        model: the model.
        model_arguments: TRL's arguments of the model.
        frozen: names of modules that get no adapter, nor any module in them.
    """
    config = get_peft_config(model_arguments)
    if config is None:
        return None
    names = [name for name, _ in model.named_modules()]
    parts = [part for part in (_AUDIO_TOWER, *frozen) if any(part in name.split(".") for name in names)]
    excluded = [rf"(?:.*\.)?(?:{'|'.join(parts)})\..*"] if parts else []
    targets = config.target_modules
    if isinstance(targets, set):
        wrapped = [name for name in _wrapped_linears(model, targets) if not set(parts) & set(name.split("."))]
        targets |= {f"{name.rpartition('.')[2]}.linear" for name in wrapped}
        # One pattern for all layers.
        excluded += sorted({re.sub(r"\.[0-9]+\\", r".[0-9]+\\", re.escape(name)) for name in wrapped})
    config.exclude_modules = "|".join(excluded) or None
    return config


def _wrapped_linears(model: Any, targets: Collection[str]) -> Iterator[str]:
    """Yields the names of targeted modules that only wrap a linear one, as in Gemma-4's towers, which peft refuses."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in targets and isinstance(getattr(module, "linear", None), torch.nn.Linear):
            yield name


class CopiesReference:
    """Part of a `GRPOTrainer` whose reference model, with ``beta`` above 0, is a copy of the model that it starts from.

    TRL would read the model's files anew, without the names that `load_model` knows, so that the reference of the
    embedded model would have untrained weights.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        start = options["model"]
        with patch.object(grpo_trainer, "create_model_from_path", lambda *others, **names: copy.deepcopy(start)):
            super().__init__(*arguments, **options)


class ResumesWholeModel:
    """Part of a trainer that resumes a whole model.

    Checkpoints use the names of the hub. The stock trainer looks for those names in memory, finds none, and would
    continue with untrained weights.
    """

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        if (folder / "adapter_config.json").is_file() or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        learning = self.accelerator.unwrap_model(model or self.model)
        kept, wanted = load_model(folder, dtype=learning.dtype).state_dict(), learning.state_dict()
        if {name: value.shape for name, value in kept.items()} != {name: value.shape for name, value in wanted.items()}:
            raise ModelError(
                f"resume_from_checkpoint: {folder} is a checkpoint of another model than {self.model.name_or_path}, "
                "expected one of the training that is resumed. Give the same --model_name_or_path, or begin again."
            )
        learning.load_state_dict(kept)
