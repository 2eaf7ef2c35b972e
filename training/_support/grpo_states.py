"""States to ask a language model about in reinforcement learning: those that it visits itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carm_env.chat_models.interface import ChatModel, Generation
from carm_env.envs.navigation import CArmNavEnv
from carm_env.envs.registration import MAX_EPISODE_STEPS
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.recipes import Recipe, draw_suite
from carm_env.evaluation.suite import Suite
from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.language.chat import Message
from carm_env.patient import Patient
from training._support.closed_loop import ClosedLoop, RunningEpisode
from training._support.processes import TrainingError

POLICY = "mllm_grpo"
_STATES_PER_EPISODE = 5
_CHECK_DRAW = 1 << 40
_NO_EPISODE = "no episode could be run: all of them failed in their environment, see above."
_MIN_EPISODES, _MAX_WAVES = 8, 6


def seed_of(*numbers: int) -> int:
    """Returns a seed of 63 bits that depends on all numbers.

    >>> seed_of(0, 1) == seed_of(0, 1) != seed_of(1, 0)
    True
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True, eq=False)
class VisitedState:
    """A state of an episode, before an answer.

    Attributes:
        messages: the prompt, as in an evaluation.
        truth: what the simulator knows about the view, for the reward.
    """

    messages: list[Message]
    truth: Any


def uniform_suite(
    name: str,
    patients: Mapping[str, Patient],
    count: int,
    seed: int,
    image_size: int,
    isocenter_depth_mm: float = DEFAULT_ISOCENTER_DEPTH_MM,
) -> Suite:
    """Draws episodes uniformly: patient, target and start."""
    recipe = Recipe(1, "Patients, targets and starts drawn uniformly", tuple(patients), False, count, seed)
    suite, _ = draw_suite(name, recipe, patients)
    environment = {"image_size": image_size, "isocenter_depth_mm": isocenter_depth_mm}
    return Suite(name, 1, suite.description, MAX_EPISODE_STEPS, suite.episodes, environment)


@dataclass
class _Silent:
    """A chat model that is never asked."""

    style: str

    def generate(self, conversations: Sequence[Sequence[Message]], kind: str) -> list[Generation]:
        raise NotImplementedError

    def seed(self, value: int) -> None:
        raise NotImplementedError


@dataclass
class StateSource:
    """Draws pools of states: uniform starts, and states that the model visits in its own episodes.

    A pool depends on the seed, its number and the model alone, so that a training can be resumed, and distributed over
    processes.

    Args:
        truth: returns what the reward needs of an environment and the number of answers left.
        patients: the training patients by name.
        size: states of a pool.
        start_share: share of uniform starts of episodes; the others are visited by the model.
        image_size: side of the X-rays, pixels; the model's processor resizes them.
        seed: seed of all draws.
        batch: largest number of episodes at the same time.
        environment: makes an environment.

    Attributes:
        failures: number of episodes that failed in their environment.
    """

    truth: Callable[[CArmNavEnv, int], Any]
    patients: Mapping[str, Patient]
    size: int
    start_share: float
    image_size: int
    seed: int
    batch: int = 64
    environment: Callable[..., CArmNavEnv] = CArmNavEnv
    failures: int = 0
    _rank: int = 0
    _gather: Callable[[list[Any]], list[Any]] = field(default=lambda items: items)
    _world: int = 1

    def distribute(self, rank: int, world: int, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Lets each of several processes run a part of the episodes; `gather` joins the lists of all."""
        self._rank, self._world, self._gather = rank, world, gather

    def starts(self, count: int, style: str) -> list[VisitedState]:
        """Returns uniform starts of episodes, with prompts of a style; no model is asked.

        Raises:
            TrainingError: no episode can be run.
        """
        found = self._states(seed_of(self.seed, _CHECK_DRAW), count, _Silent(style), starts_only=True)
        if not found:
            raise TrainingError(_NO_EPISODE)
        return found

    def pool(self, number: int, model: ChatModel) -> list[VisitedState]:
        """Returns pool `number`, in random order.

        Raises:
            TrainingError: no episode can be run.
        """
        rng = np.random.default_rng([self.seed, number])
        n_starts = round(self.start_share * self.size)
        starts = self._states(seed_of(self.seed, number, 0), n_starts, model, starts_only=True)
        visited: list[VisitedState] = []
        for wave in range(1, _MAX_WAVES):
            missing = self.size - len(starts) - len(visited)
            if missing <= 0:
                break
            count = max(missing // _STATES_PER_EPISODE, _MIN_EPISODES)
            visited += self._states(seed_of(self.seed, number, wave), count, model, starts_only=False)
        chosen = rng.permutation(len(visited))[: self.size - len(starts)]
        found = [*starts, *(visited[place] for place in chosen)]
        if not found:
            raise TrainingError(_NO_EPISODE)
        # A pool has its size also after failures.
        return [found[place % len(found)] for place in rng.permutation(max(self.size, len(found)))[: self.size]]

    def _states(self, seed: int, count: int, model: ChatModel, starts_only: bool) -> list[VisitedState]:
        """Returns the states of some episodes, ordered by episode."""
        if not count:
            return []
        suite = uniform_suite("training", self.patients, count, seed, self.image_size)
        seen: list[tuple[tuple[int, int], VisitedState]] = []

        def keep(episode: RunningEpisode, messages: list[Message]) -> None:
            place = (episode.task.episode, episode.record.steps)
            seen.append((place, VisitedState(messages, self.truth(episode.env, episode.answers_left))))

        loop = ClosedLoop(model, lambda: self.environment(image_size=self.image_size), self.batch)
        tasks = [EpisodeTask(suite, episode, POLICY, seed_of(seed, episode)) for episode in range(count)]
        for _ in loop.run(tasks[self._rank :: self._world], keep, starts_only):
            pass
        gathered = self._gather([(seen, len(loop.failures))])
        self.failures += sum(failures for _, failures in gathered)
        every = [item for items, _ in gathered for item in items]
        return [state for _, state in sorted(every, key=lambda item: item[0])]
