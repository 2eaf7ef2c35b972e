"""The centres of T1 and T12 that label maps of virtual patients' vertebrae give, on fine, coarse and cut grids."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from carm_env.anatomy.parameters import PatientParameters
from carm_env.ct.label_maps import CLASSES, landmarks_from_labels
from carm_env.landmarks import landmark

pytest.importorskip("SimpleITK")
T1, T12 = landmark("T1").id, landmark("T12").id


def _phantoms():
    spec = util.spec_from_file_location("label_phantoms", Path(__file__).with_name("label_phantoms.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault("label_phantoms", util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


label_phantoms = _phantoms()
PEOPLE = {"average": PatientParameters(), **{f"seed {seed}": PatientParameters(seed=seed) for seed in range(1, 6)}}


@cache
def spine_of(person):
    return label_phantoms.make_spine(PEOPLE[person])


@cache
def fine_spine():
    return label_phantoms.make_spine(PEOPLE["seed 4"], 1.0)


@pytest.fixture(params=PEOPLE)
def spine(request):
    return spine_of(request.param)


@pytest.fixture
def average():
    return spine_of("average")


def derive(labelled, folder):
    return landmarks_from_labels(labelled.write(folder / "labels.nii.gz"))


def check(derived, exact, within_mm, keys=(T1, T12)):
    """The landmarks are within a distance of the truth, and within 2 of their own standard deviations."""
    for key in keys:
        error = derived.points_lps_mm[key] - exact[key]
        assert np.linalg.norm(error) < within_mm, (landmark(key).name, error)
        assert np.linalg.norm(error) < 2 * derived.std_mm[key], (landmark(key).name, error, derived.std_mm[key])


def test_fine_maps_give_the_middle_of_the_body(tmp_path, spine):
    derived = derive(spine, tmp_path)
    check(derived, spine.exact_mm, 1.5)
    assert max(derived.std_mm.values()) < 5.0


@pytest.mark.parametrize("begin", [0, 1])
def test_slices_of_5_mm_give_the_body_and_not_the_arch(tmp_path, spine, begin):
    check(derive(spine.thinned((1, 1, 2), begin), tmp_path), spine.exact_mm, 2.0)


@pytest.mark.parametrize("begin", [0, 1])
def test_voxels_of_5_mm_give_the_body_and_state_their_uncertainty(tmp_path, spine, begin):
    derived = derive(spine.thinned((2, 2, 2), begin), tmp_path)
    check(derived, spine.exact_mm, 7.0)
    assert derived.std_mm[T1] > 6.0


@pytest.mark.parametrize("begin", range(3))
def test_slices_of_7_5_mm_state_their_uncertainty(tmp_path, spine, begin):
    derived = derive(spine.thinned((1, 1, 3), begin), tmp_path)
    check(derived, spine.exact_mm, 8.0)
    assert derived.std_mm[T1] > 6.0


def test_voxels_that_do_not_resolve_t1_give_a_large_uncertainty(tmp_path, spine):
    derived = derive(spine.thinned((3, 3, 3)), tmp_path)
    assert derived.std_mm[T1] > 15.0
    check(derived, spine.exact_mm, 5.0, (T12,))


@pytest.mark.parametrize("every", [(1, 1, 1), (1, 1, 2), (1, 1, 5), (2, 2, 2)])
def test_small_voxels_give_the_same_centre(tmp_path, every):
    """In seed 4, voxels of 1 mm join the core of T1 with one pedicle."""
    check(derive(fine_spine().thinned(every), tmp_path), fine_spine().exact_mm, 2.5)


@pytest.mark.parametrize("thickness", [1, 2])
def test_a_border_next_to_the_body_does_not_move_the_centre(tmp_path, spine, thickness):
    low, high = spine.exact_mm[T12][2] - 16.0, spine.exact_mm[T1][2] + 12.0
    part = spine.cut(low_mm=(-np.inf, -np.inf, low), high_mm=(np.inf, np.inf, high))
    check(derive(part.thinned((1, 1, thickness)), tmp_path), spine.exact_mm, 2.0)


def test_a_border_through_the_body_is_stated(tmp_path, average):
    middle = average.exact_mm[T1][2]
    through = derive(average.cut(high_mm=(np.inf, np.inf, middle + 4.0)), tmp_path)
    assert T1 not in through.points_lps_mm or "% are in the volume" in through.basis[T1]
    assert "is cut" in derive(average.cut(high_mm=(np.inf, np.inf, middle)), tmp_path).absent["T1"]


def test_a_body_without_an_arch_keeps_its_centre(tmp_path):
    """A segmentation may end at the pedicles."""
    labels = np.zeros((40, 40, 40), np.int16)
    x, y, z = np.indices(labels.shape) - 20
    labels[(x**2 / 64 + y**2 / 36 < 1) & (abs(z) < 5)] = CLASSES["vertebrae_T12"]
    middle = np.zeros(3)
    block = label_phantoms.Labelled(labels, np.full(3, -40.0), np.full(3, 2.0), {T12: middle})
    check(derive(block, tmp_path), block.exact_mm, 1.5, (T12,))


def test_a_shifted_map_gives_the_same_centres(tmp_path, average):
    moved = replace(average, first_mm=average.first_mm + [7.3, -41.0, 112.6])
    first, second = derive(average, tmp_path), derive(moved, tmp_path)
    for key in (T1, T12):
        shift = second.points_lps_mm[key] - first.points_lps_mm[key]
        np.testing.assert_allclose(shift, [7.3, -41.0, 112.6], atol=1e-3)
