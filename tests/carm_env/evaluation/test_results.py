import dataclasses
import json
import re

import pytest

from carm_env.evaluation.report import (
    distinct_runs,
    leaderboard_page,
    leaderboard_table,
    markdown_table,
    paired_differences,
    summarise,
)
from carm_env.evaluation.results import EpisodeResult, append_result, read_results

RUN = {"date": "d", "seed": 0, "git": "g", "packages": {"numpy": "2"}, "python": "3", "processor": "p", "cpus": 2}


def result(policy="oracle", episode=0, success=True, **changes):
    values = dict(
        policy=policy,
        suite="s",
        suite_version=1,
        suite_hash="h",
        episode=episode,
        seed=episode,
        patient=f"virtual:{episode % 2}",
        patient_fingerprint="f",
        target=1,
        start_lps_mm=[0.0, 0.0, 0.0],
        outcome="success" if success else "misaligned",
        success=success,
        initial_distance_mm=100.0,
        final_distance_mm=10.0 if success else 90.0,
        steps=4,
        exposures=4,
        dose_mgy=0.4,
        path_mm=120.0,
        path_efficiency=0.8 if success else 0.0,
        invalid_answers=0,
        latency_ms=1.0,
        privileged_info=["displacement_mm"] if policy == "oracle" else [],
        moves=[1, 24],
        trajectory_lps_mm=[[0.0, 0.0, 0.0], [1.0, 0.0, 1.0]],
        run=RUN,
    )
    return EpisodeResult(**{**values, **changes})


def test_results_round_trip(tmp_path):
    path = tmp_path / "deep" / "episodes.jsonl"
    written = [result(episode=i) for i in range(3)]
    for item in written:
        append_result(path, item)
    assert read_results(path) == (written, [])
    assert path.read_text(encoding="utf-8").count("\n") == 3


def test_an_incomplete_line_does_not_affect_others(tmp_path):
    path = tmp_path / "episodes.jsonl"
    append_result(path, result(episode=0))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"policy": "oracle", "sui')
    append_result(path, result(episode=1))
    results, errors = read_results(path)
    assert [item.episode for item in results] == [0, 1]
    assert len(errors) == 1 and "line 2" in errors[0]


@pytest.mark.parametrize("line", ["[]", "null", '{"schema": 99}', '{"schema": 1, "policy": "x"}', "\x00"])
def test_lines_that_are_not_results_are_named(tmp_path, line):
    path = tmp_path / "episodes.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    results, errors = read_results(path)
    assert results == [] and len(errors) == 1


@pytest.mark.parametrize("field, value", [("success", "yes"), ("steps", 1.5), ("moves", None), ("exposures", True)])
def test_values_of_another_type_are_named(tmp_path, field, value):
    path = tmp_path / "episodes.jsonl"
    path.write_text(json.dumps({**dataclasses.asdict(result()), field: value}) + "\n", encoding="utf-8")
    results, errors = read_results(path)
    assert results == [] and field in errors[0]


DAMAGED_LINES = {
    "NaN": b'{"schema": 1, "dose_mgy": NaN}',
    "infinity": b'{"schema": 1, "dose_mgy": -Infinity}',
    "400 digits": b'{"schema": ' + b"1" * 400 + b"}",
    "5000 digits": b"1" * 5000,
    "nested": b"[" * 100_000,
    "nested objects": b'{"run":' * 100_000,
    "not UTF-8": b'{"schema": 1, "policy": "\xff"}',
    "cut": b'{"schema": 1, "pol',
    "text": b"oracle won",
    "null": b"null",
    "a string": b'"x"',
    "a list": b"[1, 2]",
    "no keys": b"{}",
    "too few keys": b'{"schema": 1}',
    "an unknown key": b'{"schema": 1, "polcy": "oracle"}',
    "half a list": b"[1, 2",
    "twice": b'{"schema": 1, "schema": 1}',
    "line separator": '"\u2028"'.encode(),
}


@pytest.mark.parametrize("damage", DAMAGED_LINES)
def test_a_damaged_line_is_named_and_the_others_are_read(tmp_path, damage):
    path = tmp_path / "episodes.jsonl"
    append_result(path, result(episode=0))
    with path.open("ab") as file:
        file.write(DAMAGED_LINES[damage] + b"\n")
    append_result(path, result(episode=1))
    results, errors = read_results(path)
    assert [item.episode for item in results] == [0, 1]
    assert len(errors) == 1 and f"{path}, line 2: not a result" in errors[0] and len(errors[0]) < 800
    assert not re.search("subscriptable|indices|argument|line 3", errors[0]), "it says what was expected"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("outcome", "victory"), ("outcome", "misaligned"), ("success", False), ("path_efficiency", 1.01), ("steps", -1),
        ("final_distance_mm", -0.1), ("latency_ms", 1e300), ("target", 0), ("target", 15), ("moves", [49]),
        ("moves", [True]), ("moves", ["1"]), ("start_lps_mm", [1.0, 2.0]), ("start_lps_mm", [1.0, 2.0, None]),
        ("trajectory_lps_mm", []), ("trajectory_lps_mm", [[0.0, 0.0]]), ("trajectory_lps_mm", [[1e300, 0.0, 0.0]]),
        ("trajectory_lps_mm", [3.0]), ("privileged_info", [1]), ("run", []), ("policy", None), ("seed", -1),
        ("unknown", 1),
    ],
)  # fmt: skip
def test_values_out_of_range_are_named(tmp_path, field, value):
    path = tmp_path / "episodes.jsonl"
    path.write_text(json.dumps({**dataclasses.asdict(result()), field: value}) + "\n", encoding="utf-8")
    results, errors = read_results(path)
    assert results == [] and field in errors[0]


