"""Model cards: what a checkpoint was trained on, how, how well it does, and its limits."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
from collections.abc import Mapping, Sequence

from carm_env.system.structured_files import dump_yaml
from carm_env.system.versions import package_versions, used_packages

_PATHS = (
    "--output-dir", "--out", "--init-members", "--warm-start", "--backbone", "--dataset", "--regressor",
    "--hyperparameters", "--json", "--resume", "--resume-from-checkpoint", "--data", "--split",
    "--image-text-model", "--language-model",
)  # fmt: skip
VIRTUAL_DATA = "virtual patients of carm-env, all made from one skeleton model; no images of people"
VIRTUAL_LIMITS = """Results on virtual patients say nothing about people. The model knows frontal views, the default
geometry of the C-arm, and adults with complete anatomy."""
_PACKAGES = ("carm-env", "numpy")


def machine() -> str:
    """Describes the hardware, without names."""
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def shown_command(script: str, words: Sequence[str]) -> str:
    """Returns the command line without the paths of this machine.

    >>> shown_command("training/cnn.py", ["--epochs", "5", "--output_dir=/home/me/runs", "--resume"])
    'python training/cnn.py --epochs 5'
    """
    kept: list[str] = []
    hidden = False
    for word in words:
        # A word that is not a flag is a value of the flag before it.
        if word.startswith("--"):
            hidden = word.partition("=")[0].replace("_", "-") in _PATHS
        if not hidden:
            kept.append(word)
    return shlex.join(["python", script, *kept])


def model_card(
    title: str,
    description: str,
    script: str,
    words: Sequence[str],
    config: Mapping[str, object],
    figures: Mapping[str, float],
    minutes: float,
    *,
    data: str = VIRTUAL_DATA,
    limits: str = VIRTUAL_LIMITS,
    weights_license: str = "mit",
    task: str = "landmark-localization",
) -> str:
    """Writes a Hugging Face model card.

    Args:
        title: heading.
        description: a sentence on what the model does.
        script: path of the training script.
        words: its command line; paths of this machine are not shown.
        config: config of the checkpoint.
        figures: results on patients that were never trained on; may be empty.
        minutes: duration of the training.
        data: what it was trained on.
        limits: what the results do not say.
        weights_license: license of the weights, as an identifier of the Hugging Face hub.
        task: tag of the task.
    """
    header = {
        "library_name": "carm-env",
        "license": weights_license,
        "tags": ["x-ray", "c-arm", "medical", task],
    }
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items())
    table = f"\n| metric, on patients never trained on | |\n|---|---|\n{rows}\n" if figures else ""
    versions = package_versions((*_PACKAGES, *used_packages()))
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    settings = ", ".join(f"{name} {value}" for name, value in config.items() if isinstance(value, (int, str, float)))
    return f"""---
{dump_yaml(header).rstrip()}
---

# {title}

{description} **Research use only, not a medical device.**

- data: {data}
- command: `{shown_command(script, words)}`
- {settings}
- {minutes:.0f} minutes on {machine()}, {datetime.date.today().isoformat()}, {packages}
{table}
## Limits

{limits}
"""
