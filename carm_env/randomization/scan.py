"""A CT scanner's properties, and the volume that it makes of a patient.

`acquire` applies them in physical order: the patient lies turned, metal and couch lie in the scanner, the scan ends at
a level and has a field of view, the kernel blurs or sharpens, voxels average, and the calibration of Hounsfield units
errs last.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from carm_env.body_depth import SKIN_HU
from carm_env.landmarks import landmark
from carm_env.patient import Patient
from carm_env.system.errors import UnknownNameError, finite_number
from carm_env.volume import AIR_HU, Volume

Kernel = Literal["soft", "standard", "sharp"]
LIMITS: dict[str, tuple[float, float]] = {
    "pixel_mm": (0.0, 8.0),
    "slice_mm": (0.0, 8.0),
    "hu_offset": (-100.0, 100.0),
    "hu_slope": (0.8, 1.2),
    "field_of_view_mm": (0.0, 1000.0),
    "above_t1_mm": (-100.0, 300.0),
    "below_t12_mm": (-150.0, 400.0),
    "metal": (0, 8),
    "askew_deg": (-30.0, 30.0),
    "roll_deg": (-45.0, 45.0),
}
"""Lowest and highest valid value of each number."""

_SOFT_MM, _SHARP_MM, _SHARP_GAIN = 1.2, 1.5, 0.8
"""Blur of the soft kernel, and radius and gain of the edge enhancement of the sharp one, in the plane of the slices.

