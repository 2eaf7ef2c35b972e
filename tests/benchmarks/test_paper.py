"""The recomputation of the paper's tables, on files made in the layout of the authors' repository."""

import json
from pathlib import Path

import pytest

from benchmarks import paper
from benchmarks._support.paper_tables import TABLE_1, TABLE_2, model_of
from benchmarks._support.released_answers import ReleasedFileError, read_real, read_retrieval, released_folders
from carm_env.system.command_line import run_script

RELEASED = Path(__file__).parents[3] / "shared/reference/carm_llm"
LABEL = "<label_id>{}</label_id>"


def write(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(columns), *(",".join(f'"{value}"' for value in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def released(tmp_path):
    """Answers of one language model and of the network: two views of each task, one of them wrong or unreadable."""
    folder = tmp_path / "repository"
    views = [f"xyz/case-{case}/case-{case}_1.0_2.0_3.0.png" for case in (1, 2)]
    write(folder / "data/test.csv", ("filename", "top3_landmarks", "case_number"),
          [(views[0], "[1, 3, 10]", "case-1"), (views[1], "[11, 9, 13]", "case-2")])  # fmt: skip
    write(folder / "results/retrieval/SFT_gemma_4b.csv", ("filename", "output"),
          [(views[0], "[1: Skull, 10: T1, 4: Right scapular inferior angle]"), (views[1], "none")])  # fmt: skip
    write(folder / "results/retrieval/test_test.csv", ("pred", "target"),
          [("[0,9,2]", "[[0 9 2]]"), ("[8,13,5]", "[[12 4 8]]")])  # fmt: skip
    centred = [f"new/{key}/H/case-{case}_NN.png" for case, key in ((1, 3), (2, 14))]
    write(folder / "data/classification.csv", ("file_path", "landmark"), zip(centred, (3, 14), strict=True))
    write(folder / "results/synthetic_localization/unsloth_gemma-3-27b-it.csv", ("filename", "output"),
          [(centred[0], "[3,10]"), (centred[1], "[15, 15]")])  # fmt: skip
    images = [f"unifesp/TRAIN/{number}-c.png" for number in (1, 2)]
    write(folder / "data/real.csv", ("SOPInstanceUID", "Target", "mode"),
          [(images[0], LABEL.format(0), "test"), (images[1], LABEL.format(3) + LABEL.format(15), "test")])  # fmt: skip
    write(folder / "results/real_localization/SFT_Qwen2.5-VL-7B_real.csv", ("filename", "output"),
          [(images[0], "[3,20]"), (images[1], "[15, 2]\n")])  # fmt: skip
    return folder


def main(*words):
    return run_script(paper.run, paper.Arguments, given=[str(word) for word in words])


def test_tables_are_recomputed_from_released_answers(released, tmp_path, capsys):
    assert main("--released", released, "--out", tmp_path / "o", "--json", tmp_path / "t.json") == 0
    found = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    tuned = found["table1"]["SFT_gemma_4b"]
    assert (tuned["answers"], tuned["valid"], tuned["p_at_1"], tuned["p_at_2"]) == (2, 1, 1.0, 1.0)
    assert tuned["r_at_1"] == pytest.approx(1 / 3) and tuned["r_at_3"] == pytest.approx(2 / 3)
    assert tuned["all"]["p_at_1"] == 0.5 and "p_at_1_interval" in tuned
    network = found["table1"]["test_test"]
    assert network["p_at_1"] == 1.0 and network["p_at_3"] == pytest.approx((1 + 1 / 3) / 2)
    assert "p_at_1_interval" not in network, "the file does not tell the patients"
    centred = found["table2"]["synthetic"]["unsloth_gemma-3-27b-it"]
    assert centred["h_at_1"] == 0.5 and centred["h_at_2"] == 0.5 and centred["valid"] == 2
    real = found["table2"]["real"]["SFT_Qwen2.5-VL-7B_real"]
    assert real["h_at_2"] == 0.5 and real["r_at_2"] == pytest.approx(0.25)
    cells = {(row["file"], row["metric"]): row for row in found["differences"]}
    assert cells["unsloth_gemma-3-27b-it", "h_at_1"]["difference"] == pytest.approx(0.5 - 0.28)
    assert "no reading of these answers gives it" in cells["unsloth_gemma-3-27b-it", "h_at_1"]["explanation"]
    assert found["contradictions"] and "27B Med" in found["contradictions"][0]
    assert {name.split(" ")[0] for name in found["ours"]} >= {"cnn", "mllm"}
    assert (tmp_path / "o" / "heat_map_unsloth_gemma-3-27b-it.png").is_file()
    assert "Gemma-3 27B Base" in capsys.readouterr().out


def test_a_reading_that_gives_the_printed_figure_is_named(released):
    folder, data = released_folders(released)
    found = read_retrieval(folder / "retrieval/SFT_gemma_4b.csv", data)
    text = paper._explained("p_at_1", found, 0.5, frozenset())
    assert text == "printed if unreadable answers count as wrong"


def test_folders_are_found_from_the_results_or_the_repository(released):
    assert released_folders(released) == released_folders(released / "results")
    with pytest.raises(ReleasedFileError, match="holds none of the folders"):
        released_folders(released / "data")


def cut(path):
    path.write_bytes(path.read_bytes()[:-12])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: cut(folder / "results/retrieval/SFT_gemma_4b.csv"), "SFT_gemma_4b.csv"),
        (lambda folder: (folder / "data/test.csv").unlink(), "test.csv cannot be read"),
        (
            lambda folder: write(
                folder / "data/real.csv", ("SOPInstanceUID", "Target"), [("a", "<label_id>0</label_id>")]
            ),
            "SFT_Qwen2.5-VL-7B_real.csv, row 1: the data have no 'unifesp/TRAIN/1-c.png'",
        ),
        (
            lambda folder: write(folder / "results/retrieval/test_test.csv", ("pred", "target"), []),
            "test_test.csv holds no answers",
        ),
        (
            lambda folder: write(folder / "results/retrieval/test_test.csv", ("pred", "target"), [("[1,2,3]", "[[]]")]),
            "test_test.csv, row 1 has no true label",
        ),
        (
            lambda folder: write(folder / "results/retrieval/test_test.csv", ("pred", "target"), [("", "[[1 2 3]]")]),
            "none of 1 answers can be read",
        ),
    ],
)
def test_damaged_files_are_named(released, change, message, script_error, tmp_path):
    change(released)
    assert message in script_error(paper, "--released", released, "--out", tmp_path / "o")


