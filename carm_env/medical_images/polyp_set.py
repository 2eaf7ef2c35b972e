"""PolypSet, colonoscopy frames with polyps and their boxes in the XML files of Pascal VOC.

    train2019/Image/1.jpg             train2019/Annotation/1.xml
    val2019/Image/5/12.jpg            val2019/Annotation/5/12.xml       test2019 likewise

Two tasks: the kind of the polyp (hyperplastic or adenomatous), and its box; both in frames with one polyp. Frames of a
folder are of one sequence, which is taken for the patient. The data are the user's to bring.

Source: Li et al., "Colonoscopy polyp detection and classification: Dataset creation and comparative evaluations",
PLoS ONE 16 (2021).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from carm_env.language.image_tasks import ClassQuestion
from carm_env.medical_images.asked_images import AskedImage, box_of_pixels, colours
from carm_env.system.errors import shortened
from carm_env.xray_datasets.labelled import DatasetError

FOLDERS = {"train2019": "train", "val2019": "validation", "test2019": "test"}
ANNOTATIONS, IMAGES = "Annotation", "Image"
KINDS = ClassQuestion("Which kind of polyp does this colonoscopy frame show?", ("hyperplastic", "adenomatous"))
_PHRASE = "polyp"
_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
_MAX_XML_BYTES = 1 << 20


def is_polyp_set(folder: Path) -> bool:
    """Returns whether a folder holds the annotations of a split."""
    return any((folder / name / ANNOTATIONS).is_dir() for name in FOLDERS)


def read_polyp_set(folder: Path) -> tuple[AskedImage, ...]:
    """Reads the annotations of a folder; the images are not opened.

    Raises:
        DatasetError: an annotation cannot be read or contradicts the layout, an image is missing, or there is no frame
            with one polyp.
    """
    found = tuple(
        image
        for name, split in FOLDERS.items()
        for path in sorted((folder / name / ANNOTATIONS).rglob("*.xml"))
        for image in _of_frame(folder / name, path, split)
    )
    if not found:
        raise DatasetError(f"{folder} holds no frame with one polyp, expected train2019/{ANNOTATIONS}/*.xml with one.")
    return found


def _of_frame(folder: Path, path: Path, split: str) -> Iterator[AskedImage]:
    within = path.relative_to(folder / ANNOTATIONS)
    where = f"{folder.name}/{ANNOTATIONS}/{within.as_posix()}"
    root = _parse(path, where)
    polyps = root.findall("object")
    if len(polyps) != 1:
        return
    width, height = (_number(where, root, f"size/{name}") for name in ("width", "height"))
    corners = [_number(where, polyps[0], f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
    box = box_of_pixels((corners[0], corners[1], corners[2], corners[3]), (int(width), int(height)), where)
    kind = (polyps[0].findtext("name") or "").strip().lower()
    if kind not in KINDS.classes:
        raise DatasetError(f"{where}: name is {shortened(kind)}, expected one of: {', '.join(KINDS.classes)}.")
    stem = folder / IMAGES / within.with_suffix("")
    image = next(
        (stem.with_name(stem.name + end) for end in _SUFFIXES if stem.with_name(stem.name + end).is_file()), None
    )
    if image is None:
        raise DatasetError(
            f"{where}: {folder.name}/{IMAGES}/{within.with_suffix('').as_posix()}.jpg is missing: copy it again, or "
            "remove the annotation."
        )
    sequence = within.parent.as_posix() if len(within.parts) > 1 else within.stem
    name, patient, load = (
        f"{folder.name}/{within.with_suffix('').as_posix()}",
        f"{folder.name}/{sequence}",
        partial(colours, image),
    )
    yield AskedImage(name, patient, split, "polypset_kind", load, KINDS, KINDS.classes.index(kind), data_set="polypset")
    yield AskedImage(name, patient, split, "polypset_box", load, phrase=_PHRASE, box=box, data_set="polypset")


def _parse(path: Path, where: str) -> ElementTree.Element:
    try:
        if path.stat().st_size > _MAX_XML_BYTES:
            raise DatasetError(f"{where} has more than {_MAX_XML_BYTES >> 20} MiB, expected the boxes of one frame.")
        text = path.read_text(encoding="utf-8-sig")
        # Entities can expand to gigabytes.
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise DatasetError(f"{where} declares a document type or entities, expected none: remove them.")
        root = ElementTree.fromstring(text)
    except (OSError, UnicodeDecodeError, ElementTree.ParseError) as error:
        raise DatasetError(f"{where} cannot be read ({error}): copy it again.") from error
    if root.tag != "annotation":
        raise DatasetError(f"{where} holds <{root.tag}>, expected <annotation> as in Pascal VOC.")
    return root


def _number(where: str, element: ElementTree.Element, path: str) -> float:
    text = element.findtext(path)
    try:
        number = float(text or "")
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise DatasetError(f"{where}: {path} is {shortened(text)}, expected a number of pixels.")
    return number
