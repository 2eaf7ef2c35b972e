"""Labelled X-rays of people: layouts, images, splits, and damaged or contradicting files."""

import shutil

import numpy as np
import pytest

from carm_env.body_parts import BODY_PARTS, N_BODY_PARTS, body_part_number
from carm_env.ct.radiographs import RadiographError
from carm_env.system.csv_files import CsvFileError
from carm_env.system.errors import UnknownNameError
from carm_env.xray_datasets.labelled import DatasetError, as_square, label_matrix, read_images
from carm_env.xray_datasets.load import read_dataset, split_as_listed, split_by_patient, split_dataset
from tests.xray_dataset_files import SIDE, drawing, uid_of, write_dicom, write_mura, write_table, write_unifesp

pytest.importorskip("pydicom")


@pytest.fixture
def unifesp(tmp_path):
    labels = write_unifesp(tmp_path / "u", 22)
    return tmp_path / "u", labels


def test_the_labels_are_those_of_the_data():
    # Source: the table of labels on Kaggle.
    for number, name in ((0, "Abdomen"), (3, "Chest"), (12, "Lower leg"), (14, "Others"), (17, "Sinus"), (21, "Wrist")):
        assert BODY_PARTS[number] == name and body_part_number(name.upper()) == number
    assert N_BODY_PARTS == 22 and list(BODY_PARTS) == sorted(BODY_PARTS)
    with pytest.raises(UnknownNameError, match="Did you mean 'Wrist'"):
        body_part_number("wrists")


def test_kaggles_layout_is_read(unifesp):
    folder, labels = unifesp
    dataset = read_dataset(folder)
    assert dataset.kind == "unifesp" and dataset.notes == ()
    assert {image.name: image.labels for image in dataset.images} == labels
    assert {image.patient for image in dataset.images} == {str(1000 + number) for number in range(22)}
    matrix = label_matrix(dataset.images)
    assert matrix.shape == (44, 22) and matrix.any(0).all() and set(matrix.sum(1)) == {1, 2}


def test_images_have_one_polarity_and_keep_their_shape(unifesp):
    folder, _ = unifesp
    images = read_images(read_dataset(folder).images[:6], 32)
    assert images.shape == (6, 32, 32) and images.dtype == np.uint8
    # Every other file is MONOCHROME1; the ground of the drawings is dark.
    assert (np.median(images, axis=(1, 2)) < 60).all() and (images.max(axis=(1, 2)) > 200).all()
    tall = as_square(np.full((90, 30), 200, np.uint8), 30)
    assert (tall[:, 10:20] == 200).all() and not tall[:, :10].any() and not tall[:, 20:].any()
    assert as_square(np.full((1, 1), 7, np.uint8), 4).tolist() == [[7] * 4] * 4


def test_several_processes_read_the_same(unifesp, monkeypatch):
    folder, _ = unifesp
    images = read_dataset(folder).images[:8]
    monkeypatch.setattr("carm_env.xray_datasets.labelled._FEW_IMAGES", 1)
    assert (read_images(images, 32, workers=2) == read_images(images, 32)).all()


def test_narrow_images_are_read(tmp_path):
    write_dicom(tmp_path / "train" / "1" / "1.2.3-c.dcm", np.zeros((320, 40), np.uint16), "1.2.3")
    write_table(tmp_path, [("1.2.3", "7")])
    assert read_images(read_dataset(tmp_path).images, 32).shape == (1, 32, 32)


def test_images_in_one_folder_count_as_patients(tmp_path):
    for number in range(3):
        write_dicom(tmp_path / f"1.2.{number}.dcm", drawing((3,), np.random.default_rng(0)), f"1.2.{number}")
    write_table(tmp_path, [("1.2.0", "3"), ("1.2.1", "4")])
    dataset = read_dataset(tmp_path)
    assert len({image.patient for image in dataset.images}) == 2
    assert "1 images without a row" in dataset.notes[0] and "do not tell patients" in dataset.notes[1]


def test_a_file_in_the_folders_of_two_patients_makes_them_one(unifesp):
    folder, _ = unifesp
    first, other = (folder / "train" / str(number) for number in (1003, 1007))
    found = next(first.rglob("*.dcm"))
    shutil.copy(found, other / found.name)
    dataset = read_dataset(folder)
    patients = {image.patient for image in dataset.images}
    assert len(patients) == 21 and "1 images have several files" in dataset.notes[0]
    whole = split_by_patient(dataset.images, 1)
    for part in (whole.train, whole.calibration, whole.test):
        names = {image.name for image in part}
        assert (uid_of(3, 0) in names) == (uid_of(7, 0) in names)


