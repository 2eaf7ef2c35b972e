import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import field_of_view
from benchmarks.field_of_view import (
    DEFAULT_READINGS,
    HUMERUS,
    SKULL,
    Bone,
    best_depth_mm,
    mean_shares,
    read_shares,
    released_depths,
    run,
    slice_fields_mm,
    visible_points_mm,
    width,
)
from carm_env.anatomy.painting.meshes import Mesh
from carm_env.geometry import DEFAULT_GEOMETRY, DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.system.structured_files import read_json

RELEASED = Path(__file__).parents[3] / "shared/reference/carm_llm"


def bone(structure, half_width_mm, y_mm=20.0):
    """A bone whose outline is two points across a vertical axis."""
    aim = np.array([10.0, y_mm, 300.0])
    outline = aim + np.array([[-half_width_mm, 0, 0], [half_width_mm, 0, 5.0], [0, 0, 40.0]])
    return Bone(structure, aim, 20.0, outline, np.stack([aim, aim - [0, 0, 100.0]]))


@pytest.mark.parametrize("depth", [-60.0, 0.0, 140.0])
def test_a_share_is_the_width_over_the_field_of_view(depth):
    field = DEFAULT_GEOMETRY.field_of_view_at_mm(depth)
    assert bone(SKULL, 50.0).share(depth) == pytest.approx(100 / field)


@pytest.mark.parametrize("depth", [-60.0, 0.0, 140.0])
def test_the_depth_of_frames_is_found_again(depth):
    bones = [bone(SKULL, 70.0), bone(SKULL, 75.0), bone(HUMERUS, 22.0, 60.0)]
    assert best_depth_mm(bones, mean_shares(bones, depth)) == pytest.approx(depth, abs=0.1)


def test_widths_are_across_an_oblique_axis():
    turn = np.array([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    ends, axis = np.array([[-20.0, 3.0], [15.0, -9.0]]), np.array([[0.0, 0.0], [0.0, 1.0]])
    assert width(ends @ turn.T, axis @ turn.T) == pytest.approx(35.0)


def test_a_bone_is_seen_where_it_is_thick():
    # A wedge: a prism along z, 40 mm deep at x = 0 and nothing at x = 40.
    corners = np.array([[0, 0, 0], [0, 40, 0], [40, 0, 0], [0, 0, 30], [0, 40, 30], [40, 0, 30]], float)
    faces = [[0, 1, 2], [3, 5, 4], [0, 3, 4], [0, 4, 1], [0, 2, 5], [0, 5, 3], [1, 4, 5], [1, 5, 2]]
    points = visible_points_mm(Mesh("wedge", "test", corners, np.array(faces)))
    assert points[:, 0].min() == pytest.approx(0, abs=1.0)
    assert points[:, 0].max() == pytest.approx(30, abs=2.0)
    assert points[:, 2].min() == pytest.approx(0, abs=1.0) and points[:, 2].max() == pytest.approx(30, abs=1.0)


def test_slices_give_the_field_of_view():
    reading = {"structure": "rib", "trunk": True, "frame": "a.png", "rows": [100.0, 148.0], "count": 8}
    (row,) = slice_fields_mm({"side": 768, "slices": [reading]})
    assert row["field_of_view_mm"] == pytest.approx(768 * 24 / 48)
    behind = row["from_source_mm"] - DEFAULT_GEOMETRY.source_isocenter_mm
    assert DEFAULT_GEOMETRY.field_of_view_at_mm(behind) == pytest.approx(row["field_of_view_mm"])


def test_excluded_readings_are_not_compared():
    readings = read_json(DEFAULT_READINGS)
    assert set(read_shares(readings)[HUMERUS]) == {"1_4"} and set(read_shares(readings)[SKULL]) == {"1_4", "1_5"}
    assert set(read_shares(readings, excluded=True)[HUMERUS]) == {"5_1"}


def test_released_depths_are_summarised(tmp_path):
    path = tmp_path / "classification.csv"
    path.write_text(
        "case_number,x_ct,x_modified,z_ct,z_modified\na,-100,50,60,200\na,-90,60,60,200\nb,0,151,90,300\n",
        encoding="utf-8",
    )
    found = released_depths(path)
    assert found["patients"] == 2 and found["z_ct_min_mm"] == 60 and found["z_ct_max_mm"] == 90
    assert found["z_ct_per_half_width_min"] == found["z_ct_per_half_width_max"] == pytest.approx(0.3)
    assert found["largest_fraction_of_a_slice"] == pytest.approx(1 / 3)


def test_missing_files_and_patients_without_bones_are_named(tmp_path, script_error, small_patients):
    folder = tmp_path / "released"
    folder.mkdir()
    message = script_error(field_of_view, folder)
    assert "lacks frames/init_1_4.png" in message and "data/classification.csv" not in message
    for item in (*read_json(DEFAULT_READINGS)["widths"], *read_json(DEFAULT_READINGS)["slices"]):
        path = folder / "frames" / item["frame"]
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(path)
    assert "lacks data/classification.csv" in script_error(field_of_view, folder)
    (folder / "data").mkdir()
    (folder / "data" / "classification.csv").write_text(
        "case_number,x_ct,x_modified,z_ct,z_modified\na,-100,50,60,200\n", encoding="utf-8"
    )
    assert "expected virtual patients" in script_error(field_of_view, folder, "--patients", small_patients[0])


@pytest.mark.slow
@pytest.mark.skipif(not RELEASED.is_dir(), reason="needs the authors' released files in ../shared")
def test_the_default_depth_brings_both_widths_within_5_percent(tmp_path):
    out = tmp_path / "f.json"
    run(field_of_view.Arguments(RELEASED, json=out, sheet=tmp_path / "f.png"))
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["best_depth_mm"] == pytest.approx(DEFAULT_ISOCENTER_DEPTH_MM, abs=5)
    assert all(abs(value) < 0.05 for value in result["difference"]["default"].values())
    assert all(value > 0.15 for value in result["difference"]["middle"].values())
    with Image.open(tmp_path / "f.png") as sheet:
        assert sheet.size == (3 * 768, 2 * 768)
