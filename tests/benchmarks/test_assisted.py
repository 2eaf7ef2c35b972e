import json

import pytest

from benchmarks import assisted
from carm_env.system.command_line import run_script

pytest.importorskip("torch")


def run(words):
    return run_script(assisted.run, assisted.Arguments, given=words)


def test_episodes_run_without_and_with_a_clinician(small_patients, tmp_path, capsys):
    path = tmp_path / "a.json"
    patients = ["--patients", *small_patients[:2]]
    words = ["--policies", "oracle_in_words", "random", "--suite", "uniform", *patients, "--episodes", "3"]
    assert run([*words, "--workers", "1", "--json", str(path)]) == 0
    found = json.loads(path.read_text(encoding="utf-8"))
    own = found["random"]["uniform-custom"]
    assert own["episodes"] == 3 and set(own["success_by_sentences"]) == {"0", "1", "2"}
    assert own["commands_by_hand"] > 1 and own["sentences"] > 0
    assert own["success_by_sentences"]["0"] == own["success_unassisted"]
    right = found["oracle_in_words"]["uniform-custom"]
    assert right["success"]["value"] == right["success_unassisted"]["value"] == 1 and right["sentences"] == 0
    assert right["rescued"] is None and right["harmed"]["value"] == 0
    assert right["success_after_wish"] is None and right["wishes"] == 0
    assert found["clinician"]["sentences"] == 2
    assert "success assisted" in capsys.readouterr().out


def test_wishes_are_part_of_the_task_with_and_without_help(small_patients, tmp_path, capsys):
    path = tmp_path / "a.json"
    words = ["--policies", "oracle_in_words", "--suite", "uniform", "--patients", small_patients[0], "--episodes", "3"]
    rates = ["--wish-rate", "1", "--review-rate", "1", "--sentences", "1"]
    assert run([*words, *rates, "--workers", "1", "--json", str(path)]) == 0
    found = json.loads(path.read_text(encoding="utf-8"))
    own = found["oracle_in_words"]["uniform-custom"]
    assert own["success"]["value"] == own["success_unassisted"]["value"] == own["success_after_wish"]["value"] == 1
    assert own["wishes"] > 0 and own["sentences"] == 0
    assert own["exposures"] == own["exposures_unassisted"] == own["exposures_by_hand"]
    assert (found["clinician"]["wish_rate"], found["clinician"]["review_rate"]) == (1, 1)
    assert "after a wish" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--sentences", "0"], "--sentences is 0, expected at least 1"),
        (["--wrong-rate", "2"], "wrong_rate is 2"),
        (["--wish-rate", "-1"], "wish_rate is -1"),
        (["--policies", "nobody"], "nobody"),
    ],
)
def test_bad_arguments_are_refused(words, expected, capsys):
    assert run(words) == 2
    assert expected in capsys.readouterr().err
