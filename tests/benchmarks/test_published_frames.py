import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import published_frames
from benchmarks._support.frame_reading import FrameReadingError, read_frame_readings
from benchmarks.published_frames import DEFAULT_READINGS, compare, load_frame, usable_frames
from carm_env.evaluation.localization import DEFAULT_FIELD_OF_VIEW_MM, Localization
from carm_env.landmarks import N_LANDMARKS, landmark
from carm_env.system.errors import UnknownNameError
from carm_env.system.files import file_hash
from carm_env.system.structured_files import dump_yaml

RELEASED = Path(__file__).parents[3] / "shared/reference/carm_llm/frames"
CARINA, T1, SKULL = (landmark(name).id for name in ("carina", "t1", "skull"))


def entry(path, closest=("carina", "t1"), certainty="certain", start=False):
    return {
        "file": path.name,
        "sha256": file_hash(path),
        "start": start,
        "closest": [{"landmark": name, "certainty": certainty} for name in closest],
        "visible": [{"landmark": "carina", "position": [0.75, 0.5], "certainty": "moderate"}],
        "reasoning": "The carina is right of the centre.",
    }


def save_readings(path, entries):
    content = {"version": 1, "reader": "a test", "date": "2026-01-01", "method": "invented", "frames": entries}
    path.write_text(dump_yaml(content), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    """Four frames, each of one grey value."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(4):
        Image.new("L", (64, 64), 50 * number).save(frames / f"{number}.png")
    return frames


class Named:
    """Says of frame `n`, by its grey value, what it was given."""

    def __init__(self, answers, displacement_mm=None):
        self.answers, self.displacement_mm = np.array(answers), displacement_mm

    def closest(self, images):
        return self.answers[images[:, 0, 0] // 50]

    def locate(self, images):
        return Localization(self.closest(images), displacement_mm=self.displacement_mm)


def frames_of(folder, entries, field_of_view_mm=None):
    readings = read_frame_readings(save_readings(folder / "readings.yaml", entries))
    used, _ = usable_frames(folder, readings)
    return [load_frame(folder, reading, field_of_view_mm) for reading in used]


def test_answers_are_counted(folder):
    entries = [
        entry(folder / "0.png", start=True),
        entry(folder / "1.png"),
        entry(folder / "2.png", certainty="low"),
        entry(folder / "3.png", start=True),
    ]
    answers = [[CARINA, SKULL, 2], [T1, CARINA, 2], [SKULL, 2, CARINA], [0, 0, 0]]
    result = compare(Named(answers), frames_of(folder, entries))
    counted = {name: (found["count"], found["of"]) for name, found in result["counts"].items()}
    assert counted == {
        "starts": (1, 2),
        "first right": (1, 4),
        "unambiguous": (1, 3),
        "right in first two": (2, 4),
        "first in read two": (2, 4),
    }
    assert result["mean_distance_percent"] is None and result["n_positions"] == 0
    assert [frame["named"] for frame in result["frames"]][1:4:2] == [["t1", "carina", "right-humeral-head"], []]


@pytest.mark.parametrize("share", [1.0, 0.8])
def test_distances_are_in_percent_of_the_side(folder, share):
    """Also if the localiser sees only the middle of the frame."""
    entries = [entry(folder / "0.png"), entry(folder / "1.png")]
    entries[1]["visible"] = [{"landmark": "carina", "position": [0.5, 0.25], "certainty": "certain"},
                             {"landmark": "skull", "position": [0.1, 0.1], "certainty": "low"}]  # fmt: skip
    displacement = np.full((2, N_LANDMARKS, 2), 500.0)
    shown_mm = DEFAULT_FIELD_OF_VIEW_MM / share
    # A tenth of the side to the right of the first position; as far below the centre as the second is above it.
    displacement[0, CARINA - 1] = [0.35 * shown_mm, 0]
    displacement[1, CARINA - 1] = [0, -0.25 * shown_mm]
    localizer = Named([[CARINA, T1, SKULL]] * 2, displacement)
    result = compare(localizer, frames_of(folder, entries, shown_mm))
    assert [frame["distance_percent"] for frame in result["frames"]] == [
        {"carina": pytest.approx(10)},
        {"carina": pytest.approx(50)},
    ]
    assert result["mean_distance_percent"] == pytest.approx(30) and result["n_positions"] == 2


def test_other_frames_are_named_and_left_out(folder, tmp_path, monkeypatch, capsys):
    readings = save_readings(tmp_path / "r.yaml", [entry(folder / f"{number}.png") for number in range(3)])
    (folder / "0.png").unlink()
    Image.new("L", (64, 64), 200).save(folder / "1.png")
    asked = []
    monkeypatch.setattr(
        published_frames, "make_localizer", lambda name: asked.append(name) or Named([[CARINA, T1, SKULL]] * 4)
    )
    out = tmp_path / "o.json"
    policies = ("cnn:some/checkpoint", "conformal")
    published_frames.run(published_frames.Arguments(folder, policies, readings, json=out))
    printed = capsys.readouterr()
    assert "0.png is left out: missing." in printed.err and "1.png is left out: not the file that was" in printed.err
    assert asked == list(policies)
    assert [line.split()[1] for line in printed.out.splitlines()[2:]] == list(policies)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert set(result["left_out"]) == {"0.png", "1.png"}
    assert result["policies"]["conformal"]["counts"]["first right"] == {"count": 1, "of": 1}


def test_a_folder_without_the_frames_and_wrong_policies_are_errors(folder, tmp_path, script_error):
    readings = save_readings(tmp_path / "r.yaml", [entry(folder / "0.png")])
    words = ("--readings", readings, "--policies")
    assert "none of the 1 frames that were read (0.png: missing)" in script_error(
        published_frames, tmp_path, *words, "cnn"
    )
    assert "unknown localiser 'cnm'. Did you mean" in script_error(published_frames, folder, *words, "cnm")
    assert str(tmp_path / "nothing") in script_error(published_frames, folder, *words, f"cnn:{tmp_path / 'nothing'}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "abc"}, "frame 1: sha256 is 'abc', expected 64 hexadecimal digits"),
        ({"file": "../0.png"}, "expected the name of a file without a folder"),
        ({"start": 1}, "start is 1, expected true or false"),
        ({"reasoning": None}, "reasoning is None, expected a sentence"),
        ({"closest": [{"landmark": "t1", "certainty": "low"}]}, "closest has 1 entries, expected two or three"),
        ({"closest": [{"landmark": "t1", "certainty": "low"}] * 2}, "expected two or three different ones"),
        ({"visible": {}}, "visible is {}, expected a list"),
        ({"visible": [{"landmark": "t1", "position": [0.5, 1.2], "certainty": "low"}]}, "position of T1 is [0.5, 1.2]"),
        ({"visible": [{"landmark": "t1", "position": [0.5], "certainty": "low"}]}, "position of T1 is [0.5], expected"),
        ({"visible": [{"landmark": "t1", "position": [0.5, 0.5]}]}, "visible lacks certainty"),
    ],
)
def test_wrong_readings_are_errors(folder, tmp_path, changes, message):
    path = save_readings(tmp_path / "r.yaml", [entry(folder / "0.png") | changes])
    with pytest.raises(FrameReadingError) as caught:
        read_frame_readings(path)
    assert "r.yaml" in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda path: entry(path, closest=("carina", "tea")), "unknown landmark 'tea'"),
        (lambda path: entry(path, certainty="sure"), "unknown certainty in r.yaml, frame 1 'sure'"),
        (lambda path: entry(path) | {"comment": "x"}, "unknown key of r.yaml, frame 1 'comment'"),
    ],
)
def test_unknown_names_in_readings_are_errors(folder, tmp_path, wrong, message):
    path = save_readings(tmp_path / "r.yaml", [wrong(folder / "0.png")])
    with pytest.raises(UnknownNameError) as caught:
        read_frame_readings(path)
    assert message in str(caught.value)


def test_a_frame_is_read_once(folder, tmp_path):
    path = save_readings(tmp_path / "r.yaml", [entry(folder / "0.png")] * 2)
    with pytest.raises(FrameReadingError, match=r"0\.png occurs twice"):
        read_frame_readings(path)


def test_the_committed_reading_is_of_19_frames_and_agrees_with_itself():
    readings = read_frame_readings(DEFAULT_READINGS)
    assert len(readings) == 19 and sum(reading.start for reading in readings) == 4
    for reading in readings:
        distance = {seen.landmark: np.hypot(*np.subtract(seen.position, 0.5)) for seen in reading.visible}
        ranked = [distance[key] for key, _ in reading.closest if key in distance]
        assert ranked == sorted(ranked), reading.file


@pytest.mark.skipif(not RELEASED.is_dir(), reason="needs the authors' released frames in ../shared")
def test_the_frames_that_were_read_are_the_published_ones():
    readings = read_frame_readings(DEFAULT_READINGS)
    used, left_out = usable_frames(RELEASED, readings)
    assert len(used) == 19 and not left_out
    assert {reading.file for reading in readings} == {path.name for path in RELEASED.glob("*.png")}
