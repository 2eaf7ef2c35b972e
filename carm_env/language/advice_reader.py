"""What a clinician's words mean.

`read_advice` knows the sentences of `carm_env.language.advice`, and what people type in similar words. No reader knows
all sentences: it prefers no meaning to a wrong one. `carm_env.language.chat.with_meaning` states which of the words a
chat contains beside their meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from carm_env.actions import DEFAULT_EXTENTS_MM
from carm_env.landmarks import LANDMARKS
from carm_env.language.advice import MAX_DISTANCE_MM, NEEDS_NAME, Advice

_NAME = "@"
"""Stands for the name of a landmark, with its article, in the patterns below."""
_CONTRACTIONS = {
    "its": "it's", "thats": "that's", "isnt": "isn't", "dont": "don't", "cant": "can't", "aint": "isn't", "im": "i'm",
    "doesnt": "doesn't", "didnt": "didn't", "wont": "won't", "youre": "you're", "lets": "let's",
}  # fmt: skip
_SENTENCES = re.compile(r"([.!?\n](?!\d))")
_CLAUSES = re.compile(
    r"[,;:()](?!\d)|\bbut\b|"
    r"(?<!\S)(?<!had )(?<!have )(?<!has )(?<!with )(no|nope|yes|yep|yeah)\b"
    r"(?! (?:more|further|farther|higher|lower|left|right|need|idea|longer|doubt|problem|mistake|@))"
)
_QUESTION = re.compile(
    r"^(?:is|isn't|are|aren't|do (?!not)|does|did|where|what (?!you|we|i)|which|why|how|when|who|has|was|were|should|"
    r"shall|may|am)\b|^have (?:you|we|they|i)\b|^(?:can|could|would|will) (?:you (?:see|tell|find)|i|we|it)\b"
)
_CONDITION = re.compile(r"\b(?:if|whether|when|unless|while)\b")
_UNTIL = re.compile(r"\b(?:until|till)\b.*")
_IDIOMS = re.compile(
    r"\b(?:hurry|keep it|speed|mess(?:ed)?|give|set|wake) up\b|\b(?:calm|slow|face|write|sit|lie|lying) down\b|"
    r"\blower the\b|\barms? (?:is|are) (?:up|down)\b|\b(?:instead of|rather than) (?!@)(?:the )?\w+"
)
_NOT = re.compile(
    r"\b(?:not|never|cannot|neither|nor|without|avoid|doubt|nothing|"
    r"no (?:more(?! than)|further|farther|higher|lower|longer|need|idea|@))\b|n't\b|\bno @"
)
_STOP = re.compile(
    r"\b(?:stop|halt|freeze|hold it|hold still|take over|taking over)\b|^(?:please )?(?:hold|wait|pause)(?: please)?$|"
    r"\bstay (?:there|here)\b|^(?:that's |that is )?enough$"
)
_STOP_DOING = re.compile(r"\bstop (?:going|moving|looking)\b")
_NO_FURTHER = re.compile(r"\b(?:do not|don't) (?:move|go)\b(?:.*\b(?:further|more|anywhere)\b|$)")
_PARTS = "arm|elbow|wrist|shoulder|hand|forearm"
_SIDE = re.compile(
    rf"\b(?:wrong|other|opposite|contralateral) (?:side|{_PARTS})\b|\bmirrored\b|"
    r"\b(?:mixed|mixing|swapped|confused|confusing)\b.*\bleft and right\b|"
    r"\bleft and right\b.*\b(?:mixed|swapped|confused)\b"
)
_TARGET = re.compile(
    r"\b(?:instead|rather (?:see|have)|show (?:me|us)|(?:take|bring|drive) (?:me|us)? ?to|"
    r"(?:go|move|drive|steer|switch|change|navigate) to|find|look for|aim for|want|target|"
    r"(?:let's|let us|let me|like to) (?:see|look at|have a look at))\b|^(?:now|next|please) @$|^@ (?:please|now|next)$"
)
_RELATION = re.compile(
    r"\b(?:above|below|under|near|nearly|almost|close to|next to|beside|between|far from|away|past|beyond|behind|"
    r"lost|hidden|out of|nowhere|never mind)\b"
)
_IS = re.compile(r"\b(?:is|are|see|seeing|at|show|shows|looks? like|looking at|have|here|should be)\b|'s\b|'re\b")
_WRONG = re.compile(r"\b(?:wrong|incorrect|disagree|mistaken|false)\b|^(?:no|nope)$|^not (?:quite|there|yet)\b")
_ABOUT_ITSELF = re.compile(r"\b(?:i was|i am|i'm|my) (?:wrong|mistake|mistaken)\b")
_GOOD = "good|fine|perfect|correct|true|right|great"
_TRUE = re.compile(
    r"^(?:yes|yep|yeah|exactly|i agree|agreed|well done|carry on|go on|keep going|that's it|"
    rf"(?:all |very |quite |absolutely )?(?:{_GOOD}))(?: (?:go on|carry on))?$|\bi agree\b|"
    r"\bright (?:track|direction|place)\b|"
    rf"(?:\b(?:is|are|was|looks|seems)|'s|'re)(?: not|n't)?(?: quite| all| very| exactly)? (?:{_GOOD})$|"
    rf"n't (?:{_GOOD})$|"
    r"^(?:good|correct|exactly|right|yes) (?:it is|we see|that is|this is|that's) @"
)
_QUALITY = re.compile(r"\b(?:image|picture|x ray|exposure|quality|contrast|lung|lungs)\b")
_AGAIN = re.compile(r"\b(?:again|once more|another look|second look|recheck)\b")
_TOWARDS = r"\b(?:towards?|to|closer to|in the direction of) (?:the |his |her |their )?(?:patient's )?"
_UP = re.compile(
    rf"\b(?:up|upwards?|higher|cranial|cranially|cranialwards?|cephalad|superior|superiorly|headwards?)\b|{_TOWARDS}head\b"
)
_DOWN = re.compile(
    rf"\b(?:down|downwards?|lower|caudal|caudally|caudalwards?|caudad|inferior|inferiorly|footwards?)\b|"
    rf"{_TOWARDS}(?:feet|foot|legs)\b"
)
_TOO = re.compile(r"\btoo\b")
_TOO_HIGH = re.compile(r"\btoo high\b|\bnot low enough\b")
_TOO_LOW = re.compile(r"\btoo low\b|\bnot high enough\b")
_ENOUGH = re.compile(r"\bnot (?:high|low) enough\b")
_BEFORE_A_SIDE = (
    r"(?:(?:to|towards?|on|at|in|of) (?:the |his |her |their |your |my |patient's |the patient's )?|"
    r"\b(?:patient's|patient|patients|further|more|go|move|moving|steer|shift|slide|nudge|pan|creep|look|head|try|far|"
    r"slightly|bit|little|lot|much|touch|too|it|arm|and|then|now|maybe|upper|top|up|down|going|mm|cm|inch|inches|breadth|"
    r"fingers?|image|screen) |\d(?:mm|cm) |^)"
)
_AFTER_A_SIDE = (
    r"(?=$| (?:side|hand|and|by|of|please|then|a|about|slightly|some|more|further|again|than|in|on the|from|to|half)\b|"
    r" \d)(?! (?:side )?(?:track|direction|place))"
)
_SIDES = {
    1: re.compile(rf"\bleftwards?\b|{_BEFORE_A_SIDE}left\b{_AFTER_A_SIDE}"),
    -1: re.compile(rf"\brightwards?\b|{_BEFORE_A_SIDE}right\b{_AFTER_A_SIDE}"),
}
_LONE_RIGHT = re.compile(r"^right$")
_YOU_ARE = re.compile(r"^(?:you|we)(?:'re| are)\b.*\b(?:of|above|below) ?(?:it|the target|here)?$")
_ABOVE, _BELOW = re.compile(r"\babove\b"), re.compile(r"\bbelow\b")
_REPORT = re.compile(
    r"\b(?:you|i|we) (?:just )?(?:went|moved|have|had|keep|kept|did)\b|\b(?:you|we) are going\b|\bshould have\b|"
    r"\b(?:up|down|left|right) (?:is|was|were) (?:wrong|not)\b|"
    r"\bfrom (?:left|right) to\b|\bwas (?:wrong|right|correct)\b|\bless\b|\bor\b"
)
_ON_THE_SCREEN = re.compile(
    r"\b(?:on|in|of) (?:the |your |my )?(?:image|picture|screen|monitor|display)\b|"
    r"\b(?:image|screen) (?:left|right)\b|\b(?:my|your) (?:left|right)\b"
)
_SLIGHTLY = re.compile(r"\b(?:slightly|(?<!quite )a (?:bit|little|touch|tad))\b")
_MODERATELY = re.compile(r"\b(?:somewhat|quite a bit|moderately|some way)\b")
_FAR = re.compile(r"\b(?:much|a lot|lots|far|long way)\b")
_FAR_TOO = re.compile(r"\b(?:much|a lot|far) too\b")
_SLIGHTLY_MM, _MODERATELY_MM, _FAR_MM = DEFAULT_EXTENTS_MM
_MORE = re.compile(r"\b(?:more|further|farther|away)\b")
_NUMBERS = {
    "half a": 0.5, "half an": 0.5, "a": 1.0, "an": 1.0, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0,
    "six": 6.0, "seven": 7.0, "eight": 8.0, "nine": 9.0, "ten": 10.0, "twelve": 12.0, "fifteen": 15.0, "twenty": 20.0,
}  # fmt: skip
_NUMBER = rf"(?P<number>(?<![\d.,])(?:\d{{1,4}}(?:[.,]\d{{1,2}})?|[.,]\d{{1,2}})|{'|'.join(_NUMBERS)})"
_LENGTH = re.compile(rf"(?<![a-z]){_NUMBER} ?(?P<unit>mm|millimet(?:er|re)s?|cm|centimet(?:er|re)s?|inch(?:es)?)\b")
_UNITS_MM = {"m": 1.0, "c": 10.0, "i": 25.4}
_BREADTHS_MM = {"finger": 20.0, "thumb": 25.0, "hand": 85.0, "palm": 85.0, "fist": 100.0}
"""Breadths that people measure by, rounded: an adult's hand is about 75 to 95 mm across, a finger 16 to 22 mm."""
_BREADTH = re.compile(
    rf"\b(?:breadth|width) of (?:{_NUMBER} |your )?(?P<of>hand|finger|thumb|fist|palm)s?\b|"
    rf"\b(?:{_NUMBER.replace('number', 'count')} |your )?(?P<by>finger|thumb|hand|fist|palm)(?:s'|'s|s)? ?"
    r"(?:breadths?|widths?)\b|"
    rf"\b{_NUMBER.replace('number', 'several')} fingers\b"
)


