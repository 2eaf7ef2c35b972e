"""The tasks of a fine-tuning: their shares, and conversations about findings and phrases."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

from carm_env.language import parse  # noqa: E402
from carm_env.reports.view_questions import FINDINGS, NO_CLASS, ViewQuestions  # noqa: E402
from carm_env.views.read import read_views  # noqa: E402
from training._support.conversations import DEFAULT_WEIGHTS, Conversations  # noqa: E402
from training._support.report_conversations import ReportConversations  # noqa: E402
from training._support.task_shares import task_shares  # noqa: E402
from training.sft import SftArguments, make_examples, read_arguments  # noqa: E402

BOX = (0.1, 0.2, 0.5, 0.75)
QUESTIONS = [ViewQuestions(number % 4 * 3 if number % 5 else NO_CLASS, (("T1 is seen.", BOX),) if number % 2 else ())
             for number in range(256)]  # fmt: skip


def test_tasks_are_read_with_and_without_shares():
    assert task_shares("localize=0.3,navigate=0.7") == task_shares(["localize=0.3", "navigate=0.7"])
    assert task_shares(["closest_three", "box", "navigation"]) == {"localize": 1, "box": 1, "navigate": 1}
    assert task_shares([]) == task_shares("") == DEFAULT_WEIGHTS
    assert read_arguments(["--tasks", "closest_three", "findings=2"])[0].weights() == {"localize": 1, "findings": 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("localise", "Did you mean 'localize'"),
        ("box=much", "the share of box is 'much', expected a number"),
        ("box=-1", "expected 0 or more"),
        ("box=nan", "expected 0 or more"),
        ("box=0", "at least one share above 0"),
        ("localize closest_three".split(), "names 'localize' twice"),
    ],
)
def test_wrong_tasks_are_named(words, message):
    with pytest.raises(ValueError, match=message):
        task_shares(words)


def test_the_default_examples_are_those_of_the_conversations(dataset):
    views = read_views(dataset, "train")
    examples, plain = make_examples(SftArguments(), views, 7), Conversations(views, dict(DEFAULT_WEIGHTS), "full", 7)
    for number in range(60):
        one, other = examples.example(number), plain.example(number)
        assert (one["task"], one["view"], str(one["prompt"])) == (other["task"], other["view"], str(other["prompt"]))
        assert one["completion"] == other["completion"]


@pytest.mark.parametrize("style", ["full", "compact"])
def test_findings_and_phrases_are_true_and_reproducible(style):
    images = np.arange(256, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    source, again = (
        ReportConversations(images, QUESTIONS, {"findings": 1, "grounding": 3}, style, 2) for _ in range(2)
    )
    seen = []
    for number, example in enumerate(source.stream(0, 200)):
        assert str(again.example(number)["completion"]) == str(example["completion"])
        asked, answer = example["prompt"][-1]["content"][-1]["text"], example["completion"][0]["content"][0]["text"]
        assert np.asarray(example["images"][0])[0, 0, 0] == example["view"]
        about = QUESTIONS[example["view"]]
        if example["task"] == "findings":
            assert parse("class", answer).number == about.finding and asked == FINDINGS.text
        else:
            assert parse("box", answer).corners == (100, 200, 500, 750) and asked.endswith("T1 is seen.")
        seen.append(example["task"])
    assert 0.15 < seen.count("findings") / 200 < 0.35
    with pytest.raises(ValueError, match="can be used for 'grounding'"):
        ReportConversations(images[:1], QUESTIONS[:1], {"grounding": 1}, style, 0)


def test_all_tasks_are_mixed_in_their_shares(dataset):
    views = read_views(dataset, "train")
    arguments = SftArguments(tasks=["localize", "box", "findings", "grounding"], style="compact")
    examples = make_examples(arguments, views, 0, questions=QUESTIONS)
    tasks = [examples.example(number)["task"] for number in range(400)]
    assert all(60 < tasks.count(task) < 140 for task in ("localize", "box", "findings", "grounding"))
    only = make_examples(SftArguments(tasks=["grounding"]), views, 0, questions=QUESTIONS)
    assert {only.example(number)["task"] for number in range(20)} == {"grounding"}
