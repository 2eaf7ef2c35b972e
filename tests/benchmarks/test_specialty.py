"""The comparison of one model of all tasks with one model per task, end to end on a tiny embedded model."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("trl")

from benchmarks import specialty  # noqa: E402
from benchmarks._support import specialty_models, specialty_questions  # noqa: E402
from benchmarks._support.specialty_questions import TASKS, Asked, HeldOut  # noqa: E402
from benchmarks._support.specialty_scores import compare, jackknife  # noqa: E402
from carm_env.chat_models.interface import Generation  # noqa: E402
from carm_env.reports.view_questions import ViewQuestions  # noqa: E402
from carm_env.system.command_line import run_script  # noqa: E402
from carm_env.views.sample import ViewOptions  # noqa: E402
from carm_env.views.write import write_view_dataset  # noqa: E402
from policies.embedded_vlm import build_model, build_tokenizer  # noqa: E402

BOX = (0.1, 0.2, 0.5, 0.75)


def questions(folder, split, seed=0, max_views=None):
    """Stands in for the findings of virtual patients, which take long to build."""
    return [ViewQuestions(number % 3, (("T1 is seen.", BOX),)) for number in range(max_views or 96)]


@pytest.fixture
def in_process(monkeypatch):
    """Runs trainings in this process, and returns the folders of their models."""
    trained = []

    def run(command, cwd, stdout, stderr, check):
        from accelerate.state import AcceleratorState

        from training import sft

        AcceleratorState._reset_state(reset_partial_state=True)
        trained.append(command[command.index("--output_dir") + 1].rpartition("/")[2])
        status = sft.main([*command[2:], "--per_device_train_batch_size", "4"])
        AcceleratorState._reset_state(reset_partial_state=True)
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(specialty_models, "subprocess", SimpleNamespace(run=run, STDOUT=None))
    monkeypatch.setattr("training.sft.questions_of_dataset", questions)
    monkeypatch.setattr(specialty_questions, "questions_of_dataset", questions)
    return trained


def test_the_first_answer_to_correct_does_not_give_the_right_one_away(monkeypatch):
    monkeypatch.setattr(specialty_questions, "question", lambda task, image, style, answer, feedback: answer)
    held_out = SimpleNamespace(
        _situation=lambda view: SimpleNamespace(closest=lambda: list(range(1, 15))), _style="full",
        _views=SimpleNamespace(images=np.zeros((1, 8, 8), np.uint8)), _asked=lambda view, answer, best: answer,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    pairs = [json.loads(HeldOut._correct(held_out, 0, rng)) for _ in range(2000)]
    assert all(first != 1 and first != second for first, second in pairs)
    assert 0.45 < np.mean([second == 1 for _, second in pairs]) < 0.55


@pytest.fixture
def start(tmp_path):
    model, processor = build_model(build_tokenizer(["Closest? [1: Skull]"] * 9, 400), architecture="tiny", hidden=64,
                                   layers=1)  # fmt: skip
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def words(start, small_patients, tmp_path):
    return ["--tasks", "box", "findings", "--start", str(start), "--train", *small_patients[:2], "--test",
            *small_patients[2:], "--conversations", "16", "--views", "48", "--size", "32", "--questions", "6",
            "--jobs", "1", "--out", str(tmp_path / "o"), "--json", str(tmp_path / "s.json")]  # fmt: skip


def test_the_models_are_trained_compared_and_kept(in_process, start, small_patients, tmp_path, capsys, monkeypatch):
    given = words(start, small_patients, tmp_path)
    assert run_script(specialty.run, specialty.Arguments, given=given) == 0, capsys.readouterr().err
    assert in_process == ["specialty", "box", "findings"]
    found = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert found["scores"].keys() == {"box", "findings"}
    assert found["scores"]["findings"].keys() == {"accuracy", "macro_f1", "weighted_f1"}
    assert found["scores"]["box"].keys() == {"box_accuracy", "mean_iou"}
    for values in found["scores"]["findings"].values():
        assert values.keys() == {"start", "single", "specialty", "difference"}
        assert values["difference"]["value"] == pytest.approx(values["specialty"]["value"] - values["single"]["value"])
    assert (found["specialty_models"], found["single_models"]) == (1, 2)
    assert found["single_bytes"] == pytest.approx(2 * found["specialty_bytes"], rel=1e-3) and found["run"]["seed"] == 0
    printed = capsys.readouterr().out
    assert "| findings | macro_f1" in printed and "1 model of" in printed
    settings = json.loads((tmp_path / "o/models/specialty/carm.json").read_text(encoding="utf-8"))
    assert settings["tasks"] == {"box": 1.0, "findings": 1.0} and len(settings["image_prompts"]) == 12
    # A second run keeps models and answers, and does not mix settings.
    monkeypatch.setattr(specialty, "answer_values", None)
    assert run_script(specialty.run, specialty.Arguments, given=given) == 0
    assert len(in_process) == 3
    assert run_script(specialty.run, specialty.Arguments, given=[*given, "--seed", "1"]) == 2
    assert "holds a run with other seed" in capsys.readouterr().err


def test_a_training_that_fails_is_named(start, small_patients, tmp_path, capsys, monkeypatch):
    def fail(command, cwd, stdout, stderr, check):
        stdout.write("error: no memory\n")
        return SimpleNamespace(returncode=2)

    monkeypatch.setattr(specialty_models, "subprocess", SimpleNamespace(run=fail, STDOUT=None))
    given = words(start, small_patients, tmp_path)
    assert run_script(specialty.run, specialty.Arguments, given=given) == 2
    printed = capsys.readouterr().err
    assert "the training of specialty failed with status 2" in printed and "error: no memory" in printed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--tasks", "box", "finding"], "Did you mean 'findings'"),
        (["--tasks", "box"], "at least two different tasks"),
        (["--conversations", "3"], "at least one for each task"),
        (["--questions", "0"], "expected at least 1"),
        (["--reading", "loose"], "unknown reading"),
    ],
)
def test_wrong_arguments_are_named(given, message, script_error):
    assert message in script_error(specialty, *given)


def test_commands_share_the_budget():
    arguments = specialty.Arguments(conversations=700)
    whole, one = arguments.training(arguments.tasks), arguments.training(["box"])
    assert whole[whole.index("--examples") + 1] == "700" and one[one.index("--examples") + 1] == "100"
    assert specialty.Arguments(recipe="training/configs/sft_gemma3_4b.yaml").start_model == "google/gemma-3-4b-it"


class Truthful:
    """Answers all questions about the tests' views rightly, from what was asked."""

    style = "compact"

    def __init__(self, asked):
        self.answers = {id(one.messages): one for one in asked}

    def generate(self, conversations, kind):
        from carm_env.actions import Move
        from carm_env.language import Box, Correction, ImageClass, Navigation, Pair, Ranking, render

        def answer(one):
            if one.box is not None:
                return Box(tuple(round(1000 * value) for value in one.box))
            if kind == "navigation":
                return Navigation(1, Move.from_index(one.label), "because", "because")
            if kind == "class":
                return ImageClass(one.label)
            if kind == "ranking":
                return Ranking((one.label,))
            pair = (one.label, 1 + one.label % 14)
            return Pair(pair) if kind == "pair" else Correction("because", pair)

        return [Generation(render(answer(self.answers[id(messages)])), 1, 0.0) for messages in conversations]


