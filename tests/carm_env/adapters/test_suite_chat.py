import dataclasses
import json
import threading

import pytest

from carm_env.actions import ALIGNED, Move
from carm_env.adapters.suite_chat import NO_EPISODE, ChatSettings, SessionClosedError, SuiteChat, prepare_suite
from carm_env.chat_models.interface import Generation
from carm_env.chat_models.messages import message_text, openai_messages
from carm_env.chat_models.policy import ChatPolicy
from carm_env.evaluation.episodes import EpisodeTask, make_suite_environment
from carm_env.evaluation.leaderboard import EvaluationArguments, evaluate
from carm_env.evaluation.results import read_results
from carm_env.evaluation.runner import run_episode
from carm_env.evaluation.suite import load_suite
from carm_env.language.answers import Navigation, render
from carm_env.language.prompts import prompt_hash, system_prompt
from carm_env.system.errors import UnknownNameError
from carm_env.transcripts.read import find_transcripts, read_transcript
from carm_env.transcripts.records import TranscriptError


def answer(move):
    return render(Navigation(1, move, "why", "why"))


def last_image(messages):
    return next(part["image"] for part in messages[-1]["content"] if part["type"] == "image")


def play(chat, oracle, number):
    turn = chat.start(number)
    while not turn.done:
        turn = chat.answer(oracle.answer(last_image(turn.messages)))
    return turn


def test_an_oracle_that_talks_has_the_results_of_the_oracle(suite_name, oracle):
    chat = SuiteChat(ChatSettings(suite_name))
    oracle.check([dataclasses.asdict(play(chat, oracle, number).result) for number in range(len(oracle.results))])


def test_the_model_is_asked_as_by_evaluate(suite_name, oracle):
    class Recording:
        style = "full"

        def __init__(self):
            self.asked = []

        def seed(self, value):
            pass

        def generate(self, conversations, kind):
            (messages,) = conversations
            self.asked.append(messages)
            # Every other answer is invalid, or only readable in the lenient reading.
            answer = oracle.answer(last_image(messages))
            return [Generation(("no", f"Well:\n{answer}", answer)[len(self.asked) % 3], 0, 0.0)]

    suite, model = load_suite(suite_name), Recording()
    policy = ChatPolicy(model, kept_exchanges=1)
    expected = run_episode(policy, make_suite_environment(suite), EpisodeTask(suite, 1, "chat", 1))
    chat, again = SuiteChat(ChatSettings(suite_name, kept_exchanges=1)), Recording()
    turn = chat.start(1)
    while not turn.done:
        turn = chat.answer(again.generate([turn.messages], "navigation")[0].text)
    assert openai_messages(again.asked[-1]) == openai_messages(model.asked[-1]) and again.asked == model.asked
    same = {"run": {}, "latency_ms": 0.0, "decision_ms": []}
    assert dataclasses.replace(turn.result, **same) == dataclasses.replace(expected, **same)
    assert expected.invalid_answers and expected.lenient_answers and expected.success


