import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.leaderboard import main
from benchmarks.results import read_results
from benchmarks.runner import EpisodeTask, run_episode
from benchmarks.suite import load_suite
from carm_env.actions import ALIGNED, Move
from carm_env.env import CArmNavEnv
from policies.base import Decision, Policy

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "leaderboard.py"


@pytest.fixture
def suite_file(tmp_path):
    """Small pictures of one patient, so that the whole runs in seconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "{name: tiny, version: 1, description: test, max_steps: 20, environment: {image_size: 16}, episodes: ["
        "{patient: 'virtual:0', target: 1, start: 4}, {patient: 'virtual:0', target: 4, start: 1},"
        "{patient: 'virtual:0', target: 14, start: [0.0, 1400.0]}]}"
    )
    return str(path)


def test_the_script_writes_everything(suite_file, tmp_path, capsys):
    out = tmp_path / "out"
    extra = tmp_path / "figures.json"
    status = main(
        ["--policies", "oracle", "random", "--suite", suite_file, "--workers", "1", "--out", str(out)]
        + ["--json", str(extra)]
    )
    assert status == 0
    figures = json.loads((out / "leaderboard.json").read_text())
    assert figures["oracle"]["tiny"]["success"] == 1.0
    assert set(figures) == {"oracle", "random"}
    assert "oracle*" in (out / "leaderboard.md").read_text()
    results, complaints = read_results(out / "episodes.jsonl")
    assert len(results) == 6 and not complaints
    assert results[0].run["packages"]["carm-env"] and results[0].run["date"]
    with Image.open(out / "trip.gif") as trip:
        assert trip.n_frames == len(results[0].moves) + 1
    with Image.open(out / "trajectories_tiny.png") as sheet:
        assert sheet.width > 300
    assert json.loads(extra.read_text())["run"]["seed"] == 0
    assert "| oracle*" in capsys.readouterr().out


def test_resuming_runs_only_what_is_missing(suite_file, tmp_path, capsys):
    arguments = [
        "--policies",
        "oracle",
        "--suite",
        suite_file,
        "--workers",
        "1",
        "--out",
        str(tmp_path),
        "--no-figures",
    ]
    main([*arguments, "--episodes", "2"])
    first = (tmp_path / "episodes.jsonl").read_text()
    main([*arguments, "--resume"])
    assert "3 (2 done before)" in capsys.readouterr().out
    second = (tmp_path / "episodes.jsonl").read_text()
    assert second.startswith(first) and len(second.splitlines()) == 3


def test_without_resume_earlier_results_are_kept_aside(suite_file, tmp_path):
    arguments = [
        "--policies",
        "oracle",
        "--suite",
        suite_file,
        "--workers",
        "1",
        "--out",
        str(tmp_path),
        "--no-figures",
    ]
    main([*arguments, "--episodes", "1"])
    main([*arguments, "--episodes", "1"])
    assert len(list(tmp_path.glob("episodes*.jsonl"))) == 2


def test_several_workers_give_the_results_of_one(suite_file, tmp_path):
    found = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        main(["--policies", "random", "--suite", suite_file, "--workers", workers, "--out", str(out), "--no-figures"])
        results, _ = read_results(out / "episodes.jsonl")
        found.append(sorted((r.episode, r.moves, r.final_distance_mm) for r in results))
    assert found[0] == found[1]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_keeps_finished_episodes(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), "--policies", "oracle", "random", "atlas", "--suite", "smoke"]
    process = subprocess.Popen(
        [*command, "--workers", "1", "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    lines = out / "episodes.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if lines.exists() and lines.read_text().count("\n") >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    results, complaints = read_results(lines)
    assert 2 <= len(results) < 60 and not complaints
    assert re.search(r"Interrupted: \d+ finished episodes", output)
    assert (out / "leaderboard.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policies", "orakel"], "Did you mean 'oracle'"),
        (["--suite", "smok"], "Did you mean 'smoke'"),
        (["--suite", "absent.yaml"], "no such suite file"),
        (["--episodes", "0"], "--episodes is 0"),
        (["--workers", "0"], "--workers is 0"),
        (["--seed", "-1"], "--seed is -1"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(arguments, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


class Scripted(Policy):
    def __init__(self, *answers):
        self.answers = answers

    def reset(self, seed=None):
        self.queue = list(self.answers)

    def act(self, observation, info):
        answer = self.queue.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def play(*answers, max_steps=20):
    suite = load_suite("smoke")
    env = CArmNavEnv(image_size=16)
    task = EpisodeTask("smoke", 0, "scripted", 0)
    from dataclasses import replace

    return run_episode(Scripted(*answers), env, replace(suite, max_steps=max_steps), task)


def test_a_crash_is_a_counted_failure():
    result = play(Decision(Move(0, 1)), RuntimeError("boom"))
    assert result.outcome == "crash" and not result.success and "boom" in result.error
    assert result.steps == 1 and len(result.trajectory_lps_mm) == 2


def test_an_answer_of_another_kind_is_a_crash():
    assert "expected a policies.Decision" in play("LEFT").error


def test_an_abstention_ends_the_episode_without_a_move():
    result = play(Decision(Move(0, 1), abstain=True))
    assert result.outcome == "abstained" and result.moves == [] and result.exposures == 1


def test_invalid_answers_count_as_steps_and_move_nothing():
    result = play(*[Decision(ALIGNED, invalid=True)] * 5, max_steps=5)
    assert result.outcome == "timeout" and result.invalid_answers == 5 and result.steps == 5 and result.moves == []


def test_declaring_at_the_wrong_place_is_no_success():
    result = play(Decision(ALIGNED))
    assert result.outcome == "misaligned" and result.path_efficiency == 0
    assert result.final_distance_mm == result.initial_distance_mm


def test_path_efficiency_compares_with_the_straight_way():
    up = Decision(Move(0, 1))
    down = Decision(Move(0, -1))
    result = play(up, down, Decision(ALIGNED))
    assert result.path_mm == pytest.approx(60) and result.outcome == "misaligned"


def test_the_script_runs_as_a_user_would(suite_file, tmp_path):
    command = [sys.executable, str(SCRIPT), "--policies", "oracle", "--suite", suite_file, "--out", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stdout and (tmp_path / "o" / "leaderboard.md").exists()
