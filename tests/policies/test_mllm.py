"""Language models as policies and localizers, and the errors of models that cannot be used."""

import json

import numpy as np
import pytest

from benchmarks._support.fake_server import fake_server
from carm_env.actions import ALIGNED, Move
from carm_env.chat_models.interface import Generation, ModelError
from carm_env.chat_models.specification import ModelSpecification
from carm_env.language import BodyParts, Box, Correction, ImageClass, Navigation, Pair, Ranking, render
from carm_env.language.chat import question
from carm_env.language.patterns import answer_pattern
from carm_env.language.reasons import Situation
from carm_env.system.errors import UnknownNameError
from policies import make_policy
from policies.local_model import LocalModel
from policies.mllm import MllmLocalizer, MllmPolicy, SampledLocalizer
from policies.model_loading import check_fit, load_model, load_processor

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

INFO = {"target_landmark": 1, "moved_mm": np.zeros(2), "move_effective": True, "move_clipped": False}
IMAGE = np.zeros((32, 32, 1), np.uint8)


class ScriptedModel:
    """Gives prepared answers and records the conversations."""

    style = "full"

    def __init__(self, *texts):
        self.texts, self.asked = list(texts), []

    def seed(self, value):
        self.seeded = value

    def generate(self, conversations, kind):
        self.asked += [(kind, list(messages)) for messages in conversations]
        return [Generation(self.texts.pop(0), 3, 0.5) for _ in conversations]


def step(move, context=11):
    return render(Navigation(context, move, "It lies there.", "It lies there."))


def test_answers_become_decisions_and_unreadable_ones_are_invalid():
    model = ScriptedModel(step(Move(1, 2)), "left, I think", step(ALIGNED, 1))
    policy = MllmPolicy(model, reading="strict")
    policy.reset(0)
    decision = policy.act({"image": IMAGE}, INFO)
    assert decision.move == Move(1, 2) and decision.closest_landmarks == (11,) and not decision.invalid
    decision = policy.act({"image": IMAGE}, INFO)
    assert decision.invalid and "expected one <output> document" in decision.rationale
    exchange = policy.last_exchange()
    assert (exchange.text, exchange.fault, exchange.tokens, exchange.seconds) == ("left, I think", "form", 3, 0.5)
    assert exchange.message == decision.rationale and exchange.messages == model.asked[-1][1]
    policy.feedback("look carefully")
    decision = policy.act({"image": IMAGE}, INFO)
    assert policy.last_exchange().fault == "" and policy.last_exchange().text == step(ALIGNED, 1)
    assert decision.move.is_aligned and not decision.invalid
    asked = [messages[-1]["content"][1]["text"] for _, messages in model.asked]
    assert "This is the current X-ray." in asked[0]
    assert "You chose the move: x = LEFT SMALL, y = UP MODERATE" in asked[1]
    assert "was not carried out" in asked[2] and asked[2].endswith("The clinician says: look carefully")
    assert (decision.usage.tokens, decision.usage.seconds) == (3, 0.5)


def test_reset_starts_a_new_conversation():
    model = ScriptedModel(step(Move(1, 0)), step(Move(1, 0)))
    policy = MllmPolicy(model)
    with pytest.raises(RuntimeError, match="no conversation has started"):
        policy.feedback("up")
    for _ in range(2):
        policy.reset(0)
        policy.act({"image": IMAGE}, INFO)
    assert all("You chose the move" not in messages[-1]["content"][1]["text"] for _, messages in model.asked)


def test_the_localizer_returns_zeros_for_unreadable_answers():
    images = np.zeros((2, 32, 32), np.uint8)
    model = ScriptedModel(render(Ranking((11, 13, 5))), "Carina", "[10,11]", "[10, 11]", "no",
                      render(Correction("It is there.", (1, 2))))  # fmt: skip
    localizer = MllmLocalizer(model)
    np.testing.assert_array_equal(localizer.closest(images), [[11, 13, 5], [0, 0, 0]])
    np.testing.assert_array_equal(localizer.centred(images), [[10, 11], [0, 0]])
    again = localizer.correct(images, [(3, 4), (5, 6)], ["That is wrong."] * 2)
    np.testing.assert_array_equal(again, [[0, 0], [1, 2]])
    assert "[5,6]. That is wrong." in model.asked[-1][1][-1]["content"][1]["text"]
    assert [kind for kind, _ in model.asked] == ["ranking"] * 2 + ["pair"] * 2 + ["correction"] * 2
    with pytest.raises(ValueError, match="one for each of 2 images"):
        localizer.correct(images, [(3, 4), (5, 6)], ["That is wrong."])
    lenient = MllmLocalizer(ScriptedModel("Well: [10, 11].", "```[1,2]```"), reading="lenient")
    np.testing.assert_array_equal(lenient.centred(images), [[10, 11], [1, 2]])


