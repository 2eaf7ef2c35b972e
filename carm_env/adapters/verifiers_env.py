"""verifiers taskset and environment: episodes of a suite as conversations with an X-ray in each user turn.

verifiers finds a taskset by the name of a top-level module, so write one that exports these classes:

```python
from carm_env.adapters.verifiers_env import CArmEnv, CArmHarness, CArmTaskset

__all__ = ["CArmEnv", "CArmHarness", "CArmTaskset"]
```
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from carm_env.adapters.suite_chat import ChatSettings, SuiteChat, prepare_suite
from carm_env.chat_models.messages import message_text, openai_messages
from carm_env.system.extras import optional_imports

with optional_imports("verifiers", "The verifiers environment"):
    import verifiers.v1 as vf
    from openai import APIError, AsyncOpenAI
    from pydantic import Field
    from verifiers.v1.dialects.chat import message_to_wire

RESULT = "carm_env_result"
"""Key of the result in the info of a trace."""
CUSTOM_PROMPTS = "custom"
"""Hash of the prompts in the result if the taskset's `system_prompt` replaces the instructions."""
RETURN = "episode_return"
"""Name of the reward: the sum of the rewards of the episode's answers."""
METRICS = (
    "success", "final_distance_mm", "exposures", "steps", "dose_mgy", "path_efficiency", "invalid_answers",
    "lenient_answers",
)  # fmt: skip
"""Fields of `carm_env.evaluation.results.EpisodeResult` that are metrics."""
_SETTINGS = (
    "suite",
    "draw_from",
    "environment",
    "seed",
    "style",
    "reading",
    "invalid_penalty",
    "results",
    "transcripts",
)


class CArmData(vf.TaskData):
    """An episode: its number, and the settings with which it is run."""

    number: int
    settings: dict[str, Any]


class CArmTasksetConfig(vf.TasksetConfig):
    """Fields of `carm_env.adapters.suite_chat.ChatSettings`; the conversation always keeps all exchanges."""

    suite: str = "smoke"
    """Name of a suite, or path of a YAML file."""
    draw_from: list[str] = Field(default_factory=list)
    """Patients, cohorts or splits: for training, an endless sequence of episodes drawn by their seed."""
    environment: dict[str, Any] = Field(default_factory=dict)
    """Arguments of `CArmNavEnv` for drawn episodes."""
    seed: int = 0
    """Seed of the first episode; episode i has seed + i."""
    style: str = "full"
    """Style of the prompts: full or compact."""
    reading: str = "lenient"
    """How answers are parsed: lenient or strict."""
    invalid_penalty: float = 0.1
    """Subtracted from the reward for an invalid answer."""
    results: str = ""
    """JSON-lines file to which finished episodes are appended."""
    transcripts: str = ""
    """Folder that receives a transcript of each episode."""


class CArmTask(vf.Task[CArmData]):
    """An episode of a suite."""


class CArmTaskset(vf.Taskset[CArmTask, CArmTasksetConfig]):
    """The episodes of a suite, or an endless sequence of drawn episodes.

    Raises:
        UnknownNameError, FileNotFoundError, ValueError: the suite cannot be loaded, or a setting is out of range.
        ValueError: `system_prompt` is given together with `results` or `transcripts`.
    """

    def __init__(self, config: CArmTasksetConfig) -> None:
        super().__init__(config)
        for name in ("results", "transcripts"):
            if self.system_prompt is not None and getattr(config, name):
                raise ValueError(
                    f"{name} is {getattr(config, name)!r}, but system_prompt replaces the prompts that {name} are "
                    "compared by: leave one of them out."
                )
        self._values = {name: getattr(config, name) for name in _SETTINGS}
        self._settings = ChatSettings.from_mapping(self._values)
        self._suite = self._settings.load_suite()
        self.INFINITE = not self._suite.episodes

    def load(self) -> Iterator[CArmTask]:
        """Yields the episodes; builds missing patients of a suite first."""
        prepare_suite(self._suite)
        instructions = message_text(SuiteChat(self._settings, self._suite).system_message())
        numbers = range(len(self._suite.episodes)) if self._suite.episodes else itertools.count()
        for number in numbers:
            name = f"{self._suite.name}-{number}"
            data = CArmData(name=name, system_prompt=instructions, number=number, settings=self._values)
            yield CArmTask(data, self.config.task)


class CArmHarness(vf.Harness[vf.HarnessConfig]):
    """An agent that only answers: one model call per turn, in this process.

    verifiers' own harness without tools, ``null``, works as well, but starts a program for every turn.
    """

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Asks the model through verifiers' interception server, which records the answer."""
        system, prompt = self.resolve_prompt(data)
        messages = [{"role": "system", "content": system}, *map(message_to_wire, prompt)]
        async with AsyncOpenAI(base_url=endpoint, api_key=secret, timeout=None) as client:
            try:
                await client.chat.completions.create(model=ctx.model, messages=messages)
            except APIError as error:
                return vf.ProgramResult(exit_code=1, stdout="", stderr=str(error))
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


class CArmEnvConfig(vf.EnvConfig):
    """One agent on this machine; by default `CArmHarness`."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class CArmEnv(vf.Env[CArmEnvConfig]):
    """Plays the user: shows an X-ray, takes the answer, moves the C-arm.

    The trace has the reward `RETURN`, the metrics `METRICS`, and the result in ``info["carm_env_result"]``.
    """

    async def run(self, task: CArmTask, agents: Any) -> None:
        """Runs an episode. If a limit of verifiers ends it early, its outcome is a timeout; an error has no scores."""
        model = agents.agent.config.model or "chat"
        chat = await asyncio.to_thread(SuiteChat, ChatSettings.from_mapping({**task.data.settings, "model": model}))
        total = 0.0
        try:
            turn = await asyncio.to_thread(chat.start, task.data.number)
            async with agents.agent.interaction(task) as interaction:
                while not turn.done:
                    segment = await interaction.turn(openai_messages(turn.messages[-1:]))
                    if segment.terminated:
                        break
                    turn = await asyncio.to_thread(chat.answer, segment.last_reply)
                    total += turn.reward
            result = chat.result()
        finally:
            chat.close()
        trace = interaction.trace
        if not trace.ok or result is None:
            # The model could not be reached. This is not the model's failure: verifiers reports it and can resume.
            return
        trace.record_reward(RETURN, total)
        trace.record_metrics({name: float(getattr(result, name)) for name in METRICS})
        if task.data.system_prompt != message_text(chat.system_message()):
            result = dataclasses.replace(result, prompts=CUSTOM_PROMPTS)
        trace.info[RESULT] = dataclasses.asdict(result)


__all__ = ["CArmEnv", "CArmHarness", "CArmTaskset"]
