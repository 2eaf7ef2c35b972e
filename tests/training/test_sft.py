"""Fine-tuning of language models, end to end on small patients and tiny models of the real classes."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from carm_env.actions import MoveLattice
from carm_env.landmarks import LANDMARKS, landmark
from carm_env.language import parse
from carm_env.language.advice_reader import read_advice
from carm_env.language.answers import Question
from carm_env.language.grammar import parse_step
from carm_env.language.landmark_boxes import bounding_box
from carm_env.language.reasons import Situation, reasoning_is_true, reasons_are_true
from carm_env.system.command_line import read_config
from carm_env.transcripts.records import TranscriptError
from carm_env.views.read import read_views
from policies import make_policy
from policies.checkpoint import SHIPPED
from training._support.conversations import TASKS, Conversations
from training._support.trainer_checkpoints import checkpoint_to_resume, files_at_once

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.mark.parametrize("style", ["full", "compact"])
def test_answers_are_true_and_reproducible(dataset, style):
    views = read_views(dataset, "train")
    source, again = Conversations(views, style=style, seed=3), Conversations(views, style=style, seed=3)
    seen = set()
    for number, example in enumerate(source.stream(0, 300)):
        seen.add(example["task"])
        assert str(again.example(number)["completion"]) == str(example["completion"])
        text, situation = example["completion"][0]["content"][0]["text"], source.situation(example["view"])
        assert len(example["images"]) == 1
        if example["task"] == "localize":
            assert list(parse("ranking", text).landmarks) == views.closest_landmarks[example["view"]].tolist()
        elif example["task"] == "pair":
            assert list(parse("pair", text).landmarks) == situation.closest()[:2]
        elif example["task"] == "box":
            left, top, right, bottom = parse("box", text).corners
            assert right - left <= 390 and bottom - top <= 390
        elif example["task"] == "correct":
            answer = parse("correction", text)
            assert list(answer.landmarks) == situation.closest()[:2]
            assert reasoning_is_true(answer.reasoning, situation)
        else:
            step = parse("navigation", text)
            asked = example["prompt"][-1]["content"][-1]["text"]
            words = asked.rpartition("linician")[2].partition(": ")[2]
            wished = [advice.landmark for advice in read_advice(words) if advice.kind == "target"]
            targets = wished or [item.id for item in LANDMARKS if item.name in asked]
            assert any(reasons_are_true(step, situation, target) for target in targets)
    assert seen == set(TASKS)
    other = Conversations(views, style=style, seed=4)
    assert any(str(other.example(n)["prompt"]) != str(source.example(n)["prompt"]) for n in range(10))


@pytest.mark.parametrize("style", ["full", "compact"])
def test_a_second_look_without_a_hint_is_as_often_after_right_answers_as_the_network_is_right(dataset, style):
    views = read_views(dataset, "train")
    source = Conversations(views, {"correct": 1.0}, style, predicted_mm=views.displacement_mm)
    kept = []
    for example in source.stream(0, 400):
        asked, answer = example["prompt"][-1]["content"][-1]["text"], example["completion"][0]["content"][0]["text"]
        before, words = re.search(r"(\d+), ?\d+\]?\. (.*)", asked).groups()
        if {advice.kind for advice in read_advice(words.replace("(again)", ""))} == {"again"}:
            kept.append(parse("correction", answer).landmarks[0] == int(before))
    assert len(kept) > 60
    assert 0.75 < np.mean(kept) < 0.95


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_share_of_the_steps_are_questions_about_the_views_to_ask_about(dataset, share):
    views = read_views(dataset, "train")
    asked = np.zeros((len(views), 14), bool)
    asked[::9, 10], asked[::7, 5] = True, True
    source = Conversations(views, {"navigate": 1}, asked=asked, question_share=share)
    questions, histories = 0, set()
    for example in source.stream(0, 300):
        step = parse_step(example["completion"][0]["content"][0]["text"])
        if isinstance(step, Question):
            questions += 1
            text = example["prompt"][-1]["content"][-1]["text"]
            histories.add("You chose the move" in text)
            assert step.about in (11, 6) and text.startswith(f"The target landmark is: {landmark(step.about).name}\n")
            index = [np.array_equal(np.asarray(example["images"][0])[..., 0], image) for image in views.images]
            assert asked[np.flatnonzero(index), step.about - 1].any()
    assert questions / 300 == pytest.approx(share, abs=0.1) and histories == ({False, True} if share else set())
    with pytest.raises(ValueError, match="question_share is 2"):
        Conversations(views, question_share=2)


def test_a_network_tells_what_models_with_full_prompts_ask_about(dataset, backbone, capsys):
    from training.sft import SftArguments, views_to_ask_about

    views = read_views(dataset, "train")
    # A network with random weights takes many landmarks to be near the middle.
    asked = views_to_ask_about(SftArguments(backbone=str(backbone)), views)
    distances = np.hypot(*np.moveaxis(views.displacement_mm, -1, 0))
    assert asked.shape == (len(views), 14) and asked.any() and distances[asked].max() > 45
    for options in ({"style": "compact"}, {"question_share": 0.0}):
        assert views_to_ask_about(SftArguments(backbone=str(backbone), **options), views) is None
    assert not capsys.readouterr().out
    assert views_to_ask_about(SftArguments(backbone=str(backbone), isocenter_depth_mm=0.0), views) is None
    assert "no questions are trained: isocenter_depth_mm is 0, but the network" in capsys.readouterr().out


def test_the_history_leads_to_the_view(dataset):
    views = read_views(dataset, "train")
    source = Conversations(views, {"navigate": 1.0})
    table = MoveLattice().table_mm()
    found = 0
    for number in range(60):
        situation = source.situation(number)
        before = source._previous_step(situation, situation.closest()[-1], np.random.default_rng(number))
        then = Situation(situation.displacement_mm + table[before.move.index], situation.visible)
        assert before.context == then.closest()[0] and not before.move.is_aligned
        found += before.move == MoveLattice().closest_move(then.position_mm(situation.closest()[-1]))
    assert found > 40


def test_task_weights_are_followed_and_checked(dataset):
    views = read_views(dataset, "train")
    source = Conversations(views, {"localize": 3, "navigate": 1})
    tasks = [example["task"] for example in source.stream(0, 400)]
    assert set(tasks) == {"localize", "navigate"}
    assert 0.65 < tasks.count("localize") / 400 < 0.85
    with pytest.raises(ValueError, match="unknown task"):
        Conversations(views, {"localise": 1})
    with pytest.raises(ValueError, match="expected at least one above 0"):
        Conversations(views, {"localize": 0})
    with pytest.raises(ValueError, match="expected 0 or more"):
        Conversations(views, {"localize": -1, "pair": 2})


def test_boxes_stay_in_the_image():
    for pixel in ((0, 0), (127, 127), (64, 3)):
        left, top, right, bottom = bounding_box(np.array(pixel, float), 128)
        assert 0 <= left < right <= 1000 and 0 <= top < bottom <= 1000


def sft(dataset, *words):
    from training.sft import main

    return main(["--dataset", str(dataset), "--report_to", "none", "--logging_steps", "1000", *map(str, words)])


@pytest.fixture(autouse=True)
def small_corpus(monkeypatch):
    """Trains tokenizers on few conversations; most of the time of a short training is its tokenizer's."""
    monkeypatch.setattr("training.sft._CORPUS_EXAMPLES", 300)


