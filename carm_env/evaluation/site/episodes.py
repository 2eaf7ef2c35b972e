"""The episodes of a suite for the part of the page that steps through them, as JSON."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from typing import Any

from carm_env.actions import N_ACTIONS, Move
from carm_env.evaluation.episode_images import describe_move
from carm_env.evaluation.results import OUTCOMES, EpisodeResult
from carm_env.evaluation.site.body_map import BodyMap
from carm_env.evaluation.site.cells import visible
from carm_env.geometry import DEFAULT_GEOMETRY
from carm_env.landmarks import LANDMARKS
from carm_env.transcripts.read import Transcript

EpisodeKey = tuple[str, int, int, str]
"""Suite hash, number of the episode, seed and patient."""
_SAID_CHARACTERS = 600
_LETTERS = string.ascii_letters[:N_ACTIONS]
"""One letter for each move: most of a page are moves."""


def episode_key(result: EpisodeResult) -> EpisodeKey:
    """Returns what the results of one episode by several policies share."""
    return result.suite_hash, result.episode, result.seed, result.patient


def script_json(value: Any) -> str:
    r"""Returns JSON that can stand in a page: no character of it begins a tag or ends a line of a script.

    >>> script_json(["</script>"])
    '["\\u003c/script\\u003e"]'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def common_facts() -> dict[str, Any]:
    """Returns what the episodes of all suites share: names of landmarks and texts of moves."""
    return {
        "landmarks": {item.id: item.name for item in LANDMARKS},
        "outcomes": OUTCOMES,
        "moves": {_LETTERS[index]: describe_move(Move.from_index(index)) for index in range(N_ACTIONS)},
    }


def episode_facts(
    keys: Sequence[EpisodeKey],
    groups: Mapping[str, Sequence[EpisodeResult]],
    numbers: Mapping[str, int],
    body_map: BodyMap,
    pages: Mapping[tuple[str, EpisodeKey], tuple[str, Transcript]],
) -> dict[str, Any]:
    """Returns the episodes of a suite; the paths themselves are in the maps of the page.

    Args:
        keys: the episodes.
        groups: results by policy.
        numbers: number of each policy.
        body_map: positions on the map.
        pages: address of the page and transcript of each policy and episode that has one.
    """
    found = {(name, episode_key(result)): result for name, group in groups.items() for result in group}
    episodes = []
    for key in keys:
        own = {name: found[name, key] for name in groups if (name, key) in found}
        first = next(iter(own.values()))
        episodes.append(
            {
                "n": first.episode, "seed": first.seed, "patient": visible(first.patient), "target": first.target,
                "mm": round(first.initial_distance_mm), "at": body_map.target(first),
                "view": round(DEFAULT_GEOMETRY.field_of_view_at_mm(first.isocenter_depth_mm)),
                "runs": [_run(numbers[name], result, pages.get((name, key))) for name, result in own.items()],
            }
        )  # fmt: skip
    return {"names": {number: visible(name) for name, number in numbers.items()}, "episodes": episodes}


def _run(number: int, result: EpisodeResult, page: tuple[str, Transcript] | None) -> list[Any]:
    run: list[Any] = [
        number, OUTCOMES.index(result.outcome), round(result.final_distance_mm), result.exposures,
        round(result.dose_mgy, 2), "".join(_LETTERS[move] for move in result.moves),
    ]  # fmt: skip
    if page is not None:
        address, transcript = page
        run += [address, said_before_moves(transcript)]
    return run


def said_before_moves(transcript: Transcript) -> list[str]:
    """Returns what the policy said before each of its moves, with the invalid answers before it."""
    said: list[str] = []
    waiting: list[str] = []
    for answer in transcript.answers:
        text = visible(answer.text or answer.rationale)
        short = text if len(text) <= _SAID_CHARACTERS else f"{text[:_SAID_CHARACTERS]} …"
        waiting.append(f"[invalid answer] {short}" if answer.fault else short)
        if answer.action is not None:
            said.append(" ".join(waiting).strip())
            waiting = []
    return said