def test_results_of_another_script_are_refused(released, tmp_path, script_error):
    (tmp_path / "x.json").write_text('{"policy": "cnn"}', encoding="utf-8")
    words = ("--released", released, "--ours", tmp_path / "x.json", "--out", tmp_path / "o")
    assert "holds no metrics, expected a file of benchmarks/localization.py" in script_error(paper, *words)


def test_both_tables_have_the_same_rows():
    assert set(TABLE_1) == set(TABLE_2) and model_of("gpt") is None


@pytest.mark.skipif(not RELEASED.is_dir(), reason="the authors' raw outputs (../shared) are not here")
def test_the_released_answers_give_table_1_and_the_real_part_of_table_2(tmp_path, capsys):
    assert main("--released", RELEASED, "--out", tmp_path / "o", "--json", tmp_path / "t.json") == 0
    found = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert len(found["table1"]) == 10 and len(found["table2"]["real"]) == 11
    unlike = {(row["table"], row["part"], row["row"]) for row in found["differences"] if row["large"]}
    assert {(table, part) for table, part, _ in unlike} == {("table2", "synthetic")}
    small = [row for row in found["differences"] if row["table"] == "table1"]
    assert [(row["row"], row["metric"]) for row in small] == [("DL", "p_at_1"), ("DL", "r_at_1")]
    assert not [row for row in found["differences"] if row["part"] == "real"]
    _, data = released_folders(RELEASED)
    assert read_real(RELEASED / "results/real_localization/test_classification.csv", data).answers.shape == (174, 2)