def test_steps_are_compared_with_the_view():
    places = np.full((14, 2), np.nan)
    places[[0, 9]] = [[0, 100], [5, 10]]
    situation = Situation(places, np.isfinite(places).all(1))
    true = Navigation(10, Move(0, 3), "The skull is roughly in line with T1, so no sideways move is needed.",
                      "The skull lies far above T1, so a large move up is needed.")  # fmt: skip
    false = Navigation(10, Move(0, -3), true.reason_x, "The skull lies far below T1, so a large move down is needed.")
    model = ScriptedModel(render(true), render(false), "up")
    found = MllmLocalizer(model).steps(np.zeros((3, 32, 32), np.uint8), [1] * 3, [situation] * 3)
    assert {name: values.tolist() for name, values in found.items()} == {
        "readable": [True, True, False], "reasons_true": [True, False, False],
        "reasons_relevant": [True, False, False], "best_move": [True, False, False]
    }  # fmt: skip


def test_served_model_needs_no_local_one():
    pytest.importorskip("openai")
    with fake_server(step(Move(1, 2))) as server:
        policy = make_policy(f"mllm:{server.url}#fake?max_tokens=77")
        policy.reset(0)
        assert policy.act({"image": IMAGE}, INFO).move == Move(1, 2)
    assert server.requests[0][2]["max_tokens"] == 77
    assert policy.reading == "lenient" and policy.concurrency == 8


def test_shipped_model_is_read_strictly_and_a_foreign_one_leniently(tiny):
    shipped = make_policy("mllm")
    assert (shipped.reading, shipped.concurrency, shipped.description()["style"]) == ("strict", 1, "compact")
    foreign = make_policy(f"mllm:{tiny}?kept_exchanges=1&temperature=0.5&seed=3")
    assert (foreign.reading, foreign.specification.kept_exchanges) == ("lenient", 1)
    assert make_policy(f"mllm:{tiny}?reading=strict&style=compact&dtype=bfloat16").description()["dtype"] == "bfloat16"
    with pytest.raises(UnknownNameError, match="Did you mean 'temperature'"):
        make_policy(f"mllm:{tiny}?temprature=1")


def test_sampling_repeats_with_its_seed(tiny):
    model = LocalModel(ModelSpecification(name=str(tiny), temperature=2.0, max_tokens=8))
    texts = []
    for seed in (1, 1, 2):
        model.seed(seed)
        (found,) = model.generate([question("pair", IMAGE, model.style)], "pair")
        texts.append(found.text)
    assert texts[0] == texts[1] != texts[2] and found.prompt_tokens > 10


