"""PadChest-GR, and MIMIC-CXR-JPG with MIMIC-Ext, on files in their layouts."""

import numpy as np
import pytest

from carm_env.system.csv_files import CsvFileError
from carm_env.xray_datasets.grounded_images import of_split, read_grounded, read_grounded_images
from carm_env.xray_datasets.labelled import DatasetError
from tests.grounded_dataset_files import mimic, padchest, write_table

pytest.importorskip("ensemble_boxes")


def test_padchest_gr_is_read(tmp_path):
    reports = read_grounded(padchest(tmp_path))
    assert [report.patient for report in reports] == ["p0", "p0", "p1", "p1", "p4", "p5"]
    assert [sentence.text for sentence in reports[0].sentences] == ["Right pleural effusion.", "Normal heart size."]
    # Two boxes of the same place are one.
    assert np.allclose(reports[0].sentences[0].boxes, [(0.1, 0.2, 0.405, 0.6)]) and reports[0].sentences[1].boxes == ()
    assert [report.name for report in of_split(reports, "train")] == ["0.png", "1.png", "2.png", "3.png"]
    images, changed = read_grounded_images(of_split(reports, "test"), 32)
    assert images.shape == (1, 32, 32) and not images[0, :8].any() and not images[0, 24:].any()
    assert np.allclose(changed[0].sentences[0].boxes, [(0.1, 0.35, 0.405, 0.55)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": [[0.1, 0.2, 1.4, 0.6]]}, "entry 3, finding 1: the box .* lies outside of the image"),
        ({"boxes": [[0.4, 0.2, 0.1, 0.6]]}, "entry 3, finding 1: the box .* is inverted"),
        ({"sentence_en": " "}, "entry 3, finding 1: sentence_en is empty"),
        ({"findings": []}, "2.png: the report is empty"),
        ({"findings": 7}, "entry 3 is .*expected an image with"),
        ({"ImageID": "../x.png"}, "without folders"),
        ({"ImageID": "9.png"}, "the image 9.png is missing"),
        ({"StudyID": "s9"}, "has no row of study"),
    ],
)
def test_wrong_padchest_files_are_named(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        read_grounded(padchest(tmp_path, changes))


def test_wrong_padchest_tables_are_named(tmp_path):
    rows = [(f"s{number}", "p1", "train" if number else "test") for number in range(6)]
    with pytest.raises(DatasetError, match="1 patients of the split 'test' are in other splits"):
        of_split(read_grounded(padchest(tmp_path, rows=rows)), "test")
    with pytest.raises(DatasetError, match="no report is of the split 'validation'"):
        of_split(read_grounded(padchest(tmp_path, rows=rows)), "validation")
    with pytest.raises(DatasetError, match="split is 'x'"):
        read_grounded(padchest(tmp_path, rows=[("s0", "p0", "x")]))
    (tmp_path / "master_table.csv").write_text("StudyID\n", encoding="utf-8")
    with pytest.raises(CsvFileError, match="no column 'PatientID'"):
        read_grounded(tmp_path)


def test_a_least_quality_is_refused_where_nothing_is_rated(tmp_path):
    with pytest.raises(ValueError, match="PadChest-GR, which rates no observation"):
        read_grounded(padchest(tmp_path), least_quality=4)


def test_mimic_is_read(tmp_path):
    (report,) = read_grounded(mimic(tmp_path))
    assert (report.name, report.patient, report.split) == ("abc-1", "10000032", "train")
    assert [sentence.boxes for sentence in report.sentences] == [((0.1, 0.1, 0.5, 0.4),), ()]
    (rated,) = read_grounded(tmp_path, least_quality=4)
    assert [sentence.text for sentence in rated.sentences] == ["There is a small effusion."]
    _, (squared,) = read_grounded_images([report], 16)
    assert np.allclose(squared.sentences[0].boxes, [(0.3, 0.1, 0.5, 0.4)])
    assert read_grounded(mimic(tmp_path / "v", "validate"))[0].split == "validation"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bboxes": [[100, 200, 1500, 800]]}, "O01: the box .* lies outside"),
        ({"bboxes": [[100, 200]]}, "O01: a box is .*expected four numbers"),
        ({"split": "dev"}, "split is 'dev'"),
        ({"observation": {"O03": 4}}, "O03 is 4, expected an observation"),
        ({"view": "LATERAL"}, "holds no report"),
    ],
)
def test_wrong_mimic_files_are_named(tmp_path, options, message):
    with pytest.raises(DatasetError, match=message):
        read_grounded(mimic(tmp_path, **options))


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(DatasetError, match="none of the known data sets"):
        read_grounded(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_grounded(tmp_path / "x")
    write_table(tmp_path / "mimic-cxr-2.0.0-split.csv", ("dicom_id",), [])
    with pytest.raises(DatasetError, match="unpack scene_data.zip"):
        read_grounded(tmp_path)