Chosen by hand: on voxels of 2 mm they change the images about as much as they differ between kernels of one CT.
"""
_METAL_HU, _DISC_DEPTH_MM, _WIRE_DEPTH_MM = 3000, 20.0, 8.0
"""A CT stores at most about 3,000 HU. Metal is deeper here than it is, so that an X-ray shows it as bright as it is."""
_DISC_MM, _WIRE_MM = (4.0, 9.0), (60.0, 260.0)
_METAL_REACH_MM = 20.0


@dataclass(frozen=True)
class Scan:
    """A CT scan of a patient. The defaults change nothing.

    Attributes:
        pixel_mm: side of the pixels of a slice; 0, or less than the patient's voxels, for those of the patient.
        slice_mm: thickness of the slices, which touch each other; 0 as above.
        kernel: ``"soft"``, ``"standard"`` or ``"sharp"``.
        hu_offset: error of the calibration at water, HU; it declines linearly to none in air.
        hu_slope: factor of positive HU, as another tube voltage gives it.
        field_of_view_mm: diameter of the reconstructed field around the body's middle; air outside. 0 for the whole.
        above_t1_mm: the scan ends this far above T1; None for the whole head. Without T1 it is not cut.
        below_t12_mm: the scan ends this far below T12; None for the whole volume. Without T12 it is not cut.
        couch: a CT couch under the patient.
        metal: number of buttons, clips and cables on the skin.
        seed: seed of the places of the metal.
        askew_deg: the patient lies askew, turned by this angle in the plane of the couch; positive moves the head to
            the patient's left.
        roll_deg: the patient is rolled about the long axis; positive raises the patient's left side.

    Raises:
        ValueError: a number is not finite or outside `LIMITS`.
        UnknownNameError: unknown kernel.
    """

    pixel_mm: float = 0.0
    slice_mm: float = 0.0
    kernel: Kernel = "standard"
    hu_offset: float = 0.0
    hu_slope: float = 1.0
    field_of_view_mm: float = 0.0
    above_t1_mm: float | None = None
    below_t12_mm: float | None = None
    couch: bool = False
    metal: int = 0
    seed: int = 0
    askew_deg: float = 0.0
    roll_deg: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= finite_number(name, value) <= high:
                raise ValueError(f"{name} of the scan is {value!r}, expected {low:g} to {high:g}.")
        if self.kernel not in get_args(Kernel):
            raise UnknownNameError("kernel", self.kernel, get_args(Kernel))
        for name, kind in (("couch", bool), ("metal", int), ("seed", int)):
            value = getattr(self, name)
            if not isinstance(value, kind) or value < 0:
                raise ValueError(f"{name} of the scan is {value!r}, expected {kind.__name__} from 0.")

    @property
    def is_identity(self) -> bool:
        """Whether the scan changes nothing."""
        return replace(self, seed=0) == Scan()

    def to_json(self) -> dict[str, Any]:
        """Returns the fields that differ from their defaults, as JSON values."""
        default = asdict(Scan())
        return {name: value for name, value in asdict(self).items() if value != default[name]}


SCAN_FIELDS = tuple(item.name for item in fields(Scan))


def acquire(patient: Patient, scan: Scan, name: str) -> Patient:
    """Scans a patient again.

    Args:
        patient: the patient.
        scan: properties of the scanner.
        name: id of the scanned patient.

    Returns:
        The scanned patient. Landmarks outside the scanned part are absent; the others keep their positions. The card
        records the scan.

    Raises:
        ValueError: nothing of the patient would be left, or none of its landmarks.
    """
    card = {**patient.card, "scan": {"of": patient.id, **scan.to_json()}}
    if scan.is_identity:
        return Patient(name, patient.volume, patient.landmarks_lps_mm, card)
    if scan.askew_deg or scan.roll_deg:
        patient = _turned(patient, scan)
    volume = patient.volume
    if scan.metal:
        volume = _with_metal(patient, scan)
    if scan.couch:
        volume = _with_couch(volume)
    volume = _truncated(volume, patient, scan)
    points = {key: point for key, point in patient.landmarks_lps_mm.items() if _is_scanned(point, patient, scan)}
    if patient.landmarks_lps_mm and not points:
        raise ValueError(
            f"the scan {scan.to_json()} leaves none of the landmarks of {patient.id}: widen its field of view or its "
            "ends."
        )
    hu = _averaged(_filtered(volume, scan), scan)
    return Patient(name, _calibrated(hu, scan), points, card)


def scanned_landmarks(patient: Patient, scan: Scan) -> tuple[int, ...]:
    """Returns the ids of the landmarks of a patient that a scan contains."""
    return tuple(key for key, point in patient.landmarks_lps_mm.items() if _is_scanned(point, patient, scan))


def _heights_mm(patient: Patient, scan: Scan) -> tuple[float, float]:
    """Returns the z of the lower and of the upper end of a scan; infinite where it is not cut."""
    low, high = -np.inf, np.inf
    t1, t12 = (patient.landmarks_lps_mm.get(landmark(name).id) for name in ("T1", "T12"))
    if scan.above_t1_mm is not None and t1 is not None:
        high = float(t1[2]) + scan.above_t1_mm
    if scan.below_t12_mm is not None and t12 is not None:
        low = float(t12[2]) - scan.below_t12_mm
    return low, high


def _middle_mm(patient: Patient) -> NDArray[np.float64]:
    """Returns the ``(x, y)`` of the middle of the body, LPS mm."""
    body = (patient.volume.hu[::4, :, ::4] > SKIN_HU).any(axis=(1, 2))
    columns = np.flatnonzero(body) * 4 if body.any() else np.array([0, patient.volume.hu.shape[0] - 1])
    x = patient.volume.lps_from_index([[columns[0], 0, 0], [columns[-1], 0, 0]])[:, 0].mean()
    return np.array([x, patient.mid_depth_mm])


def _is_scanned(point: NDArray[np.float64], patient: Patient, scan: Scan) -> bool:
    low, high = _heights_mm(patient, scan)
    across = float(np.linalg.norm(point[:2] - _middle_mm(patient))) if scan.field_of_view_mm else 0.0
    return low <= point[2] <= high and across <= (scan.field_of_view_mm or np.inf) / 2


def _turned(patient: Patient, scan: Scan) -> Patient:
    """Returns the patient turned about the middle of the volume, in a volume that holds all of it."""
    from scipy.ndimage import affine_transform

    rotation = _rotation(scan)
    volume = patient.volume
    shape, spacing = np.array(volume.hu.shape), volume.spacing_mm
    corners = volume.lps_from_index(np.array([np.zeros(3), shape - 1]))
    middle = corners.mean(0)
    reach = np.abs(rotation) @ ((shape - 1) * spacing / 2)
    size = 2 * np.ceil(reach / spacing).astype(int) + 1
    first = middle - (size - 1) / 2 * spacing
    # From an index of the new volume to one of the old: back to mm, turned back, and to an index.
    matrix = np.diag(1 / spacing) @ rotation.T @ np.diag(spacing)
    offset = (rotation.T @ (first - middle) + middle - corners[0]) / spacing
    hu = affine_transform(
        volume.hu.astype(np.float32), matrix, offset, tuple(size), order=1, mode="constant", cval=AIR_HU
    )
    points = {key: middle + rotation @ (point - middle) for key, point in patient.landmarks_lps_mm.items()}
    return Patient(patient.id, Volume.from_origin(np.rint(hu).astype(np.int16), spacing, first), points, patient.card)


def _rotation(scan: Scan) -> NDArray[np.float64]:
    """Returns the rotation ``(3, 3)`` in LPS: rolled about z, then turned about y."""
    askew, roll = np.radians([scan.askew_deg, scan.roll_deg])
    about_y = np.array([[np.cos(askew), 0, np.sin(askew)], [0, 1, 0], [-np.sin(askew), 0, np.cos(askew)]])
    about_z = np.array([[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return np.asarray(about_y @ about_z)


def _truncated(volume: Volume, patient: Patient, scan: Scan) -> Volume:
    low, high = _heights_mm(patient, scan)
    x, y, z = (volume.origin_lps_mm[n] + volume.spacing_mm[n] * np.arange(volume.hu.shape[n]) for n in range(3))
    kept = np.flatnonzero((z >= low) & (z <= high))
    if len(kept) < 2:
        raise ValueError(f"the scan {scan.to_json()} leaves no slices of {patient.id}: widen its ends.")
    hu = volume.hu[:, :, kept[0] : kept[-1] + 1]
    if scan.field_of_view_mm:
        middle = _middle_mm(patient)
        outside = np.hypot(x[:, None] - middle[0], y[None] - middle[1]) > scan.field_of_view_mm / 2
        hu = np.where(outside[:, :, None], np.int16(AIR_HU), hu)
    return Volume.from_origin(hu, volume.spacing_mm, [*volume.origin_lps_mm[:2], z[kept[0]]])


def _filtered(volume: Volume, scan: Scan) -> Volume:
    from scipy.ndimage import gaussian_filter

    if scan.kernel == "standard":
        return volume
    sigma_mm = _SOFT_MM if scan.kernel == "soft" else _SHARP_MM
    sigmas = [sigma_mm / volume.spacing_mm[0], sigma_mm / volume.spacing_mm[1], 0.0]
    hu = volume.hu.astype(np.float32)
    smooth = gaussian_filter(hu, sigmas, mode="nearest", truncate=3.0)
    if scan.kernel == "sharp":
        smooth = hu + _SHARP_GAIN * (hu - smooth)
    limits = min(int(volume.hu.min()), AIR_HU), max(int(volume.hu.max()), _METAL_HU)
    return Volume(np.rint(np.clip(smooth, *limits)).astype(np.int16), volume.affine_lps_mm)


def _averaged(volume: Volume, scan: Scan) -> Volume:
    """Returns the means over larger voxels, which touch each other; what is left at the end of an axis is lost."""
    wanted = np.array([scan.pixel_mm, scan.pixel_mm, scan.slice_mm])
    values: NDArray[Any] = volume.hu
    spacing, origin = volume.spacing_mm, volume.origin_lps_mm
    for axis in range(3):
        if wanted[axis] <= spacing[axis]:
            continue
        length = values.shape[axis] * spacing[axis]
        count = max(int(length // wanted[axis]), 2)
        # A voxel reaches half its size to either side of its centre.
        edges = np.arange(count + 1) * min(wanted[axis], length / count) / spacing[axis]
        values = _means(values, axis, edges)
        origin[axis] += (edges[1] - 1) / 2 * spacing[axis]
        spacing[axis] *= edges[1]
    if values is volume.hu:
        return volume
    return Volume.from_origin(np.rint(values).astype(np.int16), spacing, origin)


def _means(values: NDArray[Any], axis: int, edges: NDArray[np.float64]) -> NDArray[np.float32]:
    """Returns the means of a step function between edges, given in steps, along one axis."""
    steps = np.arange(values.shape[axis])
    covered = np.minimum(steps + 1, edges[1:, None]) - np.maximum(steps, edges[:-1, None])
    weights = (np.maximum(covered, 0) / np.diff(edges)[:, None]).astype(np.float32)
    first = np.moveaxis(values, axis, 0)
    shape = (len(weights), *first.shape[1:])
    means = np.empty(shape, np.float32)
    for row, weight in enumerate(weights):
        used = np.flatnonzero(weight)
        part = first[used[0] : used[-1] + 1]
        # Row by row in float32, so that the sum does not depend on the processor's matrix product.
        means[row] = weight[used[0]] * part[0]
        for number in range(1, len(part)):
            means[row] += weight[used[0] + number] * part[number]
    return np.moveaxis(means, 0, axis)


def _calibrated(volume: Volume, scan: Scan) -> Volume:
    if scan.hu_offset == 0 and scan.hu_slope == 1:
        return volume
    hu = np.arange(-32768, 32768, dtype=np.float64)
    wrong = hu + scan.hu_offset * np.clip(1 + hu / 1000, 0, 1) + (scan.hu_slope - 1) * np.maximum(hu, 0)
    table = np.rint(np.clip(wrong, -32768, 32767)).astype(np.int16)
    return Volume(table[volume.hu.astype(np.int32) + 32768], volume.affine_lps_mm)


def _with_couch(volume: Volume) -> Volume:
    from carm_env.anatomy.painting.lattice import Lattice
    from carm_env.anatomy.table_pose import add_table

    steps = volume.spacing_mm
    if np.ptp(steps) > 1e-6:
        raise ValueError(f"the voxels measure {steps.tolist()} mm, expected cubes for a couch: leave the couch out.")
    # The table is painted around x = 0, where virtual patients lie.
    body = np.flatnonzero((volume.hu[:, ::4, ::4] > SKIN_HU).any(axis=(1, 2)))
    middle = volume.origin_lps_mm[0] + steps[0] * (body[0] + body[-1]) / 2 if len(body) else 0.0
    shift = np.array([steps[0] * np.rint(middle / steps[0]), 0.0, 0.0])
    shape = volume.hu.shape
    lattice = Lattice(volume.origin_lps_mm - shift, float(steps[0]), (shape[0], shape[1], shape[2]))
    hu, wide = add_table(volume.hu, lattice)
    return Volume.from_origin(np.ascontiguousarray(hu), wide.spacing_mm, wide.origin_mm + shift)


def _with_metal(patient: Patient, scan: Scan) -> Volume:
    """Returns the volume with buttons and cables on the front of the skin, within reach of the landmarks."""
    volume = patient.volume
    rng = np.random.default_rng([scan.seed, 0x6D6574])
    hu = volume.hu.copy()
    body = hu > SKIN_HU
    skin = np.where(body.any(axis=1), body.argmax(axis=1), -1)
    low, high = patient.workspace_mm
    for _ in range(scan.metal):
        # Every number is drawn whatever the object, so that one object does not change the next.
        centre, is_wire = rng.uniform(low + _METAL_REACH_MM, high - _METAL_REACH_MM), rng.random() < 0.5
        radius, length = rng.uniform(*_DISC_MM), rng.uniform(*_WIRE_MM)
        angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.4, 0.4)
        if is_wire:
            along = np.arange(-length / 2, length / 2, volume.spacing_mm.min() / 2)
            across = bend * length * ((2 * along / length) ** 2 - 1)
            points = centre + np.stack([along * np.cos(angle) - across * np.sin(angle),
                                        along * np.sin(angle) + across * np.cos(angle)], 1)  # fmt: skip
        else:
            grid = np.arange(-radius, radius + 1e-6, volume.spacing_mm.min() / 2)
            square = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
            points = centre + square[np.hypot(*square.T) <= radius]
        _lay_on_skin(hu, skin, volume, points, _WIRE_DEPTH_MM if is_wire else _DISC_DEPTH_MM)
    return Volume(hu, volume.affine_lps_mm)


def _lay_on_skin(
    hu: NDArray[np.int16], skin: NDArray[np.intp], volume: Volume, points_mm: NDArray[np.float64], depth_mm: float
) -> None:
    """Puts metal in front of the skin at points ``(n, 2)``, x and z."""
    lps = np.insert(points_mm, 1, 0.0, axis=1)
    index = np.rint(volume.index_from_lps(lps)).astype(int)[:, [0, 2]]
    index = index[((index >= 0) & (index < skin.shape)).all(axis=1)]
    depth = skin[index[:, 0], index[:, 1]]
    for layer in range(1, round(depth_mm / volume.spacing_mm[1]) + 1):
        free = depth >= layer
        hu[index[free, 0], depth[free] - layer, index[free, 1]] = _METAL_HU
