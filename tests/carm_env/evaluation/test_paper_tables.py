"""The metrics reproduce the paper's tables from the authors' raw outputs."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from carm_env.evaluation import metrics

PAPER = Path(__file__).parents[4] / "shared/reference/carm_llm"
needs_raw_outputs = pytest.mark.skipif(
    not (PAPER / "results/retrieval").is_dir(), reason="the authors' raw outputs (../shared) are not here"
)


# Table 1 of the paper: P@1 to P@3, R@1 to R@3 by raw output. Three rows have no raw output among those released:
# Gemma-3 27B base, MedGemma 27B and Qwen2.5-VL 32B fine-tuned.
TABLE_1 = {
    "test_test": (0.995, 0.91, 0.76, 0.332, 0.61, 0.76),
    "SFT_gemma_27b": (0.96, 0.92, 0.84, 0.32, 0.61, 0.84),
    "unsloth_gemma-3-12b-it": (0.58, 0.54, 0.47, 0.19, 0.36, 0.47),
    "SFT_gemma_12b": (0.96, 0.93, 0.85, 0.32, 0.62, 0.85),
    "unsloth_gemma-3-4b-it": (0.43, 0.36, 0.40, 0.14, 0.24, 0.40),
    "google_medgemma-4b-it": (0.45, 0.36, 0.44, 0.15, 0.24, 0.44),
    "SFT_gemma_4b": (0.96, 0.91, 0.82, 0.32, 0.61, 0.82),
    "unsloth_Qwen2.5-VL-32B-Instruct": (0.58, 0.52, 0.48, 0.19, 0.34, 0.48),
    "unsloth_Qwen2.5-VL-7B-Instruct": (0.46, 0.42, 0.37, 0.15, 0.28, 0.37),
    "SFT_Qwen2.5_7B": (0.95, 0.92, 0.82, 0.32, 0.61, 0.82),
}
# The deep-learning baseline's P@1: in its raw output 5 of 10,240 first answers are not relevant, which is 0.9995 and
# not the printed 0.995. The printed R@1 of 0.332 is 0.995 / 3, so both cells come from another count (or a lost 9)
# that no reading of these rows gives: "the very closest first" is 0.9935, "among the two closest" 0.9980. R@1 agrees
# to two decimals all the same.
NOT_REPRODUCED = {("test_test", "P@1"): 0.9995}


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def raw_retrieval(name):
    """Answers (n, 3), relevant ids (n, 3) and patients of one raw output; an answer without three ids is zeros."""
    rows = rows_of(PAPER / f"results/retrieval/{name}.csv")
    if name == "test_test":  # the baseline: ids from 0, the truth beside the answer, no patient
        answers, relevant = (
            [[int(i) + 1 for i in re.findall(r"\d+", row[key])] for row in rows] for key in ("pred", "target")
        )
        return np.array(answers), np.array(relevant), None
    truth = {row["filename"]: json.loads(row["top3_landmarks"]) for row in rows_of(PAPER / "data/test.csv")}
    answers = [[int(i) for i in re.findall(r"[\[,]\s*(\d+):", row["output"])] for row in rows]
    answers = [answer if len(answer) == 3 else [0, 0, 0] for answer in answers]
    relevant = [truth[row["filename"]] for row in rows]
    return np.array(answers), np.array(relevant), [row["filename"].split("/")[1] for row in rows]


@needs_raw_outputs
def test_every_raw_output_is_a_row_of_table_1():
    assert {path.stem for path in (PAPER / "results/retrieval").glob("*.csv")} == set(TABLE_1)


@needs_raw_outputs
@pytest.mark.parametrize("repeats", [True, False], ids=["script", "formula"])
@pytest.mark.parametrize("name", TABLE_1)
def test_table_1_is_reproduced_from_the_raw_outputs(name, repeats):
    answers, relevant, _ = raw_retrieval(name)
    counted = metrics.complete(answers)
    answers, relevant = answers[counted], relevant[counted]
    columns = [(letter, k) for letter in "PR" for k in (1, 2, 3)]
    for (letter, k), printed in zip(columns, TABLE_1[name], strict=True):
        metric = metrics.precision_at if letter == "P" else metrics.recall_at
        value = metric(answers, relevant, k, repeats=repeats).mean()
        odd = NOT_REPRODUCED.get((name, f"{letter}@{k}"))
        if odd is not None:
            assert f"{value:.4f}" == f"{odd:.4f}" and abs(value - printed) > 0.004
        else:
            assert f"{value:.2f}" == f"{printed:.2f}", (letter, k)


@needs_raw_outputs
def test_table_1_excludes_invalid_answers():
    answers, relevant, patients = raw_retrieval("unsloth_Qwen2.5-VL-7B-Instruct")
    assert (~metrics.complete(answers)).sum() == 29
    values = metrics.retrieval_values(answers, relevant)
    found = {name: metrics.share_estimate(one, patients) for name, one in values.items()}
    assert len(set(patients)) == 10 and len(patients) == 2560
    assert [f"{found[name].value:.2f}" for name in ("P@1", "P@2", "P@3")] == ["0.45", "0.41", "0.37"]
    assert found["P@1"].low < 0.45 < found["P@1"].high


# Table 2, synthetic: H@2 and H@1 as printed, and as the raw outputs give them. Only the baseline agrees. All released
# answers of language models score higher than printed, by no common factor, on all 2349 views (168 patients, none
# of them of the test set of table 1) and by no subset that the files name. The cause is unknown; perhaps they are of
# another run.
TABLE_2 = {
    "test_classification": ((0.92, 0.81), (0.92, 0.81)),
    "unsloth_gemma-3-27b-it": ((0.42, 0.28), (0.49, 0.30)),
    "google_medgemma-27b-it": ((0.24, 0.16), (0.27, 0.17)),
    "unsloth_gemma-3-12b-it": ((0.41, 0.26), (0.52, 0.31)),
    "SFT_gemma_12b": ((0.84, 0.74), (0.87, 0.75)),
    "unsloth_gemma-3-4b-it": ((0.33, 0.22), (0.37, 0.24)),
    "SFT_gemma_4b": ((0.66, 0.55), (0.71, 0.58)),
    "unsloth_Qwen2.5-VL-32B-Instruct": ((0.33, 0.21), (0.37, 0.24)),
    "SFT_Qwen2.5_32B": ((0.70, 0.61), (0.72, 0.62)),
    "SFT_Qwen2.5_7B": ((0.65, 0.59), (0.70, 0.62)),
}


def raw_centred(name):
    """Answers (n, 2) and centred landmarks (n,) of one raw output; an answer without two ids is zeros."""
    rows = rows_of(PAPER / f"results/synthetic_localization/{name}.csv")
    if name == "test_classification":
        answers = [[int(i) + 1 for i in re.findall(r"\d+", row["pred"])[:2]] for row in rows]
        return np.array(answers), np.array([int(row["target"].strip("[]")) + 1 for row in rows])
    truth = {row["file_path"]: int(row["landmark"]) for row in rows_of(PAPER / "data/classification.csv")}
    pairs = [re.search(r"(\d+),\s*(\d+)", row["output"]) for row in rows]
    answers = [[int(i) for i in pair.groups()] if pair else [0, 0] for pair in pairs]
    return np.array(answers), np.array([truth[row["filename"]] for row in rows])


@needs_raw_outputs
@pytest.mark.parametrize("name", TABLE_2)
def test_table_2_is_reproduced_for_the_baseline_only(name):
    answers, target = raw_centred(name)
    counted = metrics.complete(answers)
    found = tuple(metrics.centred_hit_at(answers[counted], target[counted], k).mean() for k in (2, 1))
    printed, raw = TABLE_2[name]
    assert [f"{value:.2f}" for value in found] == [f"{value:.2f}" for value in raw]
    assert (printed == raw) == (name == "test_classification")
