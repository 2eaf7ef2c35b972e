"""Reinforcement learning of language models step by step, on small patients and a tiny model."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from carm_env.actions import ALIGNED, Move, MoveLattice
from carm_env.chat_models.interface import Generation, ModelError
from carm_env.envs.navigation import CArmNavEnv
from carm_env.envs.scene import load_scene
from carm_env.geometry import CArmGeometry
from carm_env.language import parse
from carm_env.language.answers import Navigation, render
from carm_env.language.chat import Conversation
from carm_env.language.patterns import answer_pattern
from carm_env.language.prompts import PROMPT_VERSIONS, prompt_hash
from carm_env.language.reasons import Situation, navigation_answer
from carm_env.xray.settings import XRaySettings

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

from policies.embedded_vlm import build_model, build_tokenizer  # noqa: E402
from policies.group_sampling import SamplingOptions, sample_groups  # noqa: E402
from policies.local_model import LocalModel  # noqa: E402
from policies.vision_cache import VisionCache, can_be_cached, freeze_vision, vision_tower  # noqa: E402
from training import grpo  # noqa: E402
from training._support.conversations import without_images  # noqa: E402
from training._support.grpo_arguments import DEFAULT_CONFIG  # noqa: E402
from training._support.grpo_checks import check_answer_length, check_images  # noqa: E402
from training._support.grpo_states import StateSource  # noqa: E402
from training._support.grpo_trainer import StepwiseTrainer  # noqa: E402
from training.rewards import State  # noqa: E402

IMAGE = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)


def settings(style="compact"):
    return {"style": style, "prompt_version": PROMPT_VERSIONS[style], "prompts": prompt_hash(style)}


def corpus():
    rng = np.random.default_rng(0)
    for _ in range(400):
        situation = Situation(rng.normal(0, 150, (14, 2)), np.ones(14, bool))
        yield render(navigation_answer(situation, int(rng.integers(1, 15)), MoveLattice(), rng))
        yield "Drive to the target.\nTarget: Moved: Before: "


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of a tiny embedded model, as `training/sft.py` writes it; its answers are random."""
    folder = tmp_path_factory.mktemp("start")
    model, processor = build_model(build_tokenizer(corpus(), 2000), None, "tiny", 32, 1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "carm.json").write_text(json.dumps(settings()), encoding="utf-8")
    return folder


def by_length(texts, states, weights=None):
    """A reward that differs between random answers."""
    return {"total": np.array([float(len(text) % 7) for text in texts]), "regret": np.zeros(len(texts))}


@pytest.fixture
def differing_rewards(monkeypatch):
    monkeypatch.setattr(grpo, "step_rewards", by_length)


WORDS = (
    "--max_steps 2 --per_device_train_batch_size 8 --num_generations 4 --refresh_steps 1 --image_size 32 "
    "--max_completion_length 64 --eval_every 0 --perception_every 0 --test_episodes 0 --min_spread 0 --logging_steps 1 "
    "--save_strategy no --learning_rate 1e-2 --warmup_steps 0 --start_share 1"
).split()


def run(start, out, patients, *words):
    return grpo.main(
        [*WORDS, "--config", str(DEFAULT_CONFIG), "--model_name_or_path", str(start), "--output_dir", str(out),
         "--train", ",".join(patients[:2]), "--calibration", patients[2], "--test", patients[3], *map(str, words)]
    )  # fmt: skip


def weights(folder):
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