@pytest.mark.parametrize("family", ["embedded", "gemma3", "qwen2_5_vl"])
@pytest.mark.parametrize("beginnings", [["[1,", "[12,", "[13,"], ["[3"]], ids=["different lengths", "one"])
def test_probabilities_are_those_of_whole_conversations(tiny, tmp_path, family, beginnings):
    import tiny_models

    folder = tiny if family == "embedded" else getattr(tiny_models, f"tiny_{family}")(tmp_path / family)
    model = LocalModel(str(folder))
    images = np.random.default_rng(0).integers(0, 255, (2, 32, 32), np.uint8)
    asked = [question("pair", images[0], model.style), question("localize", images[1], model.style)]
    found = model.probabilities(asked, beginnings)
    loaded, processor = load_model(folder).eval(), load_processor(folder)
    for row, messages in enumerate(asked):
        inputs = processor.apply_chat_template(
            [messages], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        for column, text in enumerate(beginnings):
            tokens = torch.tensor([processor.tokenizer.encode(text, add_special_tokens=False)])
            whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], tokens], 1)}
            whole["attention_mask"] = torch.ones_like(whole["input_ids"])
            if "token_type_ids" in inputs:
                whole["token_type_ids"] = torch.cat([inputs["token_type_ids"], torch.zeros_like(tokens)], 1)
            if "mm_token_type_ids" in inputs:
                whole["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(tokens)], 1)
            with torch.inference_mode():
                likelihood = loaded(**whole).logits[0].float().log_softmax(-1)[-tokens.shape[1] - 1 : -1]
            expected = float(likelihood.gather(1, tokens.T).sum().exp())
            assert found[row, column] == pytest.approx(expected, rel=1e-2)


def test_probabilities_of_a_broken_model_are_a_clear_error(tiny, monkeypatch):
    model = LocalModel(str(tiny))
    monkeypatch.setattr(model._model, "forward", lambda *given, **named: [][0])
    asked = [question("pair", IMAGE, model.style)]
    with pytest.raises(ModelError, match="fails .IndexError: .*use those of the original model"):
        model.probabilities(asked, ["[1,"])


class ScoredModel(ScriptedModel):
    """Is almost sure of the right wrist, with some doubt for the left one."""

    def probabilities(self, conversations, beginnings):
        self.scored = list(conversations)
        assert beginnings[0] == "[1," and len(beginnings) == 14
        shares = np.full(14, 0.001)
        shares[[7, 8]] = 0.7, 0.29
        return np.tile(shares, (len(conversations), 1))


def test_words_are_combined_with_the_probabilities_of_names():
    images = np.zeros((2, 32, 32), np.uint8)
    model = ScoredModel(render(Correction("It is there.", (1, 2))))
    again = MllmLocalizer(model).correct(images, [(8, 9)] * 2, ["That is wrong.", "Look again, please."])
    np.testing.assert_array_equal(again, [[9, 8], [1, 2]])
    assert len(model.scored) == 1 and [kind for kind, _ in model.asked] == ["correction"]
    alone = MllmLocalizer(ScoredModel(render(Correction("It is there.", (8, 2)))), hears_alone=True)
    np.testing.assert_array_equal(alone.correct(images[:1], [(8, 9)], ["That is wrong."]), [[8, 2]])


def test_adapter_of_a_named_base_model(tiny):
    peft = pytest.importorskip("peft")
    base = load_model(tiny)
    folder = tiny.parent / "adapter"
    peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    adapted = load_model(tiny, adapter=folder)
    assert any("lora_A" in name for name, _ in adapted.named_parameters())
    with pytest.raises(ModelError, match="is an adapter itself"):
        load_model(folder, adapter=folder)


def test_missing_models_are_reported(tmp_path):
    with pytest.raises(ModelError, match="has no processor that can be loaded"):
        load_processor(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded as a model of images and text"):
        load_model(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="names no base model"):
        load_model(tmp_path)
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}), encoding="utf-8"
    )
    with pytest.raises(ModelError, match="the base model .* of the adapter"):
        load_model(tmp_path)


@pytest.fixture
def tiny(tmp_path):
    from policies.embedded_vlm import build_model, build_tokenizer

    model, processor = build_model(build_tokenizer(["LEFT SMALL"], 300), architecture="tiny", hidden=64, layers=1)
    model.save_pretrained(tmp_path / "tiny")
    processor.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_damaged_weights_are_reported(tiny):
    weights = tiny / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ModelError, match="cannot be loaded as a model of images and text"):
        load_model(tiny)


def test_the_backbone_keeps_full_precision(tiny):
    model = load_model(tiny, dtype=torch.bfloat16)
    backbone = model.model.vision_tower.backbone
    assert {value.dtype for value in backbone.parameters()} == {torch.float32}
    assert model.lm_head.weight.dtype == torch.bfloat16
    images = torch.zeros(1, 3, model.config.vision_config.image_size, model.config.vision_config.image_size)
    tokens = model.model.vision_tower(pixel_values=images.to(torch.bfloat16)).last_hidden_state
    assert tokens.dtype == torch.bfloat16 and torch.isfinite(tokens).all()


def test_checkpoints_keep_the_stored_names_of_the_vision_tower(tmp_path):
    from safetensors.torch import load_file

    from policies.checkpoint import SHIPPED

    load_model(SHIPPED / "mllm").half().save_pretrained(tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (SHIPPED / "mllm", tmp_path))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_damaged_adapter_is_reported(tiny):
    pytest.importorskip("peft")
    adapter = tiny.parent / "adapter"
    adapter.mkdir()
    settings = {"base_model_name_or_path": str(tiny), "peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (adapter / "adapter_model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="is not an adapter of this base model"):
        load_model(adapter)


