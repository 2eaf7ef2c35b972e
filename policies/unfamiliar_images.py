"""Images that a localiser of frontal X-rays should not be asked about: other views, other body parts, no X-rays."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carm_env.envs.scene import load_scene
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM, CArmPose
from carm_env.volume import AIR_HU, Volume
from carm_env.xray.camera import XRayCamera

Images = NDArray[np.uint8]
SIZE = 256
_NEAR_MM = 25.0
_WRISTS = (8, 9)
_HAND_MM = np.array([55.0, 55.0])
"""Half the width and depth of the box that is cut out around a hand."""
_FOREARM_MM, _HAND_LENGTH_MM = 20.0, 200.0
_PHOTOGRAPHS = {
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": tuple(
        f"data/{name}"
        for name in (
            "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
            "grass.png", "gravel.png", "moon.png", "motorcycle_left.png", "page.png", "rocket.jpg", "text.png",
        )
    ),
}  # fmt: skip
"""Photographs that come with packages, by package. Those of scikit-image that show medical samples are left out."""


def lateral_views(patients: Sequence[str], count: int, seed: int) -> Images:
    """Renders views from the side: alpha 90 or -90 degrees, within 25 mm of a landmark; `count` of each patient."""
    rng, images = np.random.default_rng(seed), []
    for name in patients:
        scene = load_scene(name)
        points = list(scene.patient.landmarks_lps_mm.values())
        for _ in range(count):
            point = points[rng.integers(len(points))] + rng.uniform(-_NEAR_MM, _NEAR_MM, 3)
            pose = CArmPose(tuple(point.tolist()), float(rng.choice([-90.0, 90.0])))
            pose = pose.towards_source(DEFAULT_ISOCENTER_DEPTH_MM)
            images.append(scene.camera.image(pose, SIZE, int(rng.integers(2**31))))
    return np.stack(images)


def hands(patients: Sequence[str], count: int, seed: int) -> Images:
    """Renders hands alone, without the body, from drawn directions.

    Args:
        patients: patients with raised arms, so that a hand can be cut out.
        count: images of each hand.
        seed: seed of positions, directions and noise.
    """
    rng, images = np.random.default_rng(seed), []
    for name in patients:
        patient = load_scene(name).patient
        for wrist in (patient.landmarks_lps_mm[key] for key in _WRISTS):
            camera = XRayCamera(_cut_out(patient.volume, wrist))
            for _ in range(count):
                centre = wrist + [*rng.uniform(-20, 20, 2), rng.uniform(20, 100)]
                pose = CArmPose(tuple(centre.tolist()), float(rng.uniform(-40, 40)))
                pose = pose.towards_source(DEFAULT_ISOCENTER_DEPTH_MM)
                images.append(camera.image(pose, SIZE, int(rng.integers(2**31))))
    return np.stack(images)


def _cut_out(volume: Volume, wrist_lps_mm: NDArray[np.float64]) -> Volume:
    low = wrist_lps_mm - [*_HAND_MM, _FOREARM_MM]
    high = wrist_lps_mm + [*_HAND_MM, _HAND_LENGTH_MM]
    first, last = (np.rint(volume.index_from_lps(point)).astype(int) for point in (low, high))
    box = tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(first, last, strict=True))
    hu = np.full_like(volume.hu, AIR_HU)
    hu[box] = volume.hu[box]
    return Volume(hu, volume.affine_lps_mm)


def installed_photographs() -> dict[str, Image.Image]:
    """Returns the photographs that installed packages contain, grey, by name; empty if there are none."""
    found: dict[str, Image.Image] = {}
    for package, files in _PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        for file in files if spec and spec.origin else ():
            path = Path(str(spec.origin)).parent / file  # type: ignore[union-attr]
            if path.is_file():
                found[path.stem] = Image.open(path).convert("L")
    return found


def random_square(photograph: Image.Image, rng: np.random.Generator) -> Images:
    """Returns a random square of a photograph, ``(SIZE, SIZE)``."""
    side = int(rng.uniform(0.4, 1.0) * min(photograph.size))
    left, top = (int(rng.integers(extent - side + 1)) for extent in photograph.size)
    square = photograph.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def photographs(count: int, seed: int) -> Images:
    """Returns random squares of the photographs that installed packages contain; none if there are none."""
    rng, whole = np.random.default_rng(seed), list(installed_photographs().values())
    images = [random_square(whole[number % len(whole)], rng) for number in range(count if whole else 0)]
    return np.stack(images) if images else np.zeros((0, SIZE, SIZE), np.uint8)


def noise(count: int, seed: int) -> Images:
    """Returns images of independent, uniform grey values."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE), np.uint8)


def textures(count: int, seed: int) -> Images:
    """Returns smoothed noise of different coarseness, stretched to all grey values: clouds."""
    from scipy import ndimage

    rng, images = np.random.default_rng(seed), []
    for _ in range(count):
        field = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), float(rng.uniform(2, 25)))
        images.append((255 * (field - field.min()) / np.ptp(field)).astype(np.uint8))
    return np.stack(images)


def blank(count: int) -> Images:
    """Returns images of one grey value, from black to white."""
    return np.full((SIZE, SIZE, count), np.linspace(0, 255, count), np.uint8).transpose(2, 0, 1).copy()