def test_a_training_shows_what_it_does_and_its_model_drives(start, small_patients, tmp_path, capsys, differing_rewards):
    out = tmp_path / "out"
    words = ["--eval_every", 2, "--eval_episodes", 2, "--perception_every", 2, "--perception_states", 16]
    assert run(start, out, small_patients, *words, "--test_episodes", 2, "--json", tmp_path / "f.json") == 0
    shown = capsys.readouterr().out
    assert "step 2/2: reward" in shown and "min left" in shown
    assert "step 0: success" in shown and "step 2: success" in shown
    assert "the model no longer looks" in shown
    assert "| trained | start  |" in shown
    assert f"policy: mllm:{out}" in shown
    figures = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert figures["trained_success"] == figures["start_success"] == 0 and figures["steps_per_s"] > 0
    shares = [figures[f"share of {name}"] for name in ("rendering", "generation", "reward", "update")]
    assert min(shares) > 0 and sum(shares) == pytest.approx(1)
    assert json.loads((out / "carm.json").read_text(encoding="utf-8")) == {**settings(), "trained_by": "grpo"}
    assert "not a medical device" in (out / "README.md").read_text(encoding="utf-8")
    for name in ("learning_curve.png", "perception.png", "episodes/step-00002-episode-0.gif"):
        assert (out / name).is_file(), name
    assert not list(out.glob("*.bin"))
    assert [
        point["step"] for point in json.loads((out / "calibration.json").read_text(encoding="utf-8"))["points"]
    ] == [0, 2]
    before, after = weights(start), weights(out)
    assert all(torch.equal(before[key].half(), after[key]) for key in before if "backbone" in key)
    assert any(not torch.equal(before[key].half(), after[key]) for key in before)
    from policies import make_policy

    policy = make_policy(f"mllm:{out}")
    policy.reset(0)
    decision = policy.act({"image": IMAGE[..., None]}, {"target_landmark": 4, "moved_mm": np.zeros(2)})
    assert decision.usage.tokens > 0 and policy.reading == "strict"


def test_an_interrupted_training_resumes_to_the_same_model(
    start, small_patients, tmp_path, monkeypatch, capsys, differing_rewards
):
    from transformers import Trainer

    words = ["--max_steps", 4, "--refresh_steps", 2, "--save_strategy", "steps", "--save_steps", 2]
    words += ["--start_share", 0.25]
    assert run(start, tmp_path / "whole", small_patients, *words) == 0
    step = Trainer.training_step

    def interrupted(self, *arguments, **options):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "training_step", interrupted)
    assert run(start, tmp_path / "part", small_patients, *words) == 130
    assert "--resume_from_checkpoint true to continue" in capsys.readouterr().err
    monkeypatch.setattr(Trainer, "training_step", step)
    assert run(start, tmp_path / "part", small_patients, *words, "--resume_from_checkpoint", "true") == 0
    whole, part, before = weights(tmp_path / "whole"), weights(tmp_path / "part"), weights(start)
    for name, value in whole.items():
        torch.testing.assert_close(part[name], value)
    assert any(not torch.equal(before[name].half(), value) for name, value in whole.items())


