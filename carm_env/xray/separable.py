"""The CPU projector: Joseph's method on a virtual plane parallel to the slices.

The idea and the loops are in `carm_env.xray.separable_kernels`; here a view is planned: along which
axis the volume is sliced, where the virtual plane lies and how finely it is sampled.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from carm_env.geometry import ProjectionGeometry
from carm_env.volume import Volume
from carm_env.xray.layout import SliceLayout, build_layout
from carm_env.xray.materials import DensityTable, soft_and_bone
from carm_env.xray.plane import plan_plane, slicing_axis
from carm_env.xray.separable_kernels import copy_to_detector, project_slices, warp_to_detector
from carm_env.xray.simd import LANES, MODE, Mode, available_modes

_CM_PER_MM = 0.1


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
        layout = self.layout(slicing_axis(geometry))
        shape = (len(self.materials), geometry.height, geometry.width)
        if not layout.voxels.all():
            return np.zeros(shape, np.float32)
        plane = plan_plane(layout, geometry, LANES[type(self.mode)])
        sums = _scratch((len(self.materials), plane.height, plane.width))
        project_slices(self.mode, layout.density, layout.extent, plane.view, sums)
        out = np.empty(shape, np.float32)
        if plane.copied is None:
            warp_to_detector(sums, plane.view, plane.pixels, layout.unit, out)
        else:
            copy_to_detector(sums, plane.view, plane.copied, layout.unit, out)
        return out


_buffers = threading.local()


def _scratch(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """An array of this thread's own, valid until the next call: fresh pages would cost a tenth of a picture."""
    size = shape[0] * shape[1] * shape[2]
    buffer: NDArray[np.float32] | None = getattr(_buffers, "sums", None)
    if buffer is None or buffer.size < size:
        buffer = _buffers.sums = np.empty(size, np.float32)
    return buffer[:size].reshape(shape)
