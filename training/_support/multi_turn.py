"""Whole episodes as rollouts: the environment that TRL's `GRPOTrainer` makes through ``environment_factory``.

A rollout is a conversation: the model answers in the form that it was fine-tuned on, and the result of the tool
``answer`` is the next X-ray. `training._support.episode_trainer` runs and credits the rollouts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np

from carm_env.actions import ALIGNED
from carm_env.envs.registration import MAX_EPISODE_STEPS
from carm_env.language.chat import ChatCArm, Conversation, Message
from carm_env.system.errors import UnknownNameError, shortened
from carm_env.system.messages import announce
from training.rewards import (
    PARTS,
    TOTAL,
    EpisodeReward,
    RewardWeights,
    State,
    episode_reward,
    outcome_reward,
    regrets,
    step_rewards,
)

HISTORIES = ("bounded", "whole")
"""The paper's history, where a prompt has the last X-ray only, and the whole conversation."""
OUTCOMES = ("success", "misaligned", "out_of_answers", "out_of_tokens", "failed")
"""How a rollout can end: declared right or wrong, with the last answer, at ``max_completion_length``, by an error."""
_BLANK_SIZE = 128


@dataclass(frozen=True)
class EpisodeSettings:
    """What all rollouts have in common.

    Attributes:
        make_env: makes ``CArmNav-v0``.
        weights: weights of the parts of the reward.
        style: style of the prompts.
        history: one of `HISTORIES`.
        max_answers: largest number of answers of an episode.
        outcome_only: the reward is 1 for a success and 0 for a failure.

    Raises:
        UnknownNameError: an unknown history.
        ValueError: `max_answers` is below 1.
    """

    make_env: Callable[[], gym.Env[Any, Any]]
    weights: RewardWeights = field(default_factory=RewardWeights)
    style: str = "compact"
    history: str = HISTORIES[0]
    max_answers: int = MAX_EPISODE_STEPS
    outcome_only: bool = False

    def __post_init__(self) -> None:
        if self.history not in HISTORIES:
            raise UnknownNameError("history", self.history, HISTORIES)
        if self.max_answers < 1:
            raise ValueError(f"max_answers is {self.max_answers}, expected at least 1.")

    @property
    def is_bounded(self) -> bool:
        """Whether a prompt has the last X-ray only."""
        return self.history == "bounded"

    def make_chat(self) -> ChatCArm:
        """Makes an environment that talks."""
        kept = 0 if self.is_bounded else self.max_answers
        return ChatCArm(self.make_env(), self.style, kept, self.max_answers)


class EpisodeEnvironment:
    """The environment of one rollout; TRL calls `reset` and uses every other public method as a tool.

    An answer that cannot be parsed counts, and is answered with the error and the same X-ray. A question to the
    operator counts, too; nobody answers it, and the same X-ray follows. If the environment raises an error, the rollout
    ends with the outcome ``failed`` and without a reward, and training continues.

    Args:
        settings: what all rollouts have in common.

    Attributes:
        messages: the prompt of the next answer.
        answers: number of answers that were carried out or answered.
        invalid: number of these that could not be parsed.
        questions: number of these that were questions to the operator.
        parts: sum of each part of the rewards of the answers (`training.rewards.PARTS`).
        outcome: one of `OUTCOMES` if the episode has ended; otherwise empty.
    """

    def __init__(self, settings: EpisodeSettings) -> None:
        self._settings = settings
        self._chat: ChatCArm | None = settings.make_chat()
        self._begin()

    def _begin(self) -> None:
        self.messages: list[Message] = []
        self.invalid, self.questions, self.outcome = 0, 0, ""
        self.parts = dict.fromkeys(PARTS, 0.0)
        self._steps: list[float] = []
        self._state: State | None = None
        self._forfeit = 0.0

    @property
    def answers(self) -> int:
        """Number of answers so far."""
        return len(self._steps)

    def reset(self, seed: int, **row: Any) -> list[Message]:
        """Starts the episode of a seed; returns the content of the first user turn: an X-ray and a text."""
        self._begin()
        try:
            self._chat = self._chat or self._settings.make_chat()
            self.messages = self._chat.reset(seed=int(seed))
        except Exception as error:  # environments and files of patients raise many kinds
            self._fail(error, f"the episode of seed {seed} cannot start")
            blank = np.zeros((_BLANK_SIZE, _BLANK_SIZE), np.uint8)
            self.messages = Conversation(1, self._settings.style).show(blank)
        return self._content()

    def answer(self, text: str) -> list[Message]:
        """Carries out an answer.

        Args:
            text: the whole answer, in the form that the system prompt describes.

        Returns:
            The next X-ray, and the text that belongs to it.
        """
        if self.outcome or self._chat is None:
            return self._content()
        try:
            self._state = State.of_environment(self._chat.env, self._answers_left())
            turn = self._chat.step(text)
            rewards = step_rewards([text], [self._state], self._settings.weights)
        except Exception as error:
            self._fail(error, f"answer {self.answers + 1} of an episode cannot be carried out")
            return self._content()
        self.messages = turn.messages
        self._steps.append(float(rewards[TOTAL][0]))
        for name in PARTS:
            self.parts[name] += float(rewards[name][0])
        self.invalid += turn.fault is not None
        self.questions += turn.question is not None
        if turn.terminated:
            self.outcome = "success" if turn.info["is_success"] else "misaligned"
            if self.outcome == "misaligned":
                self._give_up_answers()
        elif turn.truncated:
            self.outcome = "out_of_answers"
        return self._content()

    def _answers_left(self) -> int:
        return self._settings.max_answers - self.answers

    def _content(self) -> list[Message]:
        return list(self.messages[-1]["content"])

    def _run_out_of_tokens(self) -> None:
        """Ends the episode at the limit of its tokens."""
        self.outcome = "out_of_tokens"
        self._give_up_answers()

    def _give_up_answers(self) -> None:
        """Charges each answer that is left like the worst move, so that no episode gains by its end before its time.

        Without this charge, a wrong "aligned" at once costs about as much as an episode that finds nothing, and a model
        that seldom finds the target learns to stop at once.
        """
        weights = self._settings.weights
        if self._state is not None:
            moves = np.delete(regrets([self._state], weights.wrong_stop)[0], ALIGNED.index)
            self._forfeit = weights.regret * max(float(moves.max()), 1.0) * self._answers_left()

    def _fail(self, error: Exception, what: str) -> None:
        announce(f"{what} ({type(error).__name__}: {shortened(str(error))}): it is left out of the training.")
        # The next episode begins with a new environment.
        self.outcome, self._chat = "failed", None

    def _reward(self) -> EpisodeReward | None:
        """Reward of the episode and credit of its answers; None if it failed."""
        if self.outcome == "failed":
            return None
        if self._settings.outcome_only:
            return outcome_reward(len(self._steps), self.outcome == "success")
        reward = episode_reward(self._steps, self.outcome == "success", self._settings.weights)
        return replace(reward, total=reward.total - self._forfeit)


def total_reward(environments: list[EpisodeEnvironment], **columns: Any) -> list[float | None]:
    """Returns the reward of each episode, as a reward function of TRL; None for failed ones, which it leaves out."""
    rewards = [environment._reward() for environment in environments]
    return [None if reward is None else reward.total for reward in rewards]
