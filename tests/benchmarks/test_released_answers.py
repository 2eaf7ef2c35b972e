"""The authors' released corrections, on files made in their layout."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks import correction  # noqa: E402
from benchmarks._support.released_answers import ReleasedFileError, read_corrections  # noqa: E402
from carm_env.system.command_line import run_script  # noqa: E402

RELEASED = Path(__file__).parents[3] / "shared/reference/carm_llm/results"
REVISED = (
    "```xml\n<response>\n<visual_reasoning>\nRibs.\n</visual_reasoning>\n<landmarks>[{}]</landmarks>\n</response>\n```"
)


def write(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(columns), *(",".join(f'"{value}"' for value in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def released(tmp_path):
    """Five X-rays of two patients: two first answers are right, one cannot be read."""
    names = [f"regenerated_new/{key}/H/case-{case}_NN.png" for case, key in ((1, 3), (1, 4), (1, 5), (2, 3), (2, 6))]
    firsts = ["[3,10]", "[5,4]", "[5,13]", "no idea", "[7,9]"]
    revised = ["3,10", "4,5", "12,5", "3,2", "7,9"]
    write(tmp_path / "synthetic_localization/SFT_m.csv", ("filename", "output"), zip(names, firsts, strict=True))
    rows = [(name, REVISED.format(ids), name.split("/")[1]) for name, ids in zip(names, revised, strict=True)]
    write(tmp_path / "correction_reasoning/stage1_SFT_m_language.csv", ("filename", "output", "target"), rows)
    return tmp_path


def test_released_corrections_are_measured(released, tmp_path, capsys):
    words = ["--released", str(released), "--json", str(tmp_path / "r.json")]
    assert run_script(correction.run, correction.Arguments, given=words) == 0
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["released"]["stage1_SFT_m_language"]
    assert found["views"] == 5 and found["right_at_first"]["value"] == pytest.approx(2 / 5)
    assert found["fixed"]["value"] == pytest.approx(2 / 3) and found["broken"]["value"] == pytest.approx(1 / 2)
    assert found["right_at_first_h_at_2"]["value"] == pytest.approx(3 / 5)
    assert found["fixed_h_at_2"]["value"] == pytest.approx(1 / 2) and found["broken_h_at_2"]["value"] == 0
    assert found["unchanged"]["value"] == pytest.approx(2 / 5) and found["invalid"]["value"] == 0
    assert "stage1_SFT_m_language" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "correction_reasoning/stage1_SFT_m_language.csv").unlink(), "holds no CSV file"),
        (
            lambda folder: (folder / "synthetic_localization/SFT_m.csv").rename(folder / "x.csv"),
            "holds no first answers",
        ),
        (
            lambda folder: write(folder / "synthetic_localization/SFT_m.csv", ("filename", "output"), [("a", "[1,2]")]),
            r"row 1: 'regenerated_new/3/H/case-1_NN.png' is not in SFT_m.csv",
        ),
        (
            lambda folder: write(folder / "synthetic_localization/SFT_m.csv", ("filename", "answer"), [("a", "b")]),
            "has no column 'output'",
        ),
        (
            lambda folder: (folder / "correction_reasoning/stage1_SFT_m_language.csv").write_text(
                'filename,output,target\nregenerated_new/3/H/case-1_NN.png,"[3,', encoding="utf-8"
            ),
            "cannot be read|is cut short",
        ),
    ],
)
def test_damaged_released_files_are_named(released, change, message):
    change(released)
    with pytest.raises(ReleasedFileError, match=message):
        read_corrections(released)


@pytest.mark.skipif(not RELEASED.is_dir(), reason="the authors' raw outputs (../shared) are not here")
def test_the_authors_corrections_are_read():
    found = {name: correction.measure_released(answers) for name, answers in read_corrections(RELEASED).items()}
    base, tuned = found["unsloth_gemma-3-12b-it"], found["stage1_models_SFT_gemma_12b_language16"]
    assert (base["views"], tuned["views"]) == (1396, 366)
    assert base["invalid"]["value"] == tuned["invalid"]["value"] == 0
    assert round(1396 * base["right_at_first"]["value"]) == 101 and round(366 * tuned["right_at_first"]["value"]) == 22
    # After "that response is incorrect", few wrong answers become right.
    assert tuned["fixed"]["value"] < 0.1
