"""Transcripts as training data."""

import numpy as np
import pytest

from carm_env.actions import Move
from carm_env.language import Navigation, parse, render
from carm_env.language.chat import Conversation
from carm_env.language.prompts import prompt_hash
from carm_env.transcripts.records import FORMAT, Exchange, TranscriptError
from carm_env.transcripts.write import TranscriptFolder, TranscriptRecorder
from training._support.transcripts import MixedExamples, TranscriptExamples

STEP = render(Navigation(11, Move(0, 1), "It lies there.", "It lies there."))


def write(folder, *answers, patient="virtual:1", prompts=None, success=True):
    recorder = TranscriptRecorder(TranscriptFolder(folder).keep)
    info = {"patient": patient, "target_landmark": 1}
    images = np.arange(len(answers) + 1, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    prompts = prompt_hash("full") if prompts is None else prompts
    recorder.reset(images[0], info, None, format=FORMAT, prompts=prompts)
    conversation = Conversation(1, kept_exchanges=1)
    for number, text in enumerate(answers):
        exchange = Exchange(conversation.show(images[number]), text)
        try:
            conversation.answer(text)
        except ValueError as error:
            exchange = Exchange(exchange.messages, text, "form", str(error))
        recorder.answer(number + 1, images[number + 1], info, None, exchange)
    recorder.end("success" if success else "timeout", success)


def test_every_valid_answer_is_an_example_with_the_prompt_that_led_to_it(tmp_path):
    write(tmp_path / "t" / "a", STEP, "left, I think", f"Well:\n```xml\n{STEP}\n```")
    write(tmp_path / "t" / "failed", STEP, success=False)
    write(tmp_path / "t" / "random", STEP, prompts="")
    source = TranscriptExamples([tmp_path / "t"])
    assert len(source) == 2 and len(TranscriptExamples([tmp_path / "t"], successes_only=False)) == 3
    first, second = sorted(source.stream(0, 2), key=lambda example: example["view"])
    assert [message["role"] for message in first["prompt"]] == ["system", "user"]
    assert "Skull" in first["prompt"][1]["content"][1]["text"]
    assert first["prompt"][1]["content"][0] == {"type": "image"} and first["images"][0].mode == "RGB"
    # The kept exchange has an image as well.
    assert [np.asarray(image).max() for image in second["images"]] == [1, 2]
    assert "left, I think" in second["prompt"][-1]["content"][-1]["text"]
    for example in (first, second):
        text = example["completion"][0]["content"][0]["text"]
        assert parse("navigation", text).move == Move(0, 1) and example["task"] == "navigate"


def test_the_order_depends_on_seed_and_number_alone(tmp_path):
    write(tmp_path / "t" / "a", *[STEP] * 6)
    source, again = TranscriptExamples([tmp_path / "t"], seed=1), TranscriptExamples([tmp_path / "t"], seed=1)
    views = [example["view"] for example in source.stream(0, 12)]
    assert sorted(views[:6]) == sorted(views[6:]) == list(range(6)) and views[:6] != views[6:]
    assert [again.example(number)["view"] for number in (7, 2)] == [views[7], views[2]]


@pytest.mark.parametrize(
    ("options", "held_out", "reason"),
    [
        ({"prompts": "old"}, (), "has the prompts"),
        ({}, ("virtual:1",), "on which the training is evaluated"),
        ({"patient": "virtual:1?voxel_mm=1.5"}, ("virtual:1",), "on which the training is evaluated"),
        ({"patient": "virtual:1?scan=7"}, ("virtual:1?arms=sides",), "on which the training is evaluated"),
        ({"success": False}, (), "no successful episode"),
        ({"prompts": ""}, (), "no successful episode"),
    ],
)
def test_transcripts_that_must_not_be_trained_on_are_refused(tmp_path, options, held_out, reason):
    write(tmp_path / "t" / "a", STEP, **options)
    with pytest.raises(TranscriptError, match=reason):
        TranscriptExamples([tmp_path / "t"], held_out=held_out)


def test_an_answer_whose_prompt_is_damaged_is_left_out(tmp_path):
    write(tmp_path / "t" / "a", STEP, STEP)
    path = tmp_path / "t" / "a" / "transcript.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    texts = [number for number, line in enumerate(lines) if '"event": "text"' in line]
    lines[texts[-1]] = ""
    path.write_text("\n".join(lines), encoding="utf-8")
    assert len(TranscriptExamples([tmp_path / "t"])) == 1


class Numbers:
    def __init__(self, name):
        self.name = name

    def example(self, number):
        return {"task": self.name, "view": number}


@pytest.mark.parametrize(("share", "second"), [(0.0, 0), (0.25, 25), (0.3, 30), (1.0, 100)])
def test_two_sequences_are_mixed_and_each_is_read_in_order(share, second):
    mixed = list(MixedExamples(Numbers("a"), Numbers("b"), share).stream(0, 100))
    counts = {name: [example["view"] for example in mixed if example["task"] == name] for name in "ab"}
    assert counts["b"] == list(range(second)) and counts["a"] == list(range(100 - second))
    with pytest.raises(ValueError, match="expected 0 to 1"):
        MixedExamples(Numbers("a"), Numbers("b"), 1.5)