def with_depth(start, folder, depth_mm):
    """Copies a start whose vision tower knows another depth of the isocentre."""
    shutil.copytree(start, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["isocenter_depth_mm"] = depth_mm
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("mode", ["step_wise", "multi_turn"])
def test_a_start_that_knows_another_depth_is_refused(start, small_patients, tmp_path, capsys, mode):
    other = with_depth(start, tmp_path / "other", 77.0)
    assert run(other, tmp_path / "out", small_patients, "--mode", mode) == 2
    assert "set --isocenter-depth-mm 77" in capsys.readouterr().err
    assert run(start, tmp_path / "out", small_patients, "--isocenter_depth_mm", 999) == 2
    assert "isocenter_depth_mm is 999.0, expected -250 to 250 mm" in capsys.readouterr().err


def test_all_episodes_have_the_depth_that_the_start_knows(
    start, small_patients, tmp_path, monkeypatch, differing_rewards
):
    other, depths = with_depth(start, tmp_path / "other", 77.0), []
    reset = CArmNavEnv.reset

    def noted(self, **options):
        depths.append(self.isocenter_depth_mm)
        return reset(self, **options)

    monkeypatch.setattr(CArmNavEnv, "reset", noted)
    words = ["--isocenter_depth_mm", 77, "--max_steps", 1, "--eval_every", 1, "--eval_episodes", 2]
    words += ["--perception_every", 1, "--perception_states", 16, "--test_episodes", 2]
    assert run(other, tmp_path / "out", small_patients, *words) == 0
    assert set(depths) == {77.0} and len(depths) > 20
    line = json.loads(
        (tmp_path / "out" / "comparison" / "start" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()[0]
    )
    assert line["isocenter_depth_mm"] == 77


SCRIPT = """
import sys
import numpy as np
from training import grpo

def by_length(texts, states, weights=None):
    return {"total": np.array([float(len(text) % 7) for text in texts]), "regret": np.zeros(len(texts))}

grpo.step_rewards = by_length
sys.exit(grpo.main(sys.argv[1:]))
"""


def test_two_processes_have_the_loss_of_one_with_the_doubled_batch(start, small_patients, tmp_path, differing_rewards):
    def words(out, batch):
        return [
            *WORDS, "--config", str(DEFAULT_CONFIG), "--model_name_or_path", str(start), "--output_dir", str(out),
            "--train", ",".join(small_patients[:2]), "--max_steps", "1", "--per_device_train_batch_size", str(batch),
            "--save_strategy", "steps", "--save_steps", "1", "--start_share", "0.25",
        ]  # fmt: skip

    assert grpo.main(words(tmp_path / "one", 16)) == 0
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": str(Path(grpo.__file__).parents[1])}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script),
         *words(tmp_path / "two", 8)],
        env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        json.loads((tmp_path / name / "checkpoint-1" / "trainer_state.json").read_text(encoding="utf-8"))[
            "log_history"
        ][0]
        for name in ("one", "two")
    )
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-4) and abs(one["loss"]) > 1e-3
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)
    assert two["reward"] == pytest.approx(one["reward"], abs=1e-4)


