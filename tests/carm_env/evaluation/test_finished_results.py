"""Leaderboards of finished results: what is left out, what is refused, and what is written."""

import dataclasses
import json
from pathlib import Path

import pytest

from carm_env.evaluation.finished_results import ContradictionError, read_board
from carm_env.evaluation.leaderboard import EvaluationArguments, evaluate
from carm_env.evaluation.results import append_result
from carm_env.evaluation.scores_file import ScoresFileError
from carm_env.evaluation.suite import load_suite
from carm_env.system.command_line import run_script


def run(*words):
    return run_script(evaluate, EvaluationArguments, given=[str(word) for word in words])


@pytest.fixture
def write(tmp_path):
    """Writes results to a file, as a run does."""

    def written(name, results):
        path = tmp_path / name
        for result in results:
            append_result(path, result)
        return path

    return written


def of_smoke(finished, count=6, **changes):
    return [finished(episode=number, success=number != 1, **changes) for number in range(count)]


def board_of(*files, suites=()):
    return read_board([str(file) for file in files], suites)


def test_files_of_several_runs_make_one_leaderboard(finished, write, tmp_path, capsys):
    theirs = write("theirs/episodes.jsonl", of_smoke(finished, 20, policy="theirs"))
    ours = write("ours.jsonl", of_smoke(finished, 20, policy="ours"))
    out, extra = tmp_path / "o", tmp_path / "new" / "scores.json"
    assert run("--from", theirs.parent, ours, "--out", out, "--json", extra) == 0
    scores = json.loads((out / "leaderboard.json").read_text(encoding="utf-8"))
    assert {name: suites["smoke"]["success"] for name, suites in scores.items()} == {"theirs": 0.95, "ours": 0.95}
    page = (out / "leaderboard.md").read_text(encoding="utf-8")
    assert "- theirs/episodes.jsonl: 20 episodes, SHA-256" in page and "Paired differences" in page
    written = json.loads(extra.read_text(encoding="utf-8"))
    assert written["scores"] == scores and written["pairs"][0]["episodes"] == 20 and written["runs"][0]["git"] == "abc"
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == ["leaderboard.json", "leaderboard.md"]
    assert "left out" not in capsys.readouterr().err


def damaged(lines, number, change):
    return [change(line) if place == number else line for place, line in enumerate(lines, 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line[:200], "line 3: not a result (it is not valid JSON"),
        (lambda line: line.replace('"schema": 1', '"schema": 2'), "line 3: not a result (schema is 2, expected 1"),
        (lambda line: line.replace('"dose_mgy": 0.5', '"dose_mgy": NaN'), "line 3: not a result (it is not valid JSON"),
        (lambda line: line.replace('"steps": 2', '"steps": 1'), "line 3: 2 moves in 1 steps"),
        (lambda line: line.replace('"episode": 2', '"episode": 900'), "line 3: suite smoke has no episode 900"),
        (lambda line: line.replace('"target": ', '"target": 1'), "line 3: its target or version is not that of"),
        (lambda line: line.replace('"suite": "smoke"', '"suite": "smok"'), "Name its YAML file with --suite."),
        (lambda line: line.replace('"suite_hash": "', '"suite_hash": "0'), "it was edited, or is of another version"),
    ],
    ids=["cut", "schema", "NaN", "steps", "episode", "target", "unknown suite", "edited suite"],
)
def test_a_line_that_does_not_count_is_named_and_not_averaged(finished, write, tmp_path, capsys, change, message):
    path = write("episodes.jsonl", of_smoke(finished))
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(damaged(lines, 3, change)), encoding="utf-8")
    assert run("--from", path, "--out", tmp_path / "o") == 1
    error = capsys.readouterr().err
    assert f"left out: {path}, line 3: " in error and message in error
    scores = json.loads((tmp_path / "o" / "leaderboard.json").read_text(encoding="utf-8"))["mine"]["smoke"]
    assert scores["episodes"] == 5 and scores["success"] == pytest.approx(4 / 5)
    page = (tmp_path / "o" / "leaderboard.md").read_text(encoding="utf-8")
    assert "## Left out" in page and "line 3" in page


def test_a_file_that_was_cut_is_incomplete(finished, write):
    path = write("episodes.jsonl", of_smoke(finished, 20))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    board = board_of(path)
    assert len(board.skipped) == 1 and "line 10" in board.skipped[0] or "line 11" in board.skipped[0]
    assert board.notes[0].startswith("mine: suite smoke lacks ")


