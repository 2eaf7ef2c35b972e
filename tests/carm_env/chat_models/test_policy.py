"""Chat models in closed loop: reading, concurrency, faults of a server, and the ceiling of the language interface."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._support.fake_server import Body, fake_server
from benchmarks._support.truthful import FORMS, Truthful, truth_of
from carm_env.actions import Move
from carm_env.chat_models.interface import Generation, ModelError
from carm_env.chat_models.policy import ChatPolicy
from carm_env.chat_models.reference import OracleInWordsPolicy
from carm_env.chat_models.specification import SpecificationError
from carm_env.evaluation.episodes import EpisodeTask, make_suite_environment
from carm_env.evaluation.leaderboard import EvaluationArguments, evaluate
from carm_env.evaluation.policy import Policy
from carm_env.evaluation.policy_loading import make_policy
from carm_env.evaluation.reference import OraclePolicy
from carm_env.evaluation.results import EpisodeResult, read_results
from carm_env.evaluation.runner import run_concurrently, run_episode
from carm_env.evaluation.suite import Suite, load_suite
from carm_env.language import Navigation, render
from carm_env.system.errors import UnknownNameError
from carm_env.transcripts.read import find_transcripts, read_transcript

INFO = {"target_landmark": 1, "moved_mm": np.zeros(2), "move_effective": True, "move_clipped": False}
IMAGE = {"image": np.zeros((32, 32, 1), np.uint8)}
STEP = render(Navigation(11, Move(1, 2), "It is left.", "It is above."))
ALIGNED = render(Navigation(11, Move(0, 0), "It is there.", "It is there."))


class ScriptedModel:
    """Gives prepared answers and records the conversations."""

    style = "full"

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = list(texts), []

    def seed(self, value: int) -> None:
        """Samples nothing."""

    def generate(self, conversations: Sequence[Any], kind: str) -> list[Generation]:
        self.asked += [list(messages) for messages in conversations]
        return [Generation(self.texts.pop(0), 7, 0.5, 100, 0.25) for _ in conversations]


@pytest.fixture
def suite() -> Suite:
    whole = load_suite("smoke")
    return dataclasses.replace(whole, environment={**whole.environment, "image_size": 16})


def tasks_of(suite: Suite, count: int, policy: str = "x") -> list[EpisodeTask]:
    return [EpisodeTask(suite, number % len(suite.episodes), policy, number) for number in range(count)]


def in_order(results: Sequence[EpisodeResult]) -> list[tuple[int, list[int], bool]]:
    return sorted((result.seed, result.moves, result.success) for result in results)


def test_answers_are_read_leniently_and_both_rates_are_counted() -> None:
    model = ScriptedModel(f"```\n{STEP}\n```", "left", STEP)
    policy = ChatPolicy(model)
    policy.reset(0)
    first = policy.act(IMAGE, INFO)
    exchange = policy.last_exchange()
    assert (exchange.text, exchange.cost, exchange.prompt_tokens) == (f"```\n{STEP}\n```", 0.25, 100)
    assert exchange.messages == model.asked[0] and not exchange.fault
    assert first.move == Move(1, 2) and first.lenient and not first.invalid
    assert (first.usage.tokens, first.usage.prompt_tokens, first.usage.cost) == (7, 100, 0.25)
    policy.feedback("further up")
    second = policy.act(IMAGE, INFO)
    assert second.invalid and not second.lenient
    third = policy.act(IMAGE, INFO)
    assert third.move == Move(1, 2) and not third.lenient and not third.invalid
    # The clinician's feedback stays until an answer can be read.
    asked = [messages[-1]["content"][1]["text"] for messages in model.asked]
    assert "further up" in asked[1] and "further up" in asked[2] and "further up" not in asked[0]


@pytest.mark.parametrize(
    "words, move",
    [
        ("Slightly higher.", Move(0, 1)),
        ("No. Go 9 cm down.", Move(0, -3)),
        ("Further to the patient's left.", Move(1, 0)),
    ],
)
def test_declaration_against_a_clinicians_direction_becomes_a_move(words: str, move: Move) -> None:
    model = ScriptedModel(ALIGNED, ALIGNED, ALIGNED)
    policy = ChatPolicy(model)
    assert policy.act(IMAGE, INFO).move.is_aligned
    policy.feedback(words)
    assert policy.act(IMAGE, INFO).move == move
    # The next prompt states the move, and without new words a declaration stands.
    assert policy.act(IMAGE, INFO).move.is_aligned
    assert f"{move.words[2]}" in model.asked[2][-1]["content"][1]["text"]
    assert "declared" not in model.asked[2][-1]["content"][1]["text"]


@pytest.mark.parametrize("words", ["That is not the skull.", "No.", "About 6 cm more."])
def test_declaration_that_a_clinician_has_rejected_becomes_a_question(words: str) -> None:
    policy = ChatPolicy(ScriptedModel(ALIGNED, ALIGNED))
    policy.act(IMAGE, INFO)
    policy.feedback(words)
    decision = policy.act(IMAGE, INFO)
    assert decision.abstain and "the skull" in decision.question and not decision.invalid


@pytest.mark.parametrize(
    "first, words", [(ALIGNED, "Yes, that is the skull."), (STEP, "No."), (ALIGNED, "Nice weather."), (STEP, "Go on.")]
)
def test_other_words_leave_a_declaration_as_it_is(first: str, words: str) -> None:
    policy = ChatPolicy(ScriptedModel(first, ALIGNED))
    policy.act(IMAGE, INFO)
    policy.feedback(words)
    decision = policy.act(IMAGE, INFO)
    assert decision.move.is_aligned and not decision.abstain


def test_server_names_its_model_in_results_and_transcripts(suite: Suite, tmp_path: Path) -> None:
    class Dated(ScriptedModel):
        def generate(self, conversations: Sequence[Any], kind: str) -> list[Generation]:
            return [Generation(self.texts.pop(0), 7, 0.5, model=f"fake-{len(self.texts)}") for _ in conversations]

    policy, (task,) = ChatPolicy(Dated(STEP, ALIGNED, ALIGNED), name="fake"), tasks_of(suite, 1)
    assert "server_model" not in policy.description()
    env = make_suite_environment(suite)
    result = run_episode(policy, env, task, transcripts=tmp_path)
    assert result.settings["server_model"] == "fake-1, fake-2"
    (transcript,) = map(read_transcript, find_transcripts(tmp_path))
    assert [answer.model for answer in transcript.answers] == ["fake-2", "fake-1"]
    assert run_episode(policy, env, task).settings["server_model"] == "fake-0"


def test_unreadable_answer_that_was_cut_off_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    class Cut(ScriptedModel):
        def generate(self, conversations: Sequence[Any], kind: str) -> list[Generation]:
            self.asked += conversations
            return [Generation(self.texts.pop(0), 7, 0.5, is_cut_off=True)]

    policy = ChatPolicy(model := Cut(STEP, "left", "left"), max_tokens=77)
    policy.reset(0)
    assert not policy.act(IMAGE, INFO).invalid and not policy.last_exchange().message
    for _ in range(2):
        assert policy.act(IMAGE, INFO).invalid and "cut off at 77 tokens" in policy.last_exchange().message
    assert capsys.readouterr().err.count("max_tokens=77: raise it") == 1
    assert "cut off" not in model.asked[-1][-1]["content"][1]["text"]


def test_strict_reading_can_be_asked_for() -> None:
    policy = ChatPolicy(ScriptedModel(f"```\n{STEP}\n```"), reading="strict")
    policy.reset(0)
    assert policy.act(IMAGE, INFO).invalid


def test_settings_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'temperature'"):
        make_policy("chat:http://127.0.0.1:1/v1#m?temprature=1")
    with pytest.raises(SpecificationError, match="expected http://HOST:PORT/v1#MODEL"):
        make_policy("chat:http://127.0.0.1:1/v1")
    with pytest.raises(ModelError, match="is not the URL of a server"):
        make_policy("chat:runs/model")


def test_oracle_in_words_equals_the_oracle(suite: Suite) -> None:
    env = make_suite_environment(suite)
    for task in tasks_of(suite, 3):
        expected = run_episode(OraclePolicy(), env, task)
        found = run_episode(OracleInWordsPolicy(), env, task)
        assert (found.moves, found.success, found.exposures) == (expected.moves, expected.success, expected.exposures)
        assert found.invalid_answers == found.lenient_answers == 0 and found.prompts


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_reaches_the_oracle(form: Any, suite: Suite) -> None:
    pytest.importorskip("openai")
    tasks = tasks_of(suite, 6)
    env = make_suite_environment(suite)
    expected = [run_episode(OraclePolicy(), env, task) for task in tasks]
    with fake_server(lambda body: form(truth_of(body))) as server:
        server.error_share, server.drop_share = 0.1, 0.05
        policy = Truthful(f"{server.url}#fake?retries=20")
        found = list(run_concurrently(tasks, policy, make_suite_environment))
    assert in_order(found) == in_order(expected)
    assert sum(result.invalid_answers for result in found) == 0
    steps = sum(result.steps for result in found)
    is_strict = form is FORMS["strict"]
    assert sum(result.lenient_answers for result in found) == (0 if is_strict else steps)
    assert sum(result.tokens for result in found) == 50 * steps
    assert found[0].settings["name"] == "fake" and found[0].settings["reading"] == "lenient"


def test_garbage_is_unreadable_and_every_fault_is_in_the_transcript(suite: Suite, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    garbage = "I am not sure, perhaps further left?"
    with fake_server(garbage) as server:
        policy = ChatPolicy(f"{server.url}#fake")
        found = list(run_concurrently(tasks_of(suite, 2), policy, make_suite_environment, transcripts=tmp_path))
    assert all(not result.success and result.invalid_answers == result.steps for result in found)
    for folder in find_transcripts(tmp_path):
        answers = read_transcript(folder).answers
        assert len(answers) == found[0].steps and {answer.fault for answer in answers} == {"form"}
        assert all((answer.text, answer.model, answer.tokens) == (garbage, "fake", 50) for answer in answers)
        assert all("expected one <output> document" in answer.message for answer in answers)


def test_concurrent_episodes_wait_together(suite: Suite) -> None:
    pytest.importorskip("openai")
    n_tasks, latency_s = 24, 0.2
    with fake_server(lambda body: truth_of(body)) as server:
        server.latency_s = latency_s
        policy = Truthful(f"{server.url}#fake?concurrency={n_tasks}")
        list(run_concurrently(tasks_of(suite, 1), policy, make_suite_environment))
        started = time.perf_counter()
        found = list(run_concurrently(tasks_of(suite, n_tasks), policy, make_suite_environment))
        seconds = time.perf_counter() - started
    assert len(found) == n_tasks and all(result.success for result in found)
    assert seconds < sum(result.steps for result in found) * latency_s / 2


class Hanging(Policy):
    """Never decides in the second episode."""

    def reset(self, seed: int | None = None) -> None:
        self._seed = seed

    def act(self, observation: Any, info: Any) -> Any:
        if self._seed == 1:
            time.sleep(30)
        raise RuntimeError("no idea")


def test_policy_that_hangs_is_a_timeout(suite: Suite) -> None:
    env = make_suite_environment(suite)
    hung = run_episode(Hanging(), env, EpisodeTask(suite, 0, "hanging", 1), timeout_s=0.2)
    assert hung.outcome == "timeout" and "no decision within 0.2 s" in hung.error
    assert run_episode(Hanging(), env, EpisodeTask(suite, 0, "hanging", 0), timeout_s=5).outcome == "crash"


def test_concurrent_policy_that_hangs_is_a_timeout(suite: Suite) -> None:
    class Concurrent(Hanging):
        concurrency = 2

        def for_episode(self) -> Policy:
            return Hanging()

    tasks = [EpisodeTask(suite, 0, "hanging", seed) for seed in (0, 1, 2, 1)]
    found = list(run_concurrently(tasks, Concurrent(), make_suite_environment, timeout_s=0.3))
    assert sorted(result.outcome for result in found) == ["crash", "crash", "timeout", "timeout"]


def test_server_that_goes_away_keeps_the_finished_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai")
    (tmp_path / "truthful.py").write_text("from benchmarks._support.truthful import Truthful\n", encoding="utf-8")
    answered: list[int] = []

    def answer(body: Body) -> str:
        answered.append(1)
        if len(answered) > 12:
            server.status = 503
        return truth_of(body)

    with fake_server(answer) as server:
        settings = f"model=&url={server.url.replace(':', '%3A').replace('/', '%2F')}&name=fake&concurrency=2&retries=0"
        policy = f"{tmp_path}/truthful.py:Truthful?{settings}"
        arguments = EvaluationArguments((policy,), episodes=6, out=tmp_path / "out", figures=False)
        with pytest.raises(ModelError, match="continue with --resume"):
            evaluate(arguments)
        kept, _ = read_results(tmp_path / "out" / "episodes.jsonl")
        assert 0 < len(kept) < 6 and f"{len(kept)} finished episodes are in" in capsys.readouterr().out
        server.status, answered[:] = 200, [0] * -100
        server.answer = truth_of
        assert evaluate(dataclasses.replace(arguments, resume=True)) == 0
    found, _ = read_results(tmp_path / "out" / "episodes.jsonl")
    assert len(found) == 6 and all(result.success for result in found)
    table = (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8")
    assert re.search(r"truthful.py:Truthful.*100%.*\| 100% +\| 0% +\| 0% +\|", table)
    assert {"openai", "anthropic"} <= set(found[0].run["packages"])
    assert str(tmp_path) not in (tmp_path / "out" / "episodes.jsonl").read_text(encoding="utf-8")
