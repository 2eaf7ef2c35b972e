"""Arguments that the training scripts share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from carm_env.geometry import DEFAULT_GEOMETRY, DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.landmarks import landmark
from carm_env.randomization.draw import DomainRandomization
from carm_env.system.errors import UnknownNameError
from carm_env.views.sample import ViewOptions
from policies.lofi.vision import PATCH_SIZE
from policies.networks import ARCHITECTURES

REPORTS = ("none", "tensorboard", "trackio")
PRECISIONS = ("no", "fp16", "bf16")
MAX_STRAIN = 0.5
"""Smooth deformations with more strain no longer look like bodies."""


@dataclass(frozen=True)
class DomainArguments:
    """Domain randomisation of the training patients.

    Attributes:
        domain_randomization: severity of the domain randomisation of the training patients, 0 (none) to 1
        domain_groups: groups of randomisations, separated by commas; by default all (`carm_env.randomization.draw`)
    """

    domain_randomization: float = 0.0
    domain_groups: str = ""

    @property
    def domain(self) -> DomainRandomization:
        """The domain randomisation; raises ValueError for a wrong severity or group."""
        given = {"groups": tuple(self.domain_groups.split(","))} if self.domain_groups else {}
        return DomainRandomization(self.domain_randomization, **given)


@dataclass(frozen=True)
class DepthArguments(DomainArguments):
    """Depth of the isocentre, which decides how much of the body the images show.

    Attributes:
        isocenter_depth_mm: distance of the isocentre from mid-depth of the body towards the source, mm
    """

    isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM


@dataclass(frozen=True)
class ViewArguments(DepthArguments):
    """Labelled views to train and test on.

    Attributes:
        dataset: folder written by `carm-env render-dataset`; by default views are rendered into the output folder
        train: patients to train on, separated by commas
        test: patients to evaluate on after training, never trained on
        views_per_patient: views of each patient
        isocenter_depth_spread_mm: how far the depths of the training views lie from it at most, mm
        near_share: share of the training views that are drawn around near_landmarks, 0 to 1
        near_landmarks: names or ids of these landmarks, separated by commas
        workers: processes that render; 0 for one per CPU
    """

    dataset: str = ""
    train: str = "standard/train"
    test: str = "standard/test"
    views_per_patient: int = 768
    isocenter_depth_spread_mm: float = 0.0
    near_share: float = 0.0
    near_landmarks: str = "4,5,6,7,8,9"
    workers: int = 0

    def view_options(self, split: str, size: int) -> ViewOptions:
        """Returns how the views of a split are sampled; raises ValueError for a wrong value.

        With domain randomisation, the views of the training patients have other X-ray systems; the other splits stay as
        they are.

        Args:
            split: ``train``, ``calibration`` or ``test``.
            size: side of the images, pixels.
        """
        options = ViewOptions(self.views_per_patient, size, isocenter_depth_mm=self.isocenter_depth_mm)
        if split != "train":
            return options
        domain = self.domain
        if domain.severity:
            augment = ("noise", "domain") if domain.chain_groups else ("noise",)
            options = replace(
                options, augment=augment, domain_severity=domain.severity, domain_groups=domain.chain_groups
            )
        return replace(
            options,
            isocenter_depth_spread_mm=self.isocenter_depth_spread_mm,
            near_share=self.near_share,
            near_landmarks=tuple(landmark(name).id for name in self.near_landmarks.split(",") if name),
        )


@dataclass(frozen=True)
class FitArguments:
    """Training of a network by `training._support.fit.fit_network`.

    Attributes:
        output_dir: folder of the checkpoint, the training state and the rendered views
        architecture: name in `policies.networks.ARCHITECTURES`
        image_size: side of the images, pixels; 0 for the default of the architecture
        epochs: passes over all training images
        max_steps: stop after this number of optimizer steps, and build and render only what they need; 0 for no limit
        batch_size: images per optimizer step, over all processes
        learning_rate: peak of the learning-rate schedule
        weight_decay: weight decay of AdamW
        noise: maximum std of the noise added to images, in units of the network's input; views have their own noise
        deformation: bound of the strain of smooth deformations of the training images, 0 (none) to 0.5
        patience: epochs without progress on the calibration patients before training stops
        seed: seed of weights, order and augmentation
        mixed_precision: no, fp16 or bf16
        report_to: where to report metrics: none, tensorboard or trackio
        resume: continue from the training state in the output folder
        evaluate: evaluate on the test patients after training
        json: file to write the results to
    """

    output_dir: str = ""
    architecture: str = "small_contrast"
    image_size: int = 0
    epochs: int = 7
    max_steps: int = 0
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    noise: float = 0.02
    deformation: float = 0.0
    patience: int = 4
    seed: int = 0
    mixed_precision: str = "no"
    report_to: str = "none"
    resume: bool = False
    evaluate: bool = True
    json: str = ""

    def check(self) -> None:
        """Raises ValueError for a wrong value."""
        if self.architecture not in ARCHITECTURES:
            raise UnknownNameError("architecture", self.architecture, ARCHITECTURES)
        if ARCHITECTURES[self.architecture].is_lofi and self.size % PATCH_SIZE:
            raise ValueError(
                f"image_size is {self.size}, expected a multiple of {PATCH_SIZE} with the architecture "
                f"{self.architecture}."
            )
        if self.report_to not in REPORTS:
            raise UnknownNameError("report_to", self.report_to, REPORTS)
        if self.mixed_precision not in PRECISIONS:
            raise UnknownNameError("mixed_precision", self.mixed_precision, PRECISIONS)
        for name in ("epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1.")
        for name in ("max_steps", "noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more.")
        if not 0 <= self.deformation <= MAX_STRAIN:
            raise ValueError(f"deformation is {self.deformation}, expected 0 to {MAX_STRAIN}.")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}, expected between 0 and 1.")

    @property
    def field_of_view_mm(self) -> float:
        """Length that an image shows in the middle of the body, which sets the size of its deformations, mm."""
        return DEFAULT_GEOMETRY.field_of_view_at_mm(DEFAULT_ISOCENTER_DEPTH_MM)

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return self.image_size or ARCHITECTURES[self.architecture].image_size

    @property
    def max_images(self) -> int | None:
        """Number of training images that `max_steps` needs; None without a limit."""
        return self.max_steps * self.batch_size or None


@dataclass(frozen=True)
class NetworkArguments(FitArguments, ViewArguments):
    """Training of a network on views of patients.

    Attributes:
        calibration: patients for early stopping and for the calibration of conformal regions
    """

    calibration: str = "standard/calibration"

    def check(self) -> None:
        """Raises ValueError for a wrong value."""
        self.view_options("train", 128)
        super().check()

    @property
    def field_of_view_mm(self) -> float:
        """Length that the views show in the middle of the body, mm."""
        return DEFAULT_GEOMETRY.field_of_view_at_mm(self.isocenter_depth_mm)
