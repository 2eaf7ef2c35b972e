"""MIMIC-CXR-JPG with the boxes of MIMIC-Ext-CXR-QBA, as PhysioNet ships them, in one folder.

    files/p10/p10000032/s50414267/DICOM_ID.jpg
    mimic-cxr-2.0.0-split.csv[.gz]                      dicom_id,study_id,subject_id,split
    mimic-cxr-2.0.0-metadata.csv[.gz]                   dicom_id,ViewPosition,Rows,Columns,..
    scene_data/p10/p10000032/s50414267.scene_graph.json unpacked from scene_data.zip of MIMIC-Ext-CXR-QBA

The sentences of an image are the summary sentences of its study's observations, and their boxes are in pixels of the
image. Only frontal images (PA and AP) of studies with a scene graph are taken. The data are the user's to bring.

Source: Johnson et al., "MIMIC-CXR-JPG" (2019); Mueller et al., "MIMIC-Ext-CXR-QBA" 1.0.0 (PhysioNet, 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from carm_env.system.csv_files import read_csv_rows
from carm_env.system.errors import shortened
from carm_env.system.structured_files import read_json_mapping
from carm_env.xray_datasets.box_fusion import fuse_boxes
from carm_env.xray_datasets.grounded import GroundedReport, GroundedSentence, check_box, check_reports
from carm_env.xray_datasets.labelled import DatasetError

KIND = "mimic_cxr"
SPLIT_TABLE, METADATA_TABLE, GRAPHS = "mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-metadata.csv", "scene_data"
_FRONTAL = ("PA", "AP")
_SPLITS = {"train": "train", "validate": "validation", "test": "test"}


def is_mimic_cxr(folder: Path) -> bool:
    """Returns whether a folder holds the table of the splits."""
    return _table(folder, SPLIT_TABLE).is_file()


def read_mimic_cxr(folder: Path, least_quality: int = 0) -> tuple[GroundedReport, ...]:
    """Reads the reports of all frontal images with a scene graph; the images are not opened.

    Args:
        folder: folder as above.
        least_quality: least value of every quality of an observation and of its localisation, as coded in
            ``quality_mappings.csv``, where larger is better; the paper takes observations that are rated A++.

    Raises:
        DatasetError: a file contradicts the layout, an image is missing, or a box is not valid.
        CsvFileError: a table cannot be read.
        MissingExtraError: ensemble-boxes is not installed.
    """
    if not (folder / GRAPHS).is_dir():
        raise DatasetError(
            f"{folder} has no folder {GRAPHS}: unpack scene_data.zip of MIMIC-Ext-CXR-QBA there, so that "
            f"{GRAPHS}/p10/p10000032/s50414267.scene_graph.json exists."
        )
    path = _table(folder, METADATA_TABLE)
    columns = ("dicom_id", "ViewPosition", "Rows", "Columns")
    metadata = {row["dicom_id"]: row for row in read_csv_rows(path, columns)}
    return check_reports(_reports(folder, metadata, least_quality), str(folder))


def _table(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() else folder / name


def _reports(folder: Path, metadata: Mapping[str, Mapping[str, str]], least_quality: int) -> Iterator[GroundedReport]:
    path = _table(folder, SPLIT_TABLE)
    for number, row in enumerate(read_csv_rows(path, ("dicom_id", "study_id", "subject_id", "split")), 1):
        where, name = f"{path.name}, row {number}", row["dicom_id"]
        subject, study = row["subject_id"], row["study_id"]
        if row["split"] not in _SPLITS:
            raise DatasetError(f"{where}: split is {shortened(row['split'])}, expected one of: {', '.join(_SPLITS)}.")
        if not (subject.isdigit() and study.isdigit()) or Path(name).name != name:
            raise DatasetError(f"{where}: expected numbers for subject_id and study_id, and a name without folders.")
        about = metadata.get(name)
        if about is None:
            raise DatasetError(f"{where}: {METADATA_TABLE} has no row of {name}: copy both files again.")
        part = Path(f"p{subject[:2]}") / f"p{subject}"
        graph = folder / GRAPHS / part / f"s{study}.scene_graph.json"
        if about["ViewPosition"] not in _FRONTAL or not graph.is_file():
            continue
        image = folder / "files" / part / f"s{study}" / f"{name}.jpg"
        if not image.is_file():
            raise DatasetError(
                f"{where}: the image {image.relative_to(folder)} is missing: fetch it, or remove the row."
            )
        sentences = tuple(_sentences(graph, name, _size(where, about), least_quality))
        if sentences:
            yield GroundedReport(name, subject, sentences, image, _SPLITS[row["split"]])


def _size(where: str, row: Mapping[str, str]) -> tuple[int, int]:
    try:
        width, height = int(row["Columns"]), int(row["Rows"])
    except ValueError:
        width = height = 0
    if width < 1 or height < 1:
        raise DatasetError(f"{where}: Columns and Rows are {row['Columns']} and {row['Rows']}, expected pixels.")
    return width, height


def _sentences(path: Path, image: str, size: tuple[int, int], least_quality: int) -> Iterator[GroundedSentence]:
    try:
        observations = read_json_mapping(path).get("observations")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): unpack it again.") from error
    if not isinstance(observations, dict):
        raise DatasetError(f"{path}: observations is {shortened(observations)}, expected a mapping.")
    for key, observation in observations.items():
        where = f"{path.name}, {key}"
        if not isinstance(observation, dict):
            raise DatasetError(f"{where} is {shortened(observation)}, expected an observation.")
        text = str(observation.get("summary_sentence") or "").strip()
        if not text or not _is_good(observation.get("obs_quality"), least_quality):
            continue
        yield GroundedSentence(text, fuse_boxes(list(_boxes(where, observation, image, size, least_quality))))


def _is_good(quality: Any, least: int) -> bool:
    values = quality.values() if isinstance(quality, dict) else [quality]
    return all(value >= least for value in values if isinstance(value, (int, float)))


def _boxes(
    where: str, observation: Mapping[str, Any], image: str, size: tuple[int, int], least_quality: int
) -> Iterator[tuple[float, float, float, float]]:
    located = (observation.get("localization") or {}).get(image) or {}
    # A fallback is the place of the whole organ, where the sentence names no place that is known.
    if located.get("is_fallback") or not _is_good(located.get("localization_quality"), least_quality):
        return
    for box in located.get("bboxes") or []:
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, (int, float)) for value in box):
            raise DatasetError(f"{where}: a box is {shortened(box)}, expected four numbers: left, top, right, bottom.")
        yield check_box([value / size[index % 2] for index, value in enumerate(box)], where)
