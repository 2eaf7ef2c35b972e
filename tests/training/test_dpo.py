"""Learning from corrections, end to end on small patients and a tiny embedded model."""

import json

import numpy as np
import pytest

from carm_env.actions import ALIGNED, Move
from carm_env.chat_models.interface import Generation
from carm_env.envs.episode import EpisodeSpec
from carm_env.evaluation.assistance import run_assisted
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.runner import suite_environment
from carm_env.evaluation.suite import Suite
from carm_env.language import Navigation, Pair, parse, render
from carm_env.language.clinician import ClinicianSettings
from carm_env.transcripts.records import TranscriptError
from carm_env.views.read import read_views

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from policies.local_model import LocalModel  # noqa: E402
from policies.mllm import MllmPolicy  # noqa: E402
from policies.model_loading import load_model, load_processor  # noqa: E402
from training import dpo, sft  # noqa: E402
from training._support.preferences import simulated_corrections, transcript_corrections  # noqa: E402
from training._support.transcripts import TranscriptExamples  # noqa: E402


@pytest.fixture
def start(dataset, backbone, tmp_path):
    words = [
        "--dataset", dataset, "--backbone", backbone, "--output_dir", tmp_path / "start", "--hidden", 32,
        "--layers", 1, "--image_size", 32, "--max_steps", 60, "--tasks", "pair=1", "--test_views", 0,
        "--learning_rate", 3e-3, "--warmup_steps", 5, "--save_strategy", "no",
    ]  # fmt: skip
    assert sft.main([*map(str, words)]) == 0
    return tmp_path / "start"


def run(start, dataset, out, *words):
    given = [
        "--config", dpo.DEFAULT_CONFIG, "--model_name_or_path", start, "--dataset", dataset, "--image_size", 32,
        "--output_dir", out, "--save_strategy", "no", "--logging_steps", 1, *words,
    ]  # fmt: skip
    return dpo.main([*map(str, given)])


class Always:
    """Gives the same answer to every question."""

    style = "compact"

    def __init__(self, answer):
        self.text = answer if isinstance(answer, str) else render(answer)

    def seed(self, value):
        pass

    def generate(self, conversations, kind):
        return [Generation(self.text, 3, 0.5) for _ in conversations]


def test_training_on_corrections_fixes_what_was_corrected(dataset, start, tmp_path, capsys):
    """A round trip: wrong answers of the model become pairs, and training on them makes these answers likelier."""
    path = tmp_path / "f.json"
    words = [
        "--kinds",
        "pair",
        "--corrections",
        24,
        "--kept_share",
        1,
        "--num_train_epochs",
        12,
        "--learning_rate",
        2e-3,
    ]
    words += ["--test_views", 16]
    assert run(start, dataset, tmp_path / "out", *words, "--json", path) == 0
    out = capsys.readouterr().out
    assert "answers were wrong and are corrected" in out and f"policy: mllm:{tmp_path / 'out'}" in out
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert figures["corrections"] == 24 <= figures["pairs"] <= 48 and {
        "p_at_1",
        "p_at_1_before",
        "invalid_rate",
    } <= set(figures)
    assert "not a medical device" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    settings = json.loads((tmp_path / "out" / "carm.json").read_text(encoding="utf-8"))
    assert settings["trained_by"] == "dpo" and settings["style"] == "compact"

    views = read_views(dataset, "train")
    pairs, *_ = simulated_corrections(LocalModel(start), views, 24, ["pair"], seed=42)
    before, after = (np.mean([margin(folder, pair) for pair in pairs[:8]]) for folder in (start, tmp_path / "out"))
    assert after > before + 2, "the right answers to these very questions have become likelier than the wrong ones"


def margin(folder, pair):
    """How much likelier the chosen answer is than the rejected one, as a difference of log-likelihoods."""
    model, processor = load_model(folder), load_processor(folder)
    asked = processor.apply_chat_template(pair["prompt"], add_generation_prompt=True, tokenize=False)
    found = []
    for name in ("chosen", "rejected"):
        answer = pair[name][0]["content"][0]["text"]
        whole, prompt = (
            processor(text=[text], images=[pair["images"]], return_tensors="pt") for text in (asked + answer, asked)
        )
        with torch.no_grad():
            likelihood = model(**whole).logits[0, :-1].float().log_softmax(-1)
        ids = whole["input_ids"][0, 1:]
        found.append(likelihood.gather(1, ids[:, None])[prompt["input_ids"].shape[1] - 1 :].sum().item())
    return found[0] - found[1]


def test_wrong_answers_are_corrected_and_right_ones_are_left_alone(dataset):
    views = read_views(dataset, "train")
    pairs, kept, asked = simulated_corrections(Always(Pair((1, 2))), views, 20, ["pair"], kept_share=1.0)
    assert len(pairs) == 20 <= asked
    assert not kept, "the answers about all views are the same"
    for pair in pairs:
        chosen, rejected = (pair[name][0]["content"][0]["text"] for name in ("chosen", "rejected"))
        assert rejected == "[1,2]" and parse("pair", chosen).landmarks[0] != 1 and len(pair["images"]) == 1
    unreadable, *_ = simulated_corrections(Always("I do not know."), views, 6)
    assert {pair["kind"] for pair in unreadable} == {"pair", "navigate"}
    declared, *_ = simulated_corrections(Always(Navigation(11, ALIGNED, "so", "so")), views, 10, ["navigate"])
    assert all(not parse("navigation", pair["chosen"][0]["content"][0]["text"]).move.is_aligned for pair in declared)