def test_repeated_episodes_count_once(finished, write):
    path = write("a.jsonl", of_smoke(finished))
    again = write("b.jsonl", [dataclasses.replace(one, latency_ms=9.0, run={}) for one in of_smoke(finished)])
    board = board_of(path, again)
    assert board.scores["mine"]["smoke"]["episodes"] == 6
    assert board.skipped == (f"{again}, lines 1-6: 6 repeated episodes, which {path} has with the same moves.",)


def variant(index, **changes):
    def change(results):
        results[index] = dataclasses.replace(results[index], **changes)
        return results

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (variant(2, moves=[3, 24]), "are of mine in episode 2 of smoke with seed 2, but differ in moves"),
        (variant(2, settings={"temperature": 1.0}), "are of two policies called 'mine' with different settings"),
        (variant(2, prompts="other"), "are of two policies called 'mine' with different settings, prompts"),
        (variant(2, privileged_info=["distance_mm"]), "are of two policies called 'mine'"),
        (variant(2, patient_fingerprint="other"), "are of two builds of patient"),
        (variant(2, start_lps_mm=[7.0, 0.0, 1400.0]), "begin one episode differently"),
        (variant(2, suite="uniform-custom", suite_hash="1"), "are of two versions of suite uniform-custom"),
    ],
    ids=["moves", "settings", "prompts", "knowledge", "build", "start", "version"],
)
def test_results_that_contradict_each_other_are_refused_with_their_lines(
    finished, write, tmp_path, capsys, change, message
):
    first = of_smoke(finished)
    if "uniform-custom" in message:
        first[2] = dataclasses.replace(first[2], suite="uniform-custom", suite_hash="0")
    a, b = write("a.jsonl", first), write("b.jsonl", change(of_smoke(finished)))
    assert run("--from", a, b, "--out", tmp_path / "o") == 2
    error = capsys.readouterr().err
    assert message in error and f"{a}, line " in error and f"{b}, line 3" in error
    assert not (tmp_path / "o").exists()


def test_a_name_for_a_file_tells_two_policies_of_one_name_apart(finished, write):
    a = write("a.jsonl", of_smoke(finished, settings={"temperature": 0.0}))
    b = write("b.jsonl", of_smoke(finished, settings={"temperature": 1.0}))
    with pytest.raises(ContradictionError, match="NAME=FILE"):
        board_of(a, b)
    board = board_of(a, f"hot={b}")
    assert list(board.scores) == ["mine", "mine (hot)"] and not board.skipped


def test_the_model_that_a_server_states_is_no_setting_but_noted(finished, write):
    results = of_smoke(finished, settings={"reading": "strict", "server_model": "one"})
    results[1] = dataclasses.replace(results[1], settings={"reading": "strict"})
    results[2] = dataclasses.replace(results[2], settings={"reading": "strict", "server_model": "two"})
    board = board_of(write("a.jsonl", results))
    assert board.scores["mine"]["smoke"]["episodes"] == 6
    assert "mine on smoke: the server answered with different models (one, two)." in board.notes


def test_a_suite_of_the_user_counts_if_its_file_is_given(finished, write, tmp_path, capsys):
    own = dataclasses.replace(load_suite("smoke"), name="own", episodes=load_suite("smoke").episodes[:2])
    file = tmp_path / "own.yaml"
    file.write_text(own.to_yaml(), encoding="utf-8")
    results = of_smoke(finished, 2)
    path = write("a.jsonl", [dataclasses.replace(one, suite="own", suite_hash=own.hash) for one in results])
    assert run("--from", path, "--out", tmp_path / "o") == 2
    assert "no line counts" in capsys.readouterr().err
    assert run("--from", path, "--suite", file, "--out", tmp_path / "o") == 0
    own = dataclasses.replace(own, max_steps=9)
    file.write_text(own.to_yaml(), encoding="utf-8")
    assert run("--from", path, "--suite", file, "--out", tmp_path / "o") == 2
    assert "it was edited" in capsys.readouterr().err