class _ContradictionError(ValueError):
    """A text contradicts itself."""


@dataclass(frozen=True)
class _Clause:
    """A part of a text that has a meaning of its own.

    Attributes:
        text: the words, with `_NAME` for names of landmarks.
        ids: the landmarks that are named, in order.
        is_about_the_screen: whether left and right are those of the image, not the patient's.
    """

    text: str
    ids: tuple[int, ...]
    is_about_the_screen: bool

    @property
    def is_negated(self) -> bool:
        return bool(_NOT.search(self.text)) and not _ENOUGH.search(self.text)


def read_advice(text: str) -> tuple[Advice, ...]:
    """Returns the meanings of a text, each once; none if no meaning is found, or if the text contradicts itself.

    Directions in several sentences are one advice. Words like "a little" are read as the distance of the move they fit.

    >>> [advice.kind for advice in read_advice("Wrong. This is the carina, the left elbow is further down.")]
    ['verdict', 'landmark', 'direction']
    >>> read_advice("Go up. No, go down.")
    ()
    """
    found: list[Advice] = []
    try:
        for clause in _clauses(text):
            found += _read_clause(clause, found)
        return _combined(found)
    except _ContradictionError:
        return ()


def _clauses(text: str) -> Iterator[_Clause]:
    """Yields the parts of a text; questions and conditions are left out."""
    plain = text.lower().replace("\u2019", "'").replace("-", " ")
    plain = re.sub(r"\btarget *: *", "target is ", plain)
    plain = " ".join(_CONTRACTIONS.get(word, word) for word in re.sub(r"[ \t\r]+", " ", plain).split(" "))
    ids: list[int] = []

    def take(match: re.Match[str]) -> str:
        ids.append(_ids()[match.group("name")])
        return _NAME

    parts = [*_SENTENCES.split(_names().sub(take, plain)), ""]
    position = 0
    for sentence, end in zip(parts[::2], parts[1::2], strict=True):
        on_screen = bool(_ON_THE_SCREEN.search(sentence))
        for part in _split(sentence):
            count = part.count(_NAME)
            own, position = tuple(ids[position : position + count]), position + count
            words = _UNTIL.sub("", part).strip()
            is_question = _QUESTION.search(words) or (end == "?" and words.startswith(("is", "are", "do")))
            if words and not is_question and not _CONDITION.search(words):
                yield _Clause(words, own[: words.count(_NAME)], on_screen)


