"""The OpenEnv server, asked by OpenEnv's own clients over WebSockets on the loopback interface."""

import asyncio
import threading
import time

import pytest

pytest.importorskip("openenv", reason="OpenEnv is not installed: pip install 'carm-env[openenv]'")

import httpx
import uvicorn
from openenv.core import GenericEnvClient

from carm_env.actions import ALIGNED
from carm_env.adapters.openenv_server import MAX_MESSAGE_BYTES, CArmAction, CArmClient, make_app
from carm_env.adapters.suite_chat import NO_EPISODE, ChatSettings
from carm_env.language.answers import Navigation, render

ALIGNED_ANSWER = render(Navigation(1, ALIGNED, "why", "why"))


@pytest.fixture
def serve():
    """Starts a server in a thread; returns its URL."""
    running = []

    def start(settings, **limits):
        config = uvicorn.Config(make_app(settings, **limits), port=0, log_level="error", ws_max_size=MAX_MESSAGE_BYTES)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


async def play(url, oracle, image_of_url, number):
    async with CArmClient(base_url=url) as client:
        result = await client.reset(split=oracle.suite, index=number, episode_id=f"episode-{number}")
        rewards = []
        while not result.done:
            image, text = result.observation.messages[-1]["content"]
            assert "landmark" in text["text"]
            answer = oracle.answer(image_of_url(image["image_url"]["url"]))
            result = await client.step(CArmAction(answer=answer))
            rewards.append(result.reward)
        state = await client.state()
        assert (state.episode_id, state.number, state.step_count) == (f"episode-{number}", number, len(rewards))
        assert rewards[-1] == 1.0
        return result.observation.result


def test_an_oracle_that_talks_has_the_results_of_the_oracle(serve, suite_name, oracle, image_of_url, tmp_path):
    url = serve(ChatSettings(suite_name, transcripts=str(tmp_path / "transcripts")), max_sessions=32)

    async def run():
        return await asyncio.gather(*(play(url, oracle, image_of_url, number) for number in range(len(oracle.results))))

    oracle.check(asyncio.run(run()))
    oracle.check_transcripts(tmp_path / "transcripts")


def test_the_generic_client_sees_faults_and_keeps_its_session(serve, settings):
    url = serve(settings)
    with GenericEnvClient(base_url=url).sync() as client:
        early = client.step({"answer": ALIGNED_ANSWER})
        assert early.done and early.observation["fault"] == NO_EPISODE and early.observation["messages"] == []
        first = client.reset(seed=0)
        assert not first.done and first.observation["fault"] == ""
        wrong = client.step({"answer": "no"})
        assert wrong.observation["fault"] == "form" and wrong.reward < 0 and not wrong.done
        assert wrong.observation["explanation"] in wrong.observation["messages"][-1]["content"][1]["text"]
        for action in ({"move": "LEFT"}, {"answer": 7}, {}):
            with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
                client.step(action)
        with pytest.raises(RuntimeError, match="Did you mean 'index'"):
            client.reset(indx=1)
        assert client.step({"answer": "no"}).observation["step"] == 2
        again = client.reset(index=0)
        assert again.observation["messages"] == first.observation["messages"]
        last = client.step({"answer": ALIGNED_ANSWER})
        assert last.done and last.observation["result"]["outcome"] == "misaligned"
        after = client.step({"answer": ALIGNED_ANSWER})
        assert after.done and after.reward == 0 and after.observation["fault"] == NO_EPISODE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "smok"}, "unknown split"),
        ({"split": "four", "index": 4}, "expected 0 to 3"),
        ({"index": 1, "seed": 1}, "expected one of them"),
        ({"seed": -1}, "at least 0"),
        ({"seed": "x"}, "expected an integer"),
    ],
)
def test_a_wrong_reset_is_an_error_of_this_client_alone(serve, settings, arguments, message):
    url = serve(settings)
    with GenericEnvClient(base_url=url).sync() as client, GenericEnvClient(base_url=url).sync() as other:
        shown = other.reset(seed=1)
        with pytest.raises(RuntimeError, match=message):
            client.reset(**arguments)
        assert not client.reset(seed=1).done
        assert not shown.done and not other.step({"answer": "no"}).done


