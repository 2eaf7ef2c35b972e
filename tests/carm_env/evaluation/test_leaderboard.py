import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from carm_env import patient_store as store
from carm_env.evaluation import leaderboard
from carm_env.evaluation.leaderboard import EvaluationArguments, evaluate
from carm_env.evaluation.reference import RandomPolicy
from carm_env.evaluation.results import read_results
from carm_env.patient import Patient
from carm_env.system.command_line import INTERRUPTED, run_script
from carm_env.transcripts.read import find_transcripts, read_transcript
from carm_env.volume import Volume

SCRIPT = """
import sys
from carm_env.evaluation.leaderboard import EvaluationArguments, evaluate
from carm_env.system.command_line import run_script
sys.exit(run_script(evaluate, EvaluationArguments))
"""


class CrashingPolicy(RandomPolicy):
    def act(self, observation, info):
        raise RuntimeError("boom")


def run(*words):
    return run_script(evaluate, EvaluationArguments, given=[str(word) for word in words])


@pytest.fixture
def suite_file(small_patients, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "{name: tiny, version: 1, description: test, max_steps: 20, environment: {image_size: 16}, episodes: ["
        "{patient: 'imported:one', target: 1, start: 4}, {patient: 'imported:one', target: 4, start: 1},"
        "{patient: 'imported:two', target: 14, start: 5}]}",
        encoding="utf-8",
    )
    return path


def test_all_files_are_written(suite_file, tmp_path, capsys):
    out, extra = tmp_path / "out", tmp_path / "new" / "scores.json"
    words = "--policy", "oracle", "random", "--suite", suite_file, "--workers", 1, "--out", out, "--json", extra
    assert run(*words) == 0
    scores = json.loads((out / "leaderboard.json").read_text(encoding="utf-8"))
    assert set(scores) == {"oracle", "random"} and scores["oracle"]["tiny"]["success"] == 1.0
    page = (out / "leaderboard.md").read_text(encoding="utf-8")
    assert "oracle*" in page and "`*` reads the true state (oracle: closest_landmarks, displacement_mm)" in page
    results, errors = read_results(out / "episodes.jsonl")
    assert len(results) == 6 and not errors
    assert results[0].run["packages"]["carm-env"] and results[0].run["date"] and results[0].run["seed"] == 0
    assert [result.seed for result in results if result.policy == "oracle"] == [0, 1, 2]
    first = next(result for result in results if (result.policy, result.episode) == ("oracle", 0))
    with Image.open(out / "episode.gif") as gif:
        assert gif.n_frames == len(first.moves) + 1
    with Image.open(out / "trajectories_tiny.png") as sheet:
        assert sheet.width > 300
    written = json.loads(extra.read_text(encoding="utf-8"))
    assert written["runs"][0]["seed"] == 0 and written["scores"] == scores and written["pairs"][0]["episodes"] == 3
    assert "| oracle*" in capsys.readouterr().out


def test_resume_runs_only_the_missing_episodes(suite_file, tmp_path, capsys):
    words = "--policies", "oracle", "--suite", suite_file, "--workers", 1, "--out", tmp_path / "o", "--no-figures"
    run(*words, "--episodes", 2)
    first = (tmp_path / "o" / "episodes.jsonl").read_text(encoding="utf-8")
    run(*words, "--resume")
    assert "3 (2 already done)" in capsys.readouterr().out
    second = (tmp_path / "o" / "episodes.jsonl").read_text(encoding="utf-8")
    assert second.startswith(first) and len(second.splitlines()) == 3
    assert not list((tmp_path / "o").glob("*.png"))


def test_a_damaged_line_is_run_again(suite_file, tmp_path, capsys):
    words = "--policies", "oracle", "--suite", suite_file, "--workers", 1, "--out", tmp_path / "o", "--no-figures"
    run(*words)
    path = tmp_path / "o" / "episodes.jsonl"
    first, second, third = path.read_text(encoding="utf-8").splitlines()
    path.write_text(
        "\n".join([first, second.replace('"final_distance_mm": ', '"final_distance_mm": NaN'), third]), encoding="utf-8"
    )
    (tmp_path / "o" / ".leaderboard.md.unfinished-01234567.md").touch()
    assert run(*words, "--resume") == 0
    output = capsys.readouterr()
    assert f"warning: skipped {path}, line 2: not a result" in output.err and "1 line(s)" in output.err
    assert "3 (2 already done)" in output.out
    assert (
        json.loads((tmp_path / "o" / "leaderboard.json").read_text(encoding="utf-8"))["oracle"]["tiny"]["episodes"] == 3
    )
    names = {"episodes.jsonl", "leaderboard.json", "leaderboard.md"}
    assert {item.name for item in (tmp_path / "o").iterdir()} == names, "no hidden file is left"


