"""The canvas restores what voxels and renderers blur."""

from __future__ import annotations

import numpy as np
import pytest

from carm_env.anatomy.painting.canvas import Canvas
from carm_env.anatomy.painting.lattice import Lattice


def canvas_with(hu: np.ndarray) -> Canvas:
    fine = Lattice(np.zeros(3), 2.0, hu.shape)
    canvas = Canvas(Lattice(np.zeros(3), 4.0, tuple(n // 2 + 1 for n in hu.shape)), fine, np.random.default_rng(0))
    canvas.hu[:] = hu
    return canvas


def test_sharpening_preserves_mass_and_leaves_slopes_alone():
    hu = np.zeros((16, 16, 16))
    hu[6:10, 6:10, 6:10] = 1000
    canvas = canvas_with(hu)
    canvas.sharpen(1)
    assert canvas.hu.sum() == pytest.approx(hu.sum(), rel=1e-5)
    assert canvas.hu.max() > 1000
    slope = np.broadcast_to(np.arange(16.0) * 30, (16, 16, 16))
    canvas = canvas_with(slope)
    canvas.sharpen(2)
    np.testing.assert_allclose(canvas.hu[:, :, 2:-2], slope[:, :, 2:-2], atol=1e-3)


@pytest.mark.parametrize("period_voxels", [4, 6, 8])
def test_sharpening_restores_most_of_what_averaging_and_interpolation_take(period_voxels):
    cycles = np.pi / period_voxels
    kept = (np.sin(cycles) / cycles) ** 3  # the average over a voxel, then linear interpolation
    wave = np.broadcast_to(np.cos(2 * cycles * np.arange(48)), (8, 8, 48))
    canvas = canvas_with(wave)
    canvas.sharpen(1)
    gain = canvas.hu[4, 4, 16:32].max() / wave[4, 4, 16:32].max()
    assert 1 - kept * gain < 0.6 * (1 - kept)
    assert kept * gain < 1.0
