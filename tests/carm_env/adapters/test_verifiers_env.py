"""The verifiers taskset and environment, run by verifiers' own evaluation against a local server."""

import json
import os
import sys
from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("verifiers.v1", reason="verifiers is not installed: pip install 'carm-env[verifiers]'")

import verifiers.v1 as vf

from carm_env.adapters.verifiers_env import RESULT, RETURN, CArmEnv, CArmTaskset, CArmTasksetConfig
from carm_env.language.prompts import system_prompt
from carm_env.system.errors import UnknownNameError

MODULE = """
from carm_env.adapters.verifiers_env import CArmEnv, CArmHarness, CArmTaskset

__all__ = ["CArmEnv", "CArmHarness", "CArmTaskset"]
"""


@pytest.fixture
def evaluate(tmp_path, chat_server, start_process):
    """Runs ``vf-eval`` on a model that answers with ``answer(messages)``; returns the episodes."""
    (tmp_path / "carm_nav.py").write_text(MODULE, encoding="utf-8")

    def run(answer, *options):
        command = [str(Path(sys.executable).with_name("vf-eval")), "carm_nav", "--no-rich", "--no-push", "-m",
                   "talking-oracle", "--client.base-url", chat_server(answer), "-o", str(tmp_path / "outputs"),
                   *options]  # fmt: skip
        paths = os.pathsep.join([str(tmp_path), os.getcwd()])
        process = start_process(command, env={**os.environ, "PYTHONPATH": paths})
        assert process.wait(timeout=540) == 0
        (path,) = (tmp_path / "outputs").rglob("traces.jsonl")
        episodes = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert all(len(episode["traces"]) == 1 for episode in episodes)
        return episodes

    return run


def test_verifiers_finds_the_taskset_and_its_environment(tmp_path, monkeypatch):
    (tmp_path / "carm_nav.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert vf.environment_class("carm_nav") is CArmEnv
    assert vf.taskset_config_type("carm_nav") is CArmTasksetConfig


def test_the_tasks_are_the_episodes_of_the_suite(suite_file):
    tasks = list(CArmTaskset(CArmTasksetConfig(suite=suite_file, seed=5)))
    assert [task.data.name for task in tasks] == [f"four-{number}" for number in range(4)]
    assert [task.data.number for task in tasks] == [0, 1, 2, 3] and tasks[0].data.settings["seed"] == 5
    assert {task.data.system_prompt for task in tasks} == {system_prompt("navigate")}
    assert tasks[0].data.prompt is None
    assert type(tasks[0].data).model_validate_json(tasks[0].data.model_dump_json()) == tasks[0].data


def test_drawn_episodes_never_end(small_patients):
    taskset = CArmTaskset(CArmTasksetConfig(draw_from=list(small_patients)))
    assert not taskset.bounded and CArmTaskset(CArmTasksetConfig()).bounded
    assert [task.data.number for task in islice(taskset, 3)] == [0, 1, 2]


def test_wrong_settings_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'smoke'"):
        CArmTaskset(CArmTasksetConfig(suite="smok"))
    with pytest.raises(ValueError, match="suit"):
        CArmTasksetConfig(suit="smoke")


def test_results_of_other_instructions_are_not_mixed_with_those_of_ours(suite_file, evaluate, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("Answer as you like.", encoding="utf-8")
    for kept in ({"results": "episodes.jsonl"}, {"transcripts": "transcripts"}):
        with pytest.raises(ValueError, match="leave one of them out"):
            CArmTaskset(CArmTasksetConfig(suite=suite_file, system_prompt=path, **kept))
    seen = []
    options = ("--env.taskset.suite", suite_file, "--env.taskset.system-prompt", str(path), "-n", "1")
    (episode,) = evaluate(lambda messages: seen.append(messages[0]["content"]) or "no", *options)
    assert set(seen) == {"Answer as you like."}
    assert episode["traces"][0]["info"][RESULT]["prompts"] == "custom"


def test_an_oracle_that_talks_has_the_results_of_the_oracle(suite_name, oracle, image_of_url, evaluate, tmp_path):
    def answer(messages):
        assert messages[0]["role"] == "system"
        # The conversation keeps all exchanges, with their X-rays.
        assert [message["role"] for message in messages[1::2]] == ["user"] * (len(messages) // 2)
        (url,) = (part["image_url"]["url"] for part in messages[-1]["content"] if part["type"] == "image_url")
        return oracle.answer(image_of_url(url))

    transcripts = tmp_path / "transcripts"
    episodes = evaluate(answer, "--env.taskset.suite", suite_name, "--env.taskset.transcripts", str(transcripts))
    oracle.check_transcripts(transcripts)
    traces = [episode["traces"][0] for episode in episodes if episode["ok"]]
    oracle.check([trace["info"][RESULT] for trace in traces])
    for trace in traces:
        assert trace["metrics"]["success"] == 1.0 and trace["rewards"][RETURN]["score"] > 0
        assert trace["info"][RESULT]["policy"] == "talking-oracle"


def test_a_model_that_never_answers_fails_and_is_told_so(suite_file, evaluate):
    prompts = []

    def answer(messages):
        prompts.append(messages[-1]["content"][-1]["text"])
        return "I do not know."

    (episode,) = evaluate(answer, "--env.taskset.suite", suite_file, "-n", "1", "--env.agent.max-turns", "3")
    (trace,) = episode["traces"]
    result = trace["info"][RESULT]
    assert (result["outcome"], result["steps"], result["invalid_answers"]) == ("timeout", 3, 3)
    assert (
        "I do not know." in prompts[1] and trace["metrics"]["success"] == 0.0 and trace["rewards"][RETURN]["score"] < 0
    )


def test_a_server_that_fails_is_no_failure_of_the_model(suite_file, evaluate):
    (episode,) = evaluate(lambda messages: 1 / 0, "--env.taskset.suite", suite_file, "-n", "1")
    assert not episode["ok"] and episode["traces"][0]["errors"]
    assert not episode["traces"][0]["metrics"] and not episode["traces"][0]["rewards"]