def test_sessions_in_threads_do_not_disturb_each_other(suite_name, oracle):
    results, settings = [], ChatSettings(suite_name)

    def run(number):
        results.append(dataclasses.asdict(play(SuiteChat(settings), oracle, number).result))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(oracle.results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    oracle.check(results)


def test_an_episode_has_one_seed_everywhere_and_a_later_round_other_noise(settings):
    first, again = SuiteChat(settings), SuiteChat(dataclasses.replace(settings, seed=0))
    image = last_image(first.start(1).messages).tobytes()
    first.start(3)
    assert last_image(first.start(1).messages).tobytes() == image == last_image(again.start(1).messages).tobytes()
    assert last_image(SuiteChat(dataclasses.replace(settings, seed=1)).start(1).messages).tobytes() != image
    later = first.start(5)
    assert last_image(later.messages).tobytes() != image and later.messages[0] == again.start(1).messages[0]
    assert first.answer(answer(ALIGNED)).result.episode == 1


def test_an_invalid_answer_is_a_step_with_a_fault_and_the_same_image(settings):
    chat = SuiteChat(settings)
    first = chat.start(0)
    turn = chat.answer("I do not know.")
    assert (turn.fault, turn.step, turn.exposures, turn.done, turn.result) == ("form", 1, 1, False, None)
    assert turn.reward < 0 and turn.explanation and turn.explanation in message_text(turn.messages[-1])
    assert last_image(turn.messages).tobytes() == last_image(first.messages).tobytes()
    assert chat.answer(answer(Move(0, 1))).fault == ""
    result = chat.answer(answer(ALIGNED)).result
    assert (result.outcome, result.steps, result.invalid_answers, result.exposures) == ("misaligned", 3, 1, 2)
    assert result.prompts == prompt_hash("full") and result.policy == "chat" and result.run["packages"]


@pytest.mark.parametrize("text", ["", None, 7, {"answer": "x"}, "\x00<|im_start|>" * 9, "x" * 10**6, "<output>" * 99])
def test_no_answer_raises(settings, text):
    chat = SuiteChat(settings)
    chat.start(0)
    turn = chat.answer(text)
    assert turn.fault and turn.fault != NO_EPISODE and not turn.done


@pytest.mark.parametrize(("reading", "fault"), [("lenient", ""), ("strict", "fence")])
def test_answers_are_read_as_the_settings_say(settings, reading, fault):
    chat = SuiteChat(dataclasses.replace(settings, reading=reading))
    chat.start(0)
    turn = chat.answer(f"```\n{answer(Move(0, 1))}\n```")
    assert turn.fault == fault
    assert (chat.result().lenient_answers, chat.result().invalid_answers) == (int(not fault), int(bool(fault)))


def test_a_failure_of_the_environment_ends_the_episode_as_a_crash(settings, monkeypatch):
    chat = SuiteChat(settings)
    chat.start(0)
    monkeypatch.setattr(chat._env, "step", lambda _: 1 / 0)
    turn = chat.answer(answer(Move(0, 1)))
    assert turn.done and not turn.truncated and turn.fault == "crash" and "ZeroDivisionError" in turn.explanation
    assert turn.result.outcome == "crash" and chat.start(1).messages


def test_an_episode_ends_at_the_suites_maximum_and_takes_no_further_answer(settings):
    chat = SuiteChat(settings)
    chat.start(0)
    turns = [chat.answer("no") for _ in range(20)]
    assert [turn.done for turn in turns] == [False] * 19 + [True] and turns[-1].truncated
    assert turns[-1].result.outcome == "timeout"
    after = chat.answer(answer(ALIGNED))
    assert (after.fault, after.reward, after.done, after.step) == (NO_EPISODE, 0.0, True, 20)
    assert not chat.start(0).done


def test_an_answer_before_the_first_episode_is_a_fault(settings):
    turn = SuiteChat(settings).answer(answer(ALIGNED))
    assert (turn.fault, turn.messages, turn.done, turn.result) == (NO_EPISODE, [], True, None)


def test_a_closed_session_says_so(settings):
    chat = SuiteChat(settings)
    chat.start(0)
    chat.close()
    turn = chat.answer(answer(ALIGNED))
    assert turn.done and turn.fault == NO_EPISODE and "closed" in turn.explanation
    with pytest.raises(SessionClosedError, match="connect again"):
        chat.start(0)


def test_a_failed_start_leaves_no_episode(settings, monkeypatch):
    chat = SuiteChat(settings)
    chat.start(0)
    for number in (-1, 1.5, True, "1", None):
        with pytest.raises(ValueError, match="expected an integer"):
            chat.start(number)
    monkeypatch.setattr(chat._env, "reset", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        chat.start(1)
    assert chat.answer(answer(ALIGNED)).fault == NO_EPISODE and chat.result() is None


def test_an_unfinished_episode_has_a_result(settings):
    chat = SuiteChat(settings)
    assert chat.result() is None
    chat.start(2)
    assert (chat.result().outcome, chat.result().steps, chat.result().exposures) == ("timeout", 0, 1)
    chat.answer(answer(Move(1, 0)))
    result = chat.result()
    assert (result.outcome, result.success, result.steps, result.exposures) == ("timeout", False, 1, 2)


def test_finished_episodes_are_appended_as_evaluate_writes_them(settings, tmp_path):
    path = tmp_path / "runs" / "episodes.jsonl"
    chat = SuiteChat(dataclasses.replace(settings, results=str(path), model="my-model"))
    expected = []
    for number in range(2):
        chat.start(number)
        expected.append(chat.answer(answer(ALIGNED)).result)
    chat.start(2)
    chat.answer("unfinished")
    assert read_results(path) == (expected, []) and expected[0].policy == "my-model"


UNCOMPARED = ("latency_s", "seconds", "policy")


def lines_of(folder):
    return [
        {key: value for key, value in dataclasses.asdict(line).items() if key not in UNCOMPARED}
        for transcript in map(read_transcript, find_transcripts(folder))
        for line in (transcript.start, *transcript.events, transcript.end)
        if line is not None
    ]


def test_transcripts_are_those_of_evaluate(settings, oracle, tmp_path):
    class Model:
        style = "full"

        def seed(self, value):
            pass

        def generate(self, conversations, kind):
            return [Generation(oracle.answer(last_image(conversations[0])), 0, 0.0)]

    suite = load_suite(settings.suite)
    task = EpisodeTask(suite, 1, "chat", 1)
    run_episode(ChatPolicy(Model()), make_suite_environment(suite), task, transcripts=tmp_path / "evaluate")
    chat = SuiteChat(dataclasses.replace(settings, transcripts=str(tmp_path / "adapter")))
    result = play(chat, oracle, 1).result
    assert lines_of(tmp_path / "adapter") == lines_of(tmp_path / "evaluate")
    (transcript,) = map(read_transcript, find_transcripts(tmp_path / "adapter"))
    assert len(transcript.answers) == result.steps and transcript.end.outcome == result.outcome == "success"
    assert transcript.answers[0].seconds > 0 and not transcript.problems


def test_each_attempt_has_a_transcript_and_an_unfinished_one_no_end(settings, tmp_path):
    settings = dataclasses.replace(settings, transcripts=str(tmp_path / "t"))
    chats = [SuiteChat(settings) for _ in range(3)]
    for chat in chats:
        chat.start(1)
    for chat in chats:
        chat.answer("no")
    for chat in chats[:2]:
        chat.answer(answer(ALIGNED))
    # Asking for the result of a running episode does not end it.
    assert chats[2].result().outcome == "timeout" == chats[2].result().outcome
    chats[2].close()
    found = [read_transcript(folder) for folder in find_transcripts(tmp_path / "t")]
    ends = [None if transcript.end is None else transcript.end.outcome for transcript in found]
    assert sorted(map(str, ends)) == ["None", "misaligned", "misaligned"]
    assert [transcript.answers[0].fault for transcript in found] == ["form"] * 3


def test_a_folder_that_cannot_be_written_is_named(settings, tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    chat = SuiteChat(dataclasses.replace(settings, transcripts=str(tmp_path / "file")))
    with pytest.raises(TranscriptError, match="file"):
        chat.start(0)


def test_a_model_of_an_adapter_stands_on_the_leaderboard(suite_name, oracle, tmp_path):
    chat = SuiteChat(ChatSettings(suite_name, results=str(tmp_path / "episodes.jsonl"), model="my-model"))
    for number in range(len(oracle.results)):
        play(chat, oracle, number)
    arguments = EvaluationArguments(("oracle",), (suite_name,), workers=1, out=tmp_path, resume=True, figures=False)
    assert evaluate(arguments) == 0
    scores = json.loads((tmp_path / "leaderboard.json").read_text(encoding="utf-8"))
    mine, reference = scores["my-model"][oracle.suite], scores["oracle"][oracle.suite]
    differing = {key for key in mine if mine[key] != reference[key]}
    latencies = {"latency_ms", "latency_ms_p50", "latency_ms_p95"}
    assert differing <= {*latencies, "privileged", "in_words"} and not mine["privileged"]


def test_drawn_episodes_follow_their_seed(small_patients):
    settings = ChatSettings(draw_from=list(small_patients), environment={"image_size": 32}, kept_exchanges=1)
    chat, other = SuiteChat(settings), SuiteChat(settings)
    turn = chat.start(7)
    assert last_image(turn.messages).tobytes() == last_image(other.start(7).messages).tobytes()
    images = {last_image(chat.start(seed).messages).tobytes() for seed in range(8)}
    assert len(images) == 8 and last_image(turn.messages).tobytes() in images
    result = chat.answer(answer(ALIGNED)).result
    assert (result.suite, result.seed, result.episode) == ("drawn", 7, 0)
    prepare_suite(chat.suite)


def test_the_instructions_are_known_before_an_episode(settings):
    chat = SuiteChat(settings)
    before = chat.system_message()
    assert message_text(before) == system_prompt("navigate")
    assert chat.start(0).messages[0] == before == chat.system_message()


def test_messages_take_the_form_of_openai(settings):
    turn = SuiteChat(settings).start(0)
    system, user = openai_messages(turn.messages)
    assert system["role"] == "system" and system["content"] == [{"type": "text", "text": system_prompt("navigate")}]
    assert user["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert json.loads(json.dumps(user)) == user


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"suit": "smoke"}, UnknownNameError, "Did you mean 'suite'"),
        ({"draw_from": "standard/train"}, ValueError, "expected a list"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": True}, ValueError, "seed is True"),
        ({"kept_exchanges": 1.5}, ValueError, "kept_exchanges is 1.5"),
        ({"style": "ful"}, UnknownNameError, "Did you mean 'full'"),
        ({"reading": "strikt"}, UnknownNameError, "Did you mean 'strict'"),
        ({"invalid_penalty": -1}, ValueError, "expected 0 or more"),
        ({"invalid_penalty": "x"}, ValueError, "expected a finite number"),
        ({"environment": {"image_size": 32}}, ValueError, "give draw_from"),
        ({"draw_from": ["virtual:0"], "environment": {"image_siz": 32}}, UnknownNameError, "Did you mean 'image_size'"),
        ({"draw_from": ["virtual:0"], "environment": {"patients": "virtual:1"}}, UnknownNameError, "patients"),
    ],
)
def test_settings_are_checked(values, error, message):
    with pytest.raises(error, match=message):
        ChatSettings.from_mapping(values)


def test_the_suite_and_the_environment_are_checked_before_an_episode():
    with pytest.raises(UnknownNameError, match="Did you mean 'smoke'"):
        SuiteChat(ChatSettings("smok"))
    with pytest.raises(ValueError, match="image size is 7"):
        SuiteChat(ChatSettings(draw_from=("virtual:0",), environment={"image_size": 7}))
