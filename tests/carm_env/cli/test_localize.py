"""``carm-env localize``: images in, names, marks, CSV and JSON out."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from carm_env.cli import main
from carm_env.ct.radiographs import Radiograph, RadiographError
from carm_env.envs.episode import landmark_lps_mm
from carm_env.envs.scene import load_scene
from carm_env.evaluation.external_images import square_view
from carm_env.evaluation.localization import DEFAULT_FIELD_OF_VIEW_MM, RankedLocalizer, expected_field_of_view_mm
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM, CArmPose, ProjectionGeometry

SIZE = 300


@pytest.fixture(scope="module")
def views():
    """X-rays of the demonstration patient over two landmarks, its view from the side, and their projections."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    scene = load_scene("virtual:0")
    images, geometries = {}, {}
    for name, landmark, alpha in (("carina", "carina", 0), ("skull", "skull", 0), ("lateral", "T12", 90)):
        x, y, z = landmark_lps_mm(scene.patient, landmark)
        pose = CArmPose((x, scene.patient.mid_depth_mm if alpha == 0 else y, z), alpha)
        pose = pose.towards_source(DEFAULT_ISOCENTER_DEPTH_MM)
        images[name] = scene.camera.image(pose, SIZE, 0)
        geometries[name] = ProjectionGeometry.from_pose(pose, scene.camera.geometry, SIZE)
    return images, geometries, scene.patient


def saved(folder, **images):
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def results(out):
    document = json.loads((out / "localization.json").read_text(encoding="utf-8"))
    rows = list(csv.DictReader((out / "localization.csv").open(encoding="utf-8")))
    return {item["file"]: item for item in document["images"]}, {row["file"]: row for row in rows}, document


@pytest.mark.parametrize("policy", ["conformal", "cnn"])
def test_frontal_views_are_named_and_marked(views, tmp_path, policy, capsys):
    images, geometries, patient = views
    folder = saved(tmp_path / "in", carina=images["carina"], skull=images["skull"])
    out = tmp_path / "out"
    assert main(["localize", str(folder), "--policy", policy, "--out", str(out)]) == 0
    assert "2 localised, 0 out of distribution" in capsys.readouterr().out
    found, rows, document = results(out)
    assert document["policy"] == policy and document["run"]["packages"]["torch"]
    for name in ("carina", "skull"):
        record = found[f"{name}.png"]
        first = record["closest"][0]
        assert first["name"].lower() == name and first["probability"] > 0.4
        assert rows[f"{name}.png"]["closest_1"].lower() == name and float(rows[f"{name}.png"]["probability_1"]) > 0.4
        probabilities = [item["probability"] for item in record["closest"]]
        assert max(probabilities) == probabilities[0] and sum(probabilities) <= 1 + 1e-9
        assert record["out_of_distribution"]["p_value"] > 0.05
        mark = next(item for item in record["landmarks"] if item["name"].lower() == name)
        true = geometries[name].project(landmark_lps_mm(patient, name))
        # The landmark lies off the depth of the isocentre, and the network errs by some millimetres.
        assert np.hypot(*(mark["pixel"] - true)) < 40 and mark["in_image"]
        assert (mark["region_90_pixels"] is None) == (policy == "cnn")
        drawn = np.asarray(Image.open(out / record["annotated"]))
        assert drawn.shape[1] >= 560 and np.ptp(drawn, axis=2).max() > 100