def test_prompts_have_the_tokens_of_fine_tuning_and_inference(start, small_patients):
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    model = LocalModel(start)
    processor = model._processor
    env = CArmNavEnv(patients=small_patients[0], image_size=32)
    observation, info = env.reset(seed=0)
    conversation = Conversation(info["target_landmark"], "compact")
    prompts = [conversation.show(observation["image"], {**info, "steps_left": 20})]
    conversation.answer(next(corpus()))
    observation, *_, info = env.step(Move(1, 1).index)
    prompts.append(conversation.show(observation["image"], {**info, "steps_left": 19}))

    trainer = SimpleNamespace(
        processing_class=processor, _is_vlm=True, environment_factories=None, tools=None, chat_template=None,
        chat_template_kwargs={}, num_generations=1, _shares_prompts=lambda: True,
    )  # fmt: skip
    from trl import GRPOTrainer

    plain, _, fields = GRPOTrainer._tokenize_prompts(trainer, prompts)
    inference = model._inputs(prompts)
    collate = DataCollatorForVisionLanguageModeling(processor)
    for row, prompt in enumerate(prompts):
        asked = inference["input_ids"][row][inference["attention_mask"][row] == 1].tolist()
        assert plain[row] == asked
        messages, images = without_images(prompt)
        answer = [{"role": "assistant", "content": [{"type": "text", "text": "[1,2]"}]}]
        tuned = collate([{"prompt": messages, "completion": answer, "images": images}])["input_ids"][0].tolist()
        assert tuned[: len(asked)] == asked
        np.testing.assert_allclose(fields["pixel_values"][row], inference["pixel_values"][row])
    repeating = StepwiseTrainer.__new__(StepwiseTrainer)
    repeating.__dict__.update(vars(trainer), num_generations=2, beta=0.1)
    ids, images, repeated = repeating._tokenize_prompts([prompt for prompt in prompts for _ in range(2)])
    assert ids == [row for row in plain for _ in range(2)] and len(images) == 4
    for row in range(4):
        np.testing.assert_allclose(repeated["pixel_values"][row], fields["pixel_values"][row // 2])


@pytest.fixture(scope="module")
def loaded(start):
    return LocalModel(start)


def inputs(model, count):
    """Prompts of different lengths: every second one has an earlier answer."""
    images = np.random.default_rng(1).integers(0, 255, (count, 32, 32), np.uint8)
    prompts = []
    for row, image in enumerate(images):
        conversation = Conversation(1 + row, "compact")
        prompts.append(conversation.show(image))
        if row % 2:
            conversation.answer(next(corpus()))
            prompts[-1] = conversation.show(image, {"moved_mm": np.array([40.0, 0.0]), "steps_left": 19})
    found = dict(model._inputs(prompts))
    assert count < 2 or len(set(found["attention_mask"].sum(1).tolist())) == 2
    return found


def without_padding(asked, row):
    """The inputs of one prompt alone."""
    start = asked["input_ids"].shape[1] - int(asked["attention_mask"][row].sum())
    return {
        name: value[row : row + 1] if name == "pixel_values" else value[row : row + 1, start:]
        for name, value in asked.items()
    }


OPTIONS = SamplingOptions(24, 1.0, (1, 5), (0, 2, 3, 4, 6, 7, 8), 0)


def test_an_answer_depends_on_its_seed_alone(loaded):
    whole, logps = sample_groups(loaded._model, inputs(loaded, 3), 2, OPTIONS, range(6))
    for row in range(3):
        asked = without_padding(inputs(loaded, 3), row)
        part, _ = sample_groups(loaded._model, asked, 2, OPTIONS, [2 * row, 2 * row + 1])
        assert part == whole[2 * row : 2 * row + 2]
    assert whole[0] != whole[1]
    assert not {token for answer in whole for token in answer} & set(OPTIONS.banned)
    assert [len(row) for row in logps] == [len(row) for row in whole]
    assert all(len(answer) == 24 or answer[-1] in OPTIONS.stops for answer in whole)


def test_samples_have_the_probabilities_that_the_loss_computes(loaded):
    asked = inputs(loaded, 2)
    answers, logps = sample_groups(loaded._model, asked, 1, OPTIONS, [4, 5])
    for row, answer in enumerate(answers):
        known = without_padding(asked, row)
        known["input_ids"] = torch.cat([known["input_ids"], torch.tensor([answer])], 1)
        for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
            known[name] = torch.cat([known[name], torch.full((1, len(answer)), value)], 1)
        with torch.no_grad():
            likely = torch.log_softmax(loaded._model(**known).logits[0, -len(answer) - 1 : -1].float(), -1)
        expected = likely[torch.arange(len(answer)), answer]
        torch.testing.assert_close(torch.tensor(logps[row]), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("words", [["--top_k", 1], ["--generation_kwargs", '{"top_k": 1}'], ["--top_p", 1e-6]])
def test_options_of_sampling_have_an_effect(start, small_patients, tmp_path, monkeypatch, capsys, words):
    groups = []

    def by_group(texts, states, weights=None):
        groups.append(list(texts))
        return by_length(texts, states)

    monkeypatch.setattr(grpo, "step_rewards", by_group)
    words = ["--max_steps", 1, "--per_device_train_batch_size", 4, *words]
    assert run(start, tmp_path / "a", small_patients, *words) == 0, capsys.readouterr().err
    # The rewards of equal answers are asked for once.
    assert [len(texts) for texts in groups] == [1]


def test_completions_can_be_padded_to_a_multiple(start, small_patients, tmp_path, capsys, differing_rewards):
    words = ["--num_iterations", 2, "--refresh_steps", 2, "--pad_to_multiple_of", 16, "--max_completion_length", 60]
    assert run(start, tmp_path / "a", small_patients, *words) == 0, capsys.readouterr().err


class FakeVllm:
    """Stands for TRL's interface of vLLM; gives random tokens of the vocabulary."""

    def __init__(self, **options):
        FakeVllm.options = options

    def sync_weights(self):
        pass

    def generate(self, prompts, images, num_generations, **options):
        rng = np.random.default_rng(0)
        ids = [rng.integers(10, 200, 5).tolist() for _ in prompts]
        return prompts, ids, [[[-1.0]] * 5 for _ in prompts], None


def test_vllm_is_told_the_form_and_the_banned_tokens(start, small_patients, tmp_path, monkeypatch, capsys):
    from trl.trainer import grpo_trainer

    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", FakeVllm)
    monkeypatch.setattr(grpo, "step_rewards", by_length)
    words = ["--use_vllm", "true", "--constrained", "true", "--max_steps", 1, "--generation_kwargs", '{"seed": 1}']
    assert run(start, tmp_path / "a", small_patients, *words) == 0, capsys.readouterr().err
    assert FakeVllm.options["structured_outputs_regex"] == answer_pattern("navigation")
    told = FakeVllm.options["generation_kwargs"]
    tokenizer = LocalModel(start)._processor.tokenizer
    assert told["seed"] == 1 and set(told["logit_bias"].values()) == {-100.0}
    names = set(tokenizer.convert_ids_to_tokens(list(told["logit_bias"])))
    assert {"<image_soft_token>", "<start_of_image>", "<start_of_turn>"} <= names
    assert not {"<end_of_turn>", "<eos>"} & names


def test_constrained_sampling_gives_answers_of_the_form(loaded):
    pytest.importorskip("regex")
    from policies.constrained import PatternConstraint

    asked = inputs(loaded, 1)
    constraint = PatternConstraint(
        loaded._processor.tokenizer, answer_pattern("pair"), asked["input_ids"].shape[1], [1, 5]
    )
    answers, _ = sample_groups(loaded._model, asked, 3, OPTIONS, range(3), constraint)
    for text in loaded._processor.batch_decode(answers, skip_special_tokens=True):
        parse("pair", text)


def test_outputs_of_a_frozen_vision_tower_are_computed_once(start):
    model = LocalModel(start)._model
    tower = vision_tower(model)
    assert not can_be_cached(tower)
    freeze_vision(model)
    assert can_be_cached(tower)
    pixels = torch.rand(2, 3, 32, 32)
    expected = tower(pixels).last_hidden_state
    calls = []
    compute = tower.forward
    tower.forward = lambda pixel_values, **more: calls.append(len(pixel_values)) or compute(pixel_values, **more)
    cache = VisionCache(tower)
    for rows in ([0, 0, 1], [1], [1, 0]):
        torch.testing.assert_close(tower(pixels[rows]).last_hidden_state, expected[rows])
    assert calls == [2]
    cache.clear()
    tower(pixels)
    assert calls == [2, 2]
    # The reference model of a training is a copy.
    vision_tower(copy.deepcopy(model))(pixels)
    assert calls == [2, 2] and cache.bytes == expected[:2].nbytes


def test_the_cache_of_a_vision_tower_is_limited(start):
    model = LocalModel(start)._model
    freeze_vision(model)
    tower, pixels = vision_tower(model), torch.rand(3, 3, 32, 32)
    expected = tower(pixels).last_hidden_state
    cache = VisionCache(tower, max_bytes=2 * expected[0].nbytes)
    torch.testing.assert_close(tower(pixels[:2]).last_hidden_state, expected[:2])
    assert cache.bytes == expected[:2].nbytes
    torch.testing.assert_close(tower(pixels).last_hidden_state, expected)
    assert cache.bytes == 0


class Fixed:
    """A chat model that always gives the same answer."""

    style = "compact"

    def __init__(self, move):
        self.text = render(Navigation(1, move, "because", "because"))

    def generate(self, conversations, kind):
        return [Generation(self.text, 0, 0.0)] * len(conversations)


def test_states_are_those_that_the_model_visits(small_patients):
    def states(move, number=0):
        patients = {name: load_scene(name, CArmGeometry(), XRaySettings()).patient for name in small_patients[:2]}
        source = StateSource(State.of_environment, patients, 12, 0.25, 32, 0)
        pool = source.pool(number, Fixed(move))
        assert len(pool) == 12
        return [(state.truth.answers_left, state.truth.displacement_mm.tolist()) for state in pool]

    stopping, moving = states(ALIGNED), states(Move(1, 0))
    assert {left for left, _ in stopping} == {20}, "an episode that ends at once has one state"
    assert len({left for left, _ in moving}) > 3
    assert states(Move(1, 0)) == moving
    assert states(Move(1, 0), number=1) != moving and states(Move(0, 1)) != moving


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_batch_without_differing_groups_has_a_mean_divergence(beta):
    """The row that stands in for them counts in the mean over the tokens, if it has a part in the loss."""
    trainer = StepwiseTrainer.__new__(StepwiseTrainer)
    trainer.__dict__.update(
        num_generations=2, beta=beta, loss_type="dapo", args=SimpleNamespace(steps_per_generation=1),
        _rewards_of_batch=torch.zeros(4), _min_spread=0.0, _equal_groups_kept=0.0, _count_equal=lambda differ: None,
        accelerator=SimpleNamespace(gather=lambda value: value), importance_sampling_level="token",
        top_entropy_quantile=1.0, _entropy_bonus_enabled=False, use_vllm=False, off_policy_mask_threshold=None,
    )  # fmt: skip
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]])
    batch = {"completion_mask": mask, "completion_ids": mask, "advantages": torch.ones(4)}
    found = trainer._informative(batch)
    assert found["advantages"].tolist() == [0.0] and found["completion_mask"].tolist() == [[1, 1, 1]]
    assert found["num_items_in_batch"] == (3 if beta else 0)


