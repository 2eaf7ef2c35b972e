"""Files that ``carm-env localize`` reads and writes: nothing of others is replaced, and no entry ends a run."""

import csv
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carm_env.cli import localize as command
from carm_env.cli import main
from carm_env.cli._localization_files import output_names
from carm_env.ct import radiographs
from carm_env.evaluation import external_images
from carm_env.evaluation.external_images import ImageExaminer, find_images

GREY = np.tile(np.arange(64, dtype=np.uint8), (64, 1))


class _Detector:
    """Every image is familiar."""

    def score(self, images):
        return np.zeros(len(images))

    def p_value(self, scores):
        return np.full(len(scores), 0.5)

    def threshold(self, false_alarm_rate):
        return 1.0


class _DetectorOfDarkImages(_Detector):
    """Dark images alone are familiar."""

    def score(self, images):
        return np.array([2.0 * (image.mean() > 127.5) for image in images])

    def p_value(self, scores):
        return np.where(np.asarray(scores) > 1, 0.02, 0.5)


class _Localizer:
    def closest(self, images):
        return np.tile([14, 12, 13], (len(images), 1))


@pytest.fixture(autouse=True)
def without_networks(monkeypatch):
    examiner = ImageExaminer(_Localizer(), _Detector(), 0.05)
    monkeypatch.setattr(command, "_make_examiner", lambda arguments: examiner)


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GREY).save(path)
    return path


def localize(*words):
    return main(["localize", *map(str, words)])


