"""The check whether a model in reinforcement learning still answers the questions that are not rewarded."""

from types import SimpleNamespace

import numpy as np
import pytest

from carm_env.chat_models.interface import Generation
from carm_env.language.answers import Correction, Pair, Ranking, render

pytest.importorskip("trl")

from training._support.other_answers import OtherAnswers, readable_answers  # noqa: E402

IMAGES = [np.full((16, 16), value, np.uint8) for value in (10, 20, 30, 40)]


class Model:
    """Answers every question in the wanted form, except those whose kinds it has forgotten."""

    style = "compact"

    def __init__(self):
        self.forgotten = set()
        self.asked = []

    def seed(self, value):
        pass

    def generate(self, conversations, kind):
        answers = {
            "ranking": Ranking((1, 10, 11)),
            "pair": Pair((1, 10)),
            "correction": Correction("It is so.", (1, 10)),
        }
        shown = [np.asarray(messages[-1]["content"][0]["image"]).flat[0] for messages in conversations]
        self.asked.append((kind, shown))
        text = "<landmarks>[1,10]" if kind in self.forgotten else render(answers[kind])
        return [Generation(text, 0, 0.0) for _ in conversations]


def test_every_question_is_asked_about_every_image():
    model = Model()
    assert set(readable_answers(model, IMAGES).values()) == {1.0}
    assert [kind for kind, _ in model.asked] == ["ranking", "pair", "correction", "correction"]
    assert all(shown == [10, 20, 30, 40] for _, shown in model.asked)
    model.forgotten = {"correction"}
    shares = readable_answers(model, IMAGES)
    assert shares == {"closest landmarks": 1, "landmark at the center": 1, "second look": 0, "correction": 0}


def test_a_training_warns_if_a_kind_of_answer_gets_lost(capsys):
    model, logged = Model(), {}
    callback = OtherAnswers(model, IMAGES, 20, logged.__setitem__)
    state = SimpleNamespace(global_step=0, max_steps=50, is_world_process_zero=True)
    callback.on_train_begin(None, state, None)
    state.global_step = 20
    callback.on_step_end(None, state, None)
    assert logged == {f"readable/{name}": 1.0 for name in
                      ("closest_landmarks", "landmark_at_the_center", "second_look", "correction")}  # fmt: skip
    assert capsys.readouterr().out == ""
    model.forgotten = {"correction"}
    asked = len(model.asked)
    state.global_step = 30
    callback.on_step_end(None, state, None)
    assert len(model.asked) == asked
    state.global_step = 50
    callback.on_step_end(None, state, None)
    shown = capsys.readouterr().out
    assert "step 50: WARNING: only 0% of the answers about second look, 0% of the answers about correction" in shown
    assert logged["readable/correction"] == 0


def test_a_model_that_never_answered_is_not_blamed(capsys):
    model = Model()
    model.forgotten = {"ranking"}
    callback = OtherAnswers(model, IMAGES, 1, lambda name, value: None)
    state = SimpleNamespace(global_step=0, max_steps=1, is_world_process_zero=True)
    callback.on_train_begin(None, state, None)
    state.global_step = 1
    callback.on_step_end(None, state, None)
    assert capsys.readouterr().out == ""
