"""X-rays with masks in FleXray's layout, and every fault of a manifest or a mask."""

import numpy as np
import pytest
from PIL import Image

from carm_env.body_parts import body_part_number
from carm_env.system.errors import CArmEnvError, UnknownNameError
from carm_env.system.npy_files import NpyFileError
from carm_env.system.structured_files import StructuredFileError, read_yaml_mapping
from carm_env.xray_datasets import structure_masks
from carm_env.xray_datasets.labelled import DatasetError, read_images
from carm_env.xray_datasets.load import read_dataset, split_as_listed, split_by_patient
from tests.xray_dataset_files import SIDE, save_array, write_flexray, write_manifest, write_mura, write_table

CHEST, ELBOW, FOREARM = (body_part_number(name) for name in ("Chest", "Elbow", "Forearm"))


def sample(number=0, **changes):
    """A sample of `write_flexray` with changed values; None removes a key."""
    name = f"p{number // 2}-{number % 2}"
    given = {
        "sample_id": name, "subject_id": f"p{number // 2}", "split": "train", "image": f"images/{name}.png",
        "label": f"masks/{name}.png", **changes,
    }  # fmt: skip
    return {key: value for key, value in given.items() if value is not None}


def check_dataset(dataset):
    assert dataset.kind == "flexray:Drawings"
    labels = [(CHEST,), (CHEST,), (ELBOW, FOREARM), None, (CHEST,), (CHEST,)]
    expected = {f"p{patient}-{number}": shown for patient, shown in enumerate(labels) if shown for number in range(2)}
    assert {image.name: image.labels for image in dataset.images} == expected
    assert [image.name for image in dataset.images] == sorted(expected)
    assert all(image.name.startswith(image.patient) for image in dataset.images)
    assert dataset.notes == ("2 images were left out, whose masks show hardly anything of the 22 body parts",)
    images = read_images(dataset.images, SIDE)
    # The lungs of the first image are bright, its lower half is dark.
    assert images[0, :8, 8:40].mean() > 150 and images[0, 32:].mean() < 80


@pytest.mark.parametrize("kind", [".png", ".jpg", ".tif", ".bmp", ".npy"])
def test_masks_of_ids_are_read(tmp_path, kind):
    check_dataset(read_dataset(write_flexray(tmp_path, kind=kind)))


@pytest.mark.parametrize("kind", [".png", ".npy"])
def test_masks_with_channels_are_read(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(structure_masks, "_BLOCK_PIXELS", 100)
    check_dataset(read_dataset(write_flexray(tmp_path, channels=True, kind=kind)))


def test_other_forms_of_the_same_data_are_read(tmp_path):
    write_flexray(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        ids = Image.open(path)
        ids.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])  # a palette does not change ids
        ids.save(path)
    np.save(tmp_path / "images" / "p0-0.npy", np.random.default_rng(0).random((1, SIDE, SIDE)).astype(np.float32))
    np.save(tmp_path / "masks" / "wide.npy", np.ones((SIDE, SIDE), ">i8"))
    manifest = read_yaml_mapping(tmp_path / "dataset.yml", integer_keys=True)
    samples = [*manifest["samples"][2:], sample(0, image="images/p0-0.npy", label=str(tmp_path / "masks" / "wide.npy"))]
    (tmp_path / "dataset.yml").unlink()
    write_manifest(tmp_path, {**manifest, "samples": samples})
    (tmp_path / "dataset.yml").rename(tmp_path / "dataset.yaml")
    dataset = read_dataset(tmp_path)
    assert [image.name for image in dataset.images[:2]] == ["p0-0", "p1-0"] and dataset.images[0].labels == (CHEST,)
    assert read_images(dataset.images[:1], 32).any()


def test_the_manifest_goes_before_other_layouts(tmp_path):
    write_mura(tmp_path)
    assert read_dataset(tmp_path).kind == "mura"
    assert read_dataset(write_flexray(tmp_path)).kind == "flexray:Drawings"


