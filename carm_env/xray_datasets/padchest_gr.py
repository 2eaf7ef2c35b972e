"""PadChest-GR, chest X-rays with grounded reports, as BIMCV ships it.

    grounded_reports_20240819.json          a list of images with their findings
    master_table.csv                        StudyID,PatientID,split,..; a row for each finding
    Padchest_GR_files/PadChest_GR/*.png     in some copies PadChest_GR/*.png, or beside the tables

Each finding has a sentence in English and boxes of its first reader, as shares of the image. The data are the user's to
bring.

Source: Castro et al., "PadChest-GR: A bilingual chest X-ray dataset for grounded radiology report generation" (2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carm_env.system.csv_files import read_csv_rows
from carm_env.system.errors import shortened
from carm_env.system.structured_files import read_json
from carm_env.xray_datasets.box_fusion import fuse_boxes
from carm_env.xray_datasets.grounded import GroundedReport, GroundedSentence, check_box, check_reports
from carm_env.xray_datasets.labelled import DatasetError

KIND = "padchest_gr"
PATTERN = "grounded_reports_*.json"
TABLE = "master_table.csv"
_IMAGE_FOLDERS = ("Padchest_GR_files/PadChest_GR", "Padchest_GR_files", "PadChest_GR", "")
_MAX_BYTES = 256 << 20
_SPLITS = ("train", "validation", "test")


def is_padchest_gr(folder: Path) -> bool:
    """Returns whether a folder holds the grounded reports."""
    return any(folder.glob(PATTERN))


def read_padchest_gr(folder: Path) -> tuple[GroundedReport, ...]:
    """Reads the reports and finds the image of each; the images are not opened. Duplicate boxes are merged.

    Args:
        folder: folder with ``grounded_reports_*.json`` and ``master_table.csv``.

    Raises:
        DatasetError: a file contradicts the layout, an image or its row in the table is missing, or a box is not valid.
        CsvFileError: the table cannot be read.
        MissingExtraError: ensemble-boxes is not installed.
    """
    path = max(folder.glob(PATTERN))
    try:
        entries = read_json(path, _MAX_BYTES)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): copy it again.") from error
    if not isinstance(entries, list):
        raise DatasetError(f"{path} is of type {type(entries).__name__}, expected a list of images.")
    studies = _read_table(folder / TABLE)
    return check_reports((_report(folder, f"{path.name}, entry {number}", entry, studies)
                          for number, entry in enumerate(entries, 1)), str(path))  # fmt: skip


def _read_table(path: Path) -> dict[str, tuple[str, str]]:
    studies: dict[str, tuple[str, str]] = {}
    for number, row in enumerate(read_csv_rows(path, ("StudyID", "PatientID", "split")), 1):
        found = row["PatientID"].strip(), row["split"].strip()
        if found[1] not in _SPLITS:
            raise DatasetError(
                f"{path}, row {number}: split is {shortened(found[1])}, expected one of: {', '.join(_SPLITS)}."
            )
        if studies.setdefault(row["StudyID"].strip(), found) != found:
            raise DatasetError(f"{path}, row {number}: the study has another patient or split in an earlier row.")
    return studies


def _report(folder: Path, where: str, entry: Any, studies: Mapping[str, tuple[str, str]]) -> GroundedReport:
    if not isinstance(entry, dict) or not isinstance(entry.get("findings"), list):
        raise DatasetError(f"{where} is {shortened(entry)}, expected an image with StudyID, ImageID and findings.")
    study, image = str(entry.get("StudyID", "")), str(entry.get("ImageID", ""))
    if study not in studies:
        raise DatasetError(f"{where}: {TABLE} has no row of study {shortened(study)}: copy both files again.")
    if not image or Path(image).name != image:
        raise DatasetError(f"{where}: ImageID is {shortened(image)}, expected the name of a file without folders.")
    path = next((folder / part / image for part in _IMAGE_FOLDERS if (folder / part / image).is_file()), None)
    if path is None:
        raise DatasetError(f"{where}: the image {image} is missing, expected {_IMAGE_FOLDERS[0]}/{image}: unpack it.")
    patient, split = studies[study]
    sentences = tuple(_sentence(f"{where}, finding {number}", finding)
                      for number, finding in enumerate(entry["findings"], 1))  # fmt: skip
    return GroundedReport(image, patient, sentences, path, split)


def _sentence(where: str, finding: Any) -> GroundedSentence:
    boxes = finding.get("boxes") if isinstance(finding, dict) else None
    if not isinstance(finding, dict) or not isinstance(boxes or [], list):
        raise DatasetError(f"{where} is {shortened(finding)}, expected sentence_en and boxes.")
    text = str(finding.get("sentence_en") or "").strip()
    if not text:
        raise DatasetError(f"{where}: sentence_en is empty, expected a sentence: remove the finding.")
    return GroundedSentence(text, fuse_boxes([check_box(box, where) for box in boxes or []]))
