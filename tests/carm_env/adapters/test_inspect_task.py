"""The Inspect task, run by Inspect's own evaluation with its mock model."""

import os
import sys

import pytest

pytest.importorskip("inspect_ai", reason="Inspect is not installed: pip install 'carm-env[inspect]'")

from inspect_ai import eval as inspect_eval
from inspect_ai.log import read_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from carm_env.adapters.inspect_task import carm_nav
from carm_env.evaluation.results import read_results
from carm_env.language.prompts import system_prompt
from carm_env.system.errors import UnknownNameError


def run(task, answer, log_dir, **options):
    """Evaluates a model that answers a list of messages with ``answer(messages)``."""

    def generate(messages, tools, tool_choice, config):
        output = ModelOutput.from_content("mockllm/model", answer(messages))
        # Without a usage, the mock model counts tokens with an encoding that it fetches.
        output.usage = ModelUsage()
        return output

    model = get_model("mockllm/model", custom_outputs=generate, memoize=False)
    log = inspect_eval(task, model=model, log_dir=str(log_dir), display="none", **options)[0]
    assert log.status == "success", log.error
    return log


@pytest.fixture
def shown_image(image_of_url):
    """Returns the image of the last message."""

    def shown(messages):
        (part,) = (part for part in messages[-1].content if part.type == "image")
        return image_of_url(part.image)

    return shown


def results_of(log):
    return [sample.scores["navigation"].metadata["result"] for sample in log.samples]


def test_an_oracle_that_talks_has_the_results_of_the_oracle(suite_name, oracle, shown_image, tmp_path):
    def answer(messages):
        assert [message.role for message in messages] == ["system", "user"]
        assert messages[0].text == system_prompt("navigate")
        return oracle.answer(shown_image(messages))

    path = tmp_path / "runs" / "episodes.jsonl"
    transcripts = tmp_path / "transcripts"
    log = run(carm_nav(suite_name, results=str(path), transcripts=str(transcripts)), answer, tmp_path)
    oracle.check(results_of(log))
    oracle.check_transcripts(transcripts)
    scores = {score.name: score.metrics for score in log.results.scores}
    assert scores["success"]["mean"].value == 1.0 and "stderr" in scores["success"]
    exposures = [result.exposures for result in oracle.results]
    assert scores["exposures"]["mean"].value == pytest.approx(sum(exposures) / len(exposures))
    written, errors = read_results(path)
    assert not errors and {result.policy for result in written} == {"mockllm/model"}
    assert len(written) == len(oracle.results)
    first = log.samples[0]
    assert [message.role for message in first.messages[:3]] == ["system", "user", "assistant"]
    assert len(first.messages) == 1 + 2 * first.scores["navigation"].metadata["result"]["steps"]


def test_a_model_that_never_answers_fails_and_is_told_so(suite_file, tmp_path):
    prompts = []

    def answer(messages):
        prompts.append(messages[-1].text)
        return "I do not know."

    log = run(carm_nav(suite_file, episodes=1), answer, tmp_path)
    (result,) = results_of(log)
    assert (result["outcome"], result["steps"], result["invalid_answers"]) == ("timeout", 20, 20)
    assert "I do not know." in prompts[1] and prompts[0] != prompts[1]


def test_a_limit_of_inspect_leaves_a_result(suite_file, tmp_path):
    log = run(carm_nav(suite_file, episodes=1), lambda _: "no", tmp_path, message_limit=6)
    (result,) = results_of(log)
    assert (result["outcome"], result["success"]) == ("timeout", False) and 1 <= result["steps"] <= 3


def test_epochs_have_other_noise(suite_file, shown_image, tmp_path):
    seen = []
    run(carm_nav(suite_file, episodes=1), lambda shown: seen.append(shown_image(shown).tobytes()) or "no", tmp_path,
        epochs=2, message_limit=4)  # fmt: skip
    assert len(set(seen)) == 2


def test_earlier_exchanges_are_kept_on_request(suite_file, tmp_path):
    lengths = []
    run(carm_nav(suite_file, episodes=1, kept_exchanges=1), lambda shown: lengths.append(len(shown)) or "no", tmp_path)
    assert lengths[:3] == [2, 4, 4]


def test_wrong_arguments_are_refused(suite_file):
    with pytest.raises(UnknownNameError, match="Did you mean 'smoke'"):
        carm_nav("smok")
    with pytest.raises(ValueError, match="episodes is 0"):
        carm_nav(suite_file, episodes=0)


def test_the_command_of_inspect_evaluates_a_served_model(
    suite_name, oracle, image_of_url, chat_server, tmp_path, start_process
):
    pytest.importorskip("openai")

    def answer(messages):
        (url,) = (part["image_url"]["url"] for part in messages[-1]["content"] if part["type"] == "image_url")
        return oracle.answer(image_of_url(url))

    environment = {**os.environ, "OPENAI_BASE_URL": chat_server(answer), "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-m", "inspect_ai", "eval", "carm_env/adapters/inspect_task.py", "--display", "plain",
               "--model", "openai/talking-oracle", "-M", "responses_api=false", "-T", f"suite={suite_name}",
               "--log-dir", str(tmp_path / "logs")]  # fmt: skip
    assert start_process(command, env=environment).wait(timeout=120) == 0
    (path,) = (tmp_path / "logs").glob("*.eval")
    log = read_eval_log(str(path))
    assert log.status == "success" and log.eval.metadata["suite_hash"]
    oracle.check(results_of(log))
