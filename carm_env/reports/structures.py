"""Structures of a patient as points in three dimensions: lungs and findings.

Lungs are found in the CT as air inside the body. A finding of a virtual patient is what differs from the same patient
without it, so that its extent is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.build import patient_id
from carm_env.anatomy.population import VirtualPatient
from carm_env.landmarks import landmark
from carm_env.patient import Patient
from carm_env.patients.catalogue import load_patient
from carm_env.patients.reference import PatientRef
from carm_env.volume import Volume

Points = NDArray[np.float64]
"""``(n, 3)`` LPS mm."""

_AIR_HU = -500
_STRIDE = 2
"""Every second voxel along each axis is looked at."""
_LEAST_LUNG_MM3 = 200_000.0
_MEDIASTINUM_HALF_MM = 20.0
"""Air closer to the middle of the spine, seen from the front, is that of trachea and bronchi."""
_CHANGED_HU = 50
_MAX_POINTS = 4000


def lungs(patient: Patient) -> dict[str, Points]:
    """Finds the lungs of a patient: ``right lung`` and ``left lung``, where they are in the CT.

    A lung is connected air inside the body, to one side of the line from T1 to T12 and caudal of T1. Without the two
    landmarks, or with too little air, nothing is found.
    """
    ends = [patient.landmarks_lps_mm.get(landmark(name).id) for name in ("T1", "T12")]
    if any(end is None for end in ends):
        return {}
    from scipy import ndimage

    volume = patient.volume
    labels, count = ndimage.label(volume.hu[::_STRIDE, ::_STRIDE, ::_STRIDE] < _AIR_HU)
    if count == 0:
        return {}
    least = _LEAST_LUNG_MM3 / float(np.prod(volume.spacing_mm * _STRIDE))
    border = np.unique(np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()]))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    inside = [number for number in range(1, count + 1) if sizes[number] >= least and number not in border]
    points = volume.lps_from_index(_STRIDE * np.argwhere(np.isin(labels, inside)))
    top, bottom = np.asarray(ends, float)
    middle = np.interp(points[:, 2], [bottom[2], top[2]], [bottom[0], top[0]])
    lateral = points[:, 0] - middle
    sides = {"right lung": lateral < -_MEDIASTINUM_HALF_MM, "left lung": lateral > _MEDIASTINUM_HALF_MM}
    found = {name: points[side & (points[:, 2] < top[2])] for name, side in sides.items()}
    return {name: _outline(part) for name, part in found.items() if len(part) >= least / 4}


def _outline(points: Points) -> Points:
    """Returns the first and the last point of each row along each axis: the ends that a bounding box needs."""
    kept = np.zeros(len(points), bool)
    rounded = np.rint(points * 8).astype(np.int64)
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        order = np.lexsort((rounded[:, axis], rounded[:, others[0]], rounded[:, others[1]]))
        rows = rounded[order][:, others]
        changes = np.flatnonzero((rows[1:] != rows[:-1]).any(1))
        kept[order[np.concatenate([[0], changes + 1])]] = True
        kept[order[np.concatenate([changes, [len(points) - 1]])]] = True
    return points[kept]


def known_findings(patient: Patient) -> tuple[str, ...] | None:
    """Returns the findings of a virtual patient, such as ``("pacemaker",)``; None where they are not known."""
    parameters = patient.card.get("parameters")
    findings = parameters.get("findings") if isinstance(parameters, Mapping) else None
    return tuple(map(str, findings)) if isinstance(findings, (list, tuple)) else None


def finding_points(patient: Patient, load: Callable[[str], Patient] = load_patient) -> dict[str, Points]:
    """Returns where the findings of a virtual patient are, each compared with the same patient without it.

    The compared patients are built if they are not in the cache, which takes half a minute for each finding.

    Args:
        patient: the patient.
        load: loads a patient by name.
    """
    found = {}
    for finding in known_findings(patient) or ():
        other = load(_without(patient.id, finding))
        points = _difference(patient.volume, other.volume)
        if len(points):
            found[finding] = points
    return found


def _without(name: str, finding: str) -> str:
    virtual = PatientRef.parse(name).virtual
    if virtual is None:
        raise ValueError(f"patient is {name!r}, expected a virtual patient, whose findings are known.")
    options = dict(virtual.given)
    if not (rest := [item for item in options.pop("findings") if item != finding]):
        return patient_id(VirtualPatient(virtual.seed, **options))
    return patient_id(VirtualPatient(virtual.seed, **options, findings=rest))


def _difference(volume: Volume, other: Volume) -> Points:
    """Returns the voxels of a volume that differ from another one on the same lattice, which may end elsewhere."""
    shift = np.rint(other.index_from_lps(volume.origin_lps_mm)).astype(int)
    low = np.maximum(-shift, 0)
    high = np.minimum(np.array(volume.hu.shape), np.array(other.hu.shape) - shift)
    if (high <= low).any():
        return np.empty((0, 3))
    own = volume.hu[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    same = other.hu[tuple(slice(a, b) for a, b in zip(low + shift, high + shift, strict=True))]
    changed = np.argwhere(np.abs(own.astype(np.int32) - same) > _CHANGED_HU) + low
    step = max(len(changed) // _MAX_POINTS, 1)
    if not len(changed):
        return np.empty((0, 3))
    ends = np.concatenate([changed.argmin(0), changed.argmax(0)])
    chosen = np.union1d(np.arange(0, len(changed), step), ends)
    return volume.lps_from_index(changed[chosen])