def results(out):
    document = json.loads((out / "localization.json").read_text(encoding="utf-8"))
    with (out / "localization.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    return rows, document


def digest(*paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_an_image_whose_negative_is_familiar_is_not_guessed_and_invert_is_named(tmp_path, monkeypatch):
    examiner = ImageExaminer(_Localizer(), _DetectorOfDarkImages(), 0.05)
    monkeypatch.setattr(command, "_make_examiner", lambda arguments: examiner)
    Image.fromarray(255 - GREY // 2).save(tmp_path / "negative.png")
    assert localize(tmp_path / "negative.png", "--out", tmp_path / "out") == 1
    record = results(tmp_path / "out")[1]["images"][0]
    assert record["status"] == "out_of_distribution" and "--invert" in record["reason"] and not record["guess"]
    assert localize(tmp_path / "negative.png", "--out", tmp_path / "out", "--invert") == 0


def test_images_in_the_output_folder_are_examined_and_kept(tmp_path):
    originals = [save(tmp_path / "t" / "a.png"), save(tmp_path / "t" / "sub" / "a.png")]
    before = digest(*originals)
    for _ in range(2):  # the second run passes over the results of the first
        assert localize(tmp_path / "t", "--out", tmp_path / "t" / "sub") == 0
        assert digest(*originals) == before
        assert set(results(tmp_path / "t" / "sub")[0]) == {"a.png", "sub/a.png"}
    assert (tmp_path / "t" / "sub" / "annotated" / "sub" / "a.png").is_file()


def test_an_output_folder_around_the_images_keeps_them(tmp_path):
    original = save(tmp_path / "scans" / "a.png")
    inner = save(tmp_path / "scans" / "p1" / "a.png")
    before = digest(original, inner)
    assert localize(tmp_path / "scans" / "p1", "--out", tmp_path / "scans") == 0
    assert digest(original, inner) == before


@pytest.mark.parametrize("name", ["annotated/a.png", "annotated/p/b.png", "annotated/x.txt", "localization.csv",
                                  "localization.json"])  # fmt: skip
def test_files_of_others_in_the_output_are_refused_and_kept(tmp_path, capsys, name):
    image, out = save(tmp_path / "in" / "a.png"), tmp_path / "out"
    other = save(out / "x.png").rename(tmp_path / "x.png")
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    other = other.rename(out / name)
    before = digest(other)
    assert localize(image, "--out", out) == 2
    assert f"{other} was not written by carm-env localize" in capsys.readouterr().err
    assert digest(other) == before


def test_a_linked_folder_of_annotated_images_is_refused(tmp_path, capsys):
    image, out = save(tmp_path / "in" / "p" / "a.png"), tmp_path / "out"
    (out / "annotated").mkdir(parents=True)
    (out / "annotated" / "p").symlink_to(image.parent, target_is_directory=True)
    assert localize(tmp_path / "in", "--out", out) == 2
    assert "was not written by carm-env localize" in capsys.readouterr().err


def test_a_later_run_on_other_images_may_use_the_same_output_folder(tmp_path):
    first, second = save(tmp_path / "in" / "a.png"), save(tmp_path / "in" / "b.png")
    for image in (first, second, first):
        assert localize(image, "--out", tmp_path / "out") == 0
        assert set(results(tmp_path / "out")[0]) == {image.name}


def annotated(out):
    return sorted(path.relative_to(out / "annotated").as_posix() for path in (out / "annotated").rglob("*"))


def test_the_output_of_a_run_holds_nothing_of_an_earlier_one(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "p/b.png", "p/q/c.png"):
        save(folder / name)
    assert localize(folder, "--out", out) == 0
    assert annotated(out) == ["a.png", "p", "p/b.png", "p/q", "p/q/c.png"]
    (out / "annotated" / ".note").write_text("mine", encoding="utf-8")
    save(out / "mine.png")
    (folder / "p" / "b.png").unlink()
    assert localize(folder / "p", "--out", out) == 0
    assert annotated(out) == [".note", "q", "q/c.png"]
    assert set(results(out)[0]) == {"q/c.png"}
    assert (out / "annotated" / ".note").read_text(encoding="utf-8") == "mine" and (out / "mine.png").is_file()


def test_a_run_without_a_readable_image_leaves_no_earlier_drawings(tmp_path):
    out = tmp_path / "out"
    assert localize(save(tmp_path / "in" / "a.png"), "--out", out) == 0
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert localize(tmp_path / "bad", "--out", out) == 1
    assert set(results(out)[0]) == {"cut.png"} and not (out / "annotated").exists()


def test_a_run_that_finds_nothing_keeps_the_earlier_output(tmp_path, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    assert localize(save(folder / "a.png"), "--out", out) == 0
    before = digest(*sorted(path for path in out.rglob("*") if path.is_file()))
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert localize(tmp_path / "cut.png", "--out", out) == 2

    def interrupted(path, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(radiographs, "read_radiograph", interrupted)
    assert localize(folder, "--out", out) == 130
    assert digest(*sorted(path for path in out.rglob("*") if path.is_file())) == before


def test_an_interrupted_run_leaves_its_own_drawings_alone(tmp_path, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    for number in range(3):
        save(folder / f"{number}.png")
    assert localize(folder, "--out", out) == 0
    read = radiographs.read_radiograph

    def interrupted(path, frame):
        if path.name == "1.png":
            raise KeyboardInterrupt
        return read(path, frame)

    monkeypatch.setattr(radiographs, "read_radiograph", interrupted)
    assert localize(folder, "--out", out) == 130
    assert annotated(out) == ["0.png"] and set(results(out)[0]) == {"0.png"}


def test_linked_folders_are_read_once(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("in/real/a.png", "elsewhere/b.png", "elsewhere/deep/c.png"):
        save(tmp_path / name)
    links = {
        "alias": folder / "real",
        "linked": tmp_path / "elsewhere",
        "twice": tmp_path / "elsewhere",
        "real/up": folder,
        "linked/back": folder,
    }
    for name, target in links.items():
        (folder / name).symlink_to(target, target_is_directory=True)
    for _ in range(2):
        assert localize(folder, "--out", out) == 0
        assert set(results(out)[0]) == {"real/a.png", "linked/b.png", "linked/deep/c.png"}
    assert (out / "annotated" / "linked" / "deep" / "c.png").is_file()
    assert not (tmp_path / "elsewhere" / "annotated").exists()


def test_links_to_the_output_are_not_examined(tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    save(folder / "a.png")
    save(folder / "p" / "b.png")
    assert localize(folder, "--out", out) == 0
    (folder / "earlier").symlink_to(out, target_is_directory=True)
    (folder / "drawings").symlink_to(out / "annotated" / "p", target_is_directory=True)
    (folder / "drawing.png").symlink_to(out / "annotated" / "a.png")
    assert localize(folder, "--out", out) == 0
    assert set(results(out)[0]) == {"a.png", "p/b.png"}
    capsys.readouterr()
    for path in (folder / "drawing.png", folder / "drawings", out / "annotated"):
        assert localize(path, "--out", out) == 2
        assert "the folder of the images, expected another folder" in capsys.readouterr().err
    assert (out / "annotated" / "a.png").is_file()


def test_annotated_images_have_names_of_their_own():
    files = [Path(name) for name in ("A.dcm", "a.png", "p.png/x.png", "p.dcm", "same.jpg", "same.png", "same.png.png",
                                     f"{'x' * 250}.png", f"{'x' * 251}.png", "b\udcff.png", "b\udcfe.png")]  # fmt: skip
    names = output_names(files)
    assert len({str(name).lower() for name in names.values()}) == len(files)
    assert names[Path("same.jpg")] == Path("annotated/same.jpg.png")
    assert all(len(name.name) < 200 and str(name).isprintable() for name in names.values())
    # No annotated image has the name of a folder of others.
    assert Path("annotated/p.png") not in names.values()


def test_images_whose_names_differ_in_the_suffix_alone_get_a_drawing_each(tmp_path):
    for name in ("same.jpg", "same.png", "same.png.png"):
        save(tmp_path / "in" / name)
    assert localize(tmp_path / "in", "--out", tmp_path / "out") == 0
    written = {row["annotated"] for row in results(tmp_path / "out")[0].values()}
    assert len(written) == 3 and all((tmp_path / "out" / name).is_file() for name in written)


@pytest.mark.skipif(sys.platform != "linux", reason="needs named pipes and file names of any bytes")
def test_a_bad_entry_of_a_folder_gets_a_row_and_the_run_continues(tmp_path, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    save(folder / "a.png")
    save(folder / "removed.png")
    long = save(folder / f"{'y' * 250}.png")
    save(folder / "z.png")
    (folder / "link.png").symlink_to(folder / "absent.png")
    (folder / "link").symlink_to(folder / "absent")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe")
    save(folder / "localization.csv" / "inner.png")

    def listing(*arguments):
        found = find_images(*arguments)
        (folder / "removed.png").unlink()
        return found

    monkeypatch.setattr(external_images, "find_images", listing)
    assert localize(folder, "--out", out) == 1
    rows, document = results(out)
    statuses = {name: row["status"] for name, row in rows.items()}
    assert statuses == {
        "a.png": "localized", "z.png": "localized", "localization.csv/inner.png": "localized", long.name: "localized",
        "removed.png": "unreadable", "link.png": "unreadable", "pipe.png": "unreadable",
        "link": "not_an_image", "pipe": "not_an_image",
    }  # fmt: skip
    assert "no such file" in rows["removed.png"]["reason"] and "symbolic link" in rows["link.png"]["reason"]
    assert "a pipe or a device" in rows["pipe.png"]["reason"]
    assert all((out / row["annotated"]).is_file() for row in rows.values() if row["status"] == "localized")


def test_a_subfolder_that_cannot_be_listed_gets_a_row(tmp_path, monkeypatch):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "closed" / "b.png")
    scandir = os.scandir

    def refusing(path="."):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert localize(tmp_path / "in", "--out", tmp_path / "out") == 1
    row = results(tmp_path / "out")[0]["closed"]
    assert row["status"] == "unreadable" and "a folder that cannot be read" in row["reason"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs named pipes and file names of any bytes")
def test_a_pipe_alone_is_an_error(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    assert localize(tmp_path / "pipe.png", "--out", tmp_path / "out") == 2
    assert "is neither a file nor a folder, expected" in capsys.readouterr().err


def test_a_folder_in_the_way_of_the_results_is_refused_before_the_run(tmp_path, capsys):
    image = save(tmp_path / "in" / "a.png")
    (tmp_path / "out" / "localization.csv").mkdir(parents=True)
    assert localize(image, "--out", tmp_path / "out") == 2
    assert "localization.csv was not written by carm-env localize" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="needs named pipes and file names of any bytes")
def test_file_names_that_are_not_utf8_are_escaped(tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    save(folder / "a.png")
    for name in ("b\udcff.png", "d\udcfe/c.png", "t\udcfd.txt"):
        save(folder / "x.png").rename((folder / name).parent.mkdir(exist_ok=True) or folder / name)
    (folder / "cut\udcfc.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert localize(folder, "--out", out) == 1
    rows, document = results(out)
    assert rows["b\\udcff.png"]["status"] == rows["d\\udcfe/c.png"]["status"] == "localized"
    assert "cut\\udcfc.png is damaged" in rows["cut\\udcfc.png"]["reason"]
    assert rows["t\\udcfd.txt"]["status"] == "localized"  # its first bytes are those of a PNG file
    assert {item["file"] for item in document["images"]} == set(rows)
    assert "\\udc" not in (out / "localization.json").read_text(encoding="utf-8").replace("\\\\udc", "")
    assert all((out / row["annotated"]).is_file() for row in rows.values() if row["status"] == "localized")
    assert "b\\udcff.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("afile", "which is not a folder, expected a folder: choose another name"),
        ("new.png", "the name of an image, expected a folder, e.g. --out new"),
        ("afile/inner", "which cannot be created or written (Not a directory), expected a folder"),
        ("dangling", "which is not a folder"),
    ],
)
def test_an_output_that_cannot_be_used_is_an_error_before_networks_are_loaded(
    tmp_path, monkeypatch, capsys, out, sentence
):
    image = save(tmp_path / "in" / "a.png")
    (tmp_path / "afile").write_text("text", encoding="utf-8")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    monkeypatch.setattr(command, "_make_examiner", lambda arguments: pytest.fail("networks were loaded"))
    assert localize(image, "--out", tmp_path / out) == 2
    error = capsys.readouterr().err
    assert f"--out is {tmp_path / out}, {sentence}" in error and error.count("\n") == 1
    assert not (tmp_path / "new.png").exists() and (tmp_path / "afile").read_text(encoding="utf-8") == "text"


def test_an_empty_input_name_is_refused(tmp_path, monkeypatch, capsys):
    save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert localize("", "--out", "out") == 2
    assert "PATH is '', expected a file or a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_error_before_the_first_image_leaves_no_empty_folder(tmp_path, monkeypatch):
    def refuse(arguments):
        raise ValueError("no such policy")

    monkeypatch.setattr(command, "_make_examiner", refuse)
    assert localize(save(tmp_path / "in" / "a.png"), "--out", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_says_how_far_it_came(tmp_path, monkeypatch, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    for number in range(5):
        save(folder / f"{number}.png")
    assert localize(folder, "--out", out) == 0
    document = results(out)[1]
    assert document["complete"] is True and document["n_images"] == 5
    read = radiographs.read_radiograph

    def interrupted(path, frame):
        if path.name == "3.png":
            raise KeyboardInterrupt
        return read(path, frame)

    monkeypatch.setattr(radiographs, "read_radiograph", interrupted)
    capsys.readouterr()
    assert localize(folder, "--out", out) == 130
    document = results(out)[1]
    assert document["complete"] is False and document["n_images"] == 5 and len(document["images"]) == 3
    assert f"3 of 5 images, saved to {out}" in capsys.readouterr().out


def test_a_killed_run_leaves_no_results_of_an_earlier_one(tmp_path, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    for number in range(2):
        save(folder / f"{number}.png")
    assert localize(folder, "--out", out) == 0
    found = []
    read = radiographs.read_radiograph

    def watched(path, frame):
        found.append((out / "localization.json").exists())
        return read(path, frame)

    monkeypatch.setattr(radiographs, "read_radiograph", watched)
    assert localize(folder, "--out", out) == 0
    assert found == [True, False] and results(out)[1]["complete"]


@pytest.mark.parametrize(
    ("p_value", "text"),
    [(0.5, "p 0.500"), (0.00104, "p 0.00104"), (0.001004, "p 0.001004"), (0.001, "p 0.001"), (0.0009, "p < 0.001"),
     (0.0016, "p 0.002")],
)  # fmt: skip
def test_p_values_just_above_the_limit_of_a_guess_can_be_told_from_it(tmp_path, monkeypatch, capsys, p_value, text):
    monkeypatch.setattr(_Detector, "p_value", lambda self, scores: np.full(len(scores), p_value))
    assert localize(save(tmp_path / "in" / "a.png"), "--out", tmp_path / "out") == 0
    assert f"a.png  {text}  T12" in capsys.readouterr().out
    assert float(results(tmp_path / "out")[0]["a.png"]["p_value"]) == p_value


def test_the_help_explains_the_exit_status(capsys):
    with pytest.raises(SystemExit):
        localize("--help")
    words = " ".join(capsys.readouterr().out.split())
    for sentence in (
        "0 if the landmarks of every file were localised",
        "1 if an image is unlike the X-rays that the networks know",
        "or a file of a folder cannot be read or is no image",
        "2 for an error",
    ):
        assert sentence in words
