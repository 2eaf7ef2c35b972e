"""The policy interface: a `Policy` maps an observation to a `Decision`."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from typing import Any, ClassVar

from carm_env.actions import DEFAULT_EXTENTS_MM, Move, MoveLattice
from carm_env.system.errors import CArmEnvError
from carm_env.transcripts.records import Exchange

TASK_INFO = frozenset(("tolerance_mm", "field_of_view_mm", "extents_mm", "steps_left"))
"""Keys of `info` about the task that the evaluation adds: tolerance of a declaration, side of the square that the image
shows at the patient, lengths of the moves, and number of decisions that are left, with the next one."""
PUBLIC_INFO = TASK_INFO | frozenset(
    ("target_landmark", "exposures", "dose_mgy", "dap_mgy_cm2", "view_quality", "action_mask", "move_effective",
     "move_clipped", "moved_mm")
)  # fmt: skip
"""Keys of `info` that every policy receives: the task, and what a real C-arm reports."""


def task_lattice(info: Mapping[str, Any], given: MoveLattice | None = None) -> MoveLattice:
    """Returns the moves of a task: those that a policy was given, or those in `info`, or the default ones."""
    return given or _lattice(tuple(info.get("extents_mm", DEFAULT_EXTENTS_MM)))


@cache
def _lattice(extents_mm: tuple[float, float, float]) -> MoveLattice:
    return MoveLattice(extents_mm)


@dataclass(frozen=True)
class Usage:
    """What a decision took from a language model.

    Attributes:
        prompt_tokens: tokens of the conversation; 0 if unknown.
        tokens: generated tokens.
        seconds: time of the model's answer.
        cost: price in the currency of the model's settings.
    """

    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        """Returns the sum."""
        return Usage(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Decision:
    """A policy's answer to one X-ray.

    Attributes:
        move: the move to carry out; `carm_env.actions.ALIGNED` declares the view aligned and ends the episode.
        closest_landmarks: ids of the landmarks that the policy believes to be closest, nearest first.
        rationale: explanation in words; empty if the policy gives none.
        confidence: 0 to 1; None if the policy gives none.
        abstain: return control to the operator. `move` is not carried out and the episode ends.
        question: what the policy asks the operator as it returns control; with an operator who answers
            (`benchmarks/assisted.py`) the episode continues.
        invalid: the answer could not be parsed. `move` is not carried out and the step counts.
        lenient: the answer was not in the exact form, but could be read.
        usage: tokens, time and cost of a language model; None for other policies.
    """

    move: Move
    closest_landmarks: tuple[int, ...] = ()
    rationale: str = ""
    confidence: float | None = None
    abstain: bool = False
    question: str = ""
    invalid: bool = False
    lenient: bool = False
    usage: Usage | None = None


class UnusablePolicyError(CArmEnvError, ValueError):
    """The policy failed for an external reason, such as an unreachable server or a context window that is too small.

    It stops the evaluation. Any other exception of a policy counts as a failed episode.
    """


class Policy(abc.ABC):
    """Base class of policies.

    The evaluation passes a policy only `PUBLIC_INFO` and the keys in its `privileged_info`. The leaderboard marks
    policies with privileged information.

    Attributes:
        privileged_info: keys of `info` with the true state that the policy reads.
        keeps_state: whether a decision may depend on earlier steps of the episode.
        max_threads: limit of torch's threads during a decision; 1 suits small networks, None is no limit.
        packages: distributions whose versions belong to the results, such as ``torch``.
    """

    privileged_info: ClassVar[frozenset[str]] = frozenset()
    keeps_state: ClassVar[bool] = True
    max_threads: ClassVar[int | None] = None
    packages: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def reset(self, seed: int | None = None) -> None:
        """Starts an episode and discards the state of the last one. Equal seeds give equal decisions."""

    @abc.abstractmethod
    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Decides on one observation of ``CArmNav-v0``.

        Args:
            observation: as returned by the environment.
            info: `visible_info` of the environment's ``info``.
        """

    def feedback(self, text: str) -> None:  # noqa: B027 - listening is optional
        """Hears a clinician's words before the next decision; by default it does not listen.

        The words are about the X-ray that the next `act` receives: the last decision has been carried out.

        Args:
            text: the words; `carm_env.language.advice_reader.read_advice` reads what they mean.
        """

    def check_patients(self, names: Sequence[str]) -> None:  # noqa: B027 - most policies know no patient
        """Is called before an evaluation with the names of its patients; by default accepts them all.

        A policy that looks an X-ray up among those of known patients raises ValueError if one of these is evaluated.
        """

    def act_batch(self, observations: Sequence[Any], infos: Sequence[Mapping[str, Any]]) -> list[Decision]:
        """Decides on one observation of each of several episodes.

        Raises:
            RuntimeError: the policy keeps state.
        """
        if self.keeps_state:
            raise RuntimeError(
                f"{type(self).__name__} keeps state between the steps of an episode: make one policy for each "
                "episode and call act()."
            )
        return [self.act(observation, info) for observation, info in zip(observations, infos, strict=True)]

    @property
    def concurrency(self) -> int:
        """Number of episodes that may run at the same time in one process, each on a `for_episode`."""
        return 1

    def for_episode(self) -> Policy:
        """Returns a policy for one episode, which shares models and weights with this one, but no state."""
        return self

    def description(self) -> dict[str, Any]:
        """Returns facts for the results, as JSON, such as the settings of a language model."""
        return {}

    def prompts(self) -> str:
        """Returns the hash of the prompts of a language model; empty for other policies."""
        return ""

    def last_exchange(self) -> Exchange | None:
        """Returns the request to a language model behind the last decision, for transcripts; None for other policies.

        Each decision has an exchange of its own, so that a transcript holds none twice.
        """
        return None

    @classmethod
    def visible_info(cls, info: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the part of the environment's `info` that this policy may read."""
        return {key: value for key, value in info.items() if key in PUBLIC_INFO or key in cls.privileged_info}
