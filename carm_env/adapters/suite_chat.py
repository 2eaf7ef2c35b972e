"""Episodes of suites as chats with a result: the part that all adapters share.

`SuiteChat` runs the same `Episode` and `ChatPolicy` as ``carm-env evaluate``, but waits for the answers of a model that
somebody else asks. Episode i of a suite has the same seed, prompts, X-rays and outcome in both.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carm_env.chat_models.interface import Generation
from carm_env.chat_models.policy import ChatPolicy
from carm_env.envs.navigation import CArmNavEnv
from carm_env.envs.registration import MAX_EPISODE_STEPS
from carm_env.evaluation.decisions import DecisionThread
from carm_env.evaluation.episodes import Episode, EpisodeRecord, EpisodeTask
from carm_env.evaluation.policy import Policy
from carm_env.evaluation.provenance import provenance
from carm_env.evaluation.results import EpisodeResult, append_result
from carm_env.evaluation.suite import Suite, load_suite
from carm_env.language.chat import Message, text_part
from carm_env.language.grammar import READINGS
from carm_env.language.prompts import TaskFacts, system_prompt
from carm_env.patients.build import default_workers, is_built, prepare_patients
from carm_env.system.errors import CArmEnvError, UnknownNameError, check_keys, finite_number, shortened

DRAWN = "drawn"
"""Name of the suite in the results of drawn episodes."""
NO_EPISODE = "no_episode"
"""Fault of an answer while no episode is running."""
_run = functools.cache(provenance)
_append_lock = threading.Lock()


class SessionClosedError(CArmEnvError, RuntimeError):
    """The session was closed, by its client or because it was idle."""


@dataclass(frozen=True)
class ChatSettings:
    """Which episodes an adapter runs, and how it shows them.

    Attributes:
        suite: name of a suite, or path of a YAML file.
        draw_from: patients, cohorts or splits. For training: the seed of an episode then draws its patient, target and
            start, and `suite` is not used.
        environment: arguments of `carm_env.envs.navigation.CArmNavEnv` for drawn episodes.
        seed: seed of the first episode; episode i has seed + i.
        style: style of the prompts: full or compact.
        reading: how answers are parsed: lenient, as ``carm-env evaluate`` reads models of others, or strict.
        kept_exchanges: number of earlier exchanges in the messages; 0 in the paper.
        invalid_penalty: subtracted from the reward for an invalid answer.
        model: name of the model in the results.
        results: JSON-lines file to which finished episodes are appended, as ``carm-env evaluate`` does; empty for none.
        transcripts: folder that receives a transcript of each attempt at an episode, as ``carm-env evaluate`` writes
            them; empty for none.

    Raises:
        ValueError: a value has the wrong type or is out of range, or `environment` is given for a suite.
        UnknownNameError: an unknown style, reading or argument of the environment.
    """

    suite: str = "smoke"
    draw_from: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    style: str = "full"
    reading: str = "lenient"
    kept_exchanges: int = 0
    invalid_penalty: float = 0.1
    model: str = "chat"
    results: str = ""
    transcripts: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.draw_from, str):
            raise ValueError(f"draw_from is {shortened(self.draw_from)}, expected a list of names.")
        object.__setattr__(self, "draw_from", tuple(self.draw_from))
        for name in ("seed", "kept_exchanges"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} is {shortened(value)}, expected an integer of at least 0.")
        if finite_number("invalid_penalty", self.invalid_penalty) < 0:
            raise ValueError(f"invalid_penalty is {self.invalid_penalty}, expected 0 or more.")
        if self.reading not in READINGS:
            raise UnknownNameError("reading", self.reading, READINGS)
        if self.environment and not self.draw_from:
            raise ValueError("environment is given for a suite, which has its own: give draw_from, or leave it out.")
        arguments = [name for name in inspect.signature(CArmNavEnv).parameters if name != "patients"]
        check_keys("environment argument", self.environment, arguments)
        system_prompt("navigate", self.style)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ChatSettings:
        """Returns the settings of a configuration file's mapping.

        Raises:
            UnknownNameError: an unknown key; the message names the nearest one.
            ValueError: see the class.
        """
        check_keys("setting", values, [item.name for item in dataclasses.fields(cls)])
        return cls(**values)

    def load_suite(self) -> Suite:
        """Returns the suite; for drawn episodes one without episodes.

        Raises:
            UnknownNameError: an unknown suite.
            FileNotFoundError, ValueError: the file of the suite does not exist or is not valid.
        """
        if not self.draw_from:
            return load_suite(self.suite)
        environment = {"patients": list(self.draw_from), **self.environment}
        return Suite(DRAWN, 1, "Episodes drawn by their seed", MAX_EPISODE_STEPS, (), environment)


def prepare_suite(suite: Suite) -> None:
    """Builds the missing patients of a suite in parallel; patients of drawn episodes are built when first used."""
    missing = [name for name in suite.patients if not is_built(name)]
    if missing:
        prepare_patients(missing, default_workers())


@dataclass(frozen=True, eq=False)
class ChatTurn:
    """The state of an episode after its start or after an answer.

    Attributes:
        messages: messages for the model's next answer; empty if no episode was started.
        step: number of answers so far.
        exposures: number of X-rays so far.
        reward: reward of the answer.
        done: whether no further answer is taken.
        truncated: whether the maximum number of answers is reached.
        fault: kind of error of an invalid answer; otherwise empty.
        explanation: sentence about the fault.
        result: result of the episode, if it has ended.
    """

    messages: list[Message]
    step: int = 0
    exposures: int = 0
    reward: float = 0.0
    done: bool = False
    truncated: bool = False
    fault: str = ""
    explanation: str = ""
    result: EpisodeResult | None = None


class _RewardingEnv(CArmNavEnv):
    """Keeps the last reward."""

    reward = 0.0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, self.reward, terminated, truncated, info = super().step(action)
        return observation, self.reward, terminated, truncated, info


class _Asked(Exception):
    """The policy asks its model."""

    def __init__(self, messages: Sequence[Message]) -> None:
        super().__init__()
        self.messages = list(messages)


class _RemoteModel:
    """A chat model that somebody else asks: without an answer, it raises `_Asked` with the messages."""

    def __init__(self, style: str) -> None:
        self.style = style
        self.answer, self.has_answer, self.seconds = "", False, 0.0

    def generate(self, conversations: Sequence[Sequence[Message]], kind: str) -> list[Generation]:
        if not self.has_answer:
            raise _Asked(conversations[0])
        return [Generation(self.answer, 0, self.seconds)]

    def seed(self, value: int) -> None:
        pass


class _AtOnce(DecisionThread):
    """Makes a decision in the calling thread; its time is the time since the messages were shown."""

    def __init__(self) -> None:
        self.shown_at = time.perf_counter()

    @property
    def waited_s(self) -> float:
        """Time since the messages were shown."""
        return time.perf_counter() - self.shown_at

    def submit(
        self, policy: Policy, observation: Any, info: Mapping[str, Any], prepare: Callable[[], None]
    ) -> Future[tuple[Any, float]]:
        future: Future[tuple[Any, float]] = Future()
        waited_s = self.waited_s
        try:
            prepare()
            future.set_result((policy.act(observation, policy.visible_info(info)), waited_s))
        except Exception as error:
            future.set_exception(error)
        return future


class SuiteChat:
    """One session: episodes of a suite, one after the other, as chats.

    Sessions share patients and renderers in memory, and nothing else. Different sessions may run in different threads;
    one session takes one call at a time.

    Args:
        settings: which episodes, and how they are shown.
        suite: the suite of the settings, if it is loaded already.

    Raises:
        UnknownNameError, FileNotFoundError, ValueError: see `ChatSettings.load_suite`.

    Examples:
        ``chat = SuiteChat(ChatSettings("smoke")); turn = chat.start(0); turn = chat.answer(model(turn.messages))``
    """

    def __init__(self, settings: ChatSettings, suite: Suite | None = None) -> None:
        self.settings = settings
        self.suite = settings.load_suite() if suite is None else suite
        self._env = _RewardingEnv(**{"patients": self.suite.patients, **self.suite.environment})
        self._model, self._now = _RemoteModel(settings.style), _AtOnce()
        self._policy = ChatPolicy(
            self._model, self._env.lattice, reading=settings.reading, kept_exchanges=settings.kept_exchanges
        )
        self._episode: Episode | None = None
        self._turn = ChatTurn([], done=True)
        self._is_closed = False

    def start(self, number: int) -> ChatTurn:
        """Starts an episode.

        Args:
            number: index of the episode, modulo the number N of episodes of the suite; its seed is the seed of the
                settings plus `number`. The first N numbers are the episodes of ``carm-env evaluate``; other
                numbers have other noise.

        Raises:
            SessionClosedError: the session was closed.
            ValueError: `number` is not an integer of at least 0, or the patient does not allow the episode.
            TranscriptError: the folder of the transcripts cannot be written.
        """
        if self._is_closed:
            raise SessionClosedError("the session was closed, perhaps because it was idle: connect again.")
        if type(number) is not int or number < 0:
            raise ValueError(f"episode is {shortened(number)}, expected an integer of at least 0.")
        # Until the reset has succeeded no episode is running.
        self._episode, self._turn = None, ChatTurn([], done=True)
        folder = Path(self.settings.transcripts) if self.settings.transcripts else None
        # Frameworks run the same episode several times, also at the same time.
        episode = Episode(self._policy, self._env, self._task(number), folder, attempt=uuid.uuid4().hex)
        self._turn = ChatTurn(self._ask(episode), exposures=1)
        self._episode = episode
        return self._turn

    def _task(self, number: int) -> EpisodeTask:
        suite, episode, seed = self.suite, 0, self.settings.seed + number
        if suite.episodes:
            episode = number % len(suite.episodes)
        else:
            self._env.reset(seed=seed)
            suite = dataclasses.replace(suite, episodes=(self._env.episode,))
        return EpisodeTask(suite, episode, self.settings.model, seed)

    def answer(self, text: str) -> ChatTurn:
        """Carries out an answer of the model.

        An invalid answer counts as a step, and its fault is in the turn and in the next prompt. Without a running
        episode, the turn repeats the last one with the fault `NO_EPISODE` and no reward.
        """
        episode = self._episode
        if self._turn.done or episode is None:
            reason = "the session was closed" if self._is_closed else "no episode is running"
            return dataclasses.replace(
                self._turn, reward=0.0, fault=NO_EPISODE, explanation=f"{reason}: start an episode first."
            )
        self._env.reward = -self.settings.invalid_penalty
        self._model.answer, self._model.has_answer, self._model.seconds = text, True, self._now.waited_s
        try:
            episode.advance(episode.decide(self._now))
        finally:
            self._model.has_answer = False
        record, done = episode.record, episode.has_ended
        fault, explanation = self._fault(record)
        self._turn = ChatTurn(
            self._ask(episode),
            step=record.steps,
            # A declaration takes no X-ray.
            exposures=1 + len(record.moves) - record.declared,
            reward=self._env.reward,
            done=done,
            truncated=done and not record.has_ended and not record.error,
            fault=fault,
            explanation=explanation,
        )
        if done:
            self._turn = dataclasses.replace(self._turn, result=self._finish(episode))
        return self._turn

    def _ask(self, episode: Episode) -> list[Message]:
        """Returns the messages with the current X-ray; asking twice changes nothing."""
        asked = episode.decide(self._now).exception()
        if not isinstance(asked, _Asked):
            raise asked or AssertionError("the policy decided without an answer")
        self._now.shown_at = time.perf_counter()
        return asked.messages

    def _fault(self, record: EpisodeRecord) -> tuple[str, str]:
        """Returns the kind and the explanation of the last answer's fault."""
        if record.error:
            return "crash", record.error.strip().splitlines()[-1]
        exchange = self._policy.last_exchange()
        return ("", "") if exchange is None else (exchange.fault, exchange.message)

    def result(self) -> EpisodeResult | None:
        """Returns the result so far, None before the first episode; an episode that has not ended is a timeout."""
        if self._episode is None or self._turn.result is not None:
            return self._turn.result
        return dataclasses.replace(self._episode.result(), run=_run(self.settings.seed))

    def _finish(self, episode: Episode) -> EpisodeResult:
        result = dataclasses.replace(episode.finish(), run=_run(self.settings.seed))
        if self.settings.results:
            with _append_lock:
                append_result(Path(self.settings.results), result)
        return result

    def system_message(self) -> Message:
        """Returns the message with the instructions, which may be asked for before the first episode."""
        if self._turn.messages:
            return self._turn.messages[0]
        facts = TaskFacts(self._env.field_of_view_mm, self._env.tolerance_mm)
        text = system_prompt("navigate", self.settings.style, self._env.lattice, facts)
        return {"role": "system", "content": [text_part(text)]}

    def close(self) -> None:
        """Ends the session; further answers are faults."""
        self._is_closed = True
        self._turn = dataclasses.replace(self._turn, done=True)
        self._env.close()
