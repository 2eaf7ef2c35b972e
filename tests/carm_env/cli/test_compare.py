import csv
import json

import pytest

from carm_env.cli import main


@pytest.fixture
def results(make_result, write_results):
    """Results of two policies on eight patients; `good` succeeds more often."""
    episodes = [
        make_result(policy, i, policy == "good" or i % 8 == 3, patients=8)
        for policy in ("good", "bad")
        for i in range(16)
    ]
    return write_results("mine", episodes)


def test_all_files_are_written(results, tmp_path, capsys):
    out = {suffix: tmp_path / "new" / f"t.{suffix}" for suffix in ("csv", "tex", "json")}
    words = ["--csv", str(out["csv"]), "--latex", str(out["tex"]), "--json", str(out["json"]), "--seed", "3"]
    assert main(["compare", str(results.parent), *words]) == 0
    printed = capsys.readouterr()
    assert "good better" in printed.out and "not evidence that the policies are equal" in printed.out
    assert all(f"Written: {path}" in printed.err for path in out.values())
    assert len(list(csv.DictReader(out["csv"].open(encoding="utf-8")))) == 6
    assert r"\bottomrule" in out["tex"].read_text(encoding="utf-8") and "seed 3" in out["tex"].read_text(
        encoding="utf-8"
    )
    written = json.loads(out["json"].read_text(encoding="utf-8"))
    assert written["run"]["seed"] == 3 and written["runs"][0]["packages"]["numba"] and written["method"]
    assert written["arguments"]["resamples"] == 20_000
    assert written["sources"][0]["name"] == "mine" and len(written["sources"][0]["sha256"]) == 64
    assert not [path for path in out["csv"].parent.iterdir() if path.name.startswith(".")]


def test_a_file_and_itself_are_tied(results, capsys):
    assert main(["compare", str(results), str(results), "--policy", "good", "--metrics", "success", "dose_mgy"]) == 0
    page = capsys.readouterr().out
    rows = [line for line in page.splitlines() if "| good (mine) | good (mine #2) |" in line]
    assert len(rows) == 2
    for row in rows:
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert float(cells[3]) == 0 and cells[4:] == ["no spread", "1.000", "1.000", "-", "tie"]


def test_damaged_lines_are_said(results, capsys):
    results.write_text(results.read_text(encoding="utf-8") + "{\n", encoding="utf-8")
    assert main(["compare", str(results)]) == 0
    assert "Skipped: " in capsys.readouterr().out


def test_an_order_of_episodes_does_not_matter(results, capsys):
    main(["compare", str(results)])
    page = capsys.readouterr().out
    lines = results.read_text(encoding="utf-8").splitlines()
    results.write_text("\n".join([*reversed(lines[:16]), *reversed(lines[16:])]), encoding="utf-8")
    main(["compare", str(results)])
    assert capsys.readouterr().out == page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "there is no file or folder absent"),
        ([], "no results are given"),
        (["RESULTS", "--metrics", "sucess"], "unknown metric 'sucess'. Did you mean 'success'"),
        (["RESULTS", "--baseline", "god"], "unknown baseline 'god'. Did you mean 'good'"),
        (["RESULTS", "--policies", "good"], "there is only good to compare"),
        (["RESULTS", "--csv", "RESULTS"], "another output"),
        (["RESULTS", "--csv", "t", "--latex", "t"], "another output"),
        (["RESULTS", "--csv", "."], "is a folder"),
    ],
)
def test_bad_input_is_refused_in_one_line(results, words, message, capsys, monkeypatch):
    monkeypatch.chdir(results.parent)
    before = results.read_bytes()
    assert main(["compare", *(str(results) if word == "RESULTS" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert results.read_bytes() == before and list(results.parent.iterdir()) == [results]