def test_unfamiliar_images_are_not_answered(views, tmp_path, capsys):
    images, *_ = views
    rng = np.random.default_rng(0)
    folder = saved(tmp_path / "in", lateral=images["lateral"], noise=rng.integers(0, 256, (90, 120), np.uint8))
    out = tmp_path / "out"
    # A lateral view is hardly less familiar than X-rays of people are.
    assert main(["localize", str(folder), "--out", str(out), "--false-alarm-rate", "0.2"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("OUT OF DISTRIBUTION") == 2 and "0 localised, 2 out of distribution" in printed
    found, rows, _ = results(out)
    for name, record in found.items():
        assert record["status"] == "out_of_distribution" and not record["closest"] and not record["landmarks"]
        assert record["out_of_distribution"]["score"] >= record["out_of_distribution"]["threshold"]
        assert "--invert" not in record["reason"]
        assert rows[name]["closest_1"] == "" and float(rows[name]["p_value"]) <= 0.2
        far_out = record["out_of_distribution"]["p_value"] <= 0.001
        assert len(record["guess"]) == (0 if far_out else 3) and rows[name]["guess"] == ", ".join(record["guess"])
    assert not found["noise.png"]["guess"]


def test_negatives_are_answered_with_and_without_inversion(views, tmp_path):
    images, *_ = views
    negative, out = saved(tmp_path / "in", negative=255 - images["carina"]) / "negative.png", tmp_path / "out"
    for words in ([], ["--invert"]):
        assert main(["localize", str(negative), "--out", str(out), *words]) == 0
        assert results(out)[0]["negative.png"]["closest"][0]["name"] == "Carina"


def test_a_folder_with_anything_in_it_is_read_as_far_as_possible(views, tmp_path, capsys):
    folder = saved(tmp_path / "in", carina=views[0]["carina"])
    saved(folder / "deeper", carina=views[0]["carina"])
    Image.fromarray(views[0]["carina"]).save(folder / "carina.jpg", quality=95)
    (folder / "cut.png").write_bytes((folder / "carina.png").read_bytes()[:3000])
    Image.new("L", (1, 1)).save(folder / "dot.png")
    (folder / "notes.txt").write_text("nothing", encoding="utf-8")
    (folder / ".hidden.png").write_text("nothing", encoding="utf-8")
    out = folder / "out"
    for _ in range(2):  # the output is not read
        assert main(["localize", str(folder), "--out", str(out)]) == 1
        printed = capsys.readouterr().out
        assert "3 localised" in printed and "2 unreadable, 1 file(s) of other kinds skipped" in printed
        assert "damaged" in printed and "1 x 1 pixels" in printed
    found, rows, document = results(out)
    assert document["other_files"] == ["notes.txt"] and rows["notes.txt"]["status"] == "not_an_image"
    assert rows["cut.png"]["status"] == "unreadable" and "damaged" in rows["cut.png"]["reason"]
    written = {found[name]["annotated"] for name in ("carina.png", "carina.jpg", "deeper/carina.png")}
    assert written == {f"annotated/{name}" for name in ("carina.png.png", "carina.jpg.png", "deeper/carina.png")}
    assert all((out / name).is_file() for name in written)


def test_what_cannot_be_localised_is_one_clear_sentence(tmp_path, capsys):
    pytest.importorskip("torch")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a", encoding="utf-8")
    image = saved(tmp_path / "in", a=np.zeros((64, 64), np.uint8)) / "a.png"
    for words, sentence in (
        ([tmp_path / "absent"], "no such file or folder"),
        ([tmp_path / "empty"], "holds no file, expected PNG, JPEG or DICOM"),
        ([tmp_path / "texts"], "holds only 1 file(s) of other kinds"),
        ([tmp_path / "texts" / "a.txt"], "is not an image that can be read"),
        ([image, "--frame", "3"], "--frame is 3: expected 1 to 1"),
        ([image, "--field-of-view", "5"], "--field-of-view is 5, expected 50 to 1000 mm"),
        ([image, "--false-alarm-rate", "0"], "false_alarm_rate is 0.0, expected"),
        ([image, "--policy", "conformall"], "Did you mean 'conformal'"),
        ([image, "--policy", "conformal:runs/none"], "no checkpoint at runs/none"),
        ([image, "--out", image.parent], "the folder of the images, expected another folder"),
    ):
        assert main(["localize", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1


def test_a_localiser_of_ones_own_gives_names_alone(views, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n\n\nclass Mine:\n"
        "    def closest(self, images):\n        return np.tile([14, 12, 13], (len(images), 1))\n",
        encoding="utf-8",
    )
    folder = saved(tmp_path / "in", carina=views[0]["carina"])
    monkeypatch.chdir(tmp_path)
    assert main(["localize", str(folder), "--policy", "mine.py:Mine", "--out", "out"]) == 0
    record = results(tmp_path / "out")[0]["carina.png"]
    assert [item["name"] for item in record["closest"]] == ["T12", "Right hemidiaphragm", "Left hemidiaphragm"]
    assert record["closest"][0]["probability"] is None and record["landmarks"] == []


def test_without_the_repository_the_message_says_where_the_networks_are(tmp_path, monkeypatch, capsys):
    # A wheel holds carm_env alone.
    monkeypatch.setitem(sys.modules, "policies.localizers", None)
    image = saved(tmp_path / "in", a=np.zeros((64, 64), np.uint8)) / "a.png"
    assert main(["localize", str(image), "--out", str(tmp_path / "out")]) == 2
    assert "clone the repository and run `pip install -e" in capsys.readouterr().err


FIELD_MM = DEFAULT_FIELD_OF_VIEW_MM


@pytest.mark.parametrize(
    ("shape", "shown"),
    [((300, 300), 1.0), ((300, 500), 1.0), ((400, 300), 1.3), ((300, 300), 0.8)],
)
def test_the_square_view_maps_millimetres_to_pixels_of_the_whole_image(shape, shown):
    image = np.zeros(shape, np.uint8)
    # A bright block 20 mm to the left of the middle and 30 mm cranially.
    per_mm = min(shape) / (shown * FIELD_MM)
    u, v = (shape[1] - 1) / 2 + 20 * per_mm, (shape[0] - 1) / 2 - 30 * per_mm
    image[round(v) - 4 : round(v) + 5, round(u) - 4 : round(u) + 5] = 255
    view = square_view(Radiograph(image), None if shown == 1.0 else shown * FIELD_MM)
    assert view.pixels([20.0, 30.0]) == pytest.approx([u, v], abs=0.01)
    rows, columns = np.nonzero(view.image > 100)
    seen_mm = (np.array([columns.mean(), rows.mean()]) - 127.5) * FIELD_MM / 256
    assert seen_mm == pytest.approx([20, -30], abs=0.8)


def test_the_field_of_view_is_what_the_file_states_or_an_error():
    stated = square_view(Radiograph(np.zeros((200, 200), np.uint8), pixel_mm=2 * FIELD_MM / 200))
    assert stated.pixels_per_mm == pytest.approx(100 / FIELD_MM)
    assert f"field of view {2 * FIELD_MM:.0f} mm, as the file states" in stated.notes
    with pytest.raises(RadiographError, match="set --field-of-view"):
        square_view(Radiograph(np.zeros((200, 200), np.uint8), pixel_mm=100.0))


def test_an_image_is_shown_at_the_scale_that_the_localiser_knows():
    wide_mm = 1.25 * FIELD_MM
    radiograph = Radiograph(np.zeros((200, 200), np.uint8), pixel_mm=wide_mm / 200)
    as_known = square_view(radiograph, None, wide_mm)
    np.testing.assert_allclose(as_known.pixels([wide_mm / 2, 0.0]) - as_known.centre, [100.0, 0.0])
    assert not any("cropped" in note for note in as_known.notes)
    assert any("cropped" in note for note in square_view(radiograph).notes)
    localizer = RankedLocalizer(lambda images: np.ones((len(images), 3), np.int64), field_of_view_mm=wide_mm)
    assert expected_field_of_view_mm(localizer) == wide_mm
    assert expected_field_of_view_mm(object()) == FIELD_MM
