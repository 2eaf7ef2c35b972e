"""Images of real CTs and of virtual patients at the same positions on the same voxels, for `benchmarks.realism`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks._support.discrimination import Group
from benchmarks._support.matched_views import Images, Positions, Subject, Voxels, draw_positions, render_matched
from carm_env.geometry import DEFAULT_GEOMETRY
from carm_env.patients.build import default_workers, prepare_patients
from carm_env.patients.reference import PatientRef
from carm_env.patients.separation import person_of

REAL, VIRTUAL = "real", "virtual"


@dataclass(frozen=True, eq=False)
class ImageCollection:
    """Images of real CTs and of virtual patients.

    Attributes:
        images: ``(n, s, s)`` before the histograms are matched.
        groups: groups of images by kind, `REAL` and `VIRTUAL`.
        position: ``(n,)`` index of the position of each image; positions are numbered from 0 in each CT.
        axis: landmarks between which the views of each CT lie.
        mid_depth_pixel_mm: side of a pixel at mid-depth.
    """

    images: Images
    groups: Mapping[str, list[Group]]
    position: NDArray[np.intp]
    axis: Mapping[str, tuple[str, str]]
    mid_depth_pixel_mm: float

    @property
    def air(self) -> NDArray[np.bool_]:
        """``(n, s, s)`` pixels of open air, which are black."""
        return self.images == 0


def collect(
    real: Sequence[str],
    raised: Sequence[str],
    people: Sequence[str],
    *,
    views: int,
    size: int,
    isocenter_depth_mm: float,
    seed: int,
) -> ImageCollection:
    """Builds and renders all patients.

    Args:
        real: CTs of people, installed by name.
        raised: CTs whose arms are raised; the arms of others are at the sides.
        people: virtual patients; a CT is compared with the patients of its pose.
        views: views of each CT. Each virtual patient is seen at a share of the positions.
        size: side of the images in pixels.
        isocenter_depth_mm: depth of the isocentre (`carm_env.geometry.check_isocenter_depth`).
        seed: seed of the positions.

    Raises:
        UnknownNameError: a CT is not installed.
        ValueError: a CT lacks the landmarks or shows an end of its volume everywhere.
    """
    cts = {name: PatientRef.parse(name) for name in real}
    arms = {name: "raised" if name in raised else "sides" for name in cts}
    virtual = [PatientRef.parse(person) for person in people]
    prepare_patients([*cts.values(), *virtual], default_workers())
    positions: dict[str, Positions] = {}
    voxels: dict[str, Voxels] = {}
    builder = _Builder()
    for number, (name, ref) in enumerate(cts.items()):
        patient = ref.load()
        subject, voxels[name] = Subject.of(patient, isocenter_depth_mm), Voxels.of(patient)
        positions[name] = draw_positions(subject, views, np.random.default_rng([seed, number]))
        own = voxels[name].own_mm, voxels[name].spacing_mm
        images = render_matched(subject, positions[name], *own, size)
        builder.add(REAL, person_of(ref), name, images, np.arange(len(images)))
    for pose in dict.fromkeys(arms.values()):
        similar = [ref for ref in virtual if _arms_of(ref) == pose]
        share = -(-2 * views // max(len(similar), 1))
        for number, ref in enumerate(similar):
            subject = Subject.of(ref.load(), isocenter_depth_mm)
            for name in (name for name in cts if arms[name] == pose):
                # Another share of the positions for each person.
                usable = np.flatnonzero(subject.shown(positions[name]))
                chosen = np.sort(np.roll(usable, -number * share)[:share])
                if not len(chosen):
                    raise ValueError(f"{ref} shows an end of its volume in all views that match {name}.")
                wanted = voxels[name].of_others_mm, voxels[name].spacing_mm
                images = render_matched(subject, positions[name].only(chosen), *wanted, size)
                builder.add(VIRTUAL, person_of(ref), name, images, chosen)
    return ImageCollection(
        np.concatenate(builder.images),
        builder.groups,
        np.concatenate(builder.positions),
        {name: found.axis for name, found in positions.items()},
        DEFAULT_GEOMETRY.field_of_view_at_mm(isocenter_depth_mm) / size,
    )


def _arms_of(ref: PatientRef) -> str:
    """Returns the pose of the arms of a virtual patient; ``"sides"`` for others."""
    return "sides" if ref.virtual is None else ref.virtual.parameters.arms


class _Builder:
    """Numbers images in the order in which they are added."""

    def __init__(self) -> None:
        self.images: list[Images] = []
        self.positions: list[NDArray[np.intp]] = []
        self.groups: dict[str, list[Group]] = {REAL: [], VIRTUAL: []}
        self._count = 0

    def add(self, kind: str, person: str, ct: str, images: Images, positions: NDArray[np.intp]) -> None:
        rows = np.arange(self._count, self._count + len(images))
        self.groups[kind].append(Group(person, ct, rows))
        self.images.append(images)
        self.positions.append(positions)
        self._count += len(images)
