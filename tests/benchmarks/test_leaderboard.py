"""The leaderboard script, which adds the policies of this repository to `carm_env.evaluation.leaderboard`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.leaderboard import Arguments, run
from carm_env.system.command_line import run_script

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "leaderboard.py"


def main(words):
    return run_script(run, Arguments, given=words)


@pytest.fixture
def suite_file(small_patients, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "{name: tiny, version: 1, description: test, max_steps: 20, environment: {image_size: 16}, episodes: ["
        "{patient: 'imported:one', target: 1, start: 4}, {patient: 'imported:one', target: 4, start: 1}]}",
        encoding="utf-8",
    )
    return str(path)


def test_the_script_runs_as_a_user_would(suite_file, tmp_path):
    (tmp_path / "policies").mkdir()
    (tmp_path / "mine.py").write_text(
        "from carm_env.evaluation.reference import OraclePolicy as Policy", encoding="utf-8"
    )
    command = [sys.executable, str(SCRIPT), "--policies", "atlas", "mine:Policy", "--suite", suite_file]
    command += ["--out", "o", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr and (tmp_path / "o" / "leaderboard.md").exists()
    assert (tmp_path / "o" / "episode.gif").exists() and (tmp_path / "o" / "trajectories_tiny.png").exists()
    assert (
        json.loads((tmp_path / "o" / "leaderboard.json").read_text(encoding="utf-8"))["mine:Policy"]["tiny"]["success"]
        == 1
    )


@pytest.mark.parametrize(
    ("name", "message"), [("orakel", "Did you mean 'oracle'"), ("cnn:absent", "no checkpoint at absent")]
)
def test_a_wrong_policy_is_named_before_the_first_episode(suite_file, tmp_path, name, message, capsys):
    assert (
        run_script(
            run, Arguments, given=["--policies", "oracle", name, "--suite", suite_file, "--out", str(tmp_path / "o")]
        )
        == 2
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_scripted_policies_run_by_default(suite_file, tmp_path):
    assert (
        run_script(
            run,
            Arguments,
            given=["--suite", suite_file, "--workers", "1", "--out", str(tmp_path / "o"), "--no-figures"],
        )
        == 0
    )
    assert set(json.loads((tmp_path / "o" / "leaderboard.json").read_text(encoding="utf-8"))) == {
        "oracle",
        "atlas",
        "random",
    }


RESULTS = SCRIPT.parent / "results"
PUBLISHED = SCRIPT.parents[1] / "docs" / "results" / "leaderboard" / "index.html"


def test_finished_scores_become_a_page_with_cards_and_the_figures_of_the_paper(tmp_path, capsys):
    source = RESULTS / "2026-11-30" / "leaderboard.json"
    assert main(["--from", str(source), "--out", str(tmp_path / "o"), "--html", str(tmp_path / "site")]) == 0
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "Model card: conformal" in page and "Model card: out_of_distribution" not in page
    printed = page[page.index("Printed figures, not measured here") :]
    assert "0.995" in printed and "Gemma-3 27B FT" in printed and "this software" in printed and ">0.50<" in printed
    scores = json.loads(source.read_text(encoding="utf-8"))["scores"]
    assert json.loads((tmp_path / "o" / "leaderboard.json").read_text(encoding="utf-8")) == scores


def test_the_published_page_is_small_and_complete():
    page = PUBLISHED.read_text(encoding="utf-8")
    assert len(page.encode()) < 300_000
    assert '<meta name="generator" content="carm-env leaderboard">' in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    newest = json.loads((sorted(RESULTS.glob("*/leaderboard.json"))[-1]).read_text(encoding="utf-8"))["scores"]
    for policy, suites in newest.items():
        assert f">{policy}{'*' if suites['uniform']['privileged'] else ''}</th>" in page
        assert f'data-v="{suites["uniform"]["success"]:.6g}"' in page