def test_a_full_disk_keeps_the_earlier_lines(tmp_path, monkeypatch):
    path = tmp_path / "episodes.jsonl"
    append_result(path, result(episode=0))
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="the disk is full"):
        append_result(path, result(episode=1))
    assert path.read_bytes() == before


def test_names_are_shown_as_they_are_in_tables():
    name = "x|y <b>*[a](b)`\n| forged | row |"
    results = [result(name, 0), result("other", 0), result(name, 1, run={"packages": {"<i>": "1|2"}})]
    scores = summarise(results)
    shown = "x\\|y &lt;b&gt;\\*\\[a\\](b)\\` \\| forged \\| row \\|"
    table, page = leaderboard_table(scores), leaderboard_page(results, scores)
    assert shown in table and len(table.splitlines()) == 4
    assert name not in page and f"{shown} - other" in page and "<" not in page and "&lt;i&gt; 1\\|2" in page


@pytest.mark.parametrize("run", [{}, {"packages": 3}, {"date": None}])
def test_an_incomplete_provenance_is_shown(run):
    results = [result(run=run)]
    assert "## Provenance" in leaderboard_page(results, summarise(results))


def test_the_key_depends_on_the_patient_build():
    assert result().key != result(patient_fingerprint="g").key


def test_runs_differ_by_commit_and_versions_but_not_by_date():
    later = {**RUN, "date": "later", "seed": 5}
    assert distinct_runs([result(), result(run=later)]) == [RUN]
    assert len(distinct_runs([result(), result(run={**RUN, "git": "other"})])) == 2


def test_a_repeated_episode_counts_once(tmp_path):
    path = tmp_path / "episodes.jsonl"
    append_result(path, result(success=False))
    append_result(path, result(success=True))
    results, _ = read_results(path)
    assert len(results) == 1 and results[0].success


def test_scores_are_means_over_episodes():
    results = [result(episode=i, success=i < 3) for i in range(4)]
    scores = summarise(results)["oracle"]["s"]
    assert scores["success"] == 0.75 and scores["episodes"] == 4 and scores["patients"] == 2
    assert scores["final_distance_mm"] == pytest.approx((3 * 10 + 90) / 4)
    assert scores["path_efficiency"] == pytest.approx(0.6)
    low, high = scores["success_interval"]
    assert low < 0.75 < high


def test_crashes_and_abstentions_are_failures():
    results = [
        result(episode=0, success=False, outcome="crash", error="boom", steps=0),
        result(episode=1, success=False, outcome="abstained"),
    ]
    scores = summarise(results)["oracle"]["s"]
    assert scores["success"] == 0 and scores["crashes"] == 0.5 and scores["abstained"] == 0.5


def test_versions_of_a_suite_are_not_mixed():
    with pytest.raises(ValueError, match="different versions"):
        summarise([result(episode=0), result(episode=1, suite_hash="other")])


def test_pairs_use_the_episodes_that_both_ran():
    results = [result("oracle", i) for i in range(6)] + [result("random", i, success=False) for i in range(4)]
    (row,) = paired_differences(results)
    assert row["episodes"] == 4 and row["success_difference"] == 1.0 and row["interval"] == [1.0, 1.0]


def test_the_page_ranks_policies_marks_privileged_ones_and_shows_provenance():
    results = [result("random", i, success=False) for i in range(4)] + [result("oracle", i) for i in range(4)]
    scores = summarise(results)
    table = leaderboard_table(scores)
    assert table.index("oracle*") < table.index("random ")
    page = leaderboard_page(results, scores)
    assert "not a medical device" in page and "numpy 2" in page
    assert "| random - oracle | 4        | -100                        | -             |" in page
    assert "`*` reads the true state (oracle: displacement_mm)" in page
    assert "true state" not in leaderboard_page(results[:4], summarise(results[:4]))


def test_the_page_shows_intervals_from_five_patients_and_groups_of_ties():
    def board(patients):
        return [
            result(policy, i, success=policy == "cnn", patient=f"p{i % patients}")
            for policy in ("cnn", "random")
            for i in range(24)
        ]

    few, many = (leaderboard_page(found, summarise(found)) for found in (board(4), board(12)))
    assert re.search(r"\| cnn +\| 100% +\| - +\| - ", few) and re.search(r"\| random +\| 0% +\| - +\| - ", few)
    assert re.search(r"\| cnn +\| 100% +\| 85%-100% +\| a ", many)
    assert re.search(r"\| random +\| 0% +\| 0%-15% +\| b ", many)
    assert re.search(r"\| cnn - random +\| 24 +\| \+100 +\| no spread +\| <0.001 +\| cnn ", many)


def test_tables_are_aligned():
    lines = markdown_table(("a", "b"), [("1", "long cell"), ("22", "x")]).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_results_are_plain_json():
    line = json.dumps(dataclasses.asdict(result()))
    assert EpisodeResult(**json.loads(line)) == result()
