"""Random trees of lung vessels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_env.anatomy.organs.heart import LEFT_DESCENDING_ARTERY, RIGHT_DESCENDING_ARTERY
from carm_env.anatomy.organs.thorax import Thorax
from carm_env.anatomy.painting import tissue
from carm_env.anatomy.painting.canvas import Canvas
from carm_env.system.compilation import compiled

_TIPS = 1500
_PLEURA_MM = 5.0
_DETOUR_COST = 0.35
_TIP_RADIUS_MM, _GROWTH, _WIDEST_MM = 0.68, 0.395, 6.5
_THINNEST_RESOLVED_VOXELS = 0.55
_EDGE_VOXELS = 1.2


@compiled
def _stamp(
    fraction: NDArray[np.float32], origin: NDArray[np.float64], spacing: float, starts: NDArray[np.float64],
    ends: NDArray[np.float64], radii: NDArray[np.float64], strengths: NDArray[np.float64], first: NDArray[np.int64],
    last: NDArray[np.int64],
) -> None:  # fmt: skip
    for n in range(len(radii)):
        sx, sy, sz = starts[n, 0], starts[n, 1], starts[n, 2]
        dx, dy, dz = ends[n, 0] - sx, ends[n, 1] - sy, ends[n, 2] - sz
        length2 = max(dx**2 + dy**2 + dz**2, 1e-6)
        for i in range(first[n, 0], last[n, 0]):
            px = origin[0] + spacing * i - sx
            for j in range(first[n, 1], last[n, 1]):
                py = origin[1] + spacing * j - sy
                for k in range(first[n, 2], last[n, 2]):
                    pz = origin[2] + spacing * k - sz
                    t = min(max((px * dx + py * dy + pz * dz) / length2, 0.0), 1.0)
                    gap = np.sqrt((px - t * dx) ** 2 + (py - t * dy) ** 2 + (pz - t * dz) ** 2) - radii[n]
                    share = min(max(0.5 - gap / (_EDGE_VOXELS * spacing), 0.0), 1.0) * strengths[n]
                    fraction[i, j, k] = max(fraction[i, j, k], np.float32(share))


def _grow(root: NDArray[np.float64], tips: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    # Connects each tip, nearest first, to the node that minimises branch length plus weighted path length to the root.
    nodes = np.concatenate([root[None], tips[np.argsort(np.linalg.norm(tips - root, axis=1), kind="stable")]])
    parents = np.zeros(len(nodes), np.int64)
    path_length = np.zeros(len(nodes))
    for number in range(1, len(nodes)):
        gaps = np.linalg.norm(nodes[:number] - nodes[number], axis=1)
        parents[number] = np.argmin(gaps + _DETOUR_COST * path_length[:number])
        path_length[number] = path_length[parents[number]] + gaps[parents[number]]
    return nodes, parents


def paint_lung_vessels(canvas: Canvas, thorax: Thorax, lungs: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Paints a tree of vessels from each hilum into its lung.

    Args:
        canvas: the volume.
        thorax: gives the positions of the hila.
        lungs: signed distance from the surface of the lungs on the coarse lattice, mm.
        rng: draws the tips of the trees.
    """
    inside = np.argwhere(lungs < -_PLEURA_MM)
    chosen = inside[np.sort(rng.choice(len(inside), min(_TIPS, len(inside)), replace=False))]
    jitter = rng.uniform(-0.5, 0.5, chosen.shape)
    tips = canvas.coarse.origin_mm + canvas.coarse.spacing_mm * (chosen + jitter)
    fine = canvas.fine
    fraction = np.zeros(fine.shape, np.float32)
    for sign, table in ((-1, RIGHT_DESCENDING_ARTERY), (1, LEFT_DESCENDING_ARTERY)):
        root = thorax.points(table[1][:3])
        nodes, parents = _grow(root, tips[np.sign(tips[:, 0]) == sign])
        flow = np.ones(len(nodes))
        for number in range(len(nodes) - 1, 0, -1):
            flow[parents[number]] += flow[number]
        widest = _WIDEST_MM * thorax.scale
        radii = np.array([min(_TIP_RADIUS_MM * branches**_GROWTH, widest) for branches in flow[1:]])
        strengths = np.minimum(1.0, radii / (_THINNEST_RESOLVED_VOXELS * fine.spacing_mm))
        starts, ends, reach = nodes[parents[1:]], nodes[1:], radii[:, None] + 3.0
        first = (np.minimum(starts, ends) - reach - fine.origin_mm) / fine.spacing_mm
        last = (np.maximum(starts, ends) + reach - fine.origin_mm) / fine.spacing_mm
        first_voxel = np.maximum(first.astype(np.int64), 0)
        last_voxel = np.minimum(last.astype(np.int64) + 2, fine.shape)
        _stamp(fraction, fine.origin_mm, fine.spacing_mm, starts, ends, radii, strengths, first_voxel, last_voxel)
    low, high = tips.min(0) - 12, tips.max(0) + 12
    box = fine.box(low, high)
    inside_lung = canvas.hu[box] < -500
    canvas.paint_fraction(box, fraction[box] * inside_lung, tissue.hu("lung_vessel"))