def test_groups_with_equal_rewards_are_left_out_and_counted(start, small_patients, tmp_path, capsys, monkeypatch):
    batches = []

    def first_group_differs(texts, states, weights=None):
        batches.append(len(texts))
        return {"total": np.array([1.0, 0, 0, 0] + [0.0] * (len(texts) - 4)), "regret": np.zeros(len(texts))}

    monkeypatch.setattr(grpo, "step_rewards", first_group_differs)
    rows = []
    from trl import GRPOTrainer

    loss = GRPOTrainer._compute_loss
    monkeypatch.setattr(
        GRPOTrainer, "_compute_loss",
        lambda self, model, inputs: rows.append(len(inputs["advantages"])) or loss(self, model, inputs),
    )  # fmt: skip
    assert run(start, tmp_path / "a", small_patients, "--per_device_train_batch_size", 16) == 0
    assert batches == [16, 16] and rows == [4, 4]
    assert "groups that differ 25%" in capsys.readouterr().out
    rows.clear()
    words = ["--per_device_train_batch_size", 16, "--equal_groups_kept", 0.34, "--max_steps", 1]
    assert run(start, tmp_path / "b", small_patients, *words) == 0
    assert rows == [8]
    rows.clear()
    words = ["--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 2, "--min_spread", 2]
    assert run(start, tmp_path / "c", small_patients, *words, "--max_steps", 1) == 0
    assert rows == [1, 1]
    shown = capsys.readouterr().out
    assert "WARNING" in shown and "raise --temperature or --num_generations" in shown


def test_rewards_that_are_always_equal_are_an_error(start, small_patients, tmp_path, capsys):
    words = ["--max_steps", 9, "--max_completion_length", 64]
    assert run(start, tmp_path / "a", small_patients, *words) == 2
    assert "nothing is learnt: start from a model that was fine-tuned" in capsys.readouterr().err


def test_a_failing_environment_is_counted_and_training_continues(
    start, small_patients, tmp_path, capsys, monkeypatch, differing_rewards
):
    begin = CArmNavEnv.reset
    calls = []

    def sometimes(self, **options):
        calls.append(1)
        if len(calls) % 3 == 0:
            raise OSError("the detector does not answer")
        return begin(self, **options)

    monkeypatch.setattr(CArmNavEnv, "reset", sometimes)
    assert run(start, tmp_path / "a", small_patients, "--per_device_train_batch_size", 16) == 0
    shown = capsys.readouterr().out
    assert "an episode failed in its environment, and is counted: OSError: the detector" in shown
    assert "failed episodes" in shown
    monkeypatch.setattr(CArmNavEnv, "reset", lambda self, **options: 1 / 0)
    assert run(start, tmp_path / "b", small_patients) == 2
    assert "no episode could be run" in capsys.readouterr().err


def test_a_loss_that_is_not_a_number_is_named(start, small_patients, tmp_path, capsys, monkeypatch):
    def nan(texts, states, weights=None):
        return {"total": np.array([np.inf] + [0.0] * (len(texts) - 1)), "regret": np.zeros(len(texts))}

    monkeypatch.setattr(grpo, "step_rewards", nan)
    assert run(start, tmp_path / "a", small_patients) == 2
    assert "reward is inf at step 1: lower --learning_rate" in capsys.readouterr().err
    monkeypatch.setattr(grpo, "step_rewards", by_length)
    from trl import GRPOTrainer

    loss = GRPOTrainer._compute_loss
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", lambda self, *given: float("nan") * loss(self, *given))
    assert run(start, tmp_path / "b", small_patients) == 2
    assert "the loss of step 1 is nan: lower --learning_rate" in capsys.readouterr().err


def test_a_blind_model_stops_the_training_if_asked(start, small_patients, tmp_path, capsys, differing_rewards):
    words = ["--perception_every", 1, "--perception_states", 16, "--stop_when_blind", "true"]
    assert run(start, tmp_path / "a", small_patients, *words) == 2
    assert "step 1: the model no longer looks" in capsys.readouterr().err


def test_an_adapter_is_trained_and_loads(start, small_patients, tmp_path, capsys, differing_rewards):
    words = ["--use_peft", "true", "--lora_r", 4, "--lora_target_modules", "q_proj", "v_proj", "--beta", 0.1]
    assert run(start, tmp_path / "a", small_patients, *words) == 0, capsys.readouterr().err
    assert (tmp_path / "a" / "adapter_model.safetensors").is_file()
    LocalModel(tmp_path / "a")
    assert run(tmp_path / "a", tmp_path / "b", small_patients, "--max_steps", 1, "--beta", 0.1) == 0


@pytest.mark.parametrize("change", [{"prompt_version": 0}, {"prompts": "0" * 12}, {"prompt_version": None}])
def test_a_start_with_other_prompts_is_refused(start, small_patients, tmp_path, capsys, change):
    (tmp_path / "start").mkdir()
    for path in start.iterdir():
        (tmp_path / "start" / path.name).symlink_to(path)
    (tmp_path / "start" / "carm.json").unlink()
    (tmp_path / "start" / "carm.json").write_text(json.dumps({**settings(), **change}), encoding="utf-8")
    assert run(tmp_path / "start", tmp_path / "a", small_patients) == 2
    message = capsys.readouterr().err
    assert "was fine-tuned with other prompts" in message and "Fine-tune it again with training/sft.py" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "both"], "unknown mode 'both'"),
        (["--style", "long"], "unknown style of prompts 'long'"),
        (["--num_generations", "3"], "Change num_generations"),
        (["--num_generations", "1"], "at least 2 generations"),
        (["--max_steps", "-1"], "max_steps is -1"),
        (["--refresh_steps", "0"], "refresh_steps is 0"),
        (["--refresh_steps", "3", "--steps_per_generation", "2"], "refresh_steps is 3"),
        (["--refresh_steps", "2", "--save_strategy", "steps", "--save_steps", "3"], "save_steps is 3"),
        (["--max_completion_length", "20"], "set --max_completion_length"),
        (["--start_share", "2"], "start_share is 2"),
        (["--constrained", "true", "--top_k", "5"], "with which top_k has no effect, but it is 5"),
        (["--min_spread", "-1"], "min_spread is -1"),
        (["--perception_states", "3"], "perception_states is 3"),
        (["--rewards", "nowhere.yaml"], "nowhere.yaml"),
        (["--train", "nobody"], "nobody"),
        (["--train", "standard/test", "--test", "standard/test"], "virtual:3000 of train and virtual:3000 of test"),
        (
            ["--calibration", "virtual:7?arms=sides", "--test", "virtual:7"],
            "arms=sides of calibration and virtual:7",
        ),
        (["--train", "virtual:7?scan=1", "--calibration", "virtual:7"], "scan=1 of train and virtual:7 of calibration"),
        (["--model_name_or_path", "nowhere"], "there is no folder nowhere"),
        (["--resume_from_checkpoint", "nowhere"], "not a complete checkpoint"),
    ],
)
def test_bad_arguments_are_one_line(start, small_patients, tmp_path, words, message, capsys):
    assert run(start, tmp_path / "a", small_patients, *words) == 2
    assert message in capsys.readouterr().err


