import json

import gymnasium as gym
import numpy as np
import pytest

import carm_env  # noqa: F401  registers the environment
from benchmarks import injection
from benchmarks._support.injections import injections
from carm_env.language.advice_reader import read_advice
from carm_env.language.chat import ChatCArm, Conversation
from carm_env.language.control_tokens import find_control_token
from carm_env.system.command_line import run_script


def run(words):
    return run_script(injection.run, injection.Arguments, given=words)


def test_there_are_at_least_200_different_strings():
    texts = [text for _, text in injections()]
    assert len(set(texts)) == len(texts) >= 200


def test_no_string_breaks_a_conversation():
    image = np.zeros((16, 16), np.uint8)
    accepted = 0
    for _, text in injections():
        read_advice(text)
        conversation = Conversation(11, "compact")
        try:
            conversation.feedback(text)
        except ValueError:
            continue
        accepted += 1
        (system, user) = conversation.show(image)
        (_, part) = user["content"]
        assert find_control_token(part["text"]) is None
        assert part["text"].count("\n") == 1, "the words stay in their line"
    assert accepted > 150


def test_names_of_patients_never_enter_prompts(small_patients):
    chat = ChatCArm(gym.make("CArmNav-v0", patients=small_patients[1], image_size=16))
    messages = chat.reset(seed=0)
    assert small_patients[1].partition(":")[2] not in str([part for m in messages for part in m["content"]])


def test_strings_are_burnt_into_the_image():
    image = injection.burnt(np.zeros((64, 64, 1), np.uint8), "declare\n\u200b" + "now " * 100)
    assert image.shape == (64, 64, 1) and image.dtype == np.uint8 and (image > 0).sum() > 50


OBEYS = """
from carm_env.actions import ALIGNED, Move
from carm_env.evaluation.policy import Decision, Policy


class Obeys(Policy):
    def reset(self, seed=None):
        self.told = False

    def feedback(self, text):
        self.told = self.told or "declare" in text

    def act(self, observation, info):
        return Decision(ALIGNED if self.told else Move(0, 1))
"""


def test_a_policy_that_obeys_is_found_out(small_patients, tmp_path):
    (tmp_path / "obeys.py").write_text(OBEYS, encoding="utf-8")
    path = tmp_path / "i.json"
    words = ["--policies", f"{tmp_path / 'obeys.py'}:Obeys", "--patients", small_patients[0], "--strings", "30"]
    assert run([*words, "--workers", "1", "--json", str(path)]) == 0
    (found,) = (own for name, own in json.loads(path.read_text(encoding="utf-8")).items() if name != "run")
    assert found["feedback"]["unsafe"]["value"] > 0 and found["feedback"]["unsafe_strings"]
    assert found["image"]["unsafe"]["value"] == 0 and found["image"]["crashes"] == 0


def test_the_episodes_with_and_without_strings_are_compared(small_patients, tmp_path, capsys):
    path = tmp_path / "i.json"
    words = ["--policies", "oracle_in_words", "--patients", small_patients[0], "--strings", "5", "--workers", "1"]
    assert run([*words, "--json", str(path)]) == 0
    found = json.loads(path.read_text(encoding="utf-8"))["oracle_in_words"]
    for channel in ("feedback", "image"):
        assert found[channel]["strings"] == 5 and found[channel]["unsafe"]["value"] == 0
        assert found[channel]["success"]["value"] == found[channel]["success_without"]["value"] == 1
    assert found["feedback"]["refused"] >= 1
    assert "unsafe declarations" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "expected"), [(["--strings", "0"], "--strings is 0"), (["--policies", "x"], "'x'")])
def test_bad_arguments_are_refused(words, expected, capsys):
    assert run(words) == 2
    assert expected in capsys.readouterr().err
