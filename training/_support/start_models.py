"""The fine-tuned model that a further training starts from, and how the result is saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_env.language.prompts import PROMPT_VERSIONS, STYLES, prompt_hash
from carm_env.system.files import write_json
from policies.checkpoint import SHIPPED
from policies.mllm import KIND
from policies.model_folders import model_folder
from policies.model_loading import SETTINGS_FILE, check_fit, read_settings
from policies.vision_cache import freeze_vision
from training._support.grpo_checks import check_start
from training._support.sharding import is_sharded
from training._support.trainer_checkpoints import files_at_once
from training._support.trl_models import load_pretrained

SHIPPED_START = "shipped"
"""Name of the start that ships, in place of a folder."""
SMALL_PARAMETERS = 20_000_000
"""Smaller models are trained on a CPU with one thread, and saved whole, in float16."""


@dataclass(frozen=True)
class Start:
    """The model that a training starts from.

    Attributes:
        name: folder or id of the model.
        settings: what `training/sft.py` wrote about it; empty for any other model.
        style: style of the prompts.
        model: the model.
        processor: its processor.
    """

    name: str
    settings: Mapping[str, Any]
    style: str
    model: Any
    processor: Any

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(value.numel() for value in self.model.parameters())


def resolve_shipped(model_arguments: Any) -> None:
    """Replaces the name `SHIPPED_START` in TRL's arguments of the model by the folder of the model that ships."""
    if model_arguments.model_name_or_path == SHIPPED_START:
        model_arguments.model_name_or_path = str(SHIPPED / KIND)


def load_start(model_arguments: Any, style: str, vision_is_frozen: bool) -> Start:
    """Loads the model to start from.

    Args:
        model_arguments: TRL's arguments of the model.
        style: style of the prompts; empty for the one that the model was fine-tuned with.
        vision_is_frozen: do not train the vision tower.

    Raises:
        ModelError: it cannot be loaded, or was fine-tuned with other prompts.
    """
    name = model_arguments.model_name_or_path
    settings = read_settings(model_folder(name, model_arguments.model_revision))
    style = style or str(settings.get("style") or STYLES[0])
    check_start(name, settings, style)
    model, processor = load_pretrained(model_arguments)
    check_fit(model, processor, name)
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name:
            # An adapter is loaded for inference.
            parameter.requires_grad_(True)
    if vision_is_frozen:
        freeze_vision(model)
    return Start(name, settings, style, model, processor)


def save_model(trainer: Any, start: Start, folder: Path, script: str) -> None:
    """Saves the model or its adapter, the processor and the settings; all processes call it, and one writes.

    Args:
        trainer: the trainer of TRL.
        start: the model that it started from.
        folder: output folder.
        script: name of the script that trained it, such as ``grpo``.
    """
    if not trainer.accelerator.is_main_process:
        # Takes part in gathering the weights, and writes nothing.
        trainer.save_model(str(folder))
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    is_small = sum(value.numel() for value in model.parameters()) < SMALL_PARAMETERS
    with files_at_once(folder) as temporary:
        if is_small and not hasattr(model, "peft_config") and not is_sharded():
            # Float16, as in the other shipped checkpoints.
            model.half().save_pretrained(temporary)
        else:
            trainer.save_model(str(temporary))
            # A pickle of the arguments that nothing needs.
            (temporary / "training_args.bin").unlink(missing_ok=True)
        start.processor.save_pretrained(temporary)
        style = start.style
        settings = {**start.settings, "style": style, "prompt_version": PROMPT_VERSIONS[style],
                    "prompts": prompt_hash(style), "trained_by": script}  # fmt: skip
        write_json(temporary / SETTINGS_FILE, settings)
