"""The environment for VAGEN, driven by a stand-in of its agent loop.

VAGEN cannot be installed from a package index. `rollout` makes the calls of its agent loop and its checks of an
observation, as read in ``vagen/envs/_common/adapter.py`` and ``vagen/core/runner.py`` of github.com/mll-lab-nu/VAGEN.
"""

import asyncio
import inspect
import json

import numpy as np
import pytest
from PIL import Image

from carm_env.actions import ALIGNED
from carm_env.adapters.gym_image_env import CArmGymImageEnv, observation_of
from carm_env.adapters.suite_chat import NO_EPISODE
from carm_env.language.answers import Navigation, render
from carm_env.language.chat import image_part, text_part
from carm_env.language.prompts import system_prompt
from carm_env.system.errors import UnknownNameError


def message(observation, role):
    text, images = observation["obs_str"], observation.get("multi_modal_input", {}).get("<image>", [])
    assert text.count("<image>") == len(images) and "<video>" not in text
    assert set(observation) <= {"obs_str", "multi_modal_input"}
    assert all(isinstance(image, Image.Image) for image in images)
    return {"role": role, "text": text, "images": images}


async def rollout(env_class, config, model, seed, max_turns=20):
    env = env_class(env_config=config)
    try:
        observation, info = await env.reset(seed=seed)
        messages = [message(await env.system_prompt(), "system"), message(observation, "user")]
        rewards = []
        for _ in range(max_turns):
            observation, reward, done, info = await env.step(model(messages))
            assert isinstance(reward, float) and isinstance(done, bool) and isinstance(info["success"], bool)
            rewards.append(reward)
            messages.append(message(observation, "user"))
            if done:
                break
        return messages, rewards, info
    finally:
        await env.close()


METHODS = {"__init__": ["env_config"], "system_prompt": [], "reset": ["seed"], "step": ["action_str"], "close": []}


@pytest.mark.parametrize(("method", "parameters"), METHODS.items())
def test_the_interface_is_the_one_of_vagen(method, parameters):
    found = getattr(CArmGymImageEnv, method)
    assert list(inspect.signature(found).parameters) == ["self", *parameters]
    assert inspect.iscoroutinefunction(found) == (method != "__init__")


def test_an_oracle_that_talks_has_the_results_of_the_oracle(suite_name, oracle, tmp_path):
    config = {"suite": suite_name, "transcripts": str(tmp_path)}

    async def run():
        seeds = range(len(oracle.results))
        rollouts = [
            rollout(CArmGymImageEnv, config, lambda shown: oracle.answer(shown[-1]["images"][0]), seed)
            for seed in seeds
        ]
        return await asyncio.gather(*rollouts)

    finished = asyncio.run(run())
    oracle.check([info["result"] for _, _, info in finished])
    oracle.check_transcripts(tmp_path)
    for messages, rewards, info in finished:
        assert info["success"] and not info["truncated"] and rewards[-1] == 1.0
        assert messages[0]["text"] == system_prompt("navigate") and not messages[0]["images"]
        assert len(messages) == 2 + len(rewards)
        json.dumps(info)


def test_a_wrong_answer_is_a_fault_and_the_last_one_truncates(suite_file):
    messages, rewards, info = asyncio.run(rollout(CArmGymImageEnv, {"suite": suite_file}, lambda _: "<image>" * 3, 0))
    assert len(rewards) == 20 and max(rewards) < 0
    assert info["truncated"] and not info["success"] and not info["format_correct"]
    assert info["fault"] and info["explanation"] and info["result"]["outcome"] == "timeout"


def test_placeholders_in_a_prompt_are_not_images():
    image = image_part(np.zeros((16, 16), np.uint8))
    shown = {"role": "user", "content": [image, text_part("you said <image> and <video>")]}
    assert message(observation_of(shown), "user")["text"] == "<image>\nyou said image and video"


def test_a_step_without_an_episode_is_a_fault(suite_file):
    async def run():
        env = CArmGymImageEnv({"suite": suite_file})
        before = await env.step("anything")
        await env.reset(1)
        aligned = render(Navigation(1, ALIGNED, "why", "why"))
        first = await env.step(aligned)
        after = await env.step(aligned)
        return before, first, after

    before, first, after = asyncio.run(run())
    assert before[1:3] == (0.0, True) and before[0]["obs_str"] == before[3]["explanation"]
    assert first[2] and not first[3]["fault"]
    assert after[1:3] == (0.0, True) and after[3]["fault"] == before[3]["fault"] == NO_EPISODE


def test_a_wrong_configuration_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'suite'"):
        CArmGymImageEnv({"suites": "smoke"})