def test_patients_are_divided_as_in_other_data(tmp_path):
    images = read_dataset(write_flexray(tmp_path, 10)).images
    split = split_by_patient(images)
    assert split.shared_patients == 0 and min(map(len, (split.train, split.calibration, split.test))) >= 2
    rows = [(image.name, "test" if image.patient == "p9" else "train") for image in images]
    listed = split_as_listed(images, write_table(tmp_path, rows, ("SOPInstanceUID", "mode"), "s.csv"))
    assert {image.patient for image in listed.test} == {"p9"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version is 2, expected 1"),
        ({"schema_version": True}, "schema_version is True, expected 1"),
        ({"dataset_type": "ct-seg", "crops": {}}, "'ct-seg', CT volumes, expected 'xray-seg'.*carm-env import"),
        ({"dataset_type": "x"}, "dataset_type is 'x', expected 'xray-seg'"),
        ({"dataset_type": None}, "has no 'dataset_type', expected schema_version"),
        ({"samples": None}, "has no 'samples'"),
        ({"samples": []}, r"samples is \[\], expected a list with at least one image"),
        ({"samples": {"a": 1}}, "expected a list with at least one image"),
        ({"samples": ["a"]}, "sample 1 is 'a', expected sample_id"),
        ({"dataset_name": 7}, "dataset_name is 7, expected text: write it in quotes"),
        ({"stored_labels": None}, "has neither of stored_labels and label_names"),
        ({"label_names": ["lungs"]}, "has both of stored_labels and label_names"),
        ({"protocol_name": "all_structures_v9"}, "'all_structures_v9', expected all_structures_flexray_v4"),
        ({"stored_labels": ["lungs"]}, "expected a name for each id"),
        ({"stored_labels": {0: "background", 2: "lungs"}}, "without gaps"),
        ({"stored_labels": {"0": "background", "00": "lungs"}}, "has the id 0 twice"),
        ({"stored_labels": {"a": "background"}}, "expected a name for each id"),
        ({"stored_labels": {0: "lungs"}}, "expected a name for each id"),
        ({"stored_labels": {0: "background", 1: "lung"}}, "'lung'. Did you mean 'lungs'.*Rename it in stored_labels"),
        ({"stored_labels": {0: "background", 1: "hips", 2: "hips"}}, "'hips' twice, expected different names"),
        ({"stored_labels": {0: "background", 1: ["hips"]}}, "unknown structure"),
        ({"stored_labels": None, "label_names": []}, r"label_names is \[\], expected a list of the structures"),
        ({"stored_labels": None, "label_names": ["implant"]}, "'implant'.*Rename it in label_names"),
    ],
)
def test_faults_of_the_manifest_are_named(tmp_path, changes, message):
    write_flexray(tmp_path, 1, **changes)
    with pytest.raises(DatasetError, match=message) as raised:
        read_dataset(tmp_path)
    assert str(tmp_path / "dataset.yml") in str(raised.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (sample(0, sample_id=None), "sample 2 has no 'sample_id'"),
        (sample(0, subject_id=None), "sample 2 has no 'subject_id'"),
        (sample(0, split=None), "sample 2 has no 'split'"),
        (sample(0, label=None), "sample 2 has no 'label'"),
        (sample(0, subject_id=17), "sample 2: subject_id is 17, expected text: write it in quotes"),
        (sample(0, sample_id=" "), "sample_id is ' ', expected text"),
        (sample(1), "sample 2: sample_id is 'p0-1', as in an earlier sample"),
        (sample(0, split="val"), r"subject 'p0' is in the splits 'train' \(p0-1\) and 'val' \(p0-0\)"),
        (sample(0, image="../images/a.png"), "leaves the folder of the manifest, .*absolute path"),
        (sample(0, image="images/../../a.png"), "leaves the folder of the manifest"),
        (sample(0, image="images/absent.png"), "image is 'images/absent.png', and there is no such file"),
        (sample(0, label="masks"), "label is 'masks', expected a file of the kinds .png"),
        (sample(0, label="x" * 5000 + ".png"), "there is no such file"),
        (sample(0, image="images/a.dcm"), "image is 'images/a.dcm', expected a file of the kinds"),
        (sample(0, label="masks/a.jpg"), "label is 'masks/a.jpg', expected a file of the kinds .png, .tif"),
    ],
)
def test_faults_of_a_sample_are_named(tmp_path, changed, message):
    write_flexray(tmp_path, 1, samples=[sample(1), changed])
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


def test_unknown_keys_are_named(tmp_path):
    write_flexray(tmp_path, 1, stored_label={})
    with pytest.raises(UnknownNameError, match="'stored_label'. Did you mean 'stored_labels'"):
        read_dataset(tmp_path)
    write_flexray(tmp_path, 1, samples=[sample(0, subject="p0")])
    with pytest.raises(UnknownNameError, match="sample 1 'subject'. Did you mean 'subject_id'"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("text", ["a: [", "- a", "a: &b 1", "\0"])
def test_an_unreadable_manifest_is_named(tmp_path, text):
    (tmp_path / "dataset.yml").write_text(text, encoding="utf-8")
    with pytest.raises(StructuredFileError, match=r"dataset\.yml"):
        read_dataset(tmp_path)


def test_one_manifest_of_a_bounded_size_is_expected(tmp_path, monkeypatch):
    write_flexray(tmp_path, 1)
    (tmp_path / "dataset.yaml").touch()
    with pytest.raises(DatasetError, match=r"holds dataset\.yml and dataset\.yaml, expected one"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.yaml").unlink()
    monkeypatch.setattr("carm_env.xray_datasets.flexray._MAX_BYTES", 100)
    with pytest.raises(DatasetError, match="expected at most 100: divide the data set"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((SIDE, SIDE), 5, np.uint8), r"holds the id 5, expected 0 to 4: declare the id in stored_labels"),
        (np.full((SIDE, SIDE), -1), "holds the id -1"),
        (np.full((SIDE, SIDE), 2**63 - 1), "holds the id 9223372036854775807"),
        (np.full((SIDE, SIDE), 2**64 - 1, np.uint64), "holds the id 18446744073709551615"),
        (np.zeros((SIDE, 32), np.uint8), "has 32 x 64 pixels, expected 64 x 64, as the image has"),
        (np.zeros((SIDE, SIDE)), "holds float64 .*expected integers"),
        (np.zeros((4, SIDE, SIDE), np.uint8), "need label_names instead"),
        (np.zeros(SIDE, np.uint8), r"has the shape \(64,\), expected an image"),
    ],
)
def test_faults_of_masks_of_ids_are_named(tmp_path, mask, message):
    write_flexray(tmp_path, 1, kind=".npy")
    np.save(tmp_path / "masks" / "p0-1.npy", mask)
    with pytest.raises(DatasetError, match=message) as raised:
        read_dataset(tmp_path)
    assert "p0-1.npy" in str(raised.value)


