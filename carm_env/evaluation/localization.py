"""Evaluates localisers on single views: which landmarks they name, and whether a language model's reasons hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from carm_env.envs.scene import load_scene
from carm_env.evaluation.intervals import Estimate, mean_interval
from carm_env.evaluation.metrics import centred_values, complete, confusion_matrix, retrieval_values, share_estimate
from carm_env.geometry import DEFAULT_GEOMETRY, DEFAULT_ISOCENTER_DEPTH_MM, CArmPose
from carm_env.landmarks import N_CLOSEST, N_LANDMARKS
from carm_env.language.reasons import Situation
from carm_env.views.sample import ViewOptions, label_view, render_views

Localize = Callable[[NDArray[np.uint8]], NDArray[np.int64]]
"""Maps images ``(n, H, W)`` to landmark ids ``(n, 3)``, closest first."""
DEFAULT_FIELD_OF_VIEW_MM = DEFAULT_GEOMETRY.field_of_view_at_mm(DEFAULT_ISOCENTER_DEPTH_MM)
"""What the views of the default C-arm show in the middle of the body."""
IMAGE_SIZE = 256
"""Pixels per side of the rendered views."""
STEP_FLAGS = ("readable", "reasons_true", "reasons_relevant", "best_move")
"""What is judged of a first step; see `ReasoningLocalizer`."""
CENTRED_VIEWS, CENTRED_WITHIN_MM = 4, 5.0
"""Number of views with each landmark in the middle, and how far from the centre it is at most along each axis."""
_GREY = 128


class Localizer(Protocol):
    """Names the landmarks closest to the centre of a view."""

    def closest(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Maps images ``(n, H, W)`` to ids ``(n, 3)``, closest first; a row of zeros is no answer."""
        ...

    def centred(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Maps images with a landmark at the centre to at least the two closest ids ``(n, 2)``."""
        ...


@runtime_checkable
class ReasoningLocalizer(Protocol):
    """A localiser that also answers with moves and reasons."""

    def steps(
        self, images: NDArray[np.uint8], targets: Sequence[int], situations: Sequence[Situation]
    ) -> dict[str, NDArray[np.bool_]]:
        """Returns `STEP_FLAGS` ``(n,)``: readable answers, true and relevant reasons, and best moves."""
        ...


@dataclass(frozen=True, eq=False)
class Localization:
    """Where the landmarks are in ``n`` images, as far as a localiser says.

    Attributes:
        closest_landmarks: ``(n, 3)`` ids of the landmarks closest to the centre, nearest first; zeros for none.
        probabilities: ``(n, 14)`` probabilities that each landmark is the closest; None if there are none.
        displacement_mm: ``(n, 14, 2)`` from the centre to each landmark, to the left and cranially, for the default
            C-arm; None if the localiser knows no positions.
        region_mm: ``(n, 14, 2)`` semi-axes of the elliptical regions around them that hold the landmarks in 90 % of
            views; None if the localiser has no calibrated regions.
    """

    closest_landmarks: NDArray[np.int64]
    probabilities: NDArray[np.float64] | None = None
    displacement_mm: NDArray[np.float64] | None = None
    region_mm: NDArray[np.float64] | None = None


@runtime_checkable
class LocatingLocalizer(Protocol):
    """A localiser that gives more than names."""

    def locate(self, images: NDArray[np.uint8]) -> Localization:
        """Maps images ``(n, H, W)`` to names, probabilities and positions."""
        ...


@runtime_checkable
class PooledLocalizer(Protocol):
    """A localiser that looks an image up among those of known patients."""

    def check_patients(self, names: Sequence[str]) -> None:
        """Raises ValueError if a patient to be evaluated is one of the known ones."""
        ...


def expected_field_of_view_mm(localizer: Localizer) -> float:
    """Returns what the images that a localiser knows show in the middle of the body: its ``field_of_view_mm``.

    A localiser without this attribute knows the views of the default C-arm.
    """
    return float(getattr(localizer, "field_of_view_mm", DEFAULT_FIELD_OF_VIEW_MM))


def locate(localizer: Localizer, images: NDArray[np.uint8]) -> Localization:
    """Returns what a localiser says of images ``(n, H, W)``: all it knows, or the names alone."""
    if isinstance(localizer, LocatingLocalizer):
        return localizer.locate(images)
    return Localization(np.asarray(localizer.closest(images), np.int64)[:, :N_CLOSEST])


class RankedLocalizer:
    """A localiser that ranks the landmarks of every view in the same way.

    Args:
        localize: ranks the landmarks.
        locate: gives more than names, see `LocatingLocalizer`; None if nothing more is known.
        field_of_view_mm: what the images that it knows show in the middle of the body.
    """

    def __init__(
        self,
        localize: Localize,
        locate: Callable[[NDArray[np.uint8]], Localization] | None = None,
        field_of_view_mm: float = DEFAULT_FIELD_OF_VIEW_MM,
    ) -> None:
        self.closest = self.centred = localize
        self.field_of_view_mm = field_of_view_mm
        if locate is not None:
            self.locate = locate


class CentredViews(NamedTuple):
    """Views with a landmark near the centre.

    Attributes:
        images: ``(n, H, W)``.
        targets: ``(n,)`` ids of the landmarks.
        situations: positions of all landmarks in each view.
    """

    images: NDArray[np.uint8]
    targets: NDArray[np.int64]
    situations: list[Situation]


def centred_views(patient: str, seed: int, isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM) -> CentredViews:
    """Renders views with a landmark within 5 mm of the centre along each axis, four of each landmark.

    Args:
        patient: name of the patient.
        seed: draws the offsets and the noise.
        isocenter_depth_mm: depth of the isocentre (`carm_env.geometry.check_isocenter_depth`).
    """
    scene = load_scene(patient)
    rng = np.random.default_rng([seed, 2])
    images, targets, situations = [], [], []
    for key, point in scene.patient.landmarks_lps_mm.items():
        for _ in range(CENTRED_VIEWS):
            offset_mm = rng.uniform(-CENTRED_WITHIN_MM, CENTRED_WITHIN_MM, 2)
            pose = CArmPose((point[0] + offset_mm[0], scene.patient.mid_depth_mm, point[2] + offset_mm[1]))
            pose = pose.towards_source(isocenter_depth_mm)
            images.append(scene.camera.image(pose, IMAGE_SIZE, int(rng.integers(2**31))))
            targets.append(key)
            labels = label_view(scene.patient, pose, scene.camera.projection(pose, IMAGE_SIZE))
            situations.append(Situation(labels.displacement_mm, labels.visible))
    return CentredViews(np.stack(images), np.array(targets), situations)


class PatientViews(NamedTuple):
    """Views of one patient to localise landmarks in.

    Attributes:
        patient: name of the patient.
        images: ``(n, H, W)`` views over the workspace; n may be 0.
        closest: ids of the landmarks closest to the centre of each of them, closest first.
        situations: positions of all landmarks in each of them.
        centred: views with a landmark in the middle, possibly none.
    """

    patient: str
    images: NDArray[np.uint8]
    closest: Sequence[Sequence[int]]
    situations: list[Situation]
    centred: CentredViews


@dataclass
class _Answers:
    """Answers of one kind, with the patient of each."""

    values: list[Any] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)

    def add(self, patient: str, values: Sequence[Any] | NDArray[Any]) -> None:
        self.values += list(values)
        self.patients += [patient] * len(values)

    def array(self) -> NDArray[Any]:
        return np.array(self.values)


@dataclass
class _Steps:
    """Views of one patient with drawn targets, for a `ReasoningLocalizer`."""

    patient: str
    images: NDArray[np.uint8]
    targets: list[int]
    situations: list[Situation]


@dataclass(frozen=True, eq=False)
class ViewValues:
    """A metric of every view.

    Attributes:
        values: ``(n,)``; NaN for a view without a value, such as a reason of an answer that cannot be read.
        patients: ``(n,)`` name of the patient of each view.
    """

    values: NDArray[np.float64]
    patients: Sequence[str]

    def estimate(self) -> Estimate | None:
        """Returns the mean with its interval; None if no view has a value."""
        return _of_known(self.values, self.patients, share_estimate)


@dataclass(frozen=True, eq=False)
class LocalizerEvaluation:
    """Metrics of a localiser.

    Attributes:
        values: `ViewValues` by metric, such as ``P@1``, ``H@1 centred``, ``invalid`` or ``reasons relevant``.
        confusion: the confusion matrix ``(14, 14)``.
    """

    values: Mapping[str, ViewValues]
    confusion: NDArray[np.int64]

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The mean of each metric with its interval; metrics without a value are left out."""
        found = {name: values.estimate() for name, values in self.values.items()}
        return {name: one for name, one in found.items() if one is not None}

    def differences(self, baseline: LocalizerEvaluation) -> dict[str, Estimate]:
        """Returns the mean difference from another localiser on the same views, with its interval.

        Args:
            baseline: evaluation on the same patients with the same views and seed.

        Raises:
            ValueError: the views are others.
        """
        found: dict[str, Estimate] = {}
        for name in [name for name in self.values if name in baseline.values]:
            own, other = self.values[name], baseline.values[name]
            if list(own.patients) != list(other.patients):
                raise ValueError(
                    f"the views of {name} are not those of the baseline: evaluate both on the same patients and views."
                )
            difference = _of_known(own.values - other.values, own.patients, _mean)
            if difference is not None:
                found[name] = difference
        return found


def _of_known(
    values: NDArray[np.float64],
    patients: Sequence[str],
    summary: Callable[[NDArray[np.float64], Sequence[str]], Estimate],
) -> Estimate | None:
    known = np.isfinite(values)
    return summary(values[known], np.asarray(patients)[known].tolist()) if known.any() else None


def _mean(values: NDArray[np.float64], patients: Sequence[str]) -> Estimate:
    return Estimate(float(values.mean()), *mean_interval(values, patients), len(values), len(set(patients)))


def _step_values(localizer: ReasoningLocalizer, views: Sequence[_Steps]) -> dict[str, ViewValues]:
    """Returns flags of steps on the views, and on images that do not show them: what a blind model reaches.

    Another image is one of the next patient, or of the same patient elsewhere if there is no other. A true or relevant
    reason that is as frequent there says nothing about the image. ``readable`` is about the views themselves.
    """
    following = [*views[1:], views[0]]
    seen = [own.images for own in views]
    others = [np.roll(own.images, len(own.images) // 2, 0) if own is other else _resized(other.images, len(own.images))
              for own, other in zip(views, following, strict=True)]  # fmt: skip
    blank = [np.full_like(own.images, _GREY) for own in views]
    values: dict[str, ViewValues] = {}
    for label, images in (("", seen), (" on another image", others), (" without an image", blank)):
        answers = {flag: _Answers() for flag in STEP_FLAGS}
        for own, shown in zip(views, images, strict=True):
            found = localizer.steps(shown, own.targets, own.situations)
            for flag, collected in answers.items():
                collected.add(own.patient, found[flag])
        flags = {flag: collected.array().astype(float) for flag, collected in answers.items()}
        patients = answers["readable"].patients
        if not label:
            values["readable"] = ViewValues(flags["readable"], patients)
        values[f"best move{label}"] = ViewValues(flags["best_move"], patients)
        for flag in ("reasons_true", "reasons_relevant"):
            of_readable = np.where(flags["readable"] == 1, flags[flag], np.nan)
            values[flag.replace("_", " ") + label] = ViewValues(of_readable, patients)
    return values


def _resized(images: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Returns `count` of the images, repeated if there are fewer."""
    return images[np.arange(count) % len(images)]


def drawn_views(patient: str, views: int, seed: int) -> PatientViews:
    """Draws views of a patient over the workspace, and views with a landmark at the centre.

    Args:
        patient: name of the patient.
        views: views over the workspace.
        seed: draws the views.
    """
    spread = list(render_views(patient, ViewOptions(views, IMAGE_SIZE, seed=seed)))
    return PatientViews(
        patient,
        np.stack([view.image for view in spread]),
        [view.labels.closest_landmarks for view in spread],
        [Situation(view.labels.displacement_mm, view.labels.visible) for view in spread],
        centred_views(patient, seed),
    )


def evaluate_localizer(localizer: Localizer, patients: Sequence[str], views: int, seed: int) -> LocalizerEvaluation:
    """Evaluates a localiser on views over the whole workspace and on views with a landmark at the centre.

    Args:
        localizer: the localiser.
        patients: names of the patients.
        views: views over the workspace per patient.
        seed: draws views and targets.
    """
    return evaluate_views(localizer, (drawn_views(name, views, seed) for name in patients), seed)


def evaluate_views(localizer: Localizer, views: Iterable[PatientViews], seed: int) -> LocalizerEvaluation:
    """Evaluates a localiser on given views.

    Args:
        localizer: the localiser. A `ReasoningLocalizer` is also asked for moves towards drawn targets, on the views and
            blindly: on another image and on a grey one.
        views: the views of each patient; metrics of a kind of views that no patient has are left out.
        seed: draws the targets.
    """
    ranked, centred, relevant, targets = (_Answers() for _ in range(4))
    stepped: list[_Steps] = []
    rng = np.random.default_rng([seed, 3])
    for own in views:
        if len(own.images):
            ranked.add(own.patient, localizer.closest(own.images))
            relevant.add(own.patient, [list(ids) + [0] * (N_CLOSEST - len(ids)) for ids in own.closest])
        if len(own.centred.images):
            centred.add(own.patient, localizer.centred(own.centred.images))
            targets.add(own.patient, own.centred.targets)
        if len(own.images) and isinstance(localizer, ReasoningLocalizer):
            drawn = [int(rng.choice(situation.closest())) for situation in own.situations]
            stepped.append(_Steps(own.patient, own.images, drawn, own.situations))
    values: dict[str, ViewValues] = {}
    confusion = np.zeros((N_LANDMARKS, N_LANDMARKS), np.int64)
    if ranked.values:
        retrieved = retrieval_values(ranked.array(), relevant.array())
        values |= {name: ViewValues(array, ranked.patients) for name, array in retrieved.items()}
        is_valid = complete(ranked.array())
        if not is_valid.all():
            # The paper's denominator.
            values |= {
                f"{name} of valid answers": ViewValues(np.where(is_valid, array, np.nan), ranked.patients)
                for name, array in retrieved.items()
            }
        confusion = confusion_matrix(ranked.array()[:, 0], relevant.array()[:, 0])
    if centred.values:
        on_centred = centred_values(centred.array(), targets.array())
        values |= {f"{name} centred": ViewValues(array, centred.patients) for name, array in on_centred.items()}
    if isinstance(localizer, ReasoningLocalizer):
        steps = _step_values(localizer, stepped) if stepped else {}
        readable = steps.pop("readable", None)
        invalid = [(one.array() == 0).all(1) for one in (ranked, centred) if one.values]
        names = [*ranked.patients, *centred.patients]
        if readable is not None:
            invalid.append(readable.values == 0)
            names += readable.patients
        values["invalid"] = ViewValues(np.concatenate(invalid).astype(float), names)
        values |= steps
    return LocalizerEvaluation(values, confusion)
