"""MedMNIST, DeepLesion and PolypSet, on files in their layouts."""

import numpy as np
import pytest

from carm_env.language import Box, ImageClass
from carm_env.medical_images.asked_images import AskedImage
from carm_env.medical_images.deep_lesion import REGIONS
from carm_env.medical_images.load import read_asked_images
from carm_env.medical_images.medmnist import known_questions
from carm_env.system.csv_files import CsvFileError
from carm_env.xray_datasets.labelled import DatasetError
from tests.medical_image_files import lesion_row, polyp_xml, write_deep_lesion, write_medmnist, write_polyp_set


def test_a_set_of_the_package_is_known_by_its_name(tmp_path):
    images = read_asked_images(write_medmnist(tmp_path / "breastmnist_224.npz"))
    assert [image.split for image in images] == ["train"] * 8 + ["validation"] * 2 + ["test"] * 4
    assert images[0].question == known_questions()["breastmnist"] and images[0].task == "breastmnist"
    assert [image.label for image in images[:3]] == [0, 1, 0] and images[1].answer == ImageClass(1)
    assert images[1].load().shape == (28, 28) and images[1].load()[0, 0] == 60
    system, user = images[1].messages("full")
    assert "1: normal or benign" in system["content"][0]["text"]
    assert "ultrasound" in user["content"][1]["text"] and user["content"][0]["image"].size == (28, 28)


def test_the_paper_names_are_there_with_their_numbers_of_classes():
    counts = {"blood": 8, "breast": 2, "derma": 7, "oct": 4, "organa": 11, "organc": 11, "organs": 11, "path": 9,
              "pneumonia": 2, "retina": 5, "tissue": 8}  # fmt: skip
    assert {f"{name}mnist": count for name, count in counts.items()} == {
        name: len(question.classes) for name, question in known_questions().items()
    }


