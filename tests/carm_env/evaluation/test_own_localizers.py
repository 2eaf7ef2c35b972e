"""Localisers of the user: one clear error for whatever they do wrong."""

import numpy as np
import pytest

from carm_env.cli import main
from carm_env.evaluation.localization import Localization, locate
from carm_env.evaluation.own_localizers import make_own_localizer
from carm_env.evaluation.policy_loading import PolicyLoadingError

IMAGES = np.zeros((2, 256, 256), np.uint8)


def answering(answer, method="closest"):
    class Mine:
        def closest(self, images):
            return [[1, 2, 3]] * len(images)

    setattr(Mine, method, lambda self, images: answer)
    return make_own_localizer(Mine, "mine.py:Mine")


@pytest.mark.parametrize("answer", [[[14, 12, 13], [1, 2, 3]], [[0, 0, 0], [4, 0, 0]], np.full((2, 3), 0, np.uint8)])
def test_ids_pass_through(answer):
    assert locate(answering(answer), IMAGES).closest_landmarks.tolist() == np.asarray(answer).tolist()


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        ([[1, 2, 3]], r"an array of shape \(1, 3\)"),
        ([[1, 2], [3, 4]], r"an array of shape \(2, 2\)"),
        ([[1, 2, 3], [1, 2]], "which is no array"),
        (None, r"an array of shape \(\)"),
        ([[1.0, 2.0, 3.0]] * 2, "values of type float64"),
        ([[True, False, True]] * 2, "values of type bool"),
        ([["a", "b", "c"]] * 2, "values of type <U1"),
        ([[1, 2, 15]] * 2, r"the ids \[1, 2, 15\]"),
        ([[1, -2, 3]] * 2, r"the ids \[1, -2, 3\]"),
        ([[1, 2, 2]] * 2, r"the ids \[1, 2, 2\]"),
    ],
)
def test_other_answers_are_an_error_that_names_the_class(answer, got):
    with pytest.raises(PolicyLoadingError, match=rf"closest\(images\) of Mine returned .*{got}.*expected 3 different"):
        locate(answering(answer), IMAGES)


def test_positions_are_checked():
    ids, each = np.array([[1, 2, 3]] * 2), (2, 14)
    good = Localization(ids, np.full(each, 0.1), np.zeros((*each, 2)), np.ones((*each, 2)))
    found = locate(answering(good, "locate"), IMAGES)
    assert found.probabilities.shape == each and found.region_mm.max() == 1
    for wrong, sentence in (
        ({"ids": [[1, 2, 3]]}, "expected a carm_env.evaluation.localization.Localization"),
        (Localization(ids, np.full(each, 1.5)), "probabilities from 1.5 to 1.5, expected None or finite"),
        (Localization(ids, None, np.zeros((2, 14))), r"displacement_mm of shape \(2, 14\)"),
        (Localization(ids, None, None, np.full((*each, 2), np.nan)), "region_mm from nan to nan"),
        (Localization(ids[:1]), "an array of shape"),
    ):
        with pytest.raises(PolicyLoadingError, match=rf"locate\(images\) of Mine returned .*{sentence}"):
            locate(answering(wrong, "locate"), IMAGES)


def test_a_method_that_raises_is_named_with_its_line():
    class Mine:
        def closest(self, images):
            raise OSError("no\nmodel")

    with pytest.raises(PolicyLoadingError, match=r"of Mine failed: OSError: no model \(.*test_own.*, line \d+\)"):
        locate(make_own_localizer(Mine, "mine.py:Mine"), IMAGES)


def test_a_class_without_the_method_is_refused():
    with pytest.raises(PolicyLoadingError, match=r"expected a class with a method closest\(images\)"):
        make_own_localizer(dict, "mine.py:dict")


def test_the_command_prints_one_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    Image = pytest.importorskip("PIL.Image")
    (tmp_path / "mine.py").write_text("class Mine:\n    def __init__(self, weights):\n        pass\n", encoding="utf-8")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert main(["localize", "a.png", "--policy", "mine.py:Mine", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert "constructing Mine failed: TypeError" in error and "without arguments" in error and error.count("\n") == 1
