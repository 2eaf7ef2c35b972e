"""Example episodes in the trackers of a training: TensorBoard, Weights & Biases and Trackio."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from carm_env.system.extras import optional_imports
from policies.model_folders import without_hub

with optional_imports("train", "A tracker of a training"), without_hub():
    from transformers.integrations import TensorBoardCallback

STEP = "train/global_step"
"""Name under which transformers logs the optimizer step."""


def report_episode(trainer: Any, name: str, path: Path, step: int) -> None:
    """Sends an animation to every tracker that the training reports to.

    TensorBoard shows the frames side by side; the others play the animation.

    Args:
        trainer: a trainer of transformers whose training has begun.
        name: name of the animation in the trackers.
        path: the animation, a GIF.
        step: the optimizer step.
    """
    for tracker in trainer.args.report_to:
        if tracker == "tensorboard":
            for callback in trainer.callback_handler.callbacks:
                if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                    callback.tb_writer.add_images(name, _frames(path), step, dataformats="NHWC")
        elif tracker in ("wandb", "trackio"):
            module = importlib.import_module(tracker)
            module.log({name: module.Video(str(path), format="gif"), STEP: step})


def _frames(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