def _split(sentence: str) -> Iterator[str]:
    """Yields the clauses of a sentence; "no" and "yes" are clauses of their own."""
    start = 0
    for match in _CLAUSES.finditer(sentence):
        yield sentence[start : match.start()].strip()
        start = match.end()
        if match.group(1):
            yield match.group(1)
    yield sentence[start:].strip()


def _read_clause(clause: _Clause, before: Sequence[Advice]) -> list[Advice]:
    text, ids = clause.text, list(clause.ids)
    if "instead of @" in text:
        text = text.replace("instead of @", "instead")
        ids = ids[:1] if len(ids) > 1 else []
    clause = _Clause(text, tuple(ids), clause.is_about_the_screen)
    if _NO_FURTHER.search(text):
        return [Advice("stop")]
    if _STOP.search(text) and not clause.is_negated:
        return [] if _STOP_DOING.search(text) else [Advice("stop")]
    if _SIDE.search(text):
        return [] if clause.is_negated else [Advice("side")]
    if len(set(ids)) > 1:
        raise _ContradictionError
    if not _REPORT.search(text):
        direction = _read_direction(clause)
        if direction is not None:
            return [] if clause.is_negated else [direction]
    return _read_named(clause, before) if ids else _read_unnamed(clause)


def _read_named(clause: _Clause, before: Sequence[Advice]) -> list[Advice]:
    text, key = clause.text, clause.ids[0]
    if _RELATION.search(text):
        return []
    if clause.is_negated or _WRONG.search(text):
        return [] if _TARGET.search(text) else [Advice("verdict", key)]
    if _TARGET.search(text):
        return [Advice("target", key)]
    is_confirmed = bool(_TRUE.search(text)) or any(advice.kind == "confirmation" for advice in before)
    if is_confirmed and (_IS.search(text) or _TRUE.search(text) or text == _NAME):
        return [Advice("confirmation", key)]
    return [Advice("landmark", key)] if _IS.search(text) else []


