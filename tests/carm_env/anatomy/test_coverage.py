from __future__ import annotations

import numpy as np
import pytest

from carm_env.anatomy.assembly import lattices
from carm_env.anatomy.coverage import imaged_part
from carm_env.anatomy.painting.lattice import Lattice
from carm_env.anatomy.parameters import PatientParameters
from carm_env.anatomy.skeleton.body import pose_body
from carm_env.landmarks import landmark
from carm_env.system.errors import UnknownNameError

HEIGHTS = {"Skull": 400.0, "T1": 200.0, "Carina": 140.0, "T12": -60.0, "Left wrist": -90.0}


def cut(covers: str, seed: int = 0):
    lattice = Lattice(np.array([-20.0, -20.0, -300.0]), 4.0, (11, 11, 200))
    hu = np.broadcast_to(np.arange(200, dtype=np.int16), lattice.shape)
    points = {landmark(name).id: np.array([0.0, 0.0, height]) for name, height in HEIGHTS.items()}
    return imaged_part(hu, lattice, points, PatientParameters(seed=seed, covers=covers))  # type: ignore[arg-type]


@pytest.mark.parametrize("covers", ["whole", "hips", "thighs"])
def test_a_whole_body_is_not_cut(covers):
    hu, lattice, points = cut(covers)
    assert lattice.shape == (11, 11, 200)
    assert len(points) == len(HEIGHTS)
    assert hu.shape == lattice.shape


@pytest.mark.parametrize(
    ("covers", "kept"),
    [("head_neck", {"Skull", "T1"}), ("chest", {"T1", "Carina", "T12"}), ("abdomen", {"T12", "Left wrist"})],
)
def test_a_scan_of_a_region_keeps_its_landmarks_and_voxels_in_place(covers, kept):
    for seed in range(8):
        hu, lattice, points = cut(covers, seed)
        names = {landmark(key).name for key in points}
        assert kept - {"Carina", "Left wrist"} <= names
        assert ("Skull" in names) == (covers == "head_neck")
        low, high = lattice.origin_mm[2], lattice.end_mm[2]
        assert all(low <= HEIGHTS[name] <= high for name in names)
        assert hu[0, 0, 0] == round((low + 300.0) / 4.0)


def test_a_whole_body_keeps_a_landmark_below_its_end_and_a_body_to_the_hips_does_not(monkeypatch):
    monkeypatch.setitem(HEIGHTS, "Right wrist", -310.0)
    assert landmark("Right wrist").id in cut("whole")[2]
    assert landmark("Right wrist").id not in cut("hips")[2]


def test_the_cut_level_varies_with_the_seed_and_is_repeatable():
    ends = [cut("chest", seed)[1].end_mm[2] for seed in range(10)]
    assert len(set(ends)) > 4
    assert ends == [cut("chest", seed)[1].end_mm[2] for seed in range(10)]


def test_thighs_extend_the_volume_below_the_hips(skeleton):
    bottoms = []
    for covers in ("whole", "thighs"):
        parameters = PatientParameters(covers=covers)  # type: ignore[arg-type]
        bottoms.append(lattices(pose_body(parameters, skeleton), parameters)[1].origin_mm[2])
    assert 150.0 < bottoms[0] - bottoms[1] < 250.0


def test_an_unknown_coverage_names_the_nearest_one():
    with pytest.raises(UnknownNameError, match="Did you mean 'chest'"):
        PatientParameters(covers="chests")  # type: ignore[arg-type]
