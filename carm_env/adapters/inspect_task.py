"""Inspect task: a suite as an evaluation of any model that Inspect can reach.

    inspect eval carm_env/carm_nav -T suite=smoke --model openai/my-model

Each sample is an episode. The model is shown the prompts of ``carm-env evaluate``, and the scores are its results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from carm_env.adapters.suite_chat import ChatSettings, SuiteChat, prepare_suite
from carm_env.chat_models.messages import message_text, openai_messages
from carm_env.evaluation.suite import Suite
from carm_env.landmarks import landmark
from carm_env.language.chat import Message
from carm_env.language.prompts import prompt_hash
from carm_env.system.extras import optional_imports

with optional_imports("inspect", "The Inspect task"):
    from anyio.to_thread import run_sync
    from inspect_ai import Task, task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import (
        ChatMessage,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        ContentImage,
        ContentText,
        get_model,
    )
    from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
    from inspect_ai.solver import Generate, Solver, TaskState, solver

RESULT = "carm_env_result"
"""Key of the result in the store of a sample."""
SCORES = (
    "success", "final_distance_mm", "exposures", "steps", "dose_mgy", "path_efficiency", "invalid_answers",
    "lenient_answers",
)  # fmt: skip
"""Fields of `carm_env.evaluation.results.EpisodeResult` that are scores."""


@task
def carm_nav(
    suite: str = "smoke",
    episodes: int | None = None,
    seed: int = 0,
    style: str = "full",
    reading: str = "lenient",
    kept_exchanges: int = 0,
    results: str = "",
    transcripts: str = "",
) -> Task:
    """Makes the task of a suite.

    With several epochs, the first has the X-rays of ``carm-env evaluate`` and the others have other noise.

    Args:
        suite: name of a suite, or path of a YAML file.
        episodes: only the first episodes of the suite.
        seed: seed of the first episode; episode i has seed + i.
        style: style of the prompts: full or compact.
        reading: how answers are parsed: lenient or strict.
        kept_exchanges: number of earlier exchanges in the messages.
        results: JSON-lines file to which finished episodes are appended, as ``carm-env evaluate`` does.
        transcripts: folder that receives a transcript of each episode, as ``carm-env evaluate`` writes them.

    Raises:
        UnknownNameError, FileNotFoundError, ValueError: the suite cannot be loaded, or an argument is out of range.
    """
    settings = ChatSettings(
        suite, seed=seed, style=style, reading=reading, kept_exchanges=kept_exchanges, results=results,
        transcripts=transcripts,
    )  # fmt: skip
    loaded = settings.load_suite()
    if episodes is not None and episodes < 1:
        raise ValueError(f"episodes is {episodes}, expected at least 1.")
    prepare_suite(loaded)
    samples = [
        Sample(
            id=f"{loaded.name}-{number}",
            input=f"Episode {number} of the suite {loaded.name}. Target landmark: {landmark(spec.target).name}",
            target="aligned",
            metadata={"episode": number, "patient": spec.patient, "target": spec.target},
        )
        for number, spec in enumerate(loaded.episodes[:episodes])
    ]
    return Task(
        dataset=MemoryDataset(samples, name=loaded.name),
        solver=navigate(settings, loaded),
        scorer=navigation(),
        version=loaded.version,
        metadata={"suite_hash": loaded.hash, "prompts": prompt_hash(style)},
    )


@solver
def navigate(settings: ChatSettings, suite: Suite) -> Solver:
    """Runs the episode of a sample: shows an X-ray, takes the answer, moves the C-arm.

    Args:
        settings: how episodes are shown.
        suite: the suite.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        chat = SuiteChat(dataclasses.replace(settings, model=str(state.model)), suite)
        number = state.metadata["episode"] + (state.epoch - 1) * len(suite.episodes)
        turn = await run_sync(chat.start, number)
        state.messages = _chat_messages(turn.messages[:1])
        try:
            while not turn.done:
                state.messages.append(_chat_messages(turn.messages[-1:])[0])
                state.output = await get_model().generate(_chat_messages(turn.messages))
                state.messages.append(state.output.message)
                turn = await run_sync(chat.answer, state.output.completion)
        finally:
            # A limit of Inspect may end the sample before the episode has ended.
            result = chat.result()
            state.store.set(RESULT, None if result is None else dataclasses.asdict(result))
            chat.close()
        state.completed = True
        return state

    return solve


@scorer(metrics={"success": [mean(), stderr(cluster="patient")], "*": [mean()]})
def navigation() -> Scorer:
    """Scores an episode by its result; `answer` is the outcome, and the metadata contain the whole result."""

    async def score(state: TaskState, target: Target) -> Score | None:
        result: dict[str, Any] | None = state.store.get(RESULT)
        if result is None:
            return None
        explanation = f"{result['outcome']} after {result['steps']} answers, {result['final_distance_mm']:.0f} mm away"
        values = {name: float(result[name]) for name in SCORES}
        return Score(value=values, answer=result["outcome"], explanation=explanation, metadata={"result": result})

    return score


def _chat_messages(messages: Sequence[Message]) -> list[ChatMessage]:
    return [_chat_message(message) for message in messages]


def _chat_message(message: Message) -> ChatMessage:
    if message["role"] == "system":
        return ChatMessageSystem(content=message_text(message))
    if message["role"] == "assistant":
        return ChatMessageAssistant(content=message_text(message))
    parts: list[ContentImage | ContentText] = []
    for part in openai_messages([message])[0]["content"]:
        if part["type"] == "image_url":
            parts.append(ContentImage(image=part["image_url"]["url"]))
        else:
            parts.append(ContentText(text=part["text"]))
    return ChatMessageUser(content=parts)