def embedded(dataset, backbone, out, *words):
    return sft(
        dataset, "--config", CONFIGS / "sft_embedded.yaml", "--backbone", backbone, "--hidden", 64, "--layers", 1,
        "--per_device_train_batch_size", 8, "--output_dir", out, "--save_strategy", "no", "--disable_tqdm", "true",
        *words,
    )  # fmt: skip


def test_the_embedded_model_is_trained_and_drives(dataset, backbone, tmp_path, capsys):
    out = tmp_path / "sft"
    assert embedded(dataset, backbone, out, "--max_steps", 3, "--test_views", 4, "--json", tmp_path / "f.json") == 0
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert figures["samples_per_s"] > 0 and 0 <= figures["invalid_rate"] <= 1
    versions = figures["run"]["packages"]
    assert all(versions[name] for name in ("torch", "transformers", "trl"))
    assert f"trl {versions['trl']}" in (out / "README.md").read_text(encoding="utf-8")
    assert json.loads((out / "carm.json").read_text(encoding="utf-8"))["style"] == "compact"
    assert "not a medical device" in (out / "README.md").read_text(encoding="utf-8")
    assert not list(out.glob("*.bin"))
    policy = make_policy(f"mllm:{out}")
    policy.reset(0)
    info = {"target_landmark": 4, "moved_mm": np.zeros(2)}
    decision = policy.act({"image": np.zeros((32, 32, 1), np.uint8)}, info)
    assert decision.invalid and decision.rationale
    assert decision.usage.tokens > 0 and policy.reading == "strict"


