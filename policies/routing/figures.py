"""The figures on model cards: read from result files, never written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from carm_env.system.structured_files import read_json
from policies.routing.cards import CardError, EvalResult, ModelCard

REPOSITORY = Path(__file__).parents[2]
"""Root of the repository, which the paths on the cards start from."""


def filled(card: ModelCard, root: Path = REPOSITORY) -> ModelCard:
    """Returns a card with the figures that its result files hold today.

    Raises:
        CardError: a result file is missing, or has no figure at the given keys.
    """
    return replace(card, eval_results=tuple(_figure(card, result, root) for result in card.eval_results))


def differences(cards: Sequence[ModelCard], root: Path = REPOSITORY) -> list[str]:
    """Returns a sentence for each figure on the cards that differs from its result file."""
    found = []
    for card in cards:
        for given, read in zip(card.eval_results, filled(card, root).eval_results, strict=True):
            if given != read:
                found.append(
                    f"{card.id}: {given.metric} on {given.dataset} is {given.value}, {given.source} has {read.value}."
                )
    return found


def _figure(card: ModelCard, result: EvalResult, root: Path) -> EvalResult:
    try:
        value: Any = read_json(root / result.source)
        parent: Any = value
        for key in result.key:
            parent, value = value, value[key]
        if isinstance(value, Mapping):
            return replace(
                result, value=float(value["value"]), low=_number(value.get("low")), high=_number(value.get("high")),
                patients=value.get("patients"),
            )  # fmt: skip
        low, high = parent.get(f"{result.key[-1]}_interval") or parent.get("interval") or (None, None)
        return replace(
            result, value=float(value), low=_number(low), high=_number(high), patients=parent.get("patients")
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CardError(
            f"card {card.id}: {result.source} has no figure at {' / '.join(result.key)} ({error!r}): correct the card."
        ) from error


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
