"""Sample labelled views: X-rays from many C-arm poses, with the position of every landmark.

The sampling is the paper's: 1,024 isocentres per patient, spread densely over the workspace, which gives 51,200 views
of 50 patients for training and 10,240 of 10 for testing. Labels are computed from the landmarks in three dimensions.
`ViewLabels.closest_landmarks` has the order of the authors' ``test.csv``: closest first, by the distance across the
beam.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.envs.scene import load_scene
from carm_env.geometry import (
    DEFAULT_ISOCENTER_DEPTH_MM,
    CArmPose,
    ProjectionGeometry,
    check_image_size,
    check_isocenter_depth,
    planar_displacement_mm,
)
from carm_env.landmarks import N_CLOSEST, N_LANDMARKS, landmark
from carm_env.patient import Patient
from carm_env.patients.reference import PatientName, PatientRef
from carm_env.randomization.chain import ChainCamera
from carm_env.randomization.draw import CHAIN_GROUPS, DomainRandomization, draw_domain
from carm_env.system.errors import UnknownNameError, finite_number
from carm_env.system.files import content_hash
from carm_env.xray.camera import XRayCamera
from carm_env.xray.settings import XRaySettings

PAPER_VIEWS_PER_PATIENT = 1024
AUGMENTATIONS = ("noise", "window", "collimation", "dose", "domain")
_MAX_ROUNDS = 60
_NEAR_MM = 75.0
"""Views around a landmark are centred closer to it than this: it is in the image."""
_MAX_NEAR_DRAWS = 40
_MAS = (0.1, 2.0)
_COLLIMATION = (0.6, 1.0)
_GAMMA = (0.55, 1.1)
_DARK_PERCENT, _BRIGHT_PERCENT = (0.0, 3.0), (97.0, 100.0)


@dataclass(frozen=True)
class ViewOptions:
    """Options for sampling views.

    Attributes:
        views_per_patient: number of views of each patient.
        size: side of the images in pixels.
        angles_deg: both angles are drawn uniformly from ``[-angles_deg, angles_deg]``, 0 to 45; 0 for frontal views.
        augment: any of `AUGMENTATIONS`. ``noise`` draws quantum noise for each view (without it views have no noise);
            ``dose`` draws the mAs, log-uniformly from 0.1 to 2; ``window`` draws the black and white levels and the
            gamma; ``collimation`` closes the shutters to 60-100 % of the side; ``domain`` draws an X-ray system
            (`carm_env.randomization.draw`), with noise, and replaces what the others set.
        seed: seed of the sampling, 0 or more.
        isocenter_depth_mm: depth of the isocentre (`carm_env.geometry.check_isocenter_depth`).
        isocenter_depth_spread_mm: the depth of each view is drawn uniformly from ``isocenter_depth_mm`` minus to plus
            this; 0 for one depth. No two patients lie at the same height under a C-arm.
        near_share: share of the views that are drawn around `near_landmarks`, 0 to 1: small landmarks, which decide
            where to stop, fill a few percent of a workspace only.
        near_landmarks: ids of these landmarks; where a patient has none of them, no views are drawn around landmarks.
        domain_severity: severity of ``domain``, 0 to 1.
        domain_groups: groups of ``domain``, of `carm_env.randomization.draw.CHAIN_GROUPS`.

    Raises:
        ValueError: a number is out of range.
        UnknownNameError: unknown augmentation.
    """

    views_per_patient: int = PAPER_VIEWS_PER_PATIENT
    size: int = 128
    angles_deg: float = 0.0
    augment: tuple[str, ...] = ("noise",)
    seed: int = 0
    isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM
    isocenter_depth_spread_mm: float = 0.0
    near_share: float = 0.0
    near_landmarks: tuple[int, ...] = ()
    domain_severity: float = 1.0
    domain_groups: tuple[str, ...] = CHAIN_GROUPS

    def __post_init__(self) -> None:
        check_isocenter_depth(self.isocenter_depth_mm)
        if finite_number("isocenter_depth_spread_mm", self.isocenter_depth_spread_mm) < 0:
            raise ValueError(f"isocenter_depth_spread_mm is {self.isocenter_depth_spread_mm}, expected 0 or more.")
        check_isocenter_depth(abs(self.isocenter_depth_mm) + self.isocenter_depth_spread_mm)
        if not 0 <= finite_number("near_share", self.near_share) <= 1:
            raise ValueError(f"near_share is {self.near_share}, expected 0 to 1.")
        near = tuple(landmark(key).id for key in self.near_landmarks)
        object.__setattr__(self, "near_landmarks", near)
        if self.near_share and not near:
            raise ValueError(f"near_share is {self.near_share}, but near_landmarks is empty: name landmarks there.")
        for name in self.domain_groups:
            if name not in CHAIN_GROUPS:
                raise UnknownNameError("group of domain", name, CHAIN_GROUPS)
        domain = DomainRandomization(self.domain_severity, tuple(self.domain_groups))
        object.__setattr__(self, "domain_groups", domain.groups)
        if self.views_per_patient < 1:
            raise ValueError(f"views_per_patient is {self.views_per_patient}, expected at least 1.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more.")
        check_image_size(self.size)
        if not 0 <= finite_number("angles_deg", self.angles_deg) <= 45:
            raise ValueError(f"angles_deg is {self.angles_deg}, expected 0 to 45 degrees.")
        for name in self.augment:
            if name not in AUGMENTATIONS:
                raise UnknownNameError("augmentation", name, AUGMENTATIONS)
        object.__setattr__(self, "augment", tuple(name for name in AUGMENTATIONS if name in self.augment))

    def to_json(self) -> dict[str, Any]:
        """Returns the options as JSON values; those of ``domain``, depths and landmarks only if they are used."""
        values = {**asdict(self), "augment": list(self.augment), "domain_groups": list(self.domain_groups)}
        values["near_landmarks"] = list(self.near_landmarks)
        if not self.isocenter_depth_spread_mm:
            del values["isocenter_depth_spread_mm"]
        if not self.near_share:
            del values["near_share"], values["near_landmarks"]
        is_drawn = "domain" in self.augment
        return {name: value for name, value in values.items() if is_drawn or not name.startswith("domain_")}


@dataclass(frozen=True, eq=False)
class ViewLabels:
    """Labels of one view.

    Attributes:
        closest_landmarks: up to three ids, closest first.
        displacement_mm: ``(14, 2)`` from the isocentre to each landmark, to the left and cranially; NaN where the
            patient lacks the landmark.
        pixels: ``(14, 2)`` pixels ``(u, v)`` of the landmarks; NaN as above.
        visible: ``(14,)`` whether the landmark is in the image.
    """

    closest_landmarks: tuple[int, ...]
    displacement_mm: NDArray[np.float64]
    pixels: NDArray[np.float64]
    visible: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class View:
    """One labelled X-ray.

    Attributes:
        image: ``(size, size)`` uint8.
        patient: the patient's name.
        pose: pose of the C-arm.
        labels: positions of the landmarks.
        technique: fields of `XRaySettings` that were drawn for this view; ``domain`` has those of
            `carm_env.randomization.chain.ImageChain`.
    """

    image: NDArray[np.uint8]
    patient: str
    pose: CArmPose
    labels: ViewLabels
    technique: Mapping[str, Any] = field(default_factory=dict)


def draw_isocenters(patient: Patient, count: int, seed: int) -> NDArray[np.float64]:
    """Draws points at mid-depth of the body that central rays meet: a scrambled Sobol sequence in the workspace.

    They are the isocentres of views whose `ViewOptions.isocenter_depth_mm` is 0.

    Args:
        patient: the patient.
        count: number of points.
        seed: seed of the sequence; each patient has a sequence of its own.

    Returns:
        ``(count, 3)`` points in LPS mm.

    Raises:
        ValueError: hardly any of the workspace is covered by the body.
    """
    from scipy.stats import qmc

    low, high = patient.workspace_mm
    draws = qmc.Sobol(2, scramble=True, seed=np.random.default_rng([seed, _name_seed(patient.id)]))
    accepted: list[tuple[float, float, float]] = []
    for _ in range(_MAX_ROUNDS):
        # Rounds of a power of two keep the balance; `random_base2` would refuse the third.
        for x, z in low + draws.random(2 ** max(int(np.ceil(np.log2(count))), 4)) * (high - low):
            if patient.covers(x, z):
                accepted.append((x, patient.mid_depth_mm, z))
                if len(accepted) == count:
                    return np.array(accepted)
    raise ValueError(
        f"the body of {patient.id} covers hardly any of its workspace, too little to draw {count} views: check the CT."
    )


def _drawn_near(patient: Patient, isocenters: NDArray[np.float64], options: ViewOptions) -> NDArray[np.float64]:
    """Returns isocentres of which a share is drawn again, uniformly over discs around landmarks."""
    points = [patient.landmarks_lps_mm[key] for key in options.near_landmarks if key in patient.landmarks_lps_mm]
    if not points or not options.near_share:
        return isocenters
    rng = np.random.default_rng([options.seed, _name_seed(patient.id), 4])
    low, high = patient.workspace_mm
    drawn = isocenters.copy()
    for number in np.flatnonzero(rng.random(len(isocenters)) < options.near_share):
        for _ in range(_MAX_NEAR_DRAWS):
            point = points[int(rng.integers(len(points)))]
            angle, radius = rng.uniform(0, 2 * math.pi), _NEAR_MM * math.sqrt(rng.random())
            x, z = point[0] + radius * math.cos(angle), point[2] + radius * math.sin(angle)
            if (low <= (x, z)).all() and ((x, z) <= high).all() and patient.covers(x, z):
                drawn[number] = x, patient.mid_depth_mm, z
                break
    return drawn


def _name_seed(name: str) -> int:
    # Every patient has isocentres of its own, whatever the order of rendering.
    return int(content_hash(name)[:8], 16)


def label_view(patient: Patient, pose: CArmPose, projection: ProjectionGeometry) -> ViewLabels:
    """Labels one view.

    Args:
        patient: the patient.
        pose: pose of the C-arm.
        projection: projection of this pose onto the pixels of the image.
    """
    displacement, pixels = np.full((N_LANDMARKS, 2), np.nan), np.full((N_LANDMARKS, 2), np.nan)
    for key, point in patient.landmarks_lps_mm.items():
        displacement[landmark(key).index] = planar_displacement_mm(pose, point)
        pixels[landmark(key).index] = projection.project(point)
    with np.errstate(invalid="ignore"):
        inside = (pixels > -0.5) & (pixels < np.array([projection.width, projection.height]) - 0.5)
    visible = inside[:, 0] & inside[:, 1]
    known = np.array([landmark(key).index for key in patient.landmarks_lps_mm], int)
    distances = np.hypot(*displacement[known].T)
    order = known[np.argsort(distances, kind="stable")][:N_CLOSEST]
    return ViewLabels(tuple(int(index) + 1 for index in order), displacement, pixels, visible)


def label_camera_view(patient: Patient, camera: XRayCamera, pose: CArmPose, size: int) -> ViewLabels:
    """Labels a view of a camera, which may rotate, crop or cover it (`carm_env.randomization.chain.ChainCamera`).

    Args:
        patient: the patient.
        camera: the camera.
        pose: pose of the C-arm.
        size: side of the image in pixels.
    """
    labels = label_view(patient, pose, camera.projection(pose, size))
    return replace(labels, visible=labels.visible & ~camera.covered(labels.pixels, size))


def render_views(patient: PatientName, options: ViewOptions) -> Iterator[View]:
    """Renders the views of a patient one by one; equal options give equal views.

    Raises:
        UnknownNameError: unknown patient.
        ValueError: the patient has no landmarks, so its views cannot be labelled.
    """
    ref = PatientRef.parse(patient)
    scene = load_scene(ref)
    subject, camera = scene.patient, scene.camera
    domain_seeds = np.random.default_rng([options.seed, _name_seed(subject.id), 2])
    depths = np.random.default_rng([options.seed, _name_seed(subject.id), 3])
    if not subject.landmarks_lps_mm:
        raise ValueError(f"patient {subject.id} has no landmarks, so its views cannot be labelled.")
    isocenters = _drawn_near(subject, draw_isocenters(subject, options.views_per_patient, options.seed), options)
    rng = np.random.default_rng([options.seed, _name_seed(subject.id), 1])
    for isocenter in isocenters:
        alpha, beta = rng.uniform(-options.angles_deg, options.angles_deg, 2).tolist()
        noise_seed = int(rng.integers(2**31)) if {"noise", "dose", "domain"} & set(options.augment) else None
        technique = _draw_technique(options.augment, rng)
        if technique:
            camera = camera.with_settings(XRaySettings(**technique))
        depth = options.isocenter_depth_mm + options.isocenter_depth_spread_mm * depths.uniform(-1, 1)
        pose = CArmPose(tuple(isocenter.tolist()), alpha, beta).towards_source(depth)
        taking = camera
        if "domain" in options.augment:
            seed = int(domain_seeds.integers(2**31))
            chain = draw_domain(seed, options.domain_severity, options.domain_groups).chain
            taking, technique = ChainCamera(camera, chain), {**technique, "domain": chain.to_json()}
        image = taking.image(pose, options.size, noise_seed)
        yield View(image, str(ref), pose, label_camera_view(subject, taking, pose, options.size), technique)


def _draw_technique(augment: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    # Every number is drawn whether it is used or not, so that one augmentation does not change the others.
    mas, collimation = math.exp(rng.uniform(*np.log(_MAS))), rng.uniform(*_COLLIMATION)
    dark, bright, gamma = rng.uniform(*_DARK_PERCENT), rng.uniform(*_BRIGHT_PERCENT), rng.uniform(*_GAMMA)
    drawn = {
        "dose": {"mas": mas},
        "collimation": {"collimation": collimation},
        "window": {"dark_percent": dark, "bright_percent": bright, "gamma": gamma},
    }
    return {name: float(value) for key in augment if key in drawn for name, value in drawn[key].items()}