def test_a_trained_embedded_model_is_trained_further_with_another_backbone(dataset, backbone, tmp_path, capsys):
    from policies.checkpoint import load_checkpoint, save_checkpoint
    from policies.local_model import LocalModel
    from policies.vision_cache import vision_tower

    first, second, newer = tmp_path / "first", tmp_path / "second", tmp_path / "newer"
    assert embedded(dataset, backbone, first, "--max_steps", 2, "--test_views", 0) == 0
    config, tensors = load_checkpoint(backbone, "conformal", ())
    save_checkpoint(newer, config, {name: 1.5 * value for name, value in tensors.items()}, "# Card")
    further = ["--model_name_or_path", first, "--max_steps", 2, "--test_views", 0]
    assert embedded(dataset, newer, second, *further) == 0
    before, after = (vision_tower(LocalModel(folder)._model).backbone for folder in (first, second))
    torch.testing.assert_close(after.head.weight, 1.5 * before.head.weight, rtol=2e-3, atol=1e-4)
    texts = [(folder / "tokenizer.json").read_text(encoding="utf-8") for folder in (first, second)]
    assert texts[0] == texts[1]
    save_checkpoint(newer, {**config, "isocenter_depth_mm": 20.0}, tensors, "# Card")
    assert embedded(dataset, newer, tmp_path / "third", *further) == 2
    assert "isocenter_depth_mm is 140, but the weights of the backbone" in capsys.readouterr().err


def test_the_embedded_model_learns_the_form_of_answers(dataset, backbone, tmp_path, capsys):
    out = tmp_path / "sft"
    words = ["--max_steps", 80, "--tasks", "pair=1", "--test_views", 0, "--learning_rate", 3e-3, "--warmup_steps", 5]
    assert embedded(dataset, backbone, out, *words, "--json", tmp_path / "f.json") == 0
    # The loss of a model that knows the form but guesses the digits is below this.
    assert json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["train_loss"] < 2.5
    from carm_env.language.chat import question
    from policies.local_model import LocalModel

    image = read_views(dataset, "test").images[0]
    answer = LocalModel(out).generate([question("pair", image, "compact")], "pair")[0]
    parse("pair", answer.text)


def test_an_interrupted_training_resumes_to_the_same_model(dataset, backbone, tmp_path, monkeypatch, capsys):
    from safetensors.torch import load_file
    from transformers import Trainer

    words = ["--max_steps", 6, "--test_views", 0, "--save_strategy", "steps", "--save_steps", 3]
    resume = ["--resume_from_checkpoint", "true"]
    assert embedded(dataset, backbone, tmp_path / "whole", *words, *resume, "--json", tmp_path / "whole.json") == 0
    assert "no checkpoint is saved" in capsys.readouterr().out
    step = Trainer.training_step

    def interrupted(self, *arguments, **options):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "training_step", interrupted)
    assert embedded(dataset, backbone, tmp_path / "part", *words) == 130
    assert "--resume_from_checkpoint true to continue" in capsys.readouterr().err
    monkeypatch.setattr(Trainer, "training_step", step)
    assert embedded(dataset, backbone, tmp_path / "part", *words, *resume, "--json", tmp_path / "f.json") == 0
    whole, part = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    for name, value in whole.items():
        torch.testing.assert_close(part[name], value)

    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    # A finished training takes no further step.
    assert embedded(dataset, backbone, tmp_path / "part", *words, *resume) == 0
    again = load_file(tmp_path / "part" / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in part.items())
    assert not (tmp_path / "part" / "checkpoint-7").exists()
    loss = json.loads((tmp_path / "whole.json").read_text(encoding="utf-8"))["train_loss"]
    assert figures["train_loss"] == pytest.approx(loss, rel=0.3)