def test_two_runs_in_one_folder_are_refused(suite_file, tmp_path, capsys, monkeypatch):
    words = "--policies", "oracle", "--suite", suite_file, "--workers", 1, "--out", tmp_path / "o", "--no-figures"
    statuses = []

    def second(*arguments):
        statuses.append(run(*words))
        return {}

    monkeypatch.setattr(leaderboard, "provenance", second)
    assert run(*words) == 0
    assert statuses == [2]
    assert re.search("error: another process .* writes to .*--out", capsys.readouterr().err)
    assert len((tmp_path / "o" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert run(*words, "--resume") == 0


def test_without_resume_earlier_results_are_renamed(suite_file, tmp_path):
    words = "--policies", "oracle", "--suite", suite_file, "--workers", 1, "--out", tmp_path / "o", "--no-figures"
    for _ in range(3):
        run(*words, "--episodes", 1)
    assert {path.name for path in (tmp_path / "o").glob("episodes*")} == {
        "episodes.jsonl",
        "episodes-1.jsonl",
        "episodes-2.jsonl",
    }


def test_worker_processes_give_the_same_results(suite_file, tmp_path):
    found = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        words = "--policies", "random", "--suite", suite_file, "--workers", workers, "--out", out, "--no-figures"
        run(*words, "--transcripts", out / "transcripts")
        results, _ = read_results(out / "episodes.jsonl")
        found.append(sorted((r.episode, r.moves, r.final_distance_mm) for r in results))
        transcripts = [read_transcript(folder) for folder in find_transcripts(out / "transcripts")]
        moves = sorted((t.start.episode, [answer.action for answer in t.answers]) for t in transcripts)
        assert moves == [(episode, taken) for episode, taken, _ in found[-1]]
    assert found[0] == found[1]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_keeps_finished_episodes(small_patients, tmp_path, start_process):
    out, suite = tmp_path / "out", tmp_path / "many.yaml"
    episodes = ", ".join(["{patient: 'imported:one', target: 1, start: 4}"] * 400)
    suite.write_text(
        f"{{name: many, version: 1, description: test, max_steps: 20, episodes: [{episodes}]}}", encoding="utf-8"
    )
    command = [sys.executable, "-c", SCRIPT, "--policies", "oracle", "random", "--suite", str(suite), "--out", str(out)]
    process = start_process([*command, "--workers", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    lines = out / "episodes.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if lines.exists() and lines.read_text(encoding="utf-8").count("\n") >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED, output
    results, errors = read_results(lines)
    assert 2 <= len(results) < 800 and not errors
    assert re.search(r"Interrupted: \d+ finished episodes", output)
    assert (out / "leaderboard.json").exists() and not (out / "episode.gif").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policies", "orakel"], "Did you mean 'oracle'"),
        (["--suite", "smok"], "Did you mean 'smoke'"),
        (["--suite", "absent.yaml"], "there is no suite file absent.yaml"),
        (["--policies"], "--policies has no value"),
        (["--suite"], "--suite has no value"),
        (["--episodes", "0"], "--episodes is 0"),
        (["--workers", "0"], "--workers is 0"),
        (["--seed", "-1"], "--seed is -1"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(words, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(*words, "--out", out) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_policy_that_cannot_be_constructed_stops_the_run_before_its_first_episode(suite_file, tmp_path):
    def make_policy(name):
        raise FileNotFoundError(f"no checkpoint at {name}")

    arguments = EvaluationArguments(("cnn:absent",), (str(suite_file),), workers=1, out=tmp_path / "o")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        evaluate(arguments, make_policy)
    assert not (tmp_path / "o").exists()


def test_crashes_are_shown(suite_file, tmp_path, capsys):
    arguments = EvaluationArguments(("broken",), (str(suite_file),), workers=1, out=tmp_path / "o", figures=False)
    assert evaluate(arguments, lambda name: CrashingPolicy()) == 0
    output = capsys.readouterr().out
    assert "3 episode(s) crashed; the first error:" in output and "RuntimeError: boom" in output
    assert "different runs" not in output


def test_a_repeated_suite_or_policy_runs_once(suite_file, tmp_path):
    words = "--policies", "oracle", "oracle", "--suite", suite_file, suite_file, "--workers", 1, "--no-figures"
    run(*words, "--out", tmp_path / "o")
    assert len((tmp_path / "o" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_two_suites_with_one_name_are_refused(suite_file, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text(suite_file.read_text(encoding="utf-8").replace("max_steps: 20", "max_steps: 10"), encoding="utf-8")
    assert run("--suite", suite_file, other, "--out", tmp_path / "o") == 2
    assert "two different suites" in capsys.readouterr().err


def test_the_leaderboard_holds_every_policy_of_the_folder(suite_file, tmp_path, capsys):
    words = "--suite", suite_file, "--workers", 1, "--out", tmp_path / "o"
    run(*words, "--policies", "oracle", "--no-figures")
    run(*words, "--policies", "random", "--resume", "--episodes", 1)
    scores = json.loads((tmp_path / "o" / "leaderboard.json").read_text(encoding="utf-8"))
    assert scores["oracle"]["tiny"]["episodes"] == 3 and scores["random"]["tiny"]["episodes"] == 1
    assert "different runs" not in capsys.readouterr().out


def test_results_of_another_patient_build_are_run_again_and_left_out(suite_file, tmp_path, capsys):
    words = "--policies", "oracle", "--suite", suite_file, "--workers", 1, "--out", tmp_path / "o", "--no-figures"
    run(*words)
    lines = tmp_path / "o" / "episodes.jsonl"
    lines.write_text(
        re.sub(r'"patient_fingerprint": "\w+"', '"patient_fingerprint": "old"', lines.read_text(encoding="utf-8")),
        encoding="utf-8",
    )
    run(*words, "--resume")
    output = capsys.readouterr().out
    assert "3 (0 already done)" in output and "Left out 3 result(s)" in output
    assert (
        json.loads((tmp_path / "o" / "leaderboard.json").read_text(encoding="utf-8"))["oracle"]["tiny"]["episodes"] == 3
    )


def test_an_episode_that_its_patient_does_not_allow_is_refused(suite_file, tmp_path, capsys):
    suite_file.write_text(
        suite_file.read_text(encoding="utf-8").replace("start: 5", "start: [0.0, 9999.0]"), encoding="utf-8"
    )
    assert run("--suite", suite_file, "--out", tmp_path / "o") == 2
    assert "episode 2: start" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_file_as_output_folder_is_refused(suite_file, tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert run("--suite", suite_file, "--out", tmp_path / "file") == 2
    assert "file" in capsys.readouterr().err


def test_an_image_that_cannot_be_drawn_does_not_end_the_run(suite_file, tmp_path, capsys, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no font")

    monkeypatch.setattr(leaderboard, "save_trajectories", fail)
    assert run("--policies", "oracle", "--suite", suite_file, "--workers", 1, "--out", tmp_path / "o") == 0
    assert "warning: trajectories_tiny.png was not drawn: RuntimeError: no font" in capsys.readouterr().err
    assert (tmp_path / "o" / "episode.gif").exists()


@pytest.fixture
def few_landmarks(monkeypatch, tmp_path):
    """Two small imported patients: one with three landmarks, one with a single one."""
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
    hu = np.full((40, 20, 60), -1000, np.int16)
    hu[4:36, 4:16] = 40
    volume = Volume.from_origin(hu, 10.0, (0, 0, 0))
    positions = {1: (200.0, 100.0, 500.0), 10: (200.0, 100.0, 400.0), 4: (120.0, 100.0, 250.0)}
    points = {key: np.array(position) for key, position in positions.items()}
    store.save_imported(Patient("imported:head", volume, points))
    store.save_imported(Patient("imported:neck", volume, {10: points[10]}))


def test_suites_are_drawn_on_any_patients(few_landmarks, tmp_path, capsys):
    words = ["--suite", "paper-routes", "uniform", "--patients", "head", "neck", "--policies", "oracle", "random"]
    words += ["--workers", 1, "--episodes", 4, "--out", tmp_path / "o"]
    assert run(*words) == 0
    output = capsys.readouterr().out
    skipped = "paper-routes-custom leaves out imported:neck: Right scapular inferior angle to Skull"
    assert skipped in output
    scores = json.loads((tmp_path / "o" / "leaderboard.json").read_text(encoding="utf-8"))["oracle"]
    assert scores["paper-routes-custom"]["episodes"] == 2
    assert scores["uniform-custom"]["success"] == 1.0
    results, _ = read_results(tmp_path / "o" / "episodes.jsonl")
    assert {result.patient for result in results} == {"imported:head", "imported:neck"}
    assert run(*words, "--resume") == 0
    assert "12 (12 already done)" in capsys.readouterr().out


def test_a_suite_that_no_patient_allows_is_skipped(few_landmarks, tmp_path, capsys):
    words = "--suite", "paper-routes", "uniform", "--patients", "neck", "--policies", "oracle", "--no-figures"
    assert run(*words, "--workers", 1, "--episodes", 2, "--out", tmp_path / "o") == 0
    assert "Skipped: the suite paper-routes-custom has no episode on imported:neck" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "o" / "leaderboard.json").read_text(encoding="utf-8"))["oracle"]) == [
        "uniform-custom"
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--patients", "hed"], "Did you mean 'head'"),
        (["--patients", "head", "--suite", "smok"], "Did you mean 'smoke'"),
        (["--patients", "neck", "--suite", "paper-routes"], "has no episode on imported:neck"),
    ],
)
def test_patients_that_do_not_fit_are_named(few_landmarks, words, message, tmp_path, capsys):
    assert run(*words, "--out", tmp_path / "o") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
