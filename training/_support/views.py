"""Views of a split, rendered as far as a training needs them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.patients.catalogue import expand_patients
from carm_env.patients.separation import TRAINED_ON, check_separate, check_trainable
from carm_env.randomization.naming import with_scans
from carm_env.views.read import ViewArrays, ViewImages, read_description, read_views
from carm_env.views.write import write_view_dataset
from training._support.arguments import DepthArguments, NetworkArguments, ViewArguments

_SPLITS = ("train", "calibration", "test")
_HASHED_IMAGES = 64


def load_views(
    arguments: ViewArguments, split: str, folder: Path, size: int, max_views: int | None = None
) -> ViewArrays:
    """Loads the views of a split: from the given dataset, or rendered into the output folder.

    With domain randomisation, the views of the training patients have other X-ray systems and show scans of them by
    other CT scanners; the other splits stay as they are.

    Args:
        arguments: which views.
        split: ``train``, ``calibration`` or ``test``.
        folder: output folder of the training.
        size: side of rendered images, pixels.
        max_views: number of training views that a short run needs. No more views are rendered, and only one patient of
            the other splits.

    Raises:
        ValueError: the views of a dataset are to be randomised, or have another depth of the isocentre.
        SharedPersonError: a person is in two splits.
        HeldOutPatientError: a patient that is reserved for tests is trained or calibrated on.
    """
    domain = arguments.domain
    if arguments.dataset:
        if domain.severity:
            raise ValueError(
                f"dataset is {arguments.dataset} and domain_randomization is {domain.severity:g}: views that are "
                "rendered cannot be randomised. Render them with `carm-env render-dataset --augment domain`, or leave "
                "one out."
            )
        for name in ("isocenter_depth_spread_mm", "near_share"):
            if value := getattr(arguments, name):
                raise ValueError(
                    f"dataset is {arguments.dataset} and {name} is {value:g}: the views are rendered already. Leave "
                    "one out."
                )
        rendered_mm = float(read_description(Path(arguments.dataset))["options"]["isocenter_depth_mm"])
        check_depth(arguments, rendered_mm, f"the views of {arguments.dataset}")
        views = read_views(Path(arguments.dataset), split)
        if split in TRAINED_ON:
            check_trainable(views.names, f"the split {split} of {arguments.dataset}")
        return views
    splits = {key: expand_patients(getattr(arguments, key).split(",")) for key in _SPLITS if hasattr(arguments, key)}
    check_separate(splits)
    for key in TRAINED_ON:
        check_trainable(splits.get(key, ()), f"--{key}")
    options, target = arguments.view_options(split, size), views_folder(arguments, split, folder)
    if split == "train" and domain.severity:
        splits[split] = tuple(with_scans(splits[split], domain))
    if max_views and split != "train":
        max_views = min(max_views, arguments.views_per_patient)
    needed = {split: max_views} if max_views else None
    # Of several processes of a training one renders; the others wait for it.
    write_view_dataset(target, {split: splits[split]}, options, arguments.workers or None, needed, wait=True)
    return read_views(target, split, max_views=max_views)


def views_folder(arguments: ViewArguments, split: str, folder: Path) -> Path:
    """Returns the folder of the views of a split: the given dataset, or one in the output folder `folder`."""
    if arguments.dataset:
        return Path(arguments.dataset)
    if split != "train":
        return folder / "views"
    drawn = {"-domain": arguments.domain.severity, "-depths": arguments.isocenter_depth_spread_mm,
             "-near": arguments.near_share}  # fmt: skip
    return folder / "".join(["views", *(name for name, value in drawn.items() if value)])


def check_depth(arguments: DepthArguments, known_mm: float, what: str) -> None:
    """Raises ValueError if views or a network are for another depth of the isocentre than the arguments.

    Args:
        arguments: the depth of the views.
        known_mm: depth of the isocentre of the views or the network, mm.
        what: what they are, for the message.
    """
    if known_mm != arguments.isocenter_depth_mm:
        raise ValueError(
            f"isocenter_depth_mm is {arguments.isocenter_depth_mm:g}, but {what} are for {known_mm:g}: set "
            f"--isocenter-depth-mm {known_mm:g}, or take others."
        )


def check_model_depth(arguments: DepthArguments, model: Any, name: str) -> None:
    """Raises ValueError if the vision tower of an embedded model knows another depth of the isocentre.

    Args:
        arguments: the depth of the views.
        model: a language model; one of another class knows no particular depth.
        name: its name, for the message.
    """
    vision = getattr(getattr(model, "config", None), "vision_config", None)
    known_mm = getattr(vision, "isocenter_depth_mm", None)
    if known_mm is not None:
        check_depth(arguments, float(known_mm), f"the images that {name} knows")


def load_split(arguments: NetworkArguments, split: str) -> ViewArrays:
    """Loads the views of a split in the image size of the network; see `load_views`."""
    views = load_views(arguments, split, Path(arguments.output_dir), arguments.size, arguments.max_images)
    if views.images.shape[1] != arguments.size:
        raise ValueError(
            f"{arguments.dataset} holds views of {views.images.shape[1]} pixels, but the network expects "
            f"{arguments.size}: render them with --size {arguments.size}, or set --image-size {views.images.shape[1]}."
        )
    return views


def views_fingerprint(*splits: ViewArrays) -> str:
    """Returns the SHA-256 of the labels of views and of some of their images."""
    return images_fingerprint(*((views.images, views.displacement_mm) for views in splits))


def images_fingerprint(*splits: tuple[ViewImages, NDArray[Any]]) -> str:
    """Returns the SHA-256 of some of the images ``(n, s, s)`` of each split, and of their labels ``(n, ..)``."""
    digest = hashlib.sha256()
    for images, labels in splits:
        some = images[:: max(len(images) // _HASHED_IMAGES, 1)]
        for part in (some, labels):
            digest.update(f"{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