def test_right_answers_are_right_for_every_task(small_patients, tmp_path, monkeypatch):
    from benchmarks._support.specialty_scores import answer_values

    write_view_dataset(tmp_path / "d", {"test": small_patients[:2]}, ViewOptions(48, 32), 1)
    monkeypatch.setattr(specialty_questions, "questions_of_dataset", questions)
    held_out = HeldOut(tmp_path / "d", "test", "compact", 1)
    for task in TASKS:
        asked = held_out.ask(task, 12)
        again = HeldOut(tmp_path / "d", "test", "compact", 1).ask(task, 12)
        assert [one.label for one in asked] == [one.label for one in again] and {one.patient for one in asked}
        values = answer_values(Truthful(asked), task, asked)
        wrong = np.full(len(asked), 0.0 if asked[0].box else -1.0)
        scores = compare(asked, {"specialty": values, "single": wrong})
        assert scores[specialty.main_metric(task)]["specialty"].value == 1
        assert scores[specialty.main_metric(task)]["difference"].value == 1


def test_f1_is_that_of_the_definition():
    asked = [Asked([], f"p{number % 3}", label) for number, label in enumerate([0, 0, 0, 1, 1, 2])]
    values = np.array([0, 0, 1, 1, -1, 0], float)
    scores = compare(asked, {"specialty": values, "single": values})
    # F1 of the classes: 4/6, 2/4 and 0.
    assert scores["macro_f1"]["specialty"].value == pytest.approx((4 / 6 + 2 / 4) / 3)
    assert scores["weighted_f1"]["specialty"].value == pytest.approx((3 * 4 / 6 + 2 * 2 / 4) / 6)
    assert scores["accuracy"]["difference"] == (0, 0, 0, 6, 3)


def test_the_jackknife_of_a_mean_is_the_interval_of_a_mean():
    from carm_env.evaluation.intervals import mean_interval

    values, patients = np.arange(12.0), [f"p{number % 4}" for number in range(12)]
    found = jackknife(lambda rows: float(values[rows].mean()), patients, (-99, 99))
    assert (found.low, found.high) == pytest.approx(mean_interval(values, patients))
    assert jackknife(lambda rows: 0.5, ["a"])[1:3] == (-1, 1)
