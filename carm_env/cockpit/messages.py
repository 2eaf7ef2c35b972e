"""The messages of the page on which a person drives, watches and talks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from carm_env.actions import N_ACTIONS
from carm_env.cockpit.parsing import MAX_TEXT, check_range, parse
from carm_env.cockpit.refusals import MESSAGE, RefusedError
from carm_env.system.errors import shortened

MAX_LANES = 2
_AGENT, _PERSON = "agent", "person"
DRIVERS = (_AGENT, _PERSON)


@dataclass(frozen=True)
class Hello:
    """Opens a session.

    Attributes:
        session: id of a session to continue; empty for a new one.
    """

    session: str = ""


@dataclass(frozen=True)
class Start:
    """Starts an episode; what is empty, zero or None is drawn or left at its default.

    Attributes:
        patient: name of a virtual or imported patient.
        target: id of the target landmark; 0 draws it.
        start: where the C-arm starts: ``random``, the id of a landmark, or ``X Z`` in LPS mm.
        seed: seed of what is drawn, and of the noise.
        suite: name of a suite whose episode is started instead; empty for none.
        episode: index of the episode in the suite.
        policies: none, one or two policies, each with a C-arm of its own in the same episode.
        alpha_deg: angulation, positive RAO.
        beta_deg: angulation, positive CAUD.
        projection: AP or PA.
        kvp: tube voltage.
        mas: tube current times time; 0 for automatic exposure control.
        collimation: side of the field relative to the detector.
        image_size: side of the X-ray in pixels.
        max_steps: most decisions in the episode.
        show_distance: send the true distance to the target to the page.
    """

    patient: str = "virtual:0"
    target: int = 0
    start: str = "random"
    seed: int = 0
    suite: str = ""
    episode: int = 0
    policies: tuple[str, ...] = ()
    alpha_deg: float = 0.0
    beta_deg: float = 0.0
    projection: str = "AP"
    kvp: float = 90.0
    mas: float = 0.5
    collimation: float = 1.0
    image_size: int = 512
    max_steps: int = 20
    show_distance: bool = False

    def __post_init__(self) -> None:
        check_range("max_steps", self.max_steps, 1, 200)
        check_range("seed", self.seed, 0, 2**31 - 1)
        check_range("image_size", self.image_size, 64, 1024)
        if len(self.policies) > MAX_LANES:
            raise RefusedError(MESSAGE, f"{len(self.policies)} policies are given, expected at most {MAX_LANES}.")


@dataclass(frozen=True)
class MoveMessage:
    """A person's move.

    Attributes:
        action: action of the environment, 0 to 48; 24 declares the view aligned.
        lane: the C-arm.
    """

    action: int
    lane: int = 0

    def __post_init__(self) -> None:
        check_range("action", self.action, 0, N_ACTIONS - 1)
        _check_lane(self.lane)


@dataclass(frozen=True)
class Drive:
    """Takes the C-arm over, or hands it back.

    Attributes:
        driver: ``agent`` or ``person``.
        lane: the C-arm.
    """

    driver: str
    lane: int = 0

    def __post_init__(self) -> None:
        if self.driver not in DRIVERS:
            raise RefusedError(MESSAGE, f"driver is {shortened(self.driver)}, expected agent or person.")
        _check_lane(self.lane)


@dataclass(frozen=True)
class Step:
    """Lets every policy that drives make one decision."""


@dataclass(frozen=True)
class Play:
    """Lets the policies drive on.

    Attributes:
        pace_s: pause between two decisions, s.
    """

    pace_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.pace_s <= 60:
            raise RefusedError(MESSAGE, f"pace_s is {self.pace_s:g}, expected 0 to 60 seconds.")


@dataclass(frozen=True)
class Pause:
    """Stops `Play` after the decision that is being made."""


@dataclass(frozen=True)
class Accept:
    """Accepts a declaration that the page was shown: the episode ends.

    Attributes:
        lane: the C-arm.
    """

    lane: int = 0

    def __post_init__(self) -> None:
        _check_lane(self.lane)


@dataclass(frozen=True)
class Say:
    """A clinician's words to the policy; against a declaration that waits, they are an objection.

    Attributes:
        text: the words.
        lane: the C-arm.
    """

    text: str
    lane: int = 0

    def __post_init__(self) -> None:
        words = " ".join(self.text.split())
        if not 1 <= len(words) <= MAX_TEXT:
            raise RefusedError(MESSAGE, f"The words have {len(words)} characters, expected 1 to {MAX_TEXT}.")
        _check_lane(self.lane)


@dataclass(frozen=True)
class Show:
    """Chooses what is drawn on the X-rays.

    Attributes:
        localizer: a localiser whose regions and probabilities are drawn; empty for none.
    """

    localizer: str = ""


Message = Hello | Start | MoveMessage | Drive | Step | Play | Pause | Accept | Say | Show
KINDS: dict[str, type[Any]] = {
    "hello": Hello, "start": Start, "move": MoveMessage, "drive": Drive, "step": Step, "play": Play, "pause": Pause,
    "accept": Accept, "say": Say, "show": Show,
}  # fmt: skip
"""The value of ``type`` to the class of the message."""


def parse_message(text: str) -> Message:
    """Parses a message.

    Raises:
        RefusedError: it is no valid message; the text says why.

    >>> parse_message('{"type": "move", "action": 24}')
    MoveMessage(action=24, lane=0)
    """
    message: Message = parse(text, KINDS)
    return message


def _check_lane(lane: int) -> None:
    check_range("lane", lane, 0, MAX_LANES - 1)