def _read_unnamed(clause: _Clause) -> list[Advice]:
    text, is_negated = clause.text, clause.is_negated
    if _ABOUT_ITSELF.search(text):
        return []
    if _WRONG.search(text):
        is_denied = is_negated and not text.startswith("not ")
        return [] if is_denied else [Advice("verdict")]
    if _TRUE.search(text):
        return [] if _QUALITY.search(text) else [Advice("verdict" if is_negated else "confirmation")]
    if is_negated:
        return []
    distance_mm = _read_distance(text)
    if distance_mm is not None and (_LENGTH.search(text) or _BREADTH.search(text) or _MORE.search(text)):
        return [Advice("distance", distance_mm=distance_mm)]
    return [Advice("again")] if _AGAIN.search(text) else []


def _read_direction(clause: _Clause) -> Advice | None:
    text = _IDIOMS.sub("", clause.text)
    y = _sign(bool(_UP.search(text)), bool(_DOWN.search(text)))
    x = 0 if _LONE_RIGHT.search(text) else _sign(*(bool(_SIDES[side].search(text)) for side in (1, -1)))
    if x and clause.is_about_the_screen:
        x = -x
    if _TOO.search(text):
        x, y = -x, -y
    high, low = _TOO_HIGH.search(text), _TOO_LOW.search(text)
    if high or low:
        y = _sign(bool(low) or y > 0, bool(high) or y < 0)
    if _YOU_ARE.search(text) and not _TOO.search(text):
        x, y = -x, _sign(bool(_BELOW.search(text)), bool(_ABOVE.search(text)))
    return Advice("direction", x=x, y=y, distance_mm=_read_distance(text)) if x or y else None


