import json

import pytest

from benchmarks import workers_speed
from benchmarks.workers_speed import Arguments, misses, table


def results(quiet, busy):
    run = {"start_s": 1.0, "episodes_per_s": 2.0}
    figures = {"one_worker": run, "several_workers": run}
    return {"cnn": {"quiet": {**figures, "ratio": quiet}, "busy": {**figures, "ratio": busy}}}


def test_misses_are_described():
    assert misses(results(1.6, 1.0)) == []
    missed = misses(results(1.5, 0.9))
    assert missed == ["cnn, quiet: the ratio is 1.50, target 1.6", "cnn, busy: the ratio is 0.90, target 1.0"]
    assert "| cnn" in table(results(1.5, 0.9), 2) and "2 workers: episodes/s" in table(results(1.5, 0.9), 2)


def test_a_run_has_a_start_and_a_rate():
    figures = workers_speed.time_run(Arguments(episodes=4, repeats=1).tasks("atlas"), 2)
    assert figures["start_s"] > 0 and figures["episodes_per_s"] > 0


def test_workers_are_compared_on_quiet_and_busy_cpus(tmp_path, monkeypatch, capsys):
    def time_run(tasks, workers):
        assert len(tasks) == 8
        return {"start_s": 1.0, "episodes_per_s": 2.0 * workers}

    monkeypatch.setattr(workers_speed, "time_run", time_run)
    arguments = Arguments(policies=("atlas",), episodes=4, repeats=2, rounds=1, json=tmp_path / "w.json")
    assert workers_speed.run(arguments) == 0
    result = json.loads(arguments.json.read_text(encoding="utf-8"))
    assert result["policies"]["atlas"]["quiet"]["ratio"] == result["policies"]["atlas"]["busy"]["ratio"] == 2
    assert result["missed"] == [] and result["run"]["date"]
    assert "Every target is met" in capsys.readouterr().out


def test_more_episodes_than_workers_are_needed(script_error):
    message = script_error(workers_speed, "--episodes", "2", "--repeats", "1", "--policies", "atlas")
    assert "2 episodes for 2 workers, expected more episodes than workers" in message


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--workers", "1"], ["--episodes", "0"]])
def test_bad_numbers_are_reported(words, script_error):
    assert f"{words[0]} is {words[1]}, expected at least" in script_error(workers_speed, *words)
