"""Evaluate what names the body parts in X-rays of people: the paper's task on real X-rays (table 2).

    python benchmarks/body_parts.py --data unifesp --policy runs/body_parts/checkpoint --json b.json
    python benchmarks/body_parts.py --data unifesp --policy mllm:runs/sft_gemma3_12b_real --split real.csv
    python benchmarks/body_parts.py --data MURA-v1.1 --policy mllm:google/gemma-3-4b-it

``--data`` is a folder in the layout of the UNIFESP X-ray body part data, of MURA, or of FleXray (a ``dataset.yml``),
which are yours to bring; DICOM files need the extra ``ct``. The two likeliest body parts are compared with the labels
of each test image: H@2, R@2, P@2 and F1@2, with intervals clustered by patient. The paper counts valid answers only;
``over all`` counts an answer that cannot be read as wrong. A policy that was trained on other images of the same data
set is refused, because it may know the test images.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._support.paper_tables import DL, REAL_METRICS, TABLE_2
from carm_env.body_parts import BODY_PARTS
from carm_env.evaluation.intervals import Estimate
from carm_env.evaluation.label_metrics import LabelScores, recall_by_label, summarise
from carm_env.evaluation.provenance import save_measurement
from carm_env.language.prompts import body_part_prompt_hash
from carm_env.system.command_line import run_script
from carm_env.system.errors import UnknownNameError
from carm_env.system.threads import usable_cpus
from carm_env.xray_datasets.labelled import LabelledImage, label_matrix, read_images
from carm_env.xray_datasets.load import DatasetSplit, read_dataset, split_dataset
from policies.body_parts import BodyPartClassifier, make_body_part_classifier

PARTS = ("test", "all")
_MAX_WORKERS = 8


@dataclass(frozen=True)
class Arguments:
    """Arguments of this script.

    Attributes:
        data: folder of the UNIFESP data (with train.csv), of MURA, or with masks as for FleXray (with dataset.yml).
        policy: folder of a checkpoint of training/body_parts.py, or mllm:MODEL.
        split: CSV file with the columns SOPInstanceUID and mode (train or test), such as data/real.csv of the paper's
            authors; by default images are divided by patient.
        split_seed: seed of the division.
        part: images to evaluate on, test or all; all only for a policy that was not trained on the data.
        workers: processes that read the images; 0 for one per CPU.
        json: file for the results.
    """

    data: Path
    policy: str
    split: str = ""
    split_seed: int = 0
    part: str = "test"
    workers: int = 0
    json: Path | None = None


def chosen_images(part: str, images: Sequence[LabelledImage], split: DatasetSplit) -> Sequence[LabelledImage]:
    """Returns the images of a part; raises UnknownNameError for another part."""
    if part not in PARTS:
        raise UnknownNameError("part", part, PARTS)
    return split.test if part == "test" else images


def check_unseen(policy: BodyPartClassifier, kind: str, split: DatasetSplit, part: str) -> None:
    """Raises ValueError if a policy was trained on the same data set, divided otherwise, so that it may know images."""
    trained = policy.trained_on
    if trained.get("data") != kind:
        return
    if part != "test":
        raise ValueError(f"the policy was trained on {kind}, expected --part test: it knows the other images.")
    if trained.get("test_split") != split.fingerprint:
        raise ValueError(
            f"the policy was trained with another division of {kind}: its test images are {trained.get('test_split')}, "
            f"these are {split.fingerprint}. Give the same --data, --split and --split-seed as for the training."
        )


def printed_of_paper(is_language_model: bool) -> dict[str, str]:
    """Returns the paper's figures of real X-rays by metric: of its network, or the range of its fine-tuned models."""
    rows = [row[2:] for model, row in TABLE_2.items() if (model.variant == "FT" if is_language_model else model == DL)]
    low, high = np.min(rows, axis=0), np.max(rows, axis=0)
    return {
        name: f"{a:.2f}" if a == b else f"{a:.2f}-{b:.2f}" for name, a, b in zip(REAL_METRICS, low, high, strict=True)
    }


def table(scores: LabelScores, paper: Mapping[str, str]) -> str:
    """Formats the metrics over both denominators, with intervals, and the paper's figures."""

    def cell(found: Estimate | None) -> str:
        return f"{found.value:.3f} ({found.low:.3f}-{found.high:.3f})" if found else "no valid answer"

    heading = f"{'':5} {f'over {scores.valid} valid':21}  {f'over all {scores.images}':21}  paper, over valid"
    lines = [heading]
    for name, whole in scores.over_all.items():
        label = name.removesuffix("_at_2").upper() + "@2"
        lines.append(f"{label:5} {cell(scores.over_valid.get(name)):21}  {cell(whole):21}  {paper.get(name, ''):>9}")
    return "\n".join(lines)


def run(arguments: Arguments) -> None:
    """Evaluates, prints and saves."""
    dataset = read_dataset(arguments.data)
    split = split_dataset(dataset, arguments.split, arguments.split_seed)
    images = chosen_images(arguments.part, dataset.images, split)
    policy = make_body_part_classifier(arguments.policy)
    check_unseen(policy, dataset.kind, split, arguments.part)
    for note in dataset.notes:
        print(f"note: {note}")
    if arguments.part == "test" and split.shared_patients:
        print(f"note: {split.shared_patients} patients of the test images are in the training images, too")
    workers = arguments.workers or min(usable_cpus(), _MAX_WORKERS)
    squares = read_images(images, policy.image_size, workers)
    answers = policy.body_parts(squares)
    labels, patients = label_matrix(images), [image.patient for image in images]
    scores = summarise(answers, labels, patients)
    style = getattr(policy, "style", None)
    print(f"{arguments.policy} on {len(images)} images of {len(set(patients))} patients, {dataset.kind}")
    print(table(scores, printed_of_paper(style is not None) if dataset.kind == "unifesp" else {}))
    counts, recalls = recall_by_label(answers, labels)
    by_label = {
        BODY_PARTS[number]: {"images": int(count), "recall": float(recall)}
        for number, (count, recall) in enumerate(zip(counts, recalls, strict=True))
        if count
    }
    print("\nshare of the images with a label in whose answer it is:")
    for name, found in by_label.items():
        print(f"  {name:15} {found['recall']:5.3f} of {found['images']}")
    about: dict[str, Any] = {
        "policy": arguments.policy, "data": dataset.kind, "part": arguments.part, "patients": len(set(patients)),
        "test_split": split.fingerprint, "patients_in_both": split.shared_patients,
    }  # fmt: skip
    if style is not None:
        about |= {"style": style, "prompts": body_part_prompt_hash(style), "reading": getattr(policy, "reading", None)}
    save_measurement(arguments.json, {**about, **scores.as_json(), "by_label": by_label}, arguments.split_seed)


if __name__ == "__main__":
    sys.exit(run_script(run, Arguments, __doc__))