def make_checkpoint(folder, step, state="{}", model="model.safetensors"):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if model:
        (path / model).touch()
    if state is not None:
        (path / "trainer_state.json").write_text(state.replace("{}", f'{{"global_step": {step}}}'), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "damage", [{"state": None}, {"state": ""}, {"state": '{"glob'}, {"state": '{"global_step": 1}'}, {"model": None}]
)
def test_an_incomplete_checkpoint_is_removed_and_the_one_before_it_resumed(tmp_path, capsys, damage):
    whole = make_checkpoint(tmp_path, 9)
    make_checkpoint(tmp_path, 12, **damage)
    assert checkpoint_to_resume(True, tmp_path, clean=False) == whole
    assert checkpoint_to_resume(True, tmp_path, clean=True) == whole
    assert "checkpoint-12 is incomplete and removed" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-9"]
    other = make_checkpoint(tmp_path, 15, **damage)
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        checkpoint_to_resume(other, tmp_path, clean=True)


def test_before_the_first_checkpoint_a_training_begins_and_says_so(tmp_path, capsys):
    assert checkpoint_to_resume(True, tmp_path / "new", clean=True) is None
    assert "so the training begins" in capsys.readouterr().out
    assert checkpoint_to_resume(False, tmp_path, clean=True) is None
    assert checkpoint_to_resume(None, tmp_path, clean=True) is None
    later, adapter = make_checkpoint(tmp_path, 100), make_checkpoint(tmp_path, 99, model="adapter_model.safetensors")
    assert checkpoint_to_resume(True, tmp_path, clean=True) == later
    assert checkpoint_to_resume(adapter, tmp_path, clean=True) == adapter
    assert capsys.readouterr().out == ""


def test_a_model_is_saved_at_once(tmp_path):
    (tmp_path / "model.safetensors").write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError), files_at_once(tmp_path) as temporary:
        (temporary / "model.safetensors").write_text("half", encoding="utf-8")
        raise RuntimeError
    assert (tmp_path / "model.safetensors").read_text(encoding="utf-8") == "old"
    with files_at_once(tmp_path) as temporary:
        (temporary / "model.safetensors").write_text("new", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_text(encoding="utf-8") == "new"


def test_out_of_memory_is_explained(dataset, backbone, tmp_path, monkeypatch, capsys):
    from transformers import Trainer

    def out_of_memory(*arguments, **options):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Trainer, "training_step", out_of_memory)
    assert embedded(dataset, backbone, tmp_path / "x", "--max_steps", 1, "--test_views", 0) == 2
    assert "set --per_device_train_batch_size 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--style", "long"], "unknown style of prompts 'long'"),
        (["--tasks", "localize=much"], "expected a number: TASK or TASK=SHARE"),
        (["--tasks", "localise=1"], "Did you mean 'localize'"),
        (["--examples", "-1"], "examples is -1"),
        (["--backbone", "nowhere"], "no checkpoint at nowhere"),
        (["--model_name_or_path", "nowhere/at-all"], "hf download nowhere/at-all"),
        (["--dataset", "nowhere"], "nowhere is not a dataset of views"),
    ],
)
def test_bad_arguments_are_one_line(dataset, backbone, tmp_path, words, message, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert embedded(dataset, backbone, tmp_path / "x", *words) == 2
    assert message in capsys.readouterr().err


def test_a_short_run_renders_only_what_it_needs(small_patients, backbone, tmp_path, capsys):
    from training.sft import main

    out = tmp_path / "x"
    words = [
        "--config", CONFIGS / "sft_embedded.yaml", "--train", ",".join(small_patients[:3]), "--test", small_patients[3],
        "--workers", 1, "--backbone", backbone, "--hidden", 64, "--layers", 1, "--max_steps", 2, "--test_views", 0,
        "--per_device_train_batch_size", 16, "--image_size", 32, "--output_dir", out, "--save_strategy", "no",
    ]  # fmt: skip
    assert main(list(map(str, words))) == 0
    assert len(list(out.glob("views/data/*/*.parquet"))) == 1
    assert "on patients never trained on" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--model_name_or_path=org/model"], ["--model-name-or-path", "org/model"]])
def test_a_named_model_is_not_trained_with_the_settings_of_the_embedded_one(words, tmp_path):
    from training.sft import read_arguments

    arguments, training, model = read_arguments([*words, "--output_dir", str(tmp_path)])
    assert model.model_name_or_path == "org/model" and arguments.style == "full"
    assert training.learning_rate == read_arguments(["--model_name_or_path", "x"])[1].learning_rate


@pytest.mark.parametrize("separator", ["=", None])
@pytest.mark.parametrize("name", ["shipped", str(SHIPPED / "mllm")])
def test_an_embedded_model_is_trained_with_its_own_settings(name, separator):
    """TRL's defaults, those for large models, would hardly change it."""
    from training import grpo, sft
    from training._support.trl_arguments import read_trl_arguments
    from training.dpo import DEFAULT_CONFIG, DpoArguments, DPOConfig

    words = [f"--model_name_or_path={name}"] if separator else ["--model_name_or_path", name]
    read = {
        "sft_embedded": sft.read_arguments(words),
        "grpo_embedded": grpo.read_arguments(words),
        "dpo_embedded": read_trl_arguments(words, DpoArguments, DPOConfig, DEFAULT_CONFIG),
    }
    for config, (_, training, _) in read.items():
        assert training.learning_rate == read_config(CONFIGS / f"{config}.yaml")["learning_rate"]


def test_a_config_may_follow_an_equals_sign():
    from training.sft import read_arguments

    arguments, training, model = read_arguments([f"--config={CONFIGS / 'sft_embedded.yaml'}"])
    assert model.model_name_or_path == "embedded" and arguments.style == "compact"


def test_a_recipe_extends_its_base():
    recipe = read_config(CONFIGS / "sft_gemma3_12b_real.yaml")
    assert recipe["model_name_or_path"] == "google/gemma-3-12b-it" and recipe["num_train_epochs"] == 5
    assert recipe["lora_r"] == 16 and "base" not in recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trust_remote_code: true", "trust_remote_code is true, which runs code"),
        ("env: {HF_HUB_DISABLE_TELEMETRY: '0'}", "env sets variables of the system"),
        ("push_to_hub: true", "push_to_hub is True, which sends data to a server"),
        ("hub_token: abc", "hub_token is 'abc', which sends data"),
        ("report_to: wandb", "report_to is 'wandb', which sends data"),
        ("report_to: [tensorboard, wandb]", "which sends data"),
        ("report_to: all", "which sends data"),
        ("attn_implementation: evil/kernel", "attn_implementation is 'evil/kernel', compiled code on the hub"),
        ("chat_template_path: evil/template", "chat_template_path is 'evil/template', expected a .jinja file"),
        ("model_init_kwargs: '{\"trust_remote_code\": true}'", "model_init_kwargs is set"),
        ("a: &a 1\nb: *a", "anchor or an alias"),
    ],
)
def test_a_configuration_of_others_runs_and_sends_nothing(text, message, tmp_path, monkeypatch):
    from training.sft import read_arguments

    path = tmp_path / "a.yaml"
    path.write_text(f"{text}\noutput_dir: {tmp_path / 'out'}\n", encoding="utf-8")
    before = dict(os.environ)
    with pytest.raises(ValueError) as caught:
        read_arguments(["--config", str(path)])
    assert message in str(caught.value)
    assert {name: os.environ.get(name) for name in before} == before


