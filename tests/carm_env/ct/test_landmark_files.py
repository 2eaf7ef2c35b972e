from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_env.ct.errors import LandmarkFileError
from carm_env.ct.landmark_files import read_landmarks, write_landmarks
from carm_env.volume import Volume

POINTS = {1: np.array([1.25, -3.5, 1700.0]), 10: np.array([0.1, 200.0, 1530.5]), 12: np.array([-72.0, 180.0, 1380.0])}
FCSV = (
    "# Markups fiducial file version = 4.11\n# CoordinateSystem = {frame}\n"
    "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
)


def mrk(**changes) -> dict:
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm",
              "controlPoints": [{"label": "T1", "position": [1.0, 2.0, 3.0]}], **changes}  # fmt: skip
    return {"markups": [{key: value for key, value in markup.items() if value is not None}]}


def write(tmp_path, content, name="a.mrk.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_written_landmarks_are_read_again(tmp_path):
    write_landmarks(tmp_path / "a.mrk.json", POINTS)
    again = read_landmarks(tmp_path / "a.mrk.json")
    assert set(again) == set(POINTS)
    for key, point in POINTS.items():
        np.testing.assert_array_equal(again[key], point)
    controls = json.loads((tmp_path / "a.mrk.json").read_text(encoding="utf-8"))["markups"][0]["controlPoints"]
    statuses = {item["label"]: item["positionStatus"] for item in controls}
    assert statuses["T1"] == "defined" and statuses["T12"] == "undefined"


@given(st.dictionaries(st.integers(1, 14), st.tuples(*[st.floats(-5000, 5000)] * 3)))
@settings(max_examples=30)
def test_points_are_written_without_loss(tmp_path_factory, points):
    path = tmp_path_factory.mktemp("m") / "a.mrk.json"
    write_landmarks(path, {key: np.array(value) for key, value in points.items()})
    again = read_landmarks(path)
    assert {key: tuple(value) for key, value in again.items()} == {
        key: tuple(map(float, value)) for key, value in points.items()
    }


@pytest.mark.parametrize("frame, sign", [("LPS", 1), ("RAS", -1), ("0", -1), ("1", 1)])
def test_points_are_converted_to_lps(tmp_path, frame, sign):
    expected = [sign, 2 * sign, 3]
    np.testing.assert_array_equal(read_landmarks(write(tmp_path, mrk(coordinateSystem=frame)))[10], expected)
    fcsv = FCSV.format(frame=frame) + "n1,1,2,3,0,0,0,1,1,1,0,T1,,\n"
    np.testing.assert_array_equal(read_landmarks(write(tmp_path, fcsv, "a.fcsv"))[10], expected)


def test_labels_are_ids_names_or_synonyms_and_invisible_landmarks_are_omitted(tmp_path):
    controls = [
        {"label": "10", "position": [1, 2, 3]},
        {"label": "tracheal bifurcation", "position": [1, 2, 3]},
        {"label": "Skull", "position": [0, 0, 0], "positionStatus": "undefined"},
        {"label": "T12", "position": ["NA", "NA", "NA"]},
        {"label": "Left elbow"},
    ]
    assert set(read_landmarks(write(tmp_path, mrk(controlPoints=controls)))) == {10, 11}


def points(*labelled: tuple[str | None, list]) -> dict:
    controls = [
        {"position": position} if label is None else {"label": label, "position": position}
        for label, position in labelled
    ]
    return mrk(controlPoints=controls)


FAULTS = {
    "no json": ("{", "not valid JSON"),
    "no markups": ({"a": 1}, "no list 'markups'"),
    "no frame": (mrk(coordinateSystem=None), "does not state its coordinate system"),
    "odd frame": (mrk(coordinateSystem="XYZ"), "expected LPS or RAS"),
    "metres": (mrk(coordinateUnits="m"), "expected mm"),
    "no points": (mrk(controlPoints=3), "controlPoints"),
    "unknown label": (points(("T2", [1, 2, 3])), "Did you mean 'T1"),
    "no label": (points((None, [1, 2, 3])), "no label"),
    "nan": (points(("T1", [1, 2, "nan"])), "not a finite number"),
    "two numbers": (points(("T1", [1, 2])), "three numbers"),
    "twice": (points(("T1", [1, 2, 3]), ("10", [1, 2, 3])), "expected once"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_refused_by_name(tmp_path, fault):
    content, message = FAULTS[fault]
    with pytest.raises(LandmarkFileError, match=message) as error:
        read_landmarks(write(tmp_path, content))
    assert "a.mrk.json" in str(error.value)


def test_the_case_of_a_header_does_not_matter(tmp_path):
    (tmp_path / "a.csv").write_text("Landmark,X_mm,Y_mm,Z_mm,Coordinate_System\nT1,1,2,3,RAS\n", encoding="utf-8")
    np.testing.assert_allclose(read_landmarks(tmp_path / "a.csv")[10], [-1, -2, 3])


def test_every_row_of_a_table_may_state_its_coordinate_system(tmp_path):
    header = "landmark,x_mm,y_mm,z_mm,coordinate_system\n"
    path = write(tmp_path, f"{header}T1,1,2,3,LPS\nT12,1,2,3,RAS\nCarina,1,2,3,\n", "a.csv")
    points = read_landmarks(path)
    assert {key: point.tolist() for key, point in points.items()} == {10: [1, 2, 3], 14: [-1, -2, 3], 11: [1, 2, 3]}


def test_a_row_with_too_few_fields_is_refused(tmp_path):
    text = "# CoordinateSystem = LPS\n# columns = id,label,x,y,z\na,T1,1,2\n"
    with pytest.raises(LandmarkFileError, match="point 1: 4 fields, expected 5"):
        read_landmarks(write(tmp_path, text, "a.fcsv"))


HEADER = "landmark,x_mm,y_mm,z_mm\n"
TABLES = {
    "decimal commas": (HEADER + "T1,1,5,2,5,3,5\n", "row 1: 7 fields, expected 4: write the numbers with a decimal"),
    "quoted decimal commas": (HEADER + 'T1,"1,5",2,3\n', "not a finite number. Write a decimal point"),
    "semicolons": ("landmark;x_mm;y_mm;z_mm\nT1;1,5;2;3\n", "save it with commas between the columns"),
    "tabs": ("landmark\tx_mm\ty_mm\tz_mm\nT1\t1\t2\t3\n", "semicolons or tabs"),
    "a column twice": ("landmark,x_mm,x_mm,y_mm,z_mm\nT1,1,2,3,4\n", "expected each name once"),
    "infinite": (HEADER + "T1,inf,2,3\n", "not a finite number"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_could_be_misread_is_refused(tmp_path, name):
    content, message = TABLES[name]
    with pytest.raises(LandmarkFileError, match=message):
        read_landmarks(write(tmp_path, content, "a.csv"), coordinate_system="LPS")


def test_files_that_contradict_themselves_are_refused(tmp_path):
    path = write(tmp_path, FCSV.format(frame="LPS") + "n1,1,5,2,5,3,5,0,0,0,1,1,1,0,T1,,\n", "a.fcsv")
    with pytest.raises(LandmarkFileError, match="17 fields, expected 14"):
        read_landmarks(path)
    path = write(
        tmp_path, FCSV.format(frame="LPS") + "# CoordinateSystem = RAS\nn,1,2,3,0,0,0,1,1,1,0,T1,,\n", "a.fcsv"
    )
    with pytest.raises(LandmarkFileError, match="states two coordinate systems"):
        read_landmarks(path)
    text = json.dumps(mrk()).replace('"coordinateSystem"', '"coordinateSystem": "RAS", "coordinateSystem"', 1)
    with pytest.raises(LandmarkFileError, match="not valid JSON"):
        read_landmarks(write(tmp_path, text))
    assert set(read_landmarks(write(tmp_path, mrk(coordinateUnits=["mm", "UCUM", "millimeter"])))) == {10}
    with pytest.raises(LandmarkFileError, match="expected mm"):
        read_landmarks(write(tmp_path, mrk(coordinateUnits=["m", "UCUM", "meter"])))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_of_excel_is_read(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes((HEADER + "T1,1,2,3,,\r\n").encode(encoding))
    np.testing.assert_array_equal(read_landmarks(tmp_path / "a.csv", coordinate_system="LPS")[10], [1, 2, 3])
    (tmp_path / "a.csv").write_bytes((HEADER + "T1,1,2,3\n# \xe4\n").encode("latin-1"))
    with pytest.raises(LandmarkFileError, match="save it as UTF-8"):
        read_landmarks(tmp_path / "a.csv", coordinate_system="LPS")


def test_a_given_coordinate_system_must_not_contradict_the_file(tmp_path):
    path = write(tmp_path, mrk(coordinateSystem=None))
    np.testing.assert_array_equal(read_landmarks(path, coordinate_system="RAS")[10], [-1, -2, 3])
    with pytest.raises(LandmarkFileError, match="omit --coordinate-system"):
        read_landmarks(write(tmp_path, mrk()), coordinate_system="RAS")


def test_points_outside_the_volume_are_refused_with_a_hint(tmp_path):
    volume = Volume.from_origin(np.zeros((40, 40, 40), np.int16), 5.0, (-190, 50, 0))
    path = write(tmp_path, mrk(controlPoints=[{"label": "T1", "position": [100, -120, 50]}]))
    with pytest.raises(LandmarkFileError, match="mm outside the volume.*other coordinate system"):
        read_landmarks(path, volume=volume)


def test_the_papers_table_is_relative_to_the_centre_of_the_volume(tmp_path):
    text = ",file_path,x_ct,y_ct,z_ct,x_modified,y_modified,z_modified,case_number,part,landmark\n"
    text += "0,a.png,-200,10,91,0,0,0,case-1,upper,1\n1,b.png,30,-5,91,0,0,0,case-1,upper,11\n"
    text += "2,c.png,NA,NA,NA,0,0,0,case-1,upper,14\n"
    text += "3,d.png,1,1,1,0,0,0,case-2,upper,1\n"
    volume = Volume.from_origin(np.zeros((101, 61, 141), np.int16), 5.0, (-250, 0, 1000))
    path = write(tmp_path, text, "classification.csv")
    points = read_landmarks(path, volume=volume, case="case-1")
    assert set(points) == {1, 11}
    np.testing.assert_allclose(points[1], [10, 150, 1350 + 200])
    with pytest.raises(LandmarkFileError, match="2 cases"):
        read_landmarks(path, volume=volume)
    with pytest.raises(LandmarkFileError, match="give the CT, too"):
        read_landmarks(path, case="case-1")


@given(st.binary(max_size=400), st.sampled_from([".mrk.json", ".fcsv", ".csv"]))
@settings(max_examples=150)
def test_arbitrary_bytes_raise_only_typed_errors(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("f") / f"a{suffix}"
    path.write_bytes(content)
    try:
        read_landmarks(path, coordinate_system="LPS")
    except LandmarkFileError as error:
        assert path.name in str(error)


_KEYS = ["markups", "controlPoints", "label", "position", "coordinateSystem", "positionStatus"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.sampled_from(["T1", "LPS", "mm", "NA"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=14,
)  # fmt: skip


@given(_JSON)
@settings(max_examples=200)
def test_arbitrary_json_raises_only_typed_errors(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("j") / "a.json"
    path.write_text(json.dumps({"markups": [value]}), encoding="utf-8")
    try:
        read_landmarks(path)
    except LandmarkFileError:
        pass
