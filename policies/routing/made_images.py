"""Images that the router is trained and measured on, with what the stages should answer.

Each stands for a modality of the cards in `policies/cards`: frontal X-rays of the C-arm, chest radiographs of a large
detector, and radiographs of body parts, such as hands and lateral views. CT slices are scans of no card. The images of
`policies.routing.drawings` are not scans.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carm_env.envs.scene import load_scene
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM, CArmGeometry, CArmPose, planar_displacement_mm
from carm_env.patient import Patient
from carm_env.randomization.chain import ChainCamera, ImageChain
from carm_env.randomization.draw import draw_domain
from carm_env.views.sample import draw_isocenters
from carm_env.xray.camera import XRayCamera
from policies import unfamiliar_images
from policies.routing.cards import NO_FIT, NORMAL, NOT_MEDICAL
from policies.routing.drawings import HELD_OUT, TRAINED

FRONTAL, CHEST, BODY_PART = "frontal C-arm X-ray", "chest radiograph", "body-part radiograph"
INVERTED = "Inverted polarity"
REGIONS: Mapping[str, tuple[int, ...]] = {
    "Head": (1,), "Neck": (10,), "Shoulder": (2, 3), "Chest": (4, 5, 11), "Upper abdomen": (12, 13, 14),
    "Elbow": (6, 7), "Wrist": (8, 9),
}  # fmt: skip
"""Regions of frontal X-rays, by the landmark in the middle of the image."""
LATERAL, HAND = "Lateral view", "Hand"
PLANES = ("axial", "coronal", "sagittal")
HELD_OUT_PLANE = "sagittal"
"""Plane of the CT slices that the router that ships never saw."""
_SIZE = 256
_NEAR_MM, _AMBIGUOUS = 35.0, 1.4
"""Largest offset of the isocentre from a landmark; a landmark of another region must be farther by this factor."""
_ANGLES_DEG, _MAX_TRIES = 8.0, 40
_MAX_CURVE = 0.6
"""Strongest density curve of inverted X-rays."""
_CHEST_DETECTOR = CArmGeometry(1800.0, 1550.0, 430.0)
_WINDOWS_HU = ((40.0, 400.0), (-600.0, 1500.0), (300.0, 1500.0), (40.0, 80.0))
"""Centre and width: soft tissue, lung, bone, brain."""
_CARINA = 11


@dataclass(frozen=True, eq=False)
class MadeImage:
    """An image with what the stages should answer.

    Attributes:
        image: ``(256, 256)`` uint8.
        modality: right answer of stage 1.
        finding: right answer of stage 2.
        kind: how it was made, such as ``ct axial`` or ``maze``.
        group: patient, or kind where there is none; images of a group are never apart.
    """

    image: NDArray[np.uint8]
    modality: str
    finding: str
    kind: str
    group: str

    @property
    def as_rgb(self) -> Image.Image:
        """The image as a model receives it."""
        return Image.fromarray(self.image).convert("RGB")

    @property
    def is_medical(self) -> bool:
        """Whether it shows a medical scan."""
        return self.modality != NOT_MEDICAL


def region_of(landmark_id: int) -> str:
    """Returns the region of a landmark.

    >>> region_of(8)
    'Wrist'
    """
    return next(region for region, ids in REGIONS.items() if landmark_id in ids)


def frontal_views(name: str, count: int, seed: int, domain: float = 0.0) -> Iterator[MadeImage]:
    """Yields frontal X-rays of a patient, as many of each region.

    Args:
        name: the patient.
        count: images of each region.
        seed: seed of poses and noise.
        domain: severity of the domain randomisation of the X-ray system, which half of the images get.
    """
    scene, rng = load_scene(name), np.random.default_rng([seed, 0])
    for region, ids in REGIONS.items():
        known = [key for key in ids if key in scene.patient.landmarks_lps_mm]
        for _ in range(count if known else 0):
            pose = _pose_near(scene.patient, known, region, rng)
            if pose is not None:
                image = _taken(scene.camera, pose, rng, domain)
                yield MadeImage(image, FRONTAL, region, f"{FRONTAL}: {region}", name)


def workspace_views(name: str, count: int, seed: int, domain: float = 0.0) -> Iterator[MadeImage]:
    """Yields frontal X-rays of a patient from anywhere in the workspace, as an episode may begin.

    The finding is the region of the closest landmark, which may be at the edge of the image.
    """
    scene, rng = load_scene(name), np.random.default_rng([seed, 6])
    for pose in _poses_anywhere(scene.patient, count, seed, rng):
        points = scene.patient.landmarks_lps_mm
        closest = min(points, key=lambda key: float(np.hypot(*planar_displacement_mm(pose, points[key]))))
        image = _taken(scene.camera, pose.towards_source(DEFAULT_ISOCENTER_DEPTH_MM), rng, domain)
        yield MadeImage(image, FRONTAL, region_of(closest), f"{FRONTAL}: anywhere", name)


def inverted_views(name: str, count: int, seed: int) -> Iterator[MadeImage]:
    """Yields frontal X-rays of a patient in which bone is dark, with density curves.

    `count` of them are of each region, and ``2 * count`` from anywhere in the workspace.
    """
    scene, rng = load_scene(name), np.random.default_rng([seed, 1])
    known = [[key for key in ids if key in scene.patient.landmarks_lps_mm] for ids in REGIONS.values()]
    near = (_pose_near(scene.patient, ids, "", rng) for ids in known for _ in range(count if ids else 0))
    anywhere = (
        pose.towards_source(DEFAULT_ISOCENTER_DEPTH_MM)
        for pose in _poses_anywhere(scene.patient, 2 * count, seed + 1, rng)
    )
    for pose in (*near, *anywhere):
        if pose is not None:
            camera = ChainCamera(scene.camera, ImageChain(inverted=True, curve=float(rng.uniform(0, _MAX_CURVE))))
            image = camera.image(pose, _SIZE, int(rng.integers(2**31)))
            yield MadeImage(image, FRONTAL, INVERTED, f"{FRONTAL}: inverted", name)


def _poses_anywhere(patient: Patient, count: int, seed: int, rng: np.random.Generator) -> Iterator[CArmPose]:
    for isocenter in draw_isocenters(patient, count, seed) if count else ():
        yield CArmPose(tuple(isocenter.tolist()), *rng.uniform(-_ANGLES_DEG, _ANGLES_DEG, 2).tolist())


def _pose_near(patient: Patient, ids: Sequence[int], region: str, rng: np.random.Generator) -> CArmPose | None:
    """Draws a pose near a landmark, to which no landmark of another region is nearly as close; None if none is found.

    An empty `region` stands for any.
    """
    for _ in range(_MAX_TRIES):
        point = patient.landmarks_lps_mm[ids[int(rng.integers(len(ids)))]] + [
            *rng.uniform(-_NEAR_MM, _NEAR_MM, 1), 0.0, *rng.uniform(-_NEAR_MM, _NEAR_MM, 1),
        ]  # fmt: skip
        centre = (float(point[0]), patient.mid_depth_mm, float(point[2]))
        alpha, beta = rng.uniform(-_ANGLES_DEG, _ANGLES_DEG, 2).tolist()
        pose = CArmPose(centre, alpha, beta)
        keys = list(patient.landmarks_lps_mm)
        away = [float(np.hypot(*planar_displacement_mm(pose, patient.landmarks_lps_mm[key]))) for key in keys]
        own = min((far for far, key in zip(away, keys, strict=True) if not region or key in REGIONS[region]))
        others = [far for far, key in zip(away, keys, strict=True) if region and key not in REGIONS[region]]
        if not others or min(others) > _AMBIGUOUS * own:
            return pose.towards_source(DEFAULT_ISOCENTER_DEPTH_MM)
    return None


def _taken(camera: XRayCamera, pose: CArmPose, rng: np.random.Generator, domain: float) -> NDArray[np.uint8]:
    seed, drawn = int(rng.integers(2**31)), rng.random()
    if domain and drawn < 0.5:
        chain = draw_domain(seed, domain, ("window", "detector", "collimation")).chain
        return ChainCamera(camera, chain).image(pose, _SIZE, seed)
    return camera.image(pose, _SIZE, seed)


def chest_radiographs(name: str, count: int, seed: int) -> Iterator[MadeImage]:
    """Yields chest radiographs of a patient: the whole chest on a detector of 430 mm, from behind."""
    scene, rng = load_scene(name), np.random.default_rng([seed, 2])
    camera = XRayCamera(scene.patient.volume, _CHEST_DETECTOR, renderer=scene.camera.renderer)
    for _ in range(count if _CARINA in scene.patient.landmarks_lps_mm else 0):
        point = scene.patient.landmarks_lps_mm[_CARINA] + [rng.uniform(-20, 20), 0.0, rng.uniform(-70, 10)]
        centre = (float(point[0]), scene.patient.mid_depth_mm, float(point[2]))
        alpha, beta = rng.uniform(-3, 3, 2).tolist()
        pose = CArmPose(centre, alpha, beta, projection="PA")
        image = camera.image(pose, _SIZE, int(rng.integers(2**31)))
        yield MadeImage(image, CHEST, NORMAL, CHEST, name)


def lateral_views(name: str, count: int, seed: int) -> Iterator[MadeImage]:
    """Yields X-rays of a patient from the side."""
    for image in unfamiliar_images.lateral_views([name], count, seed) if count else ():
        yield MadeImage(image, BODY_PART, LATERAL, f"{BODY_PART}: lateral", name)


def hands(name: str, count: int, seed: int) -> Iterator[MadeImage]:
    """Yields X-rays of the hands alone of a patient with raised arms; `count` of each hand."""
    for image in unfamiliar_images.hands([name], count, seed) if count else ():
        yield MadeImage(image, BODY_PART, HAND, f"{BODY_PART}: hand", name)


def ct_slices(name: str, count: int, seed: int, planes: Sequence[str] = PLANES) -> Iterator[MadeImage]:
    """Yields slices of a patient's CT in random windows; `count` of each plane."""
    volume, rng = load_scene(name).patient.volume, np.random.default_rng([seed, 3])
    for plane in planes:
        for _ in range(count):
            axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
            at = int(volume.hu.shape[axis] * rng.uniform(0.25, 0.75))
            hu = np.take(volume.hu, at, axis).astype(float).T
            centre, width = _WINDOWS_HU[int(rng.integers(len(_WINDOWS_HU)))]
            grey = np.clip((hu - centre) / width + 0.5, 0, 1) * 255
            # Superior is up; axial slices are seen from the feet.
            grey = grey if plane == "axial" else grey[::-1]
            side = max(grey.shape)
            square = np.zeros((side, side), np.uint8)
            top, left = ((side - extent) // 2 for extent in grey.shape)
            square[top : top + grey.shape[0], left : left + grey.shape[1]] = grey
            image = np.asarray(Image.fromarray(square).resize((_SIZE, _SIZE), Image.Resampling.BILINEAR))
            yield MadeImage(image, NO_FIT, NORMAL, f"ct {plane}", name)


def drawings(count: int, seed: int, held_out: bool) -> Iterator[MadeImage]:
    """Yields images that are not scans, `count` of each kind of `TRAINED`, or of `HELD_OUT`."""
    kinds: Mapping[str, Callable[[np.random.Generator], NDArray[np.uint8]]] = HELD_OUT if held_out else TRAINED
    for number, (kind, draw) in enumerate(kinds.items()):
        rng = np.random.default_rng([seed, 4, number])
        for _ in range(count):
            yield MadeImage(draw(rng), NOT_MEDICAL, NORMAL, kind, kind)


@functools.cache
def _photographs() -> dict[str, Image.Image]:
    return unfamiliar_images.installed_photographs()


def photographs(count: int, seed: int) -> Iterator[MadeImage]:
    """Yields random squares of the photographs that installed packages contain, `count` of each."""
    for number, (name, photograph) in enumerate(_photographs().items()):
        rng = np.random.default_rng([seed, 5, number])
        for _ in range(count):
            image = unfamiliar_images.random_square(photograph, rng)
            yield MadeImage(image, NOT_MEDICAL, NORMAL, f"photograph {name}", name)


def sample_images(
    patients: Sequence[str], raised: Sequence[str], count: int, seed: int, held_out: bool
) -> list[MadeImage]:
    """Returns images to tune or to measure a router on.

    Args:
        patients: patients of X-rays and CT slices.
        raised: patients with raised arms, of whom the hands are taken.
        count: images of each region of a patient; the numbers of the other kinds follow from it.
        seed: seed of the images.
        held_out: take the kinds that the router that ships never saw: `policies.routing.drawings.HELD_OUT`,
            photographs and sagittal slices, in place of those that it was trained on.
    """
    found: list[MadeImage] = []
    planes = [plane for plane in PLANES if (plane == HELD_OUT_PLANE) == held_out]
    for name in patients:
        found += frontal_views(name, count, seed)
        found += workspace_views(name, 2 * count, seed)
        found += inverted_views(name, count, seed)
        found += chest_radiographs(name, count, seed)
        found += lateral_views(name, count, seed)
        found += ct_slices(name, count, seed, planes)
    for name in raised:
        found += hands(name, count, seed)
    found += drawings(count * max(1, len(patients) // 2), seed, held_out)
    if held_out:
        found += photographs(count, seed)
    return found