def test_a_suite_that_was_drawn_on_chosen_patients_is_noted(finished, write):
    custom = [dataclasses.replace(one, suite="uniform-custom", suite_hash="x") for one in of_smoke(finished)]
    board = board_of(write("a.jsonl", custom))
    assert board.scores["mine"]["uniform-custom"]["episodes"] == 6
    (note,) = board.notes
    assert note.startswith("uniform-custom has patients of its own") and note.endswith("was not checked.")


@pytest.fixture
def scores_file(finished, write, tmp_path):
    """A file of ``--json`` of two policies."""
    results = [*of_smoke(finished, policy="a"), *of_smoke(finished, policy="b", privileged_info=["distance_mm"])]
    assert run("--from", write("e.jsonl", results), "--out", tmp_path / "made", "--json", tmp_path / "s.json") == 0
    return tmp_path / "s.json"


def test_scores_without_episodes_make_tables(scores_file, tmp_path):
    board = board_of(scores_file)
    assert board.scores == json.loads(scores_file.read_text(encoding="utf-8"))["scores"] and len(board.pairs) == 1
    assert board_of(tmp_path / "made" / "leaderboard.json").scores == board.scores
    assert run("--from", scores_file, "--out", tmp_path / "o") == 0
    assert "| smoke | b*" in (tmp_path / "o" / "leaderboard.md").read_text(encoding="utf-8")


def test_scores_and_episodes_join_unless_they_hold_the_same_policy(scores_file, finished, write):
    board = board_of(scores_file, write("c.jsonl", of_smoke(finished, policy="c")))
    assert set(board.scores) == {"a", "b", "c"} and {source.episodes for source in board.sources} == {12, 6}
    with pytest.raises(ContradictionError, match="both hold a on smoke"):
        board_of(scores_file, write("d.jsonl", of_smoke(finished, policy="a")))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"success": 0.8', '"success": NaN, "x": 0.8', "not valid JSON"),
        ('"success": 0.8', '"success": 1.8', "success is 1.8.*expected a number from 0 to 1"),
        ('"latency_ms"', '"latency"', "a on smoke lacks latency_ms"),
        ('"episodes": 6', '"episodes": "6"', "episodes is '6', expected a positive integer"),
        ('"privileged": false', '"privileged": "<b>"', "privileged is '<b>', expected true or false"),
        ('"second": "b"', '"second": "z"', "pair 0 is .*expected the difference of two policies"),
    ],
)
def test_damaged_scores_are_refused(scores_file, old, new, message):
    text = scores_file.read_text(encoding="utf-8")
    assert old in text
    scores_file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        board_of(scores_file)


@pytest.mark.parametrize("text", ["{}", '{"a": 1}', '{"a": {}}', '{"a": {"smoke": []}}'])
def test_json_of_another_kind_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScoresFileError):
        board_of(path)


def test_scores_on_an_edited_suite_are_left_out(scores_file):
    scores_file.write_text(
        scores_file.read_text(encoding="utf-8").replace(load_suite("smoke").hash, "0" * 16), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="no line counts.*it was edited"):
        board_of(scores_file)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shifts", "blur:1"], "--shifts is for running episodes"),
        (["--policies", "oracle"], "--policies is for running episodes"),
        (["--episodes", "3"], "--episodes is for running episodes"),
        (["--resume"], "--resume is for running episodes"),
        (["--suite", "uniform"], "--suite is 'uniform', but --from shows all suites"),
        (["--transcripts", "t"], "--html is not"),
        (["--json", "FILE"], "is one of the files of --from"),
        (["--html", "FILE"], "which is a file"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(finished, write, tmp_path, capsys, words, message):
    path = write("a.jsonl", of_smoke(finished))
    before = path.read_bytes()
    given = [path if word == "FILE" else word for word in words]
    assert run("--from", path, "--out", tmp_path / "o", *given) == 2
    assert message in capsys.readouterr().err
    assert path.read_bytes() == before and not (tmp_path / "o").exists()


def test_the_scores_that_are_read_are_not_replaced(scores_file, tmp_path, capsys):
    made: Path = tmp_path / "made"
    assert run("--from", made / "leaderboard.json", "--out", made) == 2
    assert "would be replaced" in capsys.readouterr().err


def test_a_file_that_does_not_exist_is_named(tmp_path, capsys):
    assert run("--from", tmp_path / "absent.jsonl", "--out", tmp_path / "o") == 2
    assert "absent.jsonl" in capsys.readouterr().err