def test_fewer_pairs_are_returned_if_the_views_are_used_up(dataset):
    views = read_views(dataset, "train")
    pairs, _, asked = simulated_corrections(Always(Pair((1, 2))), views, 10_000, ["pair"])
    assert asked == len(views) and len(pairs) == np.sum(views.closest_landmarks[:, 0] != 1)


def test_right_answers_are_preferred_to_answers_about_other_views(dataset):
    views = read_views(dataset, "train")
    pairs, kept, _ = simulated_corrections(Alternating(), views, 10, ["pair"], kept_share=0.5)
    assert 0 < len(kept) <= 5 and all(pair["is_correction"] for pair in pairs)
    for pair in kept:
        chosen, rejected = (pair[name][0]["content"][0]["text"] for name in ("chosen", "rejected"))
        assert {chosen, rejected} == {"[11,12]", "[7,9]"} and not pair["is_correction"]


class Alternating(Always):
    """Names the carina and the left elbow in turn."""

    def __init__(self):
        super().__init__(Pair((11, 12)))

    def generate(self, conversations, kind):
        return [Generation(("[11,12]", "[7,9]")[row % 2], 3, 0.5) for row in range(len(conversations))]


class Corrected(Always):
    """Declares at first, and moves up when a clinician objects."""

    def generate(self, conversations, kind):
        told = ["linician" in messages[-1]["content"][-1]["text"] for messages in conversations]
        return [
            Generation(render(Navigation(11, Move(0, 3) if words else ALIGNED, "so", "so")), 3, 0.5) for words in told
        ]


@pytest.fixture
def transcripts(small_patients, tmp_path):
    suite = Suite("one", 1, "a route", 8, (EpisodeSpec(small_patients[0], 1, 4),), {"image_size": 32})
    settings = ClinicianSettings(kinds=("direction",))
    task = EpisodeTask(suite, 0, "tested", 7)
    folder = tmp_path / "t"
    found = run_assisted(MllmPolicy(Corrected("")), suite_environment(suite), task, settings, transcripts=folder)
    assert found.sentences >= 2
    return folder


def test_rejected_declarations_of_transcripts_become_pairs(transcripts):
    pairs = transcript_corrections([transcripts], "compact")
    assert len(pairs) >= 2
    for pair in pairs:
        chosen, rejected = (parse("navigation", pair[name][0]["content"][0]["text"]) for name in ("chosen", "rejected"))
        assert rejected.move.is_aligned and chosen.move == Move(0, 3) and len(pair["images"]) == 1
    assert "linician" not in str(pairs[0]["prompt"][-1]), "the first declaration came before any words"


def test_fine_tuning_leaves_rejected_declarations_out(transcripts):
    source = TranscriptExamples([transcripts], "compact", successes_only=False)
    texts = [example["completion"][0]["content"][0]["text"] for example in source.stream(0, len(source))]
    assert texts
    assert sum(parse("navigation", text).move.is_aligned for text in texts) <= 1, "only the last declaration stands"


class Corrects(Always):
    """Moves up and names the wrong landmark at first, and the right one when a clinician objects."""

    def generate(self, conversations, kind):
        told = ["linician" in messages[-1]["content"][-1]["text"] for messages in conversations]
        return [Generation(render(Navigation(4 if words else 14, Move(0, 1), "so", "so")), 3, 0.5) for words in told]


def test_fine_tuning_leaves_moves_out_that_named_a_wrong_landmark(small_patients, tmp_path):
    suite = Suite("one", 1, "a route", 2, (EpisodeSpec(small_patients[0], 1, 4),), {"image_size": 32})
    settings = ClinicianSettings(kinds=("landmark",), review_rate=1.0)
    task, env = EpisodeTask(suite, 0, "tested", 7), suite_environment(suite)
    assert run_assisted(MllmPolicy(Corrects("")), env, task, settings, transcripts=tmp_path / "t").sentences == 1
    source = TranscriptExamples([tmp_path / "t"], "compact", successes_only=False)
    texts = [example["completion"][0]["content"][0]["text"] for example in source.stream(0, len(source))]
    assert [parse("navigation", text).context for text in texts] == [4]


def test_transcripts_of_patients_that_are_held_out_are_refused(transcripts, small_patients):
    with pytest.raises(TranscriptError, match="on which the training is evaluated"):
        transcript_corrections([transcripts], "compact", [small_patients[0]])


def test_transcripts_with_other_prompts_are_refused(transcripts):
    with pytest.raises(TranscriptError, match="choose the style"):
        transcript_corrections([transcripts], "full")


def test_a_model_learns_from_transcripts_alone(transcripts, dataset, start, tmp_path):
    words = ["--transcripts", transcripts, "--corrections", 0, "--max_steps", 2, "--test_views", 0]
    assert run(start, dataset, tmp_path / "out", *words) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_start_that_knows_another_depth_is_refused(dataset, start, tmp_path, capsys):
    path = start / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["vision_config"]["isocenter_depth_mm"] = 77.0
    path.write_text(json.dumps(config), encoding="utf-8")
    assert run(start, dataset, tmp_path / "out", "--max_steps", 1, "--test_views", 0) == 2
    assert "set --isocenter-depth-mm 77" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--corrections", "0"], "expected at least one of both"),
        (["--corrections", "-1"], "corrections is -1"),
        (["--kinds", "dance"], "unknown kind of correction 'dance'"),
        (["--style", "loud"], "unknown style of prompts 'loud'"),
    ],
)
def test_bad_arguments_are_refused(words, expected, capsys):
    assert dpo.main(words) == 2
    assert expected in capsys.readouterr().err