def test_episodes_without_a_number_are_the_next_of_the_server(serve, settings):
    url = serve(settings)
    with GenericEnvClient(base_url=url).sync() as client, GenericEnvClient(base_url=url).sync() as other:
        client.reset()
        other.reset()
        assert {client.state()["number"], other.state()["number"]} == {0, 1}


def test_sessions_are_bounded(serve, settings):
    url = serve(settings, max_sessions=2)
    with GenericEnvClient(base_url=url).sync() as first, GenericEnvClient(base_url=url).sync() as second:
        first.reset(seed=0), second.reset(seed=1)
        with pytest.raises(RuntimeError, match="(?i)capacity|maximum"):
            with GenericEnvClient(base_url=url).sync() as third:
                third.reset(seed=2)
        assert not first.step({"answer": "no"}).done
    with GenericEnvClient(base_url=url).sync() as fourth:
        assert not fourth.reset(seed=2).done


def test_a_message_that_is_too_large_ends_its_own_session_only(serve, settings):
    url = serve(settings)
    with GenericEnvClient(base_url=url).sync() as client:
        client.reset(seed=0)
        with GenericEnvClient(base_url=url).sync() as flood:
            flood.reset(seed=1)
            with pytest.raises(Exception, match="(?i)1009|clos|too big"):
                flood.step({"answer": "x" * (MAX_MESSAGE_BYTES + 1)})
        assert not client.step({"answer": "x" * 10_000}).done


def test_an_idle_session_is_closed(serve, settings):
    url = serve(settings, max_sessions=1, idle_timeout_s=0.2)
    with GenericEnvClient(base_url=url).sync() as client:
        client.reset(seed=0)
        # OpenEnv looks for idle sessions every 5 seconds at most.
        time.sleep(6)
        late = client.step({"answer": ALIGNED_ANSWER})
        assert late.done and late.observation["fault"] == NO_EPISODE and "closed" in late.observation["explanation"]
        with pytest.raises(RuntimeError, match="connect again"):
            client.reset(seed=0)
        with GenericEnvClient(base_url=url).sync() as other:
            assert not other.reset(seed=0).done


def test_the_tasks_of_the_server_are_the_episodes_of_the_suite(serve, settings):
    url = serve(settings)
    assert httpx.get(f"{url}/health").json() == {"status": "healthy"}
    metadata = httpx.get(f"{url}/metadata").json()
    assert metadata["name"] == "carm_nav" and "four routes" in metadata["description"]
    schema = httpx.get(f"{url}/schema").json()
    assert set(schema["action"]["required"]) == {"answer"} and "messages" in schema["observation"]["properties"]
    assert httpx.get(f"{url}/carm_nav/splits").json() == [{"name": "four", "type": "test"}]
    assert httpx.post(f"{url}/carm_nav/num_tasks", json={"split": "four"}).json() == {"num_tasks": 4}
    tasks = httpx.post(f"{url}/carm_nav/task_range", json={"split": "four", "start": 1, "stop": 3}).json()["tasks"]
    assert [task["id"] for task in tasks] == ["four-1", "four-2"]
    assert httpx.post(f"{url}/carm_nav/task", json={"split": "four", "index": 9}).status_code == 400


def test_the_stateless_routes_answer_without_an_episode(serve, settings):
    url = serve(settings)
    reset = httpx.post(f"{url}/reset", json={"seed": 0}).json()
    assert not reset["done"] and reset["observation"]["messages"]
    step = httpx.post(f"{url}/step", json={"action": {"answer": "no"}}).json()
    assert step["done"] and step["observation"]["fault"] == NO_EPISODE


@pytest.mark.parametrize("limits", [{"max_sessions": 0}, {"idle_timeout_s": 0}, {"idle_timeout_s": float("nan")}])
def test_limits_are_checked(settings, limits):
    with pytest.raises(ValueError, match="positive limits"):
        make_app(settings, **limits)
