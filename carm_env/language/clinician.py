"""A simulated clinician, who sees the truth and speaks to an agent.

The words are sentences of `carm_env.language.advice`. How often the clinician helps, how late, how vaguely and how
often wrongly are settings. The same seed gives the same words.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from carm_env.actions import MoveLattice
from carm_env.landmarks import N_LANDMARKS, mirrored
from carm_env.language.advice import Advice, reword
from carm_env.language.reasons import Situation

REVIEW_KINDS = ("verdict", "direction", "side", "landmark", "confirmation", "again")
"""Kinds of advice about an answer that names landmarks."""
STEP_KINDS = ("direction", "distance", "side", "landmark", "verdict", "confirmation")
"""Kinds of advice about the way to a target."""
_CONFUSED_WITH = 6
"""Wrong advice names one of the landmarks next to the closest one, up to this rank."""
WISH_MOVES = 3
"""A wish to see another target comes after at most this number of moves."""
_OBJECTION_KINDS = ("verdict", "landmark")
"""Kinds of advice about a landmark that a decision names; the others would be taken for the way to the target."""
_WISHES = 1
MINOR_SHARE = 0.4
"""A direction leaves out an axis along which the way is shorter than this share of the other one."""


@dataclass(frozen=True)
class ClinicianSettings:
    """How a clinician helps.

    Attributes:
        help_rate: probability of speaking when there is a reason to, 0 to 1.
        delay: number of answers by which the words come late. They then describe an earlier view.
        vagueness: share of sentences without a distance or a name, 0 to 1.
        wrong_rate: share of advice that is wrong, 0 to 1.
        max_sentences: most sentences in an episode, without wishes; None for no limit.
        kinds: kinds of advice that the clinician gives.
        review_rate: probability of reviewing the closest landmark that a decision names, 0 to 1.
        wish_rate: probability that the clinician wishes to see another target in an episode, 0 to 1.

    Raises:
        ValueError: a setting is out of range.
    """

    help_rate: float = 1.0
    delay: int = 0
    vagueness: float = 0.2
    wrong_rate: float = 0.0
    max_sentences: int | None = None
    kinds: tuple[str, ...] = tuple(dict.fromkeys((*REVIEW_KINDS, *STEP_KINDS)))
    review_rate: float = 0.0
    wish_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("help_rate", "vagueness", "wrong_rate", "review_rate", "wish_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1.")
        if self.delay < 0:
            raise ValueError(f"delay is {self.delay}, expected 0 or more.")
        if self.max_sentences is not None and self.max_sentences < 0:
            raise ValueError(f"max_sentences is {self.max_sentences}, expected 0 or more, or None.")
        unknown = sorted(set(self.kinds) - {*REVIEW_KINDS, *STEP_KINDS})
        if unknown or not self.kinds:
            raise ValueError(f"kinds is {self.kinds}, expected some of {sorted({*REVIEW_KINDS, *STEP_KINDS})}.")


@dataclass(frozen=True)
class Sentence:
    """What the clinician says.

    Attributes:
        text: the words.
        advice: their meaning.
        is_wrong: whether the advice contradicts the truth.
    """

    text: str
    advice: Advice
    is_wrong: bool = False


def review_advice(
    kind: str, situation: Situation, named: Sequence[int], rng: Generator, is_wrong: bool = False
) -> Advice | None:
    """Returns advice of a kind about an answer that names the closest landmarks.

    A direction leads from the landmark that was named to the one that is closest.

    Args:
        kind: one of `REVIEW_KINDS`.
        situation: positions of the landmarks in the view.
        named: ids that were named, nearest first.
        rng: draws what wrong advice says.
        is_wrong: whether the advice contradicts the truth.

    Returns:
        None if the kind does not apply, for instance a true verdict against a right answer.
    """
    ranked = situation.closest()
    best, first = ranked[0], named[0]
    is_right = first == best
    others = [key for key in ranked[1:_CONFUSED_WITH] if key != first]
    if kind == "again":
        return None if is_wrong else Advice("again")
    if kind == "verdict":
        return Advice("verdict", first) if is_right == is_wrong else None
    if kind == "confirmation":
        return Advice("confirmation", first) if is_right != is_wrong else None
    if kind == "side":
        return Advice("side") if (mirrored(first) == best) != is_wrong and mirrored(first) else None
    if kind == "landmark":
        if is_wrong and not others:
            return None
        return Advice("landmark", int(rng.choice(others)) if is_wrong else best)
    if kind == "direction":
        if is_right and not (is_wrong and others):
            return None
        aim = int(rng.choice(others)) if is_right else best
        way = situation.position_mm(aim) - situation.position_mm(first)
        return _direction(-way if is_wrong and not is_right else way, None)
    return None


def step_advice(
    kind: str,
    situation: Situation,
    target: int,
    rng: Generator,
    is_wrong: bool = False,
    lattice: MoveLattice | None = None,
) -> Advice | None:
    """Returns advice of a kind on the way from the middle of the view to a target.

    Args:
        kind: one of `STEP_KINDS`.
        situation: positions of the landmarks in the view.
        target: id of a landmark that the patient has.
        rng: draws what wrong advice says.
        is_wrong: whether the advice contradicts the truth.
        lattice: the moves; a way that no move shortens is none.

    Returns:
        None if the kind does not apply.
    """
    way = situation.position_mm(target)
    is_there = (lattice or MoveLattice()).closest_move(way).is_aligned
    ranked = situation.closest()
    if kind == "direction":
        if is_there:
            angle = rng.uniform(0, 2 * np.pi)
            return _direction(60 * np.array([np.cos(angle), np.sin(angle)]), None) if is_wrong else None
        return _direction(-way if is_wrong else way, float(np.abs(way).max()))
    if kind == "distance":
        return None if is_there or is_wrong else Advice("distance", distance_mm=float(np.hypot(*way)))
    if kind == "side":
        is_mirrored = mirrored(target) == ranked[0]
        return Advice("side") if mirrored(target) and is_mirrored != is_wrong else None
    if kind == "landmark":
        if ranked[0] == target and not is_there and not is_wrong:
            # "This is the left elbow" would be taken for a confirmation.
            return None
        others = ranked[1:_CONFUSED_WITH]
        if is_wrong and not others:
            return None
        return Advice("landmark", int(rng.choice(others)) if is_wrong else ranked[0])
    if kind == "verdict":
        return Advice("verdict", target) if is_there == is_wrong else None
    if kind == "confirmation":
        return Advice("confirmation", target) if is_there != is_wrong else None
    return None


def _direction(way: np.ndarray, distance_mm: float | None) -> Advice | None:
    """Returns the direction of a way ``(2,)`` in mm; None if it has none, such as to a landmark that is absent."""
    size = np.abs(way)
    if not np.isfinite(way).all() or not size.max() > 0:
        return None
    x, y = (int(np.sign(step)) if abs(step) >= MINOR_SHARE * size.max() else 0 for step in way)
    return Advice("direction", x=x, y=y, distance_mm=distance_mm)


class Clinician:
    """A clinician who watches an agent.

    Args:
        settings: how the clinician helps.
        seed: seed of the words.
        lattice: the moves of the environment.

    Attributes:
        sentences: number of sentences since the start of the episode, without wishes.
    """

    def __init__(
        self, settings: ClinicianSettings | None = None, seed: int = 0, lattice: MoveLattice | None = None
    ) -> None:
        self.settings, self._lattice = settings or ClinicianSettings(), lattice or MoveLattice()
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Starts an episode."""
        self._rng = np.random.default_rng(seed)
        # Wishes are drawn apart, so that they are the same however often the clinician helps.
        self._wishes = np.random.default_rng([seed, _WISHES])
        is_wishing, moves = self._wishes.random() < self.settings.wish_rate, self._wishes.integers(1, WISH_MOVES + 1)
        self._moves_before_wish = int(moves) if is_wishing else None
        self._forget_late_words()
        self.sentences = 0

    def _forget_late_words(self) -> None:
        self._late: deque[Sentence | None] = deque([None] * self.settings.delay)

    def review(self, situation: Situation, named: Sequence[int]) -> Sentence | None:
        """Returns what the clinician says against the closest landmark that a decision names; None if it is accepted.

        It comes without a delay, as often as `ClinicianSettings.review_rate` says. A clinician who is wrong objects to
        a right name, and accepts a wrong one.

        Args:
            situation: positions of the landmarks in the view.
            named: ids that were named, nearest first.
        """
        rate = self.settings.review_rate
        if not named or named[0] not in range(1, N_LANDMARKS + 1) or not rate or self._rng.random() >= rate:
            return None
        is_right = named[0] == situation.closest()[0]
        sentence = self._drawn(
            lambda kind, is_wrong: (
                None
                if is_right != is_wrong or kind not in _OBJECTION_KINDS
                else review_advice(kind, situation, named, self._rng, is_wrong)
            )
        )
        return self._counted(sentence)

    def advise(self, situation: Situation, target: int) -> Sentence | None:
        """Returns what the clinician says about the way to a target; None for nothing.

        Args:
            situation: positions of the landmarks in the view.
            target: id of a landmark that the patient has.
        """
        return self._say(
            lambda kind, is_wrong: step_advice(kind, situation, target, self._rng, is_wrong, self._lattice)
        )

    def objection(self, situation: Situation, target: int, is_right: bool) -> Sentence | None:
        """Returns what the clinician says against a declaration; None if it is accepted.

        It comes without a delay. A clinician who is wrong objects to a right declaration, and accepts a wrong one.

        Args:
            situation: positions of the landmarks in the view.
            target: id of the target.
            is_right: whether the declaration is right.
        """
        sentence = self._drawn(
            lambda kind, is_wrong: (
                None
                if is_right != is_wrong or kind == "confirmation"
                else step_advice(kind, situation, target, self._rng, is_wrong, self._lattice)
            )
        )
        return self._counted(sentence)

    def reply(self, situation: Situation, target: int) -> Sentence | None:
        """Returns the answer to a question about the way to a target, without a delay; None for none."""
        return self._counted(
            self._drawn(lambda kind, is_wrong: step_advice(kind, situation, target, self._rng, is_wrong, self._lattice))
        )

    def wish(self, moves: int, targets: Sequence[int]) -> Sentence | None:
        """Returns a wish to see another target; None for none.

        There is at most one in an episode, after 1 to `WISH_MOVES` moves. It is no help and does not count as a
        sentence. Words that were to come late are about the earlier target, and are not said any more.

        Args:
            moves: number of moves since the start of the episode.
            targets: ids of the landmarks to choose from.
        """
        if moves != self._moves_before_wish or not targets:
            return None
        self._moves_before_wish = None
        self._forget_late_words()
        advice = Advice("target", int(self._wishes.choice(targets)))
        return Sentence(reword(advice, self._wishes), advice)

    def silence(self) -> Sentence | None:
        """Returns what comes late in a moment without a reason to speak; None for nothing."""
        return self._in_time(None)

    def _say(self, advice_of: Callable[[str, bool], Advice | None]) -> Sentence | None:
        return self._in_time(self._drawn(advice_of))

    def _drawn(self, advice_of: Callable[[str, bool], Advice | None]) -> Sentence | None:
        settings = self.settings
        # Three numbers are drawn in any case, so that a rate does not decide by chance on another one.
        speaks, is_wrong, is_vague = (
            bool(self._rng.random() < rate) for rate in (settings.help_rate, settings.wrong_rate, settings.vagueness)
        )
        possible = [advice for kind in settings.kinds if (advice := advice_of(kind, is_wrong)) is not None]
        if not speaks or not possible:
            return None
        advice = possible[int(self._rng.integers(len(possible)))]
        said = vaguer(advice) if is_vague else advice
        return Sentence(reword(said, self._rng), said, is_wrong)

    def _in_time(self, sentence: Sentence | None) -> Sentence | None:
        self._late.append(sentence)
        return self._counted(self._late.popleft())

    def _counted(self, sentence: Sentence | None) -> Sentence | None:
        limit = self.settings.max_sentences
        if sentence is None or (limit is not None and self.sentences >= limit):
            return None
        self.sentences += 1
        return sentence


def vaguer(advice: Advice) -> Advice:
    """Returns advice without a distance or, where it can be left out, a name."""
    if advice.kind == "direction":
        return Advice("direction", x=advice.x, y=advice.y)
    return Advice(advice.kind) if advice.kind in ("verdict", "confirmation") else advice