def test_a_file_of_our_own_has_its_question_and_boxes_beside_it(tmp_path):
    about = {"question": "Which cell?", "classes": ["a", "b", "c"], "phrase": "the cell"}
    boxes = {f"{split}_boxes": np.tile([7, 14, 21, 28], (count, 1)) for split, count in (("train", 8), ("test", 4))}
    images = read_asked_images(write_medmnist(tmp_path / "cells.npz", 3, True, about=about, **boxes))
    assert {image.task for image in images} == {"cells", "cells_box"} and images[0].load().shape == (28, 28, 3)
    box = next(image for image in images if image.box)
    assert box.answer == Box((250, 500, 750, 1000)) and box.phrase == "the cell"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_images": np.zeros((8, 28, 28, 28), np.uint8)}, "train_images is uint8 .*two-dimensional images"),
        ({"train_images": np.zeros((8, 28, 28))}, "train_images is float64"),
        ({"train_labels": None}, "train_labels is missing"),
        ({"train_labels": np.zeros((8, 14), np.uint8)}, r"expected integers \(8, 1\): sets with several labels"),
        ({"train_labels": np.zeros((7, 1), np.uint8)}, r"is uint8 \(7, 1\)"),
        ({"test_labels": np.full((4, 1), 2, np.uint8)}, "breastmnist.npz, test 0: the class is 2, expected 0 to 1"),
        ({"train_images": None, "val_images": None, "test_images": None}, "holds no image"),
        ({"train_images": np.array([object()])}, "cannot be read as a .npz file"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, options, message):
    with pytest.raises(DatasetError, match=message):
        read_asked_images(write_medmnist(tmp_path / "breastmnist.npz", **options))


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (None, "has no file cells.json beside it, .* the name is one of: bloodmnist"),
        ({"classes": ["a", "b"]}, "cells.json has no question"),
        ({"question": "Which?", "classes": ["a"]}, "cells.json cannot be used .*expected question and classes"),
        ({"question": "Which?"}, "cells.json cannot be used"),
        ({"question": "Which?", "classes": ["a", "b"]}, "cells.json has no phrase"),
        ({"phrase": "cell"}, "train_boxes, row 0: the box .* is inverted"),
    ],
)
def test_wrong_questions_are_named(tmp_path, about, message):
    boxes = {} if about in (None, {"classes": ["a", "b"]}) else {"train_boxes": np.tile([9, 9, 5, 20], (8, 1))}
    with pytest.raises(DatasetError, match=message):
        read_asked_images(write_medmnist(tmp_path / "cells.npz", about=about, **boxes))


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "breastmnist.npz"
    path.write_bytes(b"PK\3\4 cut short")
    with pytest.raises(DatasetError, match=r"cannot be read as a .npz file"):
        read_asked_images(path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_asked_images(tmp_path / "gone.npz")
    with pytest.raises(DatasetError, match="none of the known data sets"):
        read_asked_images(tmp_path)
    boxes = np.full((8, 4), np.nan)
    with pytest.raises(DatasetError, match="train_boxes is float64"):
        read_asked_images(write_medmnist(tmp_path / "cells.npz", about={"phrase": "cell"}, train_boxes=boxes))


def test_deep_lesion_asks_for_boxes_and_regions(tmp_path):
    images = read_asked_images(write_deep_lesion(tmp_path))
    assert {image.task for image in images} == {"deeplesion_box", "deeplesion_region"} and len(images) == 18
    assert [sum(image.split == split for image in images) for split in ("train", "validation", "test")] == [6, 6, 6]
    box, region = images[:2]
    assert box.answer == Box((250, 125, 500, 375)) and region.question.classes == REGIONS and region.label == 0
    assert "[250,125,500,375]" in region.question.text and region.patient == "0"
    image = box.load()
    assert image.shape == (512, 512) and image[100, 200] == 255 and image[0, 0] == 128


def test_deep_lesion_leaves_out_what_is_unknown(tmp_path):
    rows = [lesion_row(0), lesion_row(1, Possibly_noisy="1"), lesion_row(2, Coarse_lesion_type="-1"), lesion_row(3),
            lesion_row(3, Bounding_boxes="1,2,30,40"), lesion_row(4)]  # fmt: skip
    write_deep_lesion(tmp_path, rows)
    (tmp_path / "Images_png" / "000004_01_01" / "104.png").unlink()
    found = [(image.task.removeprefix("deeplesion_"), image.patient) for image in read_asked_images(tmp_path)]
    assert found == [("box", "0"), ("region", "0"), ("box", "2"), ("region", "3"), ("region", "3")]


def test_key_slices_do_not_stand_in_for_the_images(tmp_path):
    from PIL import Image

    write_deep_lesion(tmp_path, images=False)
    (tmp_path / "Key_slices").mkdir()
    Image.new("L", (512, 512), 77).save(tmp_path / "Key_slices" / "000000_01_01_100.png")
    with pytest.raises(DatasetError, match="Key_slices/ is not read, as boxes may be drawn into its images"):
        read_asked_images(tmp_path)


def test_files_of_our_own_have_their_full_names_as_tasks(tmp_path):
    about = {"question": "Which?", "classes": ["a", "b"]}
    found = [
        read_asked_images(write_medmnist(tmp_path / name, about=about)) for name in ("knee_left.npz", "knee_right.npz")
    ]
    assert [images[0].task for images in found] == ["knee_left", "knee_right"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"File_name": "../x_1.png"}, "row 1: File_name is '../x_1.png', expected a name without folders"),
        ({"File_name": "100.png"}, "row 1: File_name"),
        ({"File_name": ".._109.png"}, "row 1: File_name is '.._109.png', expected a name without folders"),
        ({"Train_Val_Test": "4"}, "Train_Val_Test is '4', expected 1, 2 or 3"),
        ({"Coarse_lesion_type": "9"}, "Coarse_lesion_type is 9"),
        ({"Coarse_lesion_type": ""}, "Coarse_lesion_type is '', expected 1 number"),
        ({"Bounding_boxes": "1,2,3"}, "Bounding_boxes is '1,2,3', expected 4 number"),
        ({"Bounding_boxes": "9,2,3,4"}, "the box .* is inverted"),
        ({"Bounding_boxes": "600,2,700,4"}, "the box .* is inverted or empty"),
        ({"Image_size": "0, 512"}, "the image has 0 x 512 pixels"),
        ({"DICOM_windows": "5, 5"}, "DICOM_windows is 5, 5"),
    ],
)
def test_wrong_rows_are_named(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        read_asked_images(write_deep_lesion(tmp_path, [lesion_row(0, **changes)], images=False))


def test_missing_slices_and_columns_are_named(tmp_path):
    with pytest.raises(DatasetError, match="none of the 9 slices"):
        read_asked_images(write_deep_lesion(tmp_path, images=False))
    (tmp_path / "DL_info.csv").write_text("File_name\n", encoding="utf-8")
    with pytest.raises(CsvFileError, match="no column 'Patient_index'"):
        read_asked_images(tmp_path)
    images = read_asked_images(write_deep_lesion(tmp_path))
    path = tmp_path / "Images_png" / "000000_01_01" / "100.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"100.png cannot be read as an image"):
        images[0].load()
    path.unlink()
    with pytest.raises(DatasetError, match=r"100.png is missing"):
        images[0].load()


def test_polyp_set_asks_for_kinds_and_boxes(tmp_path):
    images = read_asked_images(write_polyp_set(tmp_path))
    assert len(images) == 12 and {image.task for image in images} == {"polypset_kind", "polypset_box"}
    kind, box = images[:2]
    assert kind.question.classes[kind.label] == "adenomatous" and box.answer == Box((100, 250, 500, 750))
    assert kind.load().shape == (80, 100, 3) and kind.patient == "train2019/1"
    assert {image.patient for image in images if image.split == "test"} == {"test2019/4"}
    write_polyp_set(tmp_path, **{"train2019/1": polyp_xml(objects=2), "train2019/2": polyp_xml(objects=0)})
    assert "train" not in {image.split for image in read_asked_images(tmp_path)}


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation>", r"train2019/Annotation/1.xml cannot be read \("),
        ("<html/>", "holds <html>, expected <annotation>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares a document type or entities"),
        (polyp_xml("serrated"), "name is 'serrated', expected one of: hyperplastic, adenomatous"),
        (polyp_xml(box=(1, 2, "x", 4)), "bndbox/xmax is 'x', expected a number of pixels"),
        (polyp_xml(box=("nan", 2, 3, 4)), "bndbox/xmin is 'nan'"),
        (polyp_xml(box=(50, 2, 3, 4)), "the box .* is inverted"),
        (polyp_xml(size=(0, 80)), "the image has 0 x 80 pixels"),
        (polyp_xml() + " " * (1 << 20), "more than 1 MiB"),
    ],
)
def test_wrong_annotations_are_named(tmp_path, xml, message):
    with pytest.raises(DatasetError, match=message):
        read_asked_images(write_polyp_set(tmp_path, **{"train2019/1": xml}))


def test_a_missing_frame_is_named(tmp_path):
    write_polyp_set(tmp_path)
    (tmp_path / "test2019" / "Image" / "4" / "2.jpg").unlink()
    with pytest.raises(DatasetError, match=r"test2019/Image/4/2.jpg is missing"):
        read_asked_images(tmp_path)
    (tmp_path / "x" / "train2019" / "Annotation").mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no frame with one polyp"):
        read_asked_images(tmp_path / "x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split is 'dev'"),
        ({}, "expected a question with classes or a phrase with a box"),
        ({"box": (0.5, 0, 0.2, 1)}, "is inverted"),
    ],
)
def test_wrong_questions_of_images_are_named(options, message):
    with pytest.raises(DatasetError, match=message):
        AskedImage(**{"name": "a", "patient": "b", "split": "test", "task": "t", "load": None, **options})