@pytest.mark.parametrize("key", ["mm_tokens_per_image", "image_token_id"])
def test_the_processor_of_another_model_is_refused(tiny, key):
    model, processor = load_model(tiny), load_processor(tiny)
    check_fit(model, processor, tiny)
    setattr(model.config, key, 3)
    with pytest.raises(ModelError, match="processor of another model.*but the model expects 3"):
        check_fit(model, processor, tiny)


def test_a_conversation_longer_than_the_context_is_refused(tiny):
    model = LocalModel(ModelSpecification(name=str(tiny), max_tokens=1_000_000))
    with pytest.raises(ModelError, match="the model's context is .*: keep fewer exchanges"):
        model.generate([question("pair", IMAGE, model.style)], "pair")


def test_a_processor_without_images_or_chat_template_is_refused(tmp_path):
    from policies.embedded_vlm import build_model, build_tokenizer

    tokenizer = build_tokenizer(["LEFT SMALL"], 300)
    tokenizer.save_pretrained(tmp_path / "text")
    (tmp_path / "text" / "config.json").write_text(json.dumps({"model_type": "gemma3_text"}), encoding="utf-8")
    with pytest.raises(ModelError, match="takes no images"):
        load_processor(tmp_path / "text")
    _, processor = build_model(tokenizer, architecture="tiny", hidden=64, layers=1)
    processor.chat_template = processor.tokenizer.chat_template = None
    processor.save_pretrained(tmp_path / "mute")
    (tmp_path / "mute" / "config.json").write_text(json.dumps({"model_type": "gemma3"}), encoding="utf-8")
    with pytest.raises(ModelError, match="no chat template"):
        load_processor(tmp_path / "mute")


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("ranking", Ranking((11, 13, 5), ("Tracheal carina", "Left diaphragmatic dome", "Left shoulder blade tip"))),
        ("ranking", Ranking((1,))),
        ("pair", Pair((14, 2))),
        ("box", Box((0, 10, 999, 1000))),
        ("body_parts", BodyParts((21, 0))),
        ("class", ImageClass(40)),
        ("correction", Correction("T1 is in the image. It is (nearly) in the middle, so it's T1.", (10, 1))),
        ("navigation", Navigation(4, Move(-3, 0), "It lies there.", "It is as high.")),
        ("navigation", Navigation(4, ALIGNED, "It is there.", "It is there.", "Right shoulder blade tip")),
    ],
)
def test_patterns_match_rendered_answers(kind, answer):
    import regex

    text = render(answer)
    pattern = regex.compile(answer_pattern(kind))
    assert pattern.fullmatch(text)
    for end in range(len(text)):
        assert pattern.fullmatch(text[:end], partial=True), text[:end]
    assert not pattern.fullmatch(text + "x", partial=True)


def test_a_policy_without_shipped_weights_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr("policies.checkpoint.SHIPPED", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no weights of mllm_grpo ship.*training/grpo\.py.*mllm_grpo:FOLDER"):
        make_policy("mllm_grpo")


@pytest.mark.parametrize("name", ["mllm", "mllm_grpo"])
def test_the_shipped_models_give_valid_answers(name):
    policy = make_policy(name)
    policy.reset(0)
    decision = policy.act({"image": np.full((128, 128, 1), 110, np.uint8)}, INFO)
    assert not decision.invalid, decision.rationale
    assert 1 <= decision.closest_landmarks[0] <= 14
    assert decision.usage.tokens > 20
    ranked = MllmLocalizer(shipped=name).closest(np.full((2, 128, 128), 110, np.uint8))
    assert ranked.shape == (2, 3) and ranked.all()


def test_shares_of_sampled_answers_are_probabilities():
    def ranking(*ids):
        return render(Ranking(ids))

    answers = [ranking(11, 10, 4), ranking(11, 4, 10), ranking(4, 11, 10), "somewhere in the chest"]
    model = ScriptedModel(*answers, *["no idea"] * 4)
    found = SampledLocalizer(model, answers=4).locate(np.zeros((2, 32, 32), np.uint8))
    assert model.seeded == 0 and len(model.asked) == 8
    assert found.closest_landmarks.tolist() == [[11, 4, 10], [0, 0, 0]]
    assert found.probabilities[0, [10, 3, 9]] == pytest.approx([2 / 3, 1 / 3, 0])
    assert found.probabilities[1].sum() == 0 and found.displacement_mm is None