def test_mura_is_read(tmp_path):
    write_mura(tmp_path)
    dataset = read_dataset(tmp_path)
    assert dataset.kind == "mura" and len(dataset.images) == 16
    assert {image.labels for image in dataset.images} == {(5,), (21,)}
    assert {image.patient for image in dataset.images} == {f"patient{number:05}" for number in range(4)}
    assert dataset.notes == ("8 images of the humerus were left out, which is none of the 22 body parts",)
    assert [image.name for image in read_dataset(tmp_path / "MURA-v1.1").images] == [i.name for i in dataset.images]
    assert read_images(dataset.images[:2], 24).any()
    (tmp_path / "MURA-v1.1" / "train" / "XR_KNEE").mkdir()
    with pytest.raises(UnknownNameError, match="XR_KNEE"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_no_patient_is_in_two_parts(unifesp, seed):
    folder, _ = unifesp
    images = read_dataset(folder).images
    split = split_by_patient(images, seed)
    parts = (split.train, split.calibration, split.test)
    assert sorted(image.name for part in parts for image in part) == sorted(image.name for image in images)
    patients = [{image.patient for image in part} for part in parts]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
    assert [len(part) for part in parts] == [32, 6, 6]
    assert split.shared_patients == 0
    again = split_by_patient(images[::-1], seed)
    assert again.fingerprint == split.fingerprint and set(again.train) == set(split.train)
    assert split_by_patient(images, seed + 1).fingerprint != split.fingerprint


def test_the_split_of_the_authors_is_taken(unifesp, tmp_path):
    folder, labels = unifesp
    test = {uid_of(2, 0), uid_of(5, 1), uid_of(5, 0)}
    rows = [(f"unifesp/TRAIN/{uid}-c.png", "<label_id>0</label_id>", "test" if uid in test else "train")
            for uid in labels]  # fmt: skip
    columns = ("SOPInstanceUID", "Target", "mode")
    table = write_table(tmp_path, [*rows, ("unifesp/TRAIN/1.2-c.png", "", "train")], columns, "real.csv")
    dataset = read_dataset(folder)
    split = split_dataset(dataset, str(table), 0)
    assert {image.name for image in split.test} == test
    assert split.shared_patients == 1, "one image of patient 2 is in another part"
    assert len(split.train) + len(split.calibration) == len(labels) - 3
    assert not {i.patient for i in split.train} & {i.patient for i in split.calibration}
    for rows, message in (
        ([(uid, "test") for uid in labels], "no image of mode 'train'"),
        ([(uid, "valid") for uid in labels], "row 1: mode is 'valid', expected train or test"),
        ([(uid_of(0, 0), "train")], "does not list 43 of 44 images"),
    ):
        table = write_table(tmp_path, rows, ("SOPInstanceUID", "mode"), "s.csv")
        with pytest.raises(DatasetError, match=message):
            split_as_listed(dataset.images, table)


def test_too_few_patients_are_named(tmp_path):
    write_unifesp(tmp_path, 2, 3)
    images = read_dataset(tmp_path).images
    for patients in ({"1000"}, {"1000", "1001"}):
        with pytest.raises(DatasetError, match=rf"{len(patients)} patient\(s\)|too few to divide"):
            split_by_patient([image for image in images if image.patient in patients])


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([("1.2", "3")], ("SOPInstanceUID", "Label"), "has no column 'Target'"),
        ([("1.2", "3")], ("id", "Target"), "has no column 'SOPInstanceUID'"),
        ([("1.2",)], None, "row 1 is cut short"),
        ([], None, "holds no row"),
        ([("1.2.3", "22")], None, "row 1: Target is '22', expected numbers from 0 to 21"),
        ([("1.2.3", "3 -1")], None, "Target is '3 -1'"),
        ([("1.2.3", "Chest")], None, "Target is 'Chest'"),
        ([("1.2.3", "3,4")], None, "separated by spaces"),
        ([("1.2.3", "9" * 5000)], None, "expected numbers from 0 to 21"),
        ([("1.2.3", "3 3")], None, "repeats a label"),
        ([("1.2.3", " ")], None, "Target is empty"),
        ([("1.2.3", "3"), ("1.2.3", "3")], None, "row 2: 1.2.3 is in an earlier row"),
        ([("../1.2.3", "3")], None, "without a path"),
        ([("/etc/1.2.3", "3")], None, "without a path"),
        ([("1.2.3-c.dcm", "3")], None, "expected a DICOM UID"),
        ([("1." * 40 + "2", "3")], None, "at most 64 characters"),
        ([("1.2.3", "3"), ("1.2.4", "3")], None, "2 of 2 images of train.csv are missing, such as 1.2.3"),
    ],
)
def test_faults_of_the_table_are_named(tmp_path, rows, columns, message):
    write_table(tmp_path, rows, columns or ("SOPInstanceUID", "Target"))
    with pytest.raises((DatasetError, CsvFileError), match="train.csv") as raised:
        read_dataset(tmp_path)
    assert message in str(raised.value)


def test_damaged_images_are_named(unifesp):
    folder, _ = unifesp
    images = read_dataset(folder).images
    path = images[3].path
    whole = path.read_bytes()
    for content, message in (
        (whole[:-100], "pixels cannot be read"),
        (b"", "is empty"),
        (b"x" * 400, "damaged or not"),
    ):
        path.write_bytes(content)
        with pytest.raises(RadiographError, match=message) as raised:
            read_images(images, 32)
        assert path.name in str(raised.value) and "Doe" not in str(raised.value)
    path.unlink()
    with pytest.raises(DatasetError, match=rf"1 of 44 images.*{images[3].name}"):
        read_dataset(folder)


def test_a_folder_of_another_kind_is_named(tmp_path):
    (tmp_path / "MURA-v1.1" / "train" / "XR_WRIST").mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no images of MURA"):
        read_dataset(tmp_path)
    shutil.rmtree(tmp_path / "MURA-v1.1")
    with pytest.raises(DatasetError, match=r"none of the known data sets. Expected train\.csv.* dataset\.yml"):
        read_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_dataset(tmp_path / "absent")
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CsvFileError, match="cannot be read"):
        read_dataset(tmp_path)


def test_a_byte_order_mark_does_not_hide_the_first_column(tmp_path):
    write_dicom(tmp_path / "train" / "1.2.3-c.dcm", np.zeros((SIDE, SIDE), np.uint16), "1.2.3")
    table = write_table(tmp_path, [("1.2.3", "3")])
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert read_dataset(tmp_path).images[0].labels == (3,)
