"""Arguments of the scripts that run a trainer of TRL: our dataclass, TRL's own ones, and a configuration file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import docstring_parser

from carm_env.system.command_line import ConfigurationError, read_config, take_config
from carm_env.system.errors import shortened
from carm_env.system.extras import optional_imports
from carm_env.system.structured_files import read_json_mapping
from policies.model_folders import without_hub
from policies.vision_tower import MODEL_TYPE
from training._support.start_models import SHIPPED_START

# bitsandbytes, which trl imports, would fetch a compiled kernel from the hub for some processors.
with optional_imports("llm", "Training a language model"), without_hub():
    import torch
    from trl import ModelConfig, TrlParser

EMBEDDED = "embedded"
"""Name of the embedded model with new weights."""
_LOCAL_REPORTS = {"none", "tensorboard"}


def read_trl_arguments(given: Sequence[str], kind: type, training_kind: type, default_config: Path) -> tuple[Any, ...]:
    """Reads our arguments and TRL's; without a GPU, arguments that need one are adapted.

    Args:
        given: words of the command line.
        kind: dataclass of our arguments; its docstring is shown by ``--help``.
        training_kind: TRL's arguments of the training, such as ``SFTConfig``.
        default_config: configuration of the embedded model, which is used without ``--config`` if no model is named, or
            an embedded one: the defaults of TRL are those for large models.

    Returns:
        Our arguments, TRL's arguments of the training, and TRL's arguments of the model.

    Raises:
        ValueError: a wrong value, or a configuration that cannot be read.
    """
    path, words = take_config(given)
    name = _named_model(words)
    if path is None and (name is None or _is_embedded(name)):
        path = default_config
    config = read_config(path) if path else {}
    _check_config(config, path)
    if not torch.cuda.is_available():
        words += ["--use_cpu", "true"]
    _take_help_from_docstrings(kind)
    parser = TrlParser((kind, training_kind, ModelConfig))
    # Older versions of transformers report to every service that is installed.
    if unknown := parser.set_defaults_with_config(**{"report_to": "none", **config}):
        raise ValueError(f"unknown keys in the configuration: {' '.join(unknown)}. See --help for the valid ones.")
    arguments, training, model = parser.parse_args_and_config(words)
    if str(training.resume_from_checkpoint).lower() in ("true", "false"):
        # The trainer looks for the last checkpoint only if this is a bool.
        training.resume_from_checkpoint = training.resume_from_checkpoint.lower() == "true"
    if training.use_cpu and "8bit" in str(training.optim):
        print(f"no GPU: adamw_torch replaces {training.optim}", flush=True)
        training.optim = "adamw_torch"
    _check_nothing_is_run(training, model)
    return arguments, training, model


def _named_model(words: Sequence[str]) -> str | None:
    """Returns the value of ``--model_name_or_path``; None if it is not given."""
    name = None
    for number, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag.replace("_", "-") == "--model-name-or-path":
            name = value if equals else "".join(words[number + 1 : number + 2])
    return name


def _is_embedded(name: str) -> bool:
    """Whether a name is the embedded model's, or that of a folder with one."""
    if name in (EMBEDDED, SHIPPED_START):
        return True
    try:
        vision = read_json_mapping(Path(name) / "config.json").get("vision_config")
    except (OSError, ValueError):
        return False
    return isinstance(vision, dict) and vision.get("model_type") == MODEL_TYPE


def _check_config(config: Mapping[str, Any], path: Path | None) -> None:
    """Raises ConfigurationError for settings that a configuration file of others must not have."""
    for name, value in config.items():
        if name == "env":
            raise ConfigurationError(
                f"--config {path}: env sets variables of the system: set them where you run the script."
            )
        reports = [value] if isinstance(value, str) else value
        sends = name == "report_to" and not (isinstance(reports, list) and set(map(str, reports)) <= _LOCAL_REPORTS)
        sends = sends or name == "push_to_hub" or name == "vllm_server_base_url"
        if value and (sends or name.startswith(("hub_", "trackio_")) or name.endswith("_hub_repo")):
            raise ConfigurationError(
                f"--config {path}: {name} is {shortened(value)}, which sends data to a server. If you want this, give "
                f"--{name} on the command line."
            )


def _check_nothing_is_run(training: Any, model: ModelConfig) -> None:
    """Raises ConfigurationError for arguments that would run code of a model, or load parts of it from elsewhere."""
    if training.trust_remote_code:
        raise ConfigurationError(
            "trust_remote_code is true, which runs code of the model's author on this computer. It is not supported: "
            "choose a model whose class is part of transformers."
        )
    if training.model_init_kwargs:
        raise ConfigurationError("model_init_kwargs is set, which has no effect here: use the arguments of the model.")
    if "/" in (model.attn_implementation or ""):
        raise ConfigurationError(
            f"attn_implementation is {model.attn_implementation!r}, compiled code on the hub, which is never run: "
            "expected eager, sdpa or flash_attention_2."
        )
    template = getattr(training, "chat_template_path", None)
    if template and not (template.endswith(".jinja") and Path(template).is_file()):
        raise ConfigurationError(f"chat_template_path is {template!r}, expected a .jinja file that exists.")


def _take_help_from_docstrings(kind: type) -> None:
    # TRL's parser shows the help of a field's metadata.
    lines = {
        parameter.arg_name: parameter.description
        for ancestor in kind.__mro__
        for parameter in docstring_parser.parse(ancestor.__doc__ or "").params
    }
    for field in fields(kind):
        field.metadata = {"help": lines[field.name]}  # type: ignore[assignment]
