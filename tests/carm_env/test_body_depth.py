"""The middle of the body from front to back, with and without a couch in the volume."""

from __future__ import annotations

import numpy as np
import pytest

from carm_env.body_depth import front_and_back_mm, front_and_back_without_couch_mm
from carm_env.patient import Patient
from carm_env.volume import Volume

FRONT_MM, BACK_MM = -100.0, 120.0


def body(spacing_mm: float = 2.0) -> tuple[np.ndarray, Volume]:
    """A trunk with lungs and a thin chest wall in front of them, hollow arms, and room behind for a couch."""
    low, high = np.array([-260.0, -160.0, 0.0]), np.array([260.0, 240.0, 300.0])
    shape = ((high - low) / spacing_mm).astype(int) + 1
    x, y, z = (low[axis] + spacing_mm * np.arange(shape[axis]) for axis in range(3))
    x, y, z = np.meshgrid(x, y, z, indexing="ij", sparse=True)
    middle, half = (FRONT_MM + BACK_MM) / 2, (BACK_MM - FRONT_MM) / 2
    inside = (x / 170) ** 2 + ((y - middle) / half) ** 2
    hu = np.full(tuple(shape), -1000, np.int16)
    hu[np.broadcast_to(inside <= 1, hu.shape)] = 30
    lungs = (np.abs(np.abs(x) - 80) < 45) & (np.abs(y - middle) < 0.72 * half) & (z > 100)
    hu[np.broadcast_to(lungs, hu.shape) & (hu > -1000)] = -800
    return hu, Volume.from_origin(hu, spacing_mm, low)


def shell(hu: np.ndarray, volume: Volume, rise: float, wide_mm: float = 215.0) -> None:
    """A hollow carbon-fibre couch that touches the back, with rails below it."""
    x, y, _ = (volume.origin_lps_mm[axis] + volume.spacing_mm[axis] * np.arange(hu.shape[axis]) for axis in range(3))
    under = y[None, :] - BACK_MM + rise * (x[:, None] / 215) ** 2
    across = np.abs(x)[:, None] < wide_mm
    outside = (under > 0) & (under < 45) & across
    wall = outside & ((under < 3) | (under > 42) | (np.abs(x)[:, None] > wide_mm - 3))
    rails = (under > 50) & (under < 75) & (np.abs(np.abs(x)[:, None] - 120) < 20)
    for where, value in ((outside, -930), (wall, 300), (rails, 600)):
        free = where[:, :, None] & (hu < -400)
        hu[free] = value


@pytest.mark.parametrize("spacing_mm", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("rise", [0.0, 26.0])
def test_a_couch_that_touches_the_body_does_not_count(spacing_mm, rise):
    hu, volume = body(spacing_mm)
    alone = front_and_back_mm(volume)
    shell(hu, volume, rise)
    assert front_and_back_mm(volume)[1] > BACK_MM + 60, "the couch is denser than air"
    found = front_and_back_without_couch_mm(volume)
    assert found == pytest.approx(alone, abs=max(4.0, 2 * spacing_mm))


def test_the_search_changes_nothing_where_there_is_no_couch():
    _, volume = body()
    assert front_and_back_without_couch_mm(volume) == pytest.approx(front_and_back_mm(volume), abs=2.0)


@pytest.mark.parametrize("hu", [-1000, 40])
def test_a_volume_of_one_value_is_its_own_middle(hu):
    volume = Volume.from_origin(np.full((20, 30, 20), hu, np.int16), 2.0, (0, -10, 0))
    for found in (front_and_back_mm(volume), front_and_back_without_couch_mm(volume)):
        assert found == (-10.0, 48.0)


@pytest.mark.parametrize(
    "card, counts",
    [
        ({"parameters": {"table": False}}, True),
        ({"parameters": {"table": True}}, False),
        ({"parameters": {"table": False}, "scan": {"couch": True}}, False),
        ({"parameters": {"table": False}, "scan": {"slice_mm": 5.0}}, True),
        ({"kind": "imported CT"}, False),
        ({}, False),
    ],
)
def test_the_couch_is_looked_for_unless_the_card_says_that_there_is_none(card, counts):
    hu, volume = body()
    alone = Patient("test:alone", volume, {}, {"parameters": {"table": False}}).mid_depth_mm
    assert alone == pytest.approx((FRONT_MM + BACK_MM) / 2, abs=2.0)
    shell(hu, volume, 0.0)
    lying = Patient("test:lying", volume, {}, card).mid_depth_mm
    assert (lying - alone > 30.0) if counts else abs(lying - alone) < 2.0