def test_another_style_than_that_of_the_start_is_refused(start, small_patients, tmp_path, capsys):
    assert run(start, tmp_path / "a", small_patients, "--style", "full") == 2
    assert "Leave out --style, or give --style compact." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["--mode", "multi_turn"], 150),
        (["--mode=multi_turn"], 150),
        (["--output_dir", "multi_turn"], 160),
        (["--output_dir=multi_turn", "--mode", "step_wise"], 160),
    ],
)
def test_the_mode_chooses_the_default_configuration(words, steps):
    arguments, training, _ = grpo.read_arguments(words)
    assert training.max_steps == steps and arguments.mode == ("multi_turn" if steps == 150 else "step_wise")


def test_the_start_is_compared_as_it_was_trained(start, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(grpo, "LocalModel", lambda specification: specification)
    monkeypatch.setattr(grpo, "uniform_suite", lambda *arguments: "suite")
    monkeypatch.setattr(
        grpo, "compare_models", lambda suite, models, baseline, folder, kept: asked.update(models, kept=kept) or {}
    )
    arguments = grpo.GrpoArguments(mode="multi_turn", history="whole", max_answers=7, test_episodes=1)
    model = SimpleNamespace(model_revision="abc", load_in_4bit=True, load_in_8bit=False)
    grpo.compare_with_start(arguments, model, SimpleNamespace(name="owner/name", style="compact"), tmp_path)
    found, trained = asked["start"], asked["trained"]
    assert (found.name, found.revision, found.style, found.quantisation) == ("owner/name", "abc", "compact", "4bit")
    assert (trained.name, trained.revision, trained.style) == (str(tmp_path), "", "compact")
    assert asked["kept"] == 7


def test_a_checkpoint_of_another_architecture_is_refused(start, small_patients, tmp_path, capsys, differing_rewards):
    words = ["--max_steps", 1, "--save_strategy", "steps", "--save_steps", 1]
    assert run(start, tmp_path / "a", small_patients, *words) == 0
    other = tmp_path / "other"
    model, processor = build_model(build_tokenizer(corpus(), 2000), None, "tiny", 64, 2)
    model.save_pretrained(other)
    processor.save_pretrained(other)
    (other / "carm.json").write_text(json.dumps(settings()), encoding="utf-8")
    again = ["--max_steps", 2, "--resume_from_checkpoint", tmp_path / "a" / "checkpoint-1"]
    assert run(other, tmp_path / "b", small_patients, *again) == 2
    assert "is a checkpoint of another model" in capsys.readouterr().err


def test_a_template_that_drops_images_is_refused(loaded):
    processor = loaded._processor
    template = processor.chat_template
    prompt = Conversation(1, "compact").show(IMAGE)
    check_images(processor, loaded._model, prompt, "x")
    try:
        processor.chat_template = template.replace("{{- '<start_of_image>' }}", "")
        with pytest.raises(ModelError, match="chat template") as caught:
            check_images(processor, loaded._model, prompt, "x")
        assert "use the template of the original model" in str(caught.value)
    finally:
        processor.chat_template = template


def test_the_longest_answer_decides(loaded):
    situation = Situation(np.random.default_rng(0).normal(0, 150, (14, 2)), np.ones(14, bool))
    check_answer_length(loaded._processor, [(situation, 3)], 512)
    with pytest.raises(ValueError, match="max_completion_length is 8"):
        check_answer_length(loaded._processor, [(situation, 3)], 8)
