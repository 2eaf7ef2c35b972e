"""The CPU projector: Joseph's method on a virtual plane parallel to the slices.

The idea and the loops are in `carm_env.xray.separable_kernels`; here a view is planned: along which
axis the volume is sliced, where the virtual plane lies and how finely it is sampled.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_env.geometry import ProjectionGeometry
from carm_env.volume import Volume
from carm_env.xray.layout import SliceLayout, build_layout
from carm_env.xray.materials import DensityTable, soft_and_bone
from carm_env.xray.separable_kernels import MAX_COLUMN_STEP, project_slices, to_detector
from carm_env.xray.simd import LANES, MODE, Mode, available_modes

_CM_PER_MM = 0.1
_MARGIN = 2
_PARALLEL = 1e-9
_MIN_RELATIVE_DEPTH = 0.05
_MAX_WARP_STEP = 0.4


@dataclass(frozen=True, eq=False)
class _View:
    """A projection in a layout's index coordinates (c, r, k).

    Attributes:
        parameters: ``(8,)`` the kernels' ``view``.
        pixels: ``(3, 3)`` first pixel, column step and row step.
        height: rows of the virtual plane.
        width: columns of the virtual plane, a multiple of the lanes.
        interpolate: False where every pixel lies on a point of the plane's grid.
    """

    parameters: NDArray[np.float32]
    pixels: NDArray[np.float32]
    height: int
    width: int
    interpolate: bool


class SeparableProjector:
    """Path masses of a volume on the CPU; see `carm_env.xray.projector.Projector`.

    The volume is laid out once for each slicing axis that is needed: frontal views need only the
    one across the anteroposterior axis, lateral views another. A layout takes 4 bytes for each
    voxel of the body's bounding box (two materials): about 100 MB for the default patient at 2 mm,
    and half a second to build, at the first view that needs it.

    Thread-safe: several threads may project at once, and the kernels release the GIL.

    Args:
        volume: the CT.
        table: the materials' densities by HU; soft tissue and bone by default.
        mode: the SIMD mode; the CPU's fastest by default.

    Raises:
        ValueError: the CPU cannot run `mode`.
    """

    def __init__(self, volume: Volume, table: DensityTable | None = None, mode: Mode = MODE) -> None:
        # By type: as tuples, modes of as many lanes are equal.
        if type(mode) not in map(type, available_modes()):
            raise ValueError(f"mode is {mode!r}, expected one that this CPU can run: {available_modes()}.")
        self.volume = volume
        self.table = soft_and_bone() if table is None else table
        self.mode = mode
        self._layouts: dict[int, SliceLayout] = {}
        self._lock = threading.Lock()

    @property
    def materials(self) -> tuple[str, ...]:
        """The names of the materials, in the order of `path_masses`."""
        return self.table.materials

    def layout(self, axis: int) -> SliceLayout:
        """The volume in slices across the world axis 0, 1 or 2 (L, P, S); built at the first call."""
        with self._lock:
            if axis not in self._layouts:
                self._layouts[axis] = build_layout(self.volume, self.table, axis)
            return self._layouts[axis]

    def path_masses(self, geometry: ProjectionGeometry) -> NDArray[np.float32]:
        """Areal densities ``(materials, height, width)`` in g/cm^2, a fresh array each call.

        Raises:
            ValueError: the cone is so wide that rays at its edge run along the slices.
        """
        out = np.zeros((len(self.materials), geometry.height, geometry.width), np.float32)
        layout = self.layout(slicing_axis(geometry))
        if not layout.voxels.all():
            return out
        view = _plan(layout, geometry, LANES[type(self.mode)])
        sums = np.empty((len(self.materials), view.height, view.width), np.float32)
        project_slices(self.mode, layout.density, layout.extent, view.parameters, sums)
        unit = (layout.spacing_mm * _CM_PER_MM * layout.step).astype(np.float32)
        to_detector(sums, view.parameters, view.pixels, unit, view.interpolate, out)
        return out


def slicing_axis(geometry: ProjectionGeometry) -> int:
    """The world axis (0, 1, 2 for L, P, S) nearest to the central ray."""
    middle = np.array([(geometry.width - 1) / 2, (geometry.height - 1) / 2])
    ray = geometry.pixel_lps_mm(middle) - geometry.source_lps_mm
    return int(np.argmax(np.abs(ray)))


def _plan(layout: SliceLayout, geometry: ProjectionGeometry, lanes: int) -> _View:
    """Choose the virtual plane, half way from the source to the detector, and its grid."""
    order = list(layout.axes_crk)
    source = (geometry.source_lps_mm[order] - layout.first_voxel_mm) / layout.spacing_mm
    first = (geometry.first_pixel_lps_mm[order] - layout.first_voxel_mm) / layout.spacing_mm
    right = geometry.column_step_lps_mm[order] / layout.spacing_mm
    down = geometry.row_step_lps_mm[order] / layout.spacing_mm
    last_column, last_row = geometry.width - 1, geometry.height - 1
    middle = first + 0.5 * last_column * right + 0.5 * last_row * down
    depth = 0.5 * (middle[2] - source[2])
    plane_k = source[2] + depth
    corners = np.stack([first + i * right + j * down for j in (0, last_row) for i in (0, last_column)])
    rays = corners - source
    if (rays[:, 2] / depth < _MIN_RELATIVE_DEPTH).any():
        raise ValueError(
            f"the cone from {geometry.source_lps_mm.tolist()} (LPS, mm) is too wide for one slicing axis: "
            "rays at its edge run along the slices. Use a smaller detector or a longer source-detector distance."
        )
    on_plane = source[:2] + rays[:, :2] * (depth / rays[:, 2:])
    low, high = on_plane.min(0), on_plane.max(0)
    # The picture of the plane grows with the distance from the source: the farthest slice decides.
    farthest = max((k - source[2]) / depth for k in (0, layout.voxels[2] - 1))
    max_step = MAX_COLUMN_STEP / max(farthest, _PARALLEL)
    aligned = np.abs([right[1], right[2], down[0], down[2]]).max() < _PARALLEL
    if aligned:
        column_pitch, row_pitch = 0.5 * np.abs(right[0]), 0.5 * np.abs(down[1])
        subdivision = max(1, int(np.ceil(column_pitch / max_step)))
        steps = np.array([column_pitch / subdivision, row_pitch])
        counts = [last_column * subdivision + 1, last_row + 1]
    else:
        # A warp from a grid coarser than the voxels loses detail even if the pixels are coarse: at 0.4
        # voxels its error is that of Joseph's method itself.
        steps = np.minimum(_pixel_pitch(rays, right, down, depth), _MAX_WARP_STEP)
        steps[0] = min(steps[0], max_step)
        counts = [int(np.ceil(extent)) + 1 + 2 * _MARGIN for extent in (high - low) / steps]
        low = low - _MARGIN * steps
    parameters = [*source, plane_k, low[1], steps[1], low[0], steps[0]]
    return _View(
        parameters=np.array(parameters, np.float32),
        pixels=np.stack([first, right, down]).astype(np.float32),
        height=counts[1],
        width=-(-counts[0] // lanes) * lanes,
        interpolate=not aligned,
    )


def _pixel_pitch(
    rays: NDArray[np.float64], right: NDArray[np.float64], down: NDArray[np.float64], depth: float
) -> NDArray[np.float64]:
    """``(2,)``: the finest spacing of the pixels on the plane along c and r, over the corner rays ``(n, 3)``."""
    squares = np.zeros((len(rays), 2))
    for step in (right, down):
        moved = (step[:2] * rays[:, 2:] - rays[:, :2] * step[2]) * (depth / rays[:, 2:] ** 2)
        squares += moved**2
    return np.sqrt(squares.min(0))
