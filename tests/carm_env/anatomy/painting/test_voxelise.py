from __future__ import annotations

import numpy as np
import pytest

from carm_env.anatomy.organs.bone_samples import depth_below_surface
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.painting.meshes import Mesh
from carm_env.anatomy.painting.voxelise import fill

LATTICE = Lattice(np.array([-25.0, -25.0, -25.0]), 1.0, (51, 51, 51))


def sphere(radius_mm: float, centre_mm=(0.0, 0.0, 0.0), rings: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A closed sphere of triangles."""
    polar = np.linspace(0, np.pi, rings + 1)
    around = np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
    p, a = np.meshgrid(polar, around, indexing="ij")
    points = np.stack([np.sin(p) * np.cos(a), np.sin(p) * np.sin(a), np.cos(p)], -1).reshape(-1, 3)
    faces = []
    count = len(around)
    for i in range(rings):
        for j in range(count):
            a0, a1 = i * count + j, i * count + (j + 1) % count
            b0, b1 = a0 + count, a1 + count
            faces += [(a0, b0, b1), (a0, b1, a1)]
    return points * radius_mm + np.array(centre_mm), np.array(faces)


def test_a_filled_sphere_has_the_right_volume_and_centre():
    inside = fill(*sphere(18.0, (2.0, -3.0, 1.0)), LATTICE)
    assert inside.sum() == pytest.approx(4 / 3 * np.pi * 18**3, rel=0.01)
    centre = np.argwhere(inside).mean(0) + LATTICE.origin_mm
    np.testing.assert_allclose(centre, [2, -3, 1], atol=0.1)


def test_a_hole_in_the_surface_hardly_changes_the_result():
    points, faces = sphere(18.0)
    whole = fill(points, faces, LATTICE)
    holed = fill(points, np.delete(faces, slice(700, 712), axis=0), LATTICE)
    assert (whole != holed).sum() < 0.01 * whole.sum()


def test_meshes_are_clipped_to_the_lattice():
    half = fill(*sphere(18.0, (-25.5, 0.0, 0.0)), LATTICE)
    assert half.sum() == pytest.approx(2 / 3 * np.pi * 18**3, rel=0.03)
    assert not fill(*sphere(5.0, (200.0, 0.0, 0.0)), LATTICE).any()


def test_depth_below_the_surface_grows_inwards():
    inside = fill(*sphere(18.0), LATTICE)
    index = np.nonzero(inside)
    depth = depth_below_surface(inside, index, 1.3)
    x, y, z = LATTICE.axes()
    exact = (18 - np.sqrt(x**2 + y**2 + z**2))[index]
    near = (exact > 0.5) & (exact < 3.0)
    assert np.abs(depth - exact)[near].max() < 0.9
    assert depth.min() >= 0


def test_shells_are_the_connected_parts_even_if_vertices_are_doubled():
    first, faces = sphere(5.0, rings=8)
    second, _ = sphere(5.0, (20.0, 0.0, 0.0), rings=8)
    soup = np.concatenate([first[faces].reshape(-1, 3), second[faces].reshape(-1, 3)])
    mesh = Mesh("two", "body", soup, np.arange(len(soup)).reshape(-1, 3))
    parts = mesh.shells()
    assert sorted(round(float(part.centre_mm[0])) for part in parts) == [0, 20]
    assert all(len(part.faces) == len(faces) for part in parts)


def test_the_long_axis_of_a_rod():
    points, faces = sphere(5.0)
    mesh = Mesh("rod", "body", points * [1, 1, 6] + [3, 0, 0], faces)
    centre, direction, begin, end = mesh.long_axis()
    assert abs(direction[2]) == pytest.approx(1.0, abs=1e-6)
    assert end - begin == pytest.approx(60.0, rel=0.01)
    np.testing.assert_allclose(centre, [3, 0, 0], atol=1e-6)
