"""Whole episodes as rollouts, on the embedded model and on tiny models of the real classes."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from carm_env.actions import ALIGNED, Move
from carm_env.envs.navigation import CArmNavEnv
from carm_env.language.answers import Navigation, Question, render
from carm_env.language.chat import ChatCArm

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
import tiny_models  # noqa: E402
from transformers.utils.chat_template_utils import render_jinja_template  # noqa: E402
from trl import GRPOConfig  # noqa: E402

from policies.checkpoint import SHIPPED  # noqa: E402
from policies.embedded_vlm import CHAT_TEMPLATE  # noqa: E402
from policies.local_model import LocalModel  # noqa: E402
from policies.model_loading import load_model, load_processor  # noqa: E402
from training._support.episode_budget import EpisodeBudget, episode_budget  # noqa: E402
from training._support.episode_mode import EpisodeArguments, make_episode_trainer  # noqa: E402
from training._support.episode_prompts import PromptEncoder, with_tool_turns  # noqa: E402
from training._support.episode_trainer import EpisodeTrainer, end_tokens, episode_rows, spread  # noqa: E402
from training._support.multi_turn import EpisodeEnvironment, EpisodeSettings, total_reward  # noqa: E402
from training.rewards import RewardWeights  # noqa: E402

FAMILIES = {
    "embedded": None, "gemma3": tiny_models.tiny_gemma3, "qwen2_5_vl": tiny_models.tiny_qwen2_5_vl,
    "qwen3_vl": tiny_models.tiny_qwen3_vl, "gemma4": tiny_models.tiny_gemma4,
}  # fmt: skip
SIZE = 56
STOP = render(Navigation(1, ALIGNED, "because", "because"))
LEFT, UP = (render(Navigation(4, Move(*steps), "because", "because")) for steps in ((3, 0), (0, 1)))
BAD, ASKS = "I would go left.", render(Question(11, "Is this the carina?"))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """Name, folder, model and processor; each model is loaded once."""
    build = FAMILIES[request.param]
    folder = SHIPPED / "mllm" if build is None else build(tmp_path_factory.mktemp(request.param))
    return SimpleNamespace(
        name=request.param, folder=folder, model=load_model(folder, dtype="float32"), processor=load_processor(folder)
    )


@pytest.fixture(scope="module")
def embedded():
    folder = SHIPPED / "mllm"
    return SimpleNamespace(folder=folder, model=load_model(folder, dtype="float32"), processor=load_processor(folder))


@pytest.fixture
def settings(small_patients):
    def make(history="bounded", **options):
        make_env = partial(CArmNavEnv, patients=list(small_patients[:2]), image_size=SIZE)
        return EpisodeSettings(make_env, history=history, **{"max_answers": 4, **options})

    return make


@pytest.fixture
def make_trainer(tmp_path):
    def make(model, settings, count=2, max_answer_tokens=300, **options):
        words = {
            "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 2 * count, "num_generations": count,
            "max_completion_length": 4000, "max_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False,
            "gradient_checkpointing": False, "save_strategy": "no", "disable_tqdm": True, "learning_rate": 1e-3,
            "logging_steps": 1,
            **options,
        }  # fmt: skip
        return EpisodeTrainer(
            model.model, GRPOConfig(**words), model.processor, settings, image_size=SIZE,
            max_answer_tokens=max_answer_tokens,
            train_dataset=episode_rows(settings, range(4)),
        )  # fmt: skip

    return make


def script(trainer, answers, ended=True):
    """Lets the model give fixed answers: a list per rollout."""
    tokenizer, told = trainer.processing_class.tokenizer, [list(texts) for texts in answers]
    stop = trainer.eos_token_ids[-1]
    prompts = []

    def generate(prompt_ids, images, fields, num_generations, has_tool_images=False):
        if not prompts:
            rows = list(range(len(prompt_ids)))
        else:
            rows = [row for row, environment in enumerate(trainer.environments) if not environment.outcome]
        prompts.append((prompt_ids, images, fields))
        found = [tokenizer(told[row].pop(0), add_special_tokens=False)["input_ids"] for row in rows]
        return [ids + [stop] * ended for ids in found], None

    trainer._generate_single_turn = generate
    return prompts


def roll(trainer, rows=4):
    """Runs the rollouts of a batch; returns the trainer's tensors, and the messages of each rollout."""
    trainer.model.train()
    dataset = trainer.train_dataset
    inputs = [dataset[row // trainer.num_generations] for row in range(rows)]
    output = trainer._generate_and_score_completions(inputs)
    logs = trainer._logs
    return output, list(logs["prompt"])[-rows:], list(logs["completion"])[-rows:]


def runs(mask):
    """Spans of equal values in a list of 0 and 1: (value, start, stop)."""
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(mask)]
    return [(mask[start], start, stop) for start, stop in zip(edges, edges[1:], strict=False)]


def encode(processor, messages, prompt=True):
    """Tokens of a conversation by the model's own chat template, as in fine-tuning and inference."""
    found = processor.apply_chat_template(
        [messages], add_generation_prompt=prompt, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return found["input_ids"][0].tolist()


ANSWERS = [[LEFT, BAD, UP, STOP], [STOP], [UP, UP, UP, UP], [BAD, STOP]]


@pytest.mark.parametrize("history", ["bounded", "whole"])
def test_the_loss_covers_exactly_the_tokens_that_the_model_wrote(family, settings, make_trainer, history):
    trainer = make_trainer(family, settings(history))
    script(trainer, ANSWERS)
    output, prompts, completions = roll(trainer)
    mask = output["completion_mask"] * output["tool_mask"]
    plain, ends = family.processor, set(trainer.eos_token_ids)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        kept = output["completion_mask"][row].bool()
        ids, written = output["completion_ids"][row][kept].tolist(), mask[row][kept].tolist()
        prompt_ids = output["prompt_ids"][row][output["prompt_mask"][row].bool()].tolist()
        assert prompt_ids == encode(plain, prompt)
        texts = [message["content"] for message in completion if message["role"] == "assistant"]
        turns = [{"role": "user", "content": m["content"]} for m in completion if m["role"] == "tool"]
        assert texts == ANSWERS[row] and len(turns) == len(texts) - 1
        spans = runs(written)
        assert [value for value, _, _ in spans] == ([1, 0] * len(texts))[:-1]
        for number, (value, start, stop) in enumerate(spans):
            if value:
                answer = plain.tokenizer(texts[number // 2], add_special_tokens=False)["input_ids"]
                assert ids[start : stop - 1] == answer and ids[stop - 1] in ends
            elif history == "bounded":
                assert ids[start:stop] == encode(plain, [prompt[0], turns[number // 2]])
        if history == "whole":
            conversation = [*prompt]
            for text, turn in zip(texts, turns, strict=False):
                conversation += [{"role": "assistant", "content": [{"type": "text", "text": text}]}, turn]
            whole, last = prompt_ids + ids, spans[-1][1] + len(prompt_ids)
            expected = encode(plain, conversation)
            # A model ends a turn with any of its end tokens; the template always writes the same one.
            assert [t if t not in ends else 0 for t in whole[:last]] == [t if t not in ends else 0 for t in expected]
            assert "\n" in plain.tokenizer.decode(ids[spans[1][1] : spans[1][1] + 1]) if len(spans) > 1 else True


def test_advantages_are_those_of_the_episode_and_of_each_answer(embedded, settings, make_trainer):
    trainer = make_trainer(embedded, settings())
    script(trainer, ANSWERS)
    output, _, _ = roll(trainer)
    advantages, mask = output["advantages"], output["completion_mask"] * output["tool_mask"]
    assert advantages.shape == mask.shape and not advantages[mask == 0].any()
    stops_at_once, plays = advantages[1][mask[1] == 1], advantages[0][mask[0] == 1]
    assert (stops_at_once < 0).all() and plays[0] > 0
    assert len({round(float(value), 4) for value in plays}) > 1
    assert trainer._metrics["train"]["episodes/misaligned"] == [0.75]
    assert trainer._metrics["train"]["episodes/out_of_answers"] == [0.25]
    assert trainer._metrics["train"]["answers/invalid"] == [pytest.approx(2 / 11)]


@pytest.mark.parametrize("history", ["bounded", "whole"])
def test_log_probabilities_are_those_of_each_prompt_with_its_answer(family, settings, make_trainer, history):
    trainer = make_trainer(family, settings(history))
    prompts = script(trainer, ANSWERS)
    output, _, _ = roll(trainer)
    mask = output["completion_mask"] * output["tool_mask"]
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    attention = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    inputs = {name: output.get(name) for name in ("pixel_values", "image_grid_thw", "image_position_ids", "num_images")}
    with torch.no_grad():
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, attention, output["completion_ids"].shape[1], compute_entropy=True, **inputs
        )
        assert logps.shape == entropies.shape == mask.shape
        # The first rollout gives all four answers; the model sees for each what it saw when it generated.
        for number, (_, start, stop) in enumerate(span for span in runs(mask[0].tolist()) if span[0]):
            prompt_ids, images, fields = prompts[number]
            answer = output["completion_ids"][0, start:stop].tolist()
            pixels = trainer._encoder.image_fields(images[0])
            types = {key: torch.tensor([value[0] + [0] * len(answer)]) for key, value in fields.items()
                     if key.endswith("type_ids")}  # fmt: skip
            row = torch.tensor([prompt_ids[0] + answer])
            logits = trainer.model(input_ids=row, attention_mask=torch.ones_like(row), **pixels, **types).logits
            expected = logits[0, -len(answer) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
            torch.testing.assert_close(logps[0, start:stop], expected, atol=2e-4, rtol=1e-3)


def test_one_step_of_training_on_sampled_episodes(family, settings, make_trainer):
    before = {name: value.clone() for name, value in family.model.state_dict().items()}
    # As in a large batch, some rollouts have images from tools and others none.
    trainer = make_trainer(family, settings(max_answers=2), max_answer_tokens=6, beta=0.01)
    trainer.train()
    figures = next(line for line in trainer.state.log_history if "loss" in line)
    assert np.isfinite(float(figures["loss"])) and float(figures["kl"]) == pytest.approx(0, abs=1e-4)
    assert figures["episodes/out_of_answers"] + figures["episodes/misaligned"] + figures["episodes/success"] == 1
    tokenizer = family.processor.tokenizer
    special = set(tokenizer.all_special_ids) - {*trainer.eos_token_ids, tokenizer.unk_token_id}
    assert special <= set(trainer.generation_kwargs["suppress_tokens"])
    assert trainer.model.config.image_token_id in trainer.generation_kwargs["suppress_tokens"]
    assert trainer.generation_kwargs["max_new_tokens"] == 6
    family.model.load_state_dict(before)


def test_rollouts_of_the_embedded_model_are_its_episodes_at_inference(embedded, settings, make_trainer):
    trainer = make_trainer(embedded, settings(max_answers=4), temperature=1e-4, max_answer_tokens=60)
    _, _, completions = roll(trainer, 2)
    model = LocalModel(embedded.folder)
    for row in (0,):
        chat = ChatCArm(trainer._settings.make_env(), "compact", max_steps=4)
        messages, texts = chat.reset(seed=row // 2), []
        while True:
            texts.append(model.generate([messages], "navigation")[0].text)
            turn = chat.step(texts[-1])
            if turn.terminated or turn.truncated:
                break
            messages = turn.messages
        assert [message["content"] for message in completions[row] if message["role"] == "assistant"] == texts


def test_an_episode_without_a_second_image_is_trained_on(family, settings, make_trainer):
    trainer = make_trainer(family, settings())
    script(trainer, [[STOP]] * 4)
    output, _, completions = roll(trainer)
    assert output["pixel_values"].is_floating_point() and output["num_images"] == [1] * 4
    assert all(len(completion) == 1 for completion in completions)


def test_an_answer_that_is_cut_is_counted_and_answered(embedded, settings, make_trainer):
    trainer = make_trainer(embedded, settings("whole", max_answers=2))
    script(trainer, [[BAD, STOP]] * 4, ended=False)
    output, _, _ = roll(trainer)
    assert trainer._metrics["train"]["answers/cut"] == [1.0]
    ids, mask = output["completion_ids"][0].tolist(), output["tool_mask"][0].tolist()
    # The turn is closed for the model, without a loss.
    assert ids[mask.index(0)] in trainer.eos_token_ids


def test_an_episode_that_does_not_fit_ends_and_costs_all_answers_that_are_left(embedded, settings, make_trainer):
    trainer = make_trainer(embedded, settings())
    trainer.max_completion_length = trainer.budget.answer
    script(trainer, [[UP, STOP]] * 4)
    output, _, _ = roll(trainer)
    assert trainer._metrics["train"]["episodes/out_of_tokens"] == [1.0]
    assert trainer._metrics["train"]["reward"][0] < -3
    assert output["tool_mask"].all()


def test_an_error_of_the_environment_is_counted_and_training_goes_on(
    embedded, settings, make_trainer, monkeypatch, capsys
):
    trainer = make_trainer(embedded, settings(max_answers=2), max_answer_tokens=40)
    step, calls = CArmNavEnv.step, []

    def broken(self, action):
        calls.append(action)
        if len(calls) == 1:
            raise RuntimeError("the detector is off")
        return step(self, action)

    monkeypatch.setattr(CArmNavEnv, "step", broken)
    script(trainer, [[LEFT], [LEFT, UP], [LEFT, UP], [LEFT, UP]])
    output, _, _ = roll(trainer)
    assert trainer._metrics["train"]["episodes/failed"] == [0.25]
    assert trainer._metrics["train"]["environment_failures"] == [1.0]
    assert not output["advantages"][0].any() and torch.isfinite(output["advantages"]).all()
    assert "the detector is off" in capsys.readouterr().err

    def no_start(self, **options):
        raise OSError("no such patient")

    monkeypatch.setattr(CArmNavEnv, "reset", no_start)
    script(trainer, [[UP]] * 4)
    output, _, _ = roll(trainer)
    assert trainer._metrics["train"]["episodes/failed"] == [0.25, 1.0] and not output["advantages"].any()
    monkeypatch.undo()


def test_an_invalid_answer_is_answered_with_the_image_and_a_text(settings):
    environment = EpisodeEnvironment(settings(style="full"))
    first = environment.reset(seed=0)
    second = environment.answer(BAD)
    assert [part["type"] for part in second] == ["image", "text"]
    assert "was not carried out" in second[1]["text"] and environment.invalid == 1 and not environment.outcome
    assert np.array_equal(np.asarray(first[0]["image"]), np.asarray(second[0]["image"]))


def test_rollouts_have_the_depth_of_the_arguments(embedded, small_patients, tmp_path):
    arguments = EpisodeArguments(max_answers=2, max_answer_tokens=300, isocenter_depth_mm=77.0)
    training = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=2, max_steps=1, use_cpu=True,
        bf16=False, report_to="none", max_completion_length=0,
    )  # fmt: skip
    trainer = make_episode_trainer(
        arguments, training, embedded.model, embedded.processor, name="x", style="compact",
        patients=small_patients[:1], image_size=SIZE, weights=RewardWeights(),
    )  # fmt: skip
    assert trainer._settings.make_chat().env.unwrapped.isocenter_depth_mm == 77


def test_a_question_costs_an_answer_and_shows_the_same_x_ray(settings):
    environment = EpisodeEnvironment(settings(style="full", max_answers=2))
    first, second = environment.reset(seed=0), environment.answer(ASKS)
    assert np.array_equal(np.asarray(first[0]["image"]), np.asarray(second[0]["image"]))
    assert "was not carried out" not in second[1]["text"] and "Answers left, including this one: 1" in second[1]["text"]
    assert (environment.questions, environment.invalid, environment.outcome) == (1, 0, "")
    assert environment.parts["regret"] == 1 and environment.parts["form"] == 1
    environment.answer(ASKS)
    assert environment.outcome == "out_of_answers" and total_reward([environment]) == [pytest.approx(-1.8)]


def test_the_share_of_questions_is_logged(embedded, settings, make_trainer):
    trainer = make_trainer(embedded, settings())
    script(trainer, [[ASKS, STOP], [STOP], [ASKS, ASKS, STOP], [STOP]])
    roll(trainer)
    assert trainer._metrics["train"]["answers/questions"] == [pytest.approx(3 / 7)]
    assert trainer._metrics["train"]["answers/invalid"] == [0]


def test_stopping_at_once_costs_more_than_any_play(settings):
    back = render(Navigation(4, Move(-3, 0), "because", "because"))
    plays = {"stop": [STOP], "corner": [LEFT] * 20, "turning": [LEFT, back] * 10, "words": [BAD] * 20,
             "late stop": [LEFT] * 4 + [STOP]}  # fmt: skip
    environment = EpisodeEnvironment(settings(max_answers=20))
    for seed in range(6):
        totals = {}
        for name, answers in plays.items():
            environment.reset(seed=seed)
            for text in answers:
                environment.answer(text)
            if environment.outcome != "success":
                totals[name] = total_reward([environment])[0]
        assert totals["stop"] < min(totals[name] for name in totals if name != "stop")
        assert totals["late stop"] < min(totals[name] for name in ("corner", "turning"))


@pytest.mark.parametrize(
    ("limit", "positions", "message"),
    [
        (
            20,
            None,
            "one answer has up to 43 tokens and an episode of 20 answers 2228: set --max_completion_length 2228",
        ),
        (
            2000,
            None,
            "an episode of 20 answers has up to 2228 tokens, with its X-rays: set --max_completion_length 2228",
        ),
        (
            2228,
            2000,
            "the model's context is 2000 tokens, but an episode of 20 answers needs 2267: set --history bounded",
        ),
        (2228, 2267, None),
    ],
)
def test_an_episode_that_cannot_fit_is_refused_with_the_number_needed(limit, positions, message):
    budget = EpisodeBudget(43, 39, 72, 20, is_bounded=False)
    if message is None:
        budget.check(limit, positions)
        return
    with pytest.raises(ValueError, match=message):
        budget.check(limit, positions)


def test_the_trainer_refuses_what_does_not_fit_its_own_images(embedded, settings, make_trainer):
    with pytest.raises(ValueError, match="with its X-rays: set --max_completion_length"):
        make_trainer(embedded, settings(), max_completion_length=300, max_answer_tokens=90)


def test_the_default_configuration_fits_the_model_that_ships(embedded):
    from training.grpo import read_arguments

    arguments, training, model = read_arguments(["--mode", "multi_turn"])
    assert arguments.mode == "multi_turn" and model.model_name_or_path == str(embedded.folder)
    processor = with_tool_turns(embedded.processor)
    encoder = PromptEncoder(processor, embedded.model.config.image_token_id, end_tokens(embedded.model, processor))
    budget = episode_budget(encoder, "compact", arguments.max_answers, arguments.image_size, is_bounded=True)
    budget.check(training.max_completion_length, embedded.model.config.text_config.max_position_embeddings)


def test_an_unknown_history_is_refused(settings):
    with pytest.raises(ValueError, match="Did you mean 'bounded'"):
        settings("bound")
    with pytest.raises(ValueError, match="max_answers is 0"):
        settings(max_answers=0)


def test_advantages_are_spread_over_answers():
    written = torch.tensor([[1, 1, 0, 0, 1, 0], [1, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    found = spread(torch.tensor([1.0, -1.0, 0.0]), [[0.5, 0.25], [1.0, 2.0], []], written)
    assert found.tolist() == [[1.5, 1.5, 0, 0, 1.25, 0], [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]


TEMPLATES = {"embedded": CHAT_TEMPLATE} | {
    name: tiny_models.template(f"{name}.jinja") for name in ("gemma3", "qwen2_5_vl", "qwen3_vl", "gemma4_v5")
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_tool_results_are_rendered_as_user_turns(name):
    processor = SimpleNamespace(chat_template=TEMPLATES[name], tokenizer=SimpleNamespace(chat_template=None))
    ours = with_tool_turns(processor)
    assert processor.chat_template == TEMPLATES[name] and ours.chat_template != TEMPLATES[name]

    def rendered(template, role, **options):
        turn = {"role": role, "content": [{"type": "image"}, {"type": "text", "text": "Again."}]}
        messages = [
            {"role": "system", "content": [{"type": "text", "text": "Drive."}]}, {**turn, "role": "user"},
            {"role": "assistant", "content": [{"type": "text", "text": LEFT}]}, turn,
        ]  # fmt: skip
        found = render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=True, bos_token="<bos>", **options
        )
        return found[0][0] if isinstance(found, tuple) else found[0]

    tools = [{"type": "function", "function": {"name": "answer", "description": "x", "parameters": {}}}]
    assert rendered(ours.chat_template, "tool", tools=tools) == rendered(TEMPLATES[name], "user")


def test_the_script_trains_on_whole_episodes(small_patients, tmp_path, capsys):
    from training._support.grpo_arguments import MULTI_TURN_CONFIG
    from training.grpo import main

    folder, out = tiny_models.tiny_gemma3(tmp_path / "tiny"), tmp_path / "out"
    words = ["--config", MULTI_TURN_CONFIG, "--model_name_or_path", folder, "--style", "compact", "--max_steps", 1,
             "--train", ",".join(small_patients[:2]), "--image_size", SIZE, "--per_device_train_batch_size", 4,
             "--num_generations", 2, "--max_answers", 2, "--max_answer_tokens", 12, "--eval_every", 0,
             "--test_episodes", 0, "--output_dir", out, "--save_strategy", "no"]  # fmt: skip
    assert main(list(map(str, words))) == 0, capsys.readouterr().err
    assert "step 1/1" in capsys.readouterr().out
    # The chat template with tools is for the training only.
    assert load_processor(out).chat_template == load_processor(folder).chat_template
    assert load_processor(out).tokenizer.response_template is None
    assert main([*map(str, words), "--max_completion_length", "60"]) == 2
    assert "set --max_completion_length" in capsys.readouterr().err
    assert main([*map(str, words), "--constrained", "true"]) == 2
    assert "use --mode step_wise" in capsys.readouterr().err