def _sign(positive: bool, negative: bool) -> int:
    if positive and negative:
        raise _ContradictionError
    return int(positive) - int(negative)


def _read_distance(text: str) -> float | None:
    """Returns the one distance in a clause; None if there is none, or more than one."""
    lengths = list(_LENGTH.finditer(text))
    if len(lengths) == 1:
        value = _count(lengths[0].group("number")) * _UNITS_MM[lengths[0].group("unit")[0]]
        return value if 0 < value <= MAX_DISTANCE_MM else None
    if lengths:
        return None
    if match := _BREADTH.search(text):
        what = match.group("of") or match.group("by") or "finger"
        number = match.group("number") or match.group("count") or match.group("several") or "one"
        return _count(number) * _BREADTHS_MM[what]
    degrees = [bool(pattern.search(text)) for pattern in (_SLIGHTLY, _MODERATELY)]
    # "Too far left" states no distance.
    degrees.append(bool((_FAR_TOO if _TOO.search(text) else _FAR).search(text)))
    if sum(degrees) != 1:
        return None
    return (_SLIGHTLY_MM, _MODERATELY_MM, _FAR_MM)[degrees.index(True)]


def _count(number: str) -> float:
    return _NUMBERS[number] if number in _NUMBERS else float(number.replace(",", "."))


def _combined(found: Iterable[Advice]) -> tuple[Advice, ...]:
    """Joins directions with distances, and drops what a more exact meaning contains."""
    meanings = list(dict.fromkeys(found))
    if any(advice.kind == "stop" for advice in meanings):
        return (Advice("stop"),)
    joined = [advice for advice in meanings if advice.kind not in ("direction", "distance")]
    parts = [advice for advice in meanings if advice.kind in ("direction", "distance")]
    if parts:
        x, y = (_agreed([getattr(advice, axis) for advice in parts]) for axis in ("x", "y"))
        distances = [advice.distance_mm for advice in parts if advice.distance_mm is not None]
        # With a distance for each axis, none holds for both.
        far = distances[0] if len(distances) == 1 or (distances and not (x and y)) else None
        if x or y:
            joined.append(Advice("direction", x=x, y=y, distance_mm=far))
        elif far is not None:
            joined.append(Advice("distance", distance_mm=far))
    for kind in ("verdict", "confirmation"):
        if any(advice.kind == kind and advice.landmark for advice in joined):
            joined = [advice for advice in joined if advice != Advice(kind)]
    verdicts, confirmed, shown = (
        {advice.landmark for advice in joined if advice.kind == kind}
        for kind in ("verdict", "confirmation", "landmark")
    )
    if any(sum(advice.kind == kind for advice in joined) > 1 for kind in (*NEEDS_NAME, "confirmation")):
        raise _ContradictionError
    is_contradicted = bool(confirmed) and bool(verdicts & confirmed or 0 in verdicts | confirmed)
    if (verdicts and is_contradicted) or verdicts & shown or (shown and confirmed - {0} - shown):
        raise _ContradictionError
    if len(joined) > 1:
        joined = [advice for advice in joined if advice.kind != "again"]
    return tuple(joined)


def _agreed(steps: Sequence[int]) -> int:
    signs = {step for step in steps if step}
    if len(signs) > 1:
        raise _ContradictionError
    return signs.pop() if signs else 0


@cache
def _ids() -> dict[str, int]:
    return {name.lower(): item.id for item in LANDMARKS for name in (item.name, *item.synonyms)}


@cache
def _names() -> re.Pattern[str]:
    names = "|".join(map(re.escape, sorted(_ids(), key=lambda name: (-len(name), name))))
    return re.compile(rf"\b(?:the )?(?P<name>{names})\b")
