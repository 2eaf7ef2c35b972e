"""Arguments of the training of LoFi."""

from __future__ import annotations

from dataclasses import dataclass

from carm_env.system.errors import UnknownNameError
from policies.lofi.vision import PATCH_SIZE
from training._support.arguments import PRECISIONS, REPORTS, ViewArguments

LOSSES = ("c", "g", "d")
RANDOM = "random"
"""Backbone of random weights."""


@dataclass(frozen=True)
class LofiArguments(ViewArguments):
    """Training of LoFi.

    Attributes:
        calibration: patients whose retrieval selects the best epoch
        data: folder of MIMIC-CXR-JPG or PadChest-GR to train on instead of views
        least_quality: least quality of the observations and boxes of MIMIC-CXR-JPG, a number of its
            quality_mappings.csv; the paper takes those that are rated A++
        image_text_model: folder or id of a SigLIP or fixed-resolution SigLIP2 model; empty for a small model
        language_model: folder or id of a Gemma-3 text model; empty for a small model
        backbone: checkpoint of training/conformal.py whose first network the image encoder of a small model begins
            with; empty for the shipped one, random for random weights
        freeze_backbone: do not train this network; random weights are always trained
        image_size: side of the images, pixels; 0 for 128, or that of the pretrained encoder
        queries: image tokens of the language model, from attention pooling
        encoder_rank: rank of LoRA in the query, key, value and output layers of pretrained encoders
        language_rank: rank of LoRA in the query and value layers of a pretrained language model
        losses: autoregressive losses, separated by commas: c (captioning), g (grounding) and d (dense captioning);
            empty for the sigmoid loss alone
        autoregressive_weight: weight of the autoregressive loss (lambda)
        min_sentences: fewest sentences that are sampled from a report
        max_sentences: most sentences that are sampled from a report
        located_sentences: most sentences with boxes that are sampled from a report for g and d
        cut_texts: cut sentences of more than 64 tokens instead of refusing them
        epochs: passes over all training images
        max_steps: stop after this number of optimizer steps; 0 for no limit
        batch_size: images per optimizer step, over all processes
        learning_rate: peak of the learning-rate schedule, half a cosine
        language_learning_rate: the same for the language model and the pooling and projection before it; 0 for
            learning_rate
        weight_decay: weight decay of AdamW
        patience: epochs without progress on the calibration patients before training stops
        seed: seed of weights, order and sampled sentences
        mixed_precision: no, fp16 or bf16
        report_to: where to report metrics: none, tensorboard or trackio
        output_dir: folder of the checkpoint, the training state and the rendered views
        resume: continue from the training state in the output folder
        evaluate: evaluate on the test patients after training
        evaluated_images: images of each patient to evaluate on
        json: file to write the results to
    """

    calibration: str = "standard/calibration"
    data: str = ""
    least_quality: int = 0
    image_text_model: str = ""
    language_model: str = ""
    backbone: str = ""
    freeze_backbone: bool = True
    image_size: int = 0
    queries: int = 64
    encoder_rank: int = 16
    language_rank: int = 4
    losses: str = "c,g,d"
    autoregressive_weight: float = 5.0
    min_sentences: int = 4
    max_sentences: int = 8
    located_sentences: int = 4
    cut_texts: bool = False
    epochs: int = 4
    max_steps: int = 0
    batch_size: int = 16
    learning_rate: float = 1e-3
    language_learning_rate: float = 3e-3
    weight_decay: float = 0.02
    patience: int = 4
    seed: int = 0
    mixed_precision: str = "no"
    report_to: str = "none"
    output_dir: str = "runs/lofi"
    resume: bool = False
    evaluate: bool = True
    evaluated_images: int = 32
    json: str = ""
    views_per_patient: int = 384

    @property
    def tasks(self) -> tuple[str, ...]:
        """The autoregressive losses."""
        return tuple(name.strip() for name in self.losses.split(",") if name.strip())

    @property
    def max_images(self) -> int | None:
        """Number of training images that `max_steps` needs; None without a limit."""
        return self.max_steps * self.batch_size or None

    def check(self) -> None:
        """Raises ValueError for a wrong value."""
        for task in self.tasks:
            if task not in LOSSES:
                raise UnknownNameError("loss", task, LOSSES)
        if self.tasks and "c" not in self.tasks:
            raise ValueError(f"losses is {self.losses!r}, expected c among them: images without boxes have no other.")
        if bool(self.image_text_model) != bool(self.language_model):
            raise ValueError(
                "image_text_model and language_model are pretrained together: give both, or none for a small model."
            )
        if self.least_quality and not self.data:
            raise ValueError(
                f"least_quality is {self.least_quality}, but views are trained on, which have no such rating: give "
                "--data, or leave it out."
            )
        if self.image_size % PATCH_SIZE and not self.image_text_model:
            raise ValueError(f"image_size is {self.image_size}, expected a multiple of {PATCH_SIZE} for a small model.")
        if self.report_to not in REPORTS:
            raise UnknownNameError("report_to", self.report_to, REPORTS)
        if self.mixed_precision not in PRECISIONS:
            raise UnknownNameError("mixed_precision", self.mixed_precision, PRECISIONS)
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size is {self.batch_size}, expected at least 2: the other texts of a batch are the negative "
                "ones of the sigmoid loss."
            )
        for name in ("epochs", "patience", "queries", "encoder_rank", "language_rank", "min_sentences",
                     "located_sentences", "evaluated_images"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1.")
        for name in ("max_steps", "image_size", "autoregressive_weight", "least_quality"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more.")
        if self.max_sentences < self.min_sentences:
            raise ValueError(
                f"max_sentences is {self.max_sentences}, expected at least min_sentences, {self.min_sentences}."
            )
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}, expected between 0 and 1.")
        if not 0 <= self.language_learning_rate < 1:
            raise ValueError(f"language_learning_rate is {self.language_learning_rate}, expected from 0 to below 1.")
        if self.image_text_model and self.backbone:
            raise ValueError("backbone is for a small model, but image_text_model is given: leave one out.")
        if self.domain.severity:
            raise ValueError(
                f"domain_randomization is {self.domain_randomization:g}, expected 0: boxes of rotated and cropped "
                "images are not known."
            )
        self.view_options("train", 128)
