"""Episodes of a language model in closed loop, many at the same time: one batch of answers moves all of them on."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carm_env.chat_models.interface import ChatModel
from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.episodes import (
    EpisodeRecord,
    EpisodeTask,
    episode_result,
    make_suite_environment,
    reset_episode,
)
from carm_env.evaluation.results import EpisodeResult
from carm_env.evaluation.suite import Suite
from carm_env.language.answers import AnswerError, Question
from carm_env.language.chat import Conversation, Message
from carm_env.language.prompts import TaskFacts, prompt_hash

KIND = "navigation"


@dataclass
class RunningEpisode:
    """An episode of a language model, with the prompts of `carm_env.chat_models.policy.ChatPolicy`.

    Attributes:
        task: the episode.
        env: its environment.
        conversation: its messages.
        record: what happened.
        error: why it ended, if the environment failed.
    """

    task: EpisodeTask
    env: CArmNavEnv
    conversation: Conversation
    record: EpisodeRecord
    observation: Any
    info: dict[str, Any]
    error: str = ""

    @classmethod
    def begin(cls, task: EpisodeTask, env: CArmNavEnv, style: str, kept_exchanges: int = 0) -> RunningEpisode:
        """Starts an episode whose prompts have so many earlier exchanges."""
        observation, info = reset_episode(env, task)
        facts = TaskFacts(env.field_of_view_mm, env.tolerance_mm)
        conversation = Conversation(info["target_landmark"], style, env.lattice, kept_exchanges, facts)
        return cls(task, env, conversation, EpisodeRecord.begin(info), observation, info)

    @property
    def answers_left(self) -> int:
        """Answers left, including the next one."""
        return self.task.suite.max_steps - self.record.steps

    @property
    def has_ended(self) -> bool:
        """Whether no further answer is asked for."""
        return self.record.has_ended or bool(self.error) or self.answers_left < 1

    def messages(self) -> list[Message]:
        """Returns the prompt of the next answer."""
        return self.conversation.show(self.observation["image"], {**self.info, "steps_left": self.answers_left})

    def answer(self, text: str) -> None:
        """Carries out an answer; one that cannot be read leaves the C-arm where it is."""
        self.record.steps += 1
        try:
            step = self.conversation.answer(text)
        except AnswerError:
            self.record.invalid_answers += 1
            # The C-arm did not move: info must not report the last move again.
            self.info = {**self.info, "moved_mm": np.zeros(2), "move_effective": False, "move_clipped": False}
            return
        if isinstance(step, Question):
            self.record.abstained = True
            return
        self.observation, _, declared, _, self.info = self.env.step(step.move.index)
        self.record.add_move(step.move.index, declared, self.info)

    def result(self, style: str) -> EpisodeResult:
        """Returns the result; a failure of the environment counts as a crash."""
        self.record.error = self.error
        return episode_result(self.task, self.env, self.info, self.record, prompt_hash(style))


@dataclass
class ClosedLoop:
    """Runs episodes of a language model, a batch at a time.

    An exception of an environment ends its episode alone, is kept in `failures`, and printed once.

    Args:
        model: answers the prompts, read strictly.
        environment: makes an environment.
        batch: largest number of episodes at the same time.
        kept_exchanges: earlier exchanges that a prompt has; 0 in the paper.
    """

    model: ChatModel
    environment: Callable[[], CArmNavEnv]
    batch: int = 64
    kept_exchanges: int = 0
    failures: list[str] = field(default_factory=list)
    _idle: list[CArmNavEnv] = field(default_factory=list)

    def run(
        self,
        tasks: Sequence[EpisodeTask],
        before: Callable[[RunningEpisode, list[Message]], None] | None = None,
        starts_only: bool = False,
    ) -> Iterator[RunningEpisode]:
        """Runs episodes and yields each when it has ended.

        Args:
            tasks: the episodes.
            before: called with each episode and its prompt before every answer.
            starts_only: end every episode before its first answer.
        """
        waiting, running = deque(tasks), list[RunningEpisode]()
        while waiting or running:
            while waiting and len(running) < self.batch:
                episode = self._begin(waiting.popleft())
                if episode is not None:
                    running.append(episode)
            asked = [(episode, messages) for episode in running if (messages := self._ask(episode, before))]
            if starts_only:
                self._idle += [episode.env for episode in running if not episode.error]
                yield from running
                running = []
                continue
            answers = self.model.generate([messages for _, messages in asked], KIND) if asked else []
            for (episode, _), generation in zip(asked, answers, strict=True):
                self._answer(episode, generation.text)
            for episode in running:
                if episode.has_ended:
                    if not episode.error:
                        self._idle.append(episode.env)
                    yield episode
            running = [episode for episode in running if not episode.has_ended]

    def _begin(self, task: EpisodeTask) -> RunningEpisode | None:
        try:
            env = self._idle.pop() if self._idle else self.environment()
            return RunningEpisode.begin(task, env, self.model.style, self.kept_exchanges)
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            self._failed(error)
            return None

    def _ask(
        self, episode: RunningEpisode, before: Callable[[RunningEpisode, list[Message]], None] | None
    ) -> list[Message]:
        messages = episode.messages()
        try:
            if before is not None:
                before(episode, messages)
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            episode.error = self._failed(error)
            return []
        return messages

    def _answer(self, episode: RunningEpisode, text: str) -> None:
        try:
            episode.answer(text)
        except (KeyboardInterrupt, MemoryError):
            raise
        except Exception as error:
            episode.error = self._failed(error)

    def _failed(self, error: Exception) -> str:
        text = "".join(traceback.format_exception(error, limit=-4))
        if not self.failures:
            print(f"an episode failed in its environment, and is counted: {type(error).__name__}: {error}", flush=True)
        self.failures.append(text)
        return text


@dataclass
class ClosedLoopSuite:
    """A suite of episodes for a language model, distributed over the processes of a training.

    Args:
        suite: the episodes.
        seed: seed of the X-ray noise.
        policy: name of the policy in the results.
        rank, world: number of this process, and of all.
        gather: joins the lists of all processes.
        kept_exchanges: earlier exchanges that a prompt has; 0 in the paper.
        around: makes a context for the episodes, in which the processes may ask the model a different number of times.
    """

    suite: Suite
    seed: int = 0
    policy: str = "mllm"
    rank: int = 0
    world: int = 1
    gather: Callable[[list[Any]], list[Any]] = list
    kept_exchanges: int = 0
    around: Callable[[], AbstractContextManager[None]] = nullcontext

    def results(self, model: ChatModel) -> list[EpisodeResult]:
        """Runs all episodes and returns their results, in order; an episode that cannot begin has none."""
        loop = ClosedLoop(model, lambda: make_suite_environment(self.suite), kept_exchanges=self.kept_exchanges)
        tasks = [EpisodeTask(self.suite, number, self.policy, self.seed) for number in range(len(self.suite.episodes))]
        with self.around():
            own = [episode.result(model.style) for episode in loop.run(tasks[self.rank :: self.world])]
        return sorted(self.gather(own), key=lambda result: result.episode)
