"""One C-arm of a session: its episode, who drives it, and what the page may know about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import Move
from carm_env.cockpit.messages import DRIVERS, Start
from carm_env.cockpit.preparation import Prepared
from carm_env.cockpit.readouts import carm_readouts, decision_readouts, drive_readouts
from carm_env.cockpit.refusals import TURN, RefusedError
from carm_env.cockpit.steering import SharedControl, SteeredEpisode
from carm_env.evaluation.decisions import DecisionThread
from carm_env.evaluation.episodes import EpisodeTask
from carm_env.evaluation.policy import Decision, Policy

AGENT, PERSON = DRIVERS
Made = Future[tuple[Any, float]]


@dataclass(frozen=True)
class Held:
    """A decision that waits for the person.

    Attributes:
        kind: ``aligned``, ``question`` or ``hand_back``.
        made: the decision.
    """

    kind: str
    made: Made


class Lane:
    """One C-arm.

    Args:
        prepared: the episode.
        policy: name of the policy; empty if only a person drives.
        make_policy: constructs a policy by name.
        transcripts: folder that receives the transcript.
        attempt: tells sessions apart that run the same episode.
        show_distance: whether the page may know the true distance to the target.

    Attributes:
        driver: ``agent`` or ``person``; it may change while a decision is being made.
    """

    def __init__(
        self,
        prepared: Prepared,
        policy: str,
        make_policy: Callable[[str], Policy],
        transcripts: Path,
        attempt: str,
        show_distance: bool = False,
    ) -> None:
        self.policy_name = policy
        self._make_policy = make_policy
        self.shows_distance = show_distance
        agent = make_policy(policy) if policy else None
        task = EpisodeTask(prepared.suite, prepared.episode, policy or PERSON, prepared.seed)
        control = SharedControl(agent)
        self.episode = SteeredEpisode(control, prepared.environment(), task, transcripts, attempt)
        self.driver = AGENT if agent is not None else PERSON
        self.held: Held | None = None
        self.is_deciding = False
        self.overlay: list[dict[str, Any]] | None = None
        self._decision: dict[str, Any] | None = None
        self._thread = DecisionThread()
        self._made: Made | None = None
        self._interrupted = asyncio.Event()
        self._begun = time.monotonic()

    @property
    def has_ended(self) -> bool:
        """Whether the episode has ended."""
        return self.episode.has_ended

    @property
    def awaits_agent(self) -> bool:
        """Whether the policy can make a decision."""
        return self.driver == AGENT and self.held is None and not self.has_ended

    @property
    def image(self) -> NDArray[np.uint8]:
        """The last X-ray ``(H, W)``."""
        return np.asarray(self.episode.observation["image"])[:, :, 0]

    def ask(self) -> Made:
        """Starts a decision of the policy."""
        self._made = self.episode.ask(self._thread)
        self.is_deciding = True
        return self._made

    async def wait_for(self, made: Made) -> None:
        """Waits for a decision, or until a person takes the C-arm over."""
        # Never cancelled: the thread of the decision sets its result.
        decided = asyncio.wrap_future(made)
        decided.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        while not decided.done() and self.driver == AGENT:
            self._interrupted.clear()
            interrupted = asyncio.ensure_future(self._interrupted.wait())
            waiting: list[asyncio.Future[Any]] = [decided, interrupted]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            interrupted.cancel()

    def interrupt(self) -> None:
        """Gives the C-arm to the person at once, also while the policy decides; `take_over` does the rest."""
        self.driver = PERSON
        self._interrupted.set()

    def take(self, made: Made) -> bool:
        """Takes a decision that was made: holds it, carries it out, or drops it if a person has taken over.

        Returns:
            Whether an X-ray may have been taken.

        Raises:
            UnusablePolicyError, MissingExtraError: the policy failed for an external reason; the person drives on.
            TranscriptError: the transcript cannot be written.
        """
        self.is_deciding = False
        if self.driver == PERSON:
            return False
        failed = made.exception()
        if failed is None:
            decision, seconds = made.result()
            self._decision = self._described(decision, seconds)
            if self.episode.waits_for_person(decision):
                self.held = Held(_kind(decision), made)
                return False
        try:
            self.episode.advance(made)
        except Exception:
            self.driver = PERSON
            raise
        return True

    def move(self, move: Move) -> None:
        """Carries out a person's move.

        Raises:
            RefusedError: the episode has ended, or the policy drives.
        """
        self._check_running()
        if self.driver == AGENT:
            raise RefusedError(TURN, "The policy drives: take over first (key T).")
        self._decision = None
        self.episode.move(move)

    def accept(self) -> None:
        """Carries out the decision that waits: a declaration ends the episode, otherwise the person drives.

        Raises:
            RefusedError: no decision waits.
        """
        held = self._taken()
        if held.kind == "aligned":
            self.episode.advance(held.made)
        else:
            self.episode.reject(held.made)
            self.driver = PERSON

    def say(self, text: str) -> None:
        """Passes a clinician's words to the policy; a decision that waits is not carried out then.

        Raises:
            RefusedError: the episode has ended, there is no policy, a person drives, or the words cannot be heard.
        """
        self._check_running()
        if self.driver == PERSON:
            hint = "hand the C-arm back first" if self.policy_name else "start an episode with one"
            raise RefusedError(TURN, f"No policy listens while you drive: {hint}.")
        if self.held is None:
            self.episode.say(text)
        else:
            self.episode.reject(self.held.made, text)
            self.held = None

    def take_over(self) -> None:
        """Lets the person drive; a decision that waits or is being made is not carried out."""
        self._check_running()
        self.driver = PERSON
        if self.held is not None:
            self.episode.reject(self._taken().made)

    def close(self) -> None:
        """Ends the thread of the decisions."""
        self._thread.close()

    def abandon(self) -> None:
        """Leaves a decision that takes too long to itself; its policy is constructed again when it is handed back."""
        self._thread.close()
        self._thread = DecisionThread()
        self.is_deciding = False

    def hand_back(self) -> None:
        """Lets the policy drive, which begins afresh with the X-ray that is shown.

        Raises:
            RefusedError: the episode has ended, there is no policy, or it drives already.
        """
        self._check_running()
        if not self.policy_name:
            raise RefusedError(TURN, "There is no policy in this episode: you drive.")
        if self.driver == AGENT:
            raise RefusedError(TURN, "The policy drives already.")
        agent = self.episode.control.agent
        is_busy = self._made is not None and not self._made.done()
        if agent is None or is_busy:
            agent = self._make_policy(self.policy_name)
        self.episode.hand_back(agent)
        self._decision = None
        self.driver = AGENT

    def state(self) -> dict[str, Any]:
        """Returns what the page may know, as JSON values; the true distance only if the session shows it."""
        episode = self.episode
        result = episode.result_at_end
        state = {
            **drive_readouts(episode.view()),
            **carm_readouts(episode.env),
            "policy": self.policy_name,
            "driver": self.driver,
            "deciding": self.is_deciding,
            "held": None if self.held is None else self.held.kind,
            "patient": str(episode.info["patient"]),
            "moves": len(episode.record.moves),
            "decision": self._decision,
            "overlay": self.overlay,
            "age_s": round(time.monotonic() - self._begun, 1),
            "outcome": None if result is None else {"name": result.outcome, "error": _last_line(result.error)},
        }
        if self.shows_distance:
            state["distance_mm"] = episode.info["distance_mm"]
        return state

    def _described(self, decision: Any, seconds: float) -> dict[str, Any] | None:
        if not isinstance(decision, Decision):
            return None
        is_hidden = bool(self.episode.control.privileged_info) and not self.shows_distance
        return decision_readouts(decision, seconds, is_hidden)

    def _taken(self) -> Held:
        held, self.held = self.held, None
        if held is None:
            raise RefusedError(TURN, "No decision of the policy waits for you.")
        return held

    def _check_running(self) -> None:
        if self.has_ended:
            raise RefusedError(TURN, "The episode has ended: start a new one.")


def make_lanes(
    prepared: Prepared, start: Start, make_policy: Callable[[str], Policy], transcripts: Path, attempt: str
) -> list[Lane]:
    """Returns the C-arms of an episode: one for each policy, or one that the person drives.

    Args:
        prepared: the episode.
        start: the message that starts it.
        make_policy: constructs a policy by name.
        transcripts: folder that receives the transcripts.
        attempt: tells episodes apart.
    """
    return [
        Lane(prepared, name, make_policy, transcripts, f"{attempt}-{number}", start.show_distance)
        for number, name in enumerate(start.policies or ("",))
    ]


def _kind(decision: Decision) -> str:
    if decision.question:
        return "question"
    return "hand_back" if decision.abstain else "aligned"


def _last_line(error: str) -> str:
    return (error.strip().splitlines() or [""])[-1]