def test_masks_in_colours_and_damaged_files_are_named(tmp_path):
    write_flexray(tmp_path, 1)
    mask, image = tmp_path / "masks" / "p0-0.png", tmp_path / "images" / "p0-0.png"
    whole = mask.read_bytes()
    save_array(mask, np.zeros((SIDE, SIDE, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"uint8 \(64, 64, 3\), expected integers .*greyscale PNG"):
        read_dataset(tmp_path)
    for content in (whole[:60], b"", b"no image"):
        mask.write_bytes(content)
        with pytest.raises(DatasetError, match=r"masks.p0-0\.png cannot be read as an image"):
            read_dataset(tmp_path)
    mask.write_bytes(whole)
    image.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"images.p0-0\.png cannot be read as an image"):
        read_dataset(tmp_path)


def test_images_that_are_too_large_are_named(tmp_path, monkeypatch):
    write_flexray(tmp_path, 1)
    monkeypatch.setattr(structure_masks, "MAX_PIXELS", 1000)
    with pytest.raises(DatasetError, match="64 x 64 pixels, expected at most 1,000"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((3, SIDE, SIDE)), r"\(3, 64, 64\), expected \(4, 64, 64\), one channel for each of label_names"),
        (np.zeros((SIDE, SIDE)), "one channel for each of label_names"),
        (np.zeros((4, 32, SIDE)), "has 64 x 32 pixels, expected 64 x 64"),
        (np.full((4, SIDE, SIDE), 255, np.uint8), "'lungs' has values from 255 to 255, expected 0 to 1: divide"),
        (np.full((4, SIDE, SIDE), np.nan), "has values from nan"),
        (np.full((4, SIDE, SIDE), -0.1), "has values from -0.1"),
    ],
)
def test_faults_of_masks_with_channels_are_named(tmp_path, mask, message):
    write_flexray(tmp_path, 1, channels=True)
    np.save(tmp_path / "masks" / "p0-1.npy", mask)
    with pytest.raises(DatasetError, match=message) as raised:
        read_dataset(tmp_path)
    assert "p0-1.npy" in str(raised.value)


def test_masks_of_another_encoding_or_damaged_arrays_are_named(tmp_path):
    write_flexray(tmp_path, 1, stored_labels=None, label_names=["lungs"])
    with pytest.raises(DatasetError, match=r"p0-0\.png is no \.npy file, expected channels"):
        read_dataset(tmp_path)
    write_flexray(tmp_path, 1, channels=True)
    mask = tmp_path / "masks" / "p0-0.npy"
    whole = mask.read_bytes()
    for content in (whole[:2000], whole[:20], b"", b"PK\3\4"):
        mask.write_bytes(content)
        with pytest.raises(NpyFileError, match=r"p0-0\.npy cannot be read as a \.npy file"):
            read_dataset(tmp_path)


def test_a_data_set_without_body_parts_is_named(tmp_path):
    write_flexray(tmp_path, 1, stored_labels=dict(enumerate(("background", "humeri", "lungs", "heart", "ulnae"))))
    with pytest.raises(DatasetError, match="no mask shows a structure of the 22 body parts on 1% .*background, humeri"):
        read_dataset(tmp_path)


def test_a_byte_that_is_changed_anywhere_is_no_other_error(tmp_path):
    write_flexray(tmp_path, 2, channels=True, kind=".npy")
    rng = np.random.default_rng(0)
    for path in (tmp_path / "dataset.yml", tmp_path / "masks" / "p0-0.npy", tmp_path / "images" / "p1-0.npy"):
        whole = path.read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            content[rng.integers(min(len(whole), 1500))] = rng.integers(256)
            path.write_bytes(content)
            try:
                read_images(read_dataset(tmp_path).images, 32)
            except CArmEnvError as error:
                assert str(tmp_path) in str(error) or "dataset.yml" in str(error)
        path.write_bytes(whole)