def test_metrics_are_reported_nowhere_by_default_and_to_a_service_only_by_a_flag(tmp_path):
    from training.sft import read_arguments

    path = tmp_path / "a.yaml"
    path.write_text(f"output_dir: {tmp_path / 'out'}\nreport_to: tensorboard\n", encoding="utf-8")
    assert read_arguments(["--config", str(path)])[1].report_to == ["tensorboard"]
    flags = ["--model_name_or_path", "x", "--output_dir", str(tmp_path / "o")]
    assert read_arguments(flags)[1].report_to in ([], ["none"])
    assert read_arguments([*flags, "--push_to_hub", "true"])[1].push_to_hub


def test_transcripts_are_mixed_in_unless_they_are_of_test_patients(dataset, small_patients, tmp_path):
    from tests.training.test_transcripts import STEP, write
    from training.sft import SftArguments, make_examples

    views = read_views(dataset, "train")
    write(tmp_path / "t" / "a", STEP, patient=small_patients[0])
    arguments = SftArguments(dataset=str(dataset), transcripts=str(tmp_path / "t"), transcript_share=0.5)
    examples = list(make_examples(arguments, views, 0).stream(0, 8))
    answers = [example["completion"][0]["content"][0]["text"] for example in examples]
    assert answers[1::2] == [STEP] * 4 and STEP not in answers[::2]
    write(tmp_path / "t" / "b", STEP, patient=small_patients[3])
    with pytest.raises(TranscriptError, match="on which the training is evaluated"):
        make_examples(arguments, views, 0)
