"""Data sets of X-rays with reports and boxes in the layouts of PadChest-GR and MIMIC-CXR-JPG, with noise for images."""

import csv
import gzip
import json

import numpy as np
from PIL import Image

BOX = [0.1, 0.2, 0.4, 0.6]


def write_table(path, columns, rows, opener=open):
    with opener(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def write_image(path, width, height):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)).save(path)


def padchest(folder, changes=None, rows=None):
    findings = [
        {"sentence_en": "Right pleural effusion.", "abnormal": True, "boxes": [BOX, [0.1, 0.2, 0.41, 0.6]],
         "extra_boxes": [BOX], "labels": ["pleural effusion"]},
        {"sentence_en": "Normal heart size.", "abnormal": False, "boxes": [], "extra_boxes": []},
    ]  # fmt: skip
    entries = [
        {"StudyID": f"s{number}", "ImageID": f"{number}.png", "findings": [dict(item) for item in findings]}
        for number in range(6)
    ]
    for entry in entries:
        write_image(folder / "Padchest_GR_files" / "PadChest_GR" / entry["ImageID"], 80, 40)
    for key, value in (changes or {}).items():
        (entries[2] if key in entries[2] else entries[2]["findings"][0])[key] = value
    (folder / "grounded_reports_20240819.json").write_text(json.dumps(entries), encoding="utf-8")
    splits = ["train", "train", "train", "train", "validation", "test"]
    default = [(f"s{number}", f"p{number // 2 if number < 4 else number}", splits[number]) for number in range(6)]
    # The table is in long format.
    write_table(folder / "master_table.csv", ("StudyID", "PatientID", "split"), (rows or default) * 2)
    return folder


def mimic(folder, split="train", bboxes=None, observation=None, view="PA"):
    image, graph = "files/p10/p10000032/s50414267/abc-1.jpg", "scene_data/p10/p10000032/s50414267.scene_graph.json"
    write_image(folder / image, 50, 100)
    rows = [("abc-1", "50414267", "10000032", split), ("abc-2", "50414267", "10000032", split)]
    columns = ("dicom_id", "study_id", "subject_id", "split")
    write_table(folder / "mimic-cxr-2.0.0-split.csv.gz", columns, rows, gzip.open)
    about = [("abc-1", view, "2000", "1000"), ("abc-2", "LATERAL", "2000", "1000")]
    write_table(folder / "mimic-cxr-2.0.0-metadata.csv", ("dicom_id", "ViewPosition", "Rows", "Columns"), about)
    located = {"image_id": "abc-1", "bboxes": bboxes or [[100.0, 200.0, 500.0, 800.0]], "is_fallback": False,
               "localization_quality": 4}  # fmt: skip
    observations = {
        "O01": {"summary_sentence": "There is a small effusion.", "obs_quality": {"overall": 5},
                "localization": {"abc-1": located}},
        "O02": {"summary_sentence": "The heart is enlarged.", "obs_quality": {"overall": 2},
                "localization": {"abc-1": {**located, "is_fallback": True}}},
        **(observation or {}),
    }  # fmt: skip
    path = folder / graph
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"observations": observations}), encoding="utf-8")
    return folder
