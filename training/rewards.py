"""Rewards for reinforcement learning of the language model: exact regrets of moves, and small terms for the answer.

The reward of an answer is minus the regret of its move, in exposures: the fewest X-rays that the episode still takes
after the move, beyond those after the best move. The simulator knows the target, so this value is exact
(`training._support.exposures`).

| answer | regret in exposures |
|---|---|
| a move | its exposure and the fewest that follow it, beyond the best action's |
| "aligned" within the tolerance | 0 |
| "aligned" outside the tolerance | as if all answers that are left were used; always more than the worst move |
| a question to the operator | `RewardWeights.question`, by default 1, and at most as unreadable |
| unreadable | as the worst move, at least 1: it uses an answer, and the C-arm stays |

A move where "aligned" was right loses at least its own exposure. A question uses an answer, and the C-arm stays; it
pays where every other answer is expected to cost more. Small terms reward the form of the answer and what it says; a
question can only have that of the form. Together they weigh less than one exposure, so that of two answers the one with
the better move has the greater reward, however it is worded, and a question has less than every answer without regret.
Every function is pure; images and models play no part.

Step-wise training rewards many answers at once::

    rewards = step_rewards(texts, states, weights)  # arrays by name: "total", and each part of it

Training on whole episodes rewards one answer at a time, and the episode at its end::

    steps.append(step_rewards([text], [State.of_environment(env, answers_left)], weights)["total"][0])
    reward = episode_reward(steps, success, weights)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_env.actions import ALIGNED, N_ACTIONS, MoveLattice
from carm_env.envs.navigation import CArmNavEnv
from carm_env.envs.registration import DEFAULT_TOLERANCE_MM, MAX_EPISODE_STEPS
from carm_env.landmarks import N_LANDMARKS, landmark
from carm_env.language.answers import AnswerError, Navigation, Question
from carm_env.language.grammar import is_valid, parse_step
from carm_env.language.reasons import Situation, reasons_are_relevant, reasons_are_true
from carm_env.system.errors import check_keys, finite_number, shortened
from carm_env.system.structured_files import read_yaml_mapping
from carm_env.views.sample import label_camera_view
from training._support.exposures import action_regrets

PARTS = ("regret", "form", "context", "reasons_true", "reasons_relevant", "length")
"""Parts of the step reward, see `step_rewards`."""
TOTAL = "total"
QUESTION = "question"
UNREADABLE, ASKED = -1, -2
"""Stand for the move of an answer that cannot be read, and of a question to the operator."""
_SMALL = PARTS[1:]


@dataclass(frozen=True)
class RewardWeights:
    """Weights of the parts of a reward, in exposures.

    Attributes:
        regret: weight of one exposure of regret.
        wrong_stop: cost of a wrong "aligned" in exposures, if more answers are left. It sets how sure a model must be
            before it stops: 20 exposures are worth it only if "aligned" is right in more than 19 of 20 cases.
        question: cost of a question to the operator in exposures, at most that of an unreadable answer.
        form: an answer in exactly the form of a move or a question.
        context: the closest landmark is named right.
        reasons_true: both reasons are true and support the move (`carm_env.language.reasons.reasons_are_true`).
        reasons_relevant: both reasons imply the best move in this view (`reasons_are_relevant`).
        length: subtracted from an answer of `longest_characters`.
        outcome: success of the episode, in the reward of an episode.
        free_characters: length up to which nothing is subtracted; every true answer of
            `carm_env.language.reasons.navigation_answer` is shorter.
        longest_characters: length from which all of `length` is subtracted; in between, it grows linearly.

    Raises:
        ValueError: a weight is negative or not finite; `regret` is 0, or not more than the small terms (`form` to
            `length`) together; `question` times `regret` is not more than these; or the lengths do not increase.
    """

    regret: float = 1.0
    wrong_stop: int = MAX_EPISODE_STEPS
    question: float = 1.0
    form: float = 0.1
    context: float = 0.1
    reasons_true: float = 0.3
    reasons_relevant: float = 0.3
    length: float = 0.1
    outcome: float = 1.0
    free_characters: int = 900
    longest_characters: int = 1800

    def __post_init__(self) -> None:
        for item in fields(self):
            value = finite_number(item.name, getattr(self, item.name))
            if value < 0:
                raise ValueError(f"{item.name} is {value!r}, expected 0 or more.")
        small = sum(getattr(self, name) for name in _SMALL)
        if not small < self.regret:
            raise ValueError(
                f"{', '.join(_SMALL)} add up to {small:g}, expected less than regret, which is {self.regret:g}: "
                "otherwise an answer could make up for a worse move by its wording."
            )
        if not small < self.question * self.regret:
            raise ValueError(
                f"question is {self.question:g}, expected more than {small / self.regret:g}, what {', '.join(_SMALL)} "
                "are worth in exposures: otherwise a question could have more than a right answer."
            )
        if not self.free_characters < self.longest_characters:
            raise ValueError(
                f"longest_characters is {self.longest_characters}, expected more than free_characters, which is "
                f"{self.free_characters}."
            )

    @classmethod
    def from_yaml(cls, path: Path) -> RewardWeights:
        """Reads weights; those that the file lacks have their defaults. See ``training/configs/rewards.yaml``.

        Raises:
            UnknownNameError: an unknown key; the message names the nearest one.
            ValueError: the file is not a YAML mapping, or a value is out of range; the message names the file.
            OSError: the file cannot be read.
        """
        values = read_yaml_mapping(path)
        check_keys(f"reward weight in {path}", values, [item.name for item in fields(cls)])
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True, eq=False)
class State:
    """What the simulator knows about the view that an answer is about. Answers to one view should share one object.

    The displacements are in a frontal view, to the patient's left and cranially.

    Attributes:
        displacement_mm: ``(14, 2)`` from the isocentre to each landmark; NaN for landmarks that the patient lacks.
        visible: ``(14,)`` whether the landmark is in the image.
        target: id of the target.
        limits_mm: ``(2, 2)`` lowest and highest displacement of the isocentre in the workspace, each (left, cranial).
        answers_left: answers left in the episode, including the one that is rewarded.
        lattice: the moves.
        tolerance_mm: largest distance at which "aligned" is right.

    Raises:
        UnknownNameError: an unknown target.
        ValueError: an array has another shape, the patient lacks the target, the isocentre is outside the limits, no
            answer is left, or the tolerance is not positive.
    """

    displacement_mm: NDArray[np.float64]
    visible: NDArray[np.bool_]
    target: int
    limits_mm: NDArray[np.float64]
    answers_left: int
    lattice: MoveLattice = field(default_factory=MoveLattice)
    tolerance_mm: float = DEFAULT_TOLERANCE_MM

    def __post_init__(self) -> None:
        shapes = {"displacement_mm": (N_LANDMARKS, 2), "visible": (N_LANDMARKS,), "limits_mm": (2, 2)}
        for name, shape in shapes.items():
            array = np.asarray(getattr(self, name), bool if name == "visible" else float)
            if array.shape != shape:
                raise ValueError(f"{name} has the shape {array.shape}, expected {shape}.")
            object.__setattr__(self, name, array)
        if not np.isfinite(self.target_mm).all():
            raise ValueError(f"displacement_mm of the target {landmark(self.target).name} is not finite.")
        if not ((self.limits_mm[0] <= 0).all() and (self.limits_mm[1] >= 0).all()):
            raise ValueError(
                f"limits_mm is {shortened(self.limits_mm.tolist())}, expected displacements from the isocentre: the "
                "lowest at most 0, the highest at least 0."
            )
        if self.answers_left < 1:
            raise ValueError(f"answers_left is {self.answers_left}, expected 1 or more: this answer counts.")
        if not self.tolerance_mm > 0:
            raise ValueError(f"tolerance_mm is {self.tolerance_mm}, expected a positive length.")

    @property
    def target_mm(self) -> NDArray[np.float64]:
        """``(2,)``: displacement from the isocentre to the target."""
        return self.displacement_mm[landmark(self.target).index]

    @property
    def situation(self) -> Situation:
        """The positions of the landmarks."""
        return Situation(self.displacement_mm, self.visible)

    @classmethod
    def of_environment(cls, env: gym.Env[Any, Any], answers_left: int) -> State:
        """Returns the state of the running episode of ``CArmNav-v0``, before an answer.

        Args:
            env: the environment, or a wrapper of it.
            answers_left: answers left in the episode, including the next one.

        Raises:
            ValueError: `env` is another environment, or its views are not frontal.
            gymnasium.error.ResetNeeded: there is no episode.
        """
        base = env.unwrapped
        if not isinstance(base, CArmNavEnv):
            raise ValueError(f"env is {type(base).__name__}, expected CArmNav-v0.")
        pose, patient = base.pose, base.scene.patient
        if pose.alpha_deg or pose.beta_deg:
            raise ValueError(
                f"the views of env are at {pose.alpha_deg:g} and {pose.beta_deg:g} degrees, expected frontal views "
                "(alpha_deg=0, beta_deg=0): in others a move does not shift the view by its length."
            )
        labels = label_camera_view(patient, base.scene.camera, pose, base.image_size)
        isocenter = np.asarray(pose.isocenter_lps_mm)[[0, 2]]
        limits = patient.workspace_mm - isocenter
        return cls(
            labels.displacement_mm, labels.visible, base.episode.target, limits, answers_left, base.lattice,
            base.tolerance_mm,
        )  # fmt: skip


def regrets(states: Sequence[State], wrong_stop: int = MAX_EPISODE_STEPS) -> NDArray[np.int64]:
    """Returns the regret of each action in each state, in exposures, ``(N, 49)``; the best actions have 0.

    States that are the same object are computed once.

    Args:
        states: N states.
        wrong_stop: largest cost of a wrong "aligned", in exposures; it always costs more than the worst move.
    """
    different = list({id(state): state for state in states}.values())
    found = np.zeros((len(different), N_ACTIONS), np.int64)
    for lattice in {state.lattice for state in different}:
        rows = [row for row, state in enumerate(different) if state.lattice == lattice]
        own = [different[row] for row in rows]
        found[rows] = action_regrets(
            np.stack([state.target_mm for state in own]),
            np.stack([state.limits_mm for state in own]),
            np.array([state.tolerance_mm for state in own]),
            np.array([min(state.answers_left, wrong_stop) for state in own]),
            lattice,
        )
    row_of = {id(state): row for row, state in enumerate(different)}
    return found[[row_of[id(state)] for state in states]]


def chosen_moves(texts: Sequence[str], reading: str = "strict") -> NDArray[np.int64]:
    """Returns the action of each answer, ``(N,)``; `UNREADABLE` or `ASKED` where there is none.

    Args:
        texts: N answers.
        reading: ``strict`` or ``lenient`` (`carm_env.language.grammar`).
    """
    return np.array([_action(_read(text, reading)) for text in texts], np.int64)


def step_rewards(
    texts: Sequence[str], states: Sequence[State], weights: RewardWeights | None = None, reading: str = "strict"
) -> dict[str, NDArray[np.float64]]:
    """Returns the rewards of answers, and their parts.

    Args:
        texts: N answers of the model.
        states: ``(N,)`` the state that each answer is about.
        weights: weights of the parts; by default those of ``training/configs/rewards.yaml``.
        reading: ``strict`` or ``lenient`` (`carm_env.language.grammar`).

    Returns:
        Arrays ``(N,)`` by name: ``total``, the reward; ``regret`` in exposures; ``form``, ``context``, ``reasons_true``
        and ``reasons_relevant``, which are 1 or 0; ``length``, the share of the length penalty, 0 to 1. The total is
        the weighted sum of these, with a minus for ``regret`` and ``length``. Besides, ``question`` is 1 for a
        question to the operator, and otherwise 0.

    Raises:
        ValueError: there are not as many states as answers, or an unknown reading.
    """
    if len(texts) != len(states):
        raise ValueError(f"got {len(texts)} texts and {len(states)} states, expected one state for each text.")
    weights = weights or RewardWeights()
    answers = [_read(text, reading) for text in texts]
    parts = {name: np.zeros(len(texts)) for name in PARTS}
    actions = np.array([_action(answer) for answer in answers], np.int64)
    asked = {QUESTION: (actions == ASKED).astype(float)}
    if not texts:
        return {TOTAL: np.zeros(0), **parts, **asked}
    for row, (text, answer, state) in enumerate(zip(texts, answers, states, strict=True)):
        parts["length"][row] = _excess(text, weights)
        if answer is None:
            continue
        kind = QUESTION if isinstance(answer, Question) else "navigation"
        parts["form"][row] = reading == "strict" or is_valid(kind, text)
        if isinstance(answer, Question):
            continue
        situation = state.situation
        parts["context"][row] = answer.context == situation.closest()[0]
        if reasons_are_true(answer, situation, state.target, state.lattice):
            parts["reasons_true"][row] = 1
            parts["reasons_relevant"][row] = reasons_are_relevant(answer, situation, state.target, state.lattice)
    by_action = regrets(states, weights.wrong_stop)
    worst_move = np.delete(by_action, ALIGNED.index, axis=1).max(1)
    chosen = by_action[np.arange(len(actions)), actions]
    unreadable = np.maximum(worst_move, 1)
    parts["regret"][:] = np.select(
        [actions == UNREADABLE, actions == ASKED], [unreadable, np.minimum(weights.question, unreadable)], chosen
    )
    signs = {name: -1.0 if name in ("regret", "length") else 1.0 for name in PARTS}
    total = sum(signs[name] * getattr(weights, name) * parts[name] for name in PARTS)
    return {TOTAL: np.asarray(total), **parts, **asked}


def _read(text: str, reading: str) -> Navigation | Question | None:
    try:
        return parse_step(text, reading)
    except AnswerError:
        return None


def _action(answer: Navigation | Question | None) -> int:
    if answer is None:
        return UNREADABLE
    return ASKED if isinstance(answer, Question) else answer.move.index


def _excess(text: str, weights: RewardWeights) -> float:
    """Returns the share of the length penalty, 0 to 1."""
    free, longest = weights.free_characters, weights.longest_characters
    return float(np.clip((len(text) - free) / (longest - free), 0, 1))


@dataclass(frozen=True, eq=False)
class EpisodeReward:
    """Reward of an episode.

    Attributes:
        total: the sum of the step rewards, and the weighted outcome.
        turns: ``(T,)`` credit of each turn: its own step reward, and the weighted outcome. The regret of a step already
            holds everything that follows from it, so that later mistakes are not charged to earlier turns.
    """

    total: float
    turns: NDArray[np.float64]


def episode_reward(steps: ArrayLike, success: bool, weights: RewardWeights | None = None) -> EpisodeReward:
    """Returns the reward of an episode and the credit of its turns.

    An extra turn costs more than it can gain, because its regret outweighs its small terms.

    Args:
        steps: ``(T,)`` totals of `step_rewards`.
        success: whether "aligned" was declared within the tolerance.
        weights: weights of the parts.

    >>> reward = episode_reward([-1.0, 0.5], True)
    >>> reward.total, reward.turns.tolist()
    (0.5, [0.0, 1.5])
    """
    values = np.asarray(steps, float)
    outcome = (weights or RewardWeights()).outcome * float(success)
    return EpisodeReward(float(values.sum() + outcome), values + outcome)


def outcome_reward(turns: int, success: bool) -> EpisodeReward:
    """Returns the binary reward of an episode: 1 for a success and 0 for a failure, credited to every turn.

    Args:
        turns: number of turns.
        success: whether "aligned" was declared within the tolerance.

    >>> reward = outcome_reward(2, True)
    >>> reward.total, reward.turns.tolist()
    (1.0, [1.0, 1.0])
    """
    return EpisodeReward(float(success), np.full(turns, float(success)))
