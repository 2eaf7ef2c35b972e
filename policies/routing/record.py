"""Routes as exchanges of a transcript, and as text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from carm_env.transcripts.records import FORMAT, Exchange
from carm_env.transcripts.write import TranscriptRecorder, write_transcript
from policies.routing.router import NO_CARD, Route, StageRecord


def exchange_of(record: StageRecord) -> Exchange:
    """Returns a stage as an exchange: the request, both candidates, the cutoff, and what was decided."""
    usage = record.usage
    return Exchange(
        record.messages, record.selection.answer, record.reading.fault, record.reading.message,
        tokens=usage.tokens or None, prompt_tokens=usage.prompt_tokens or None, seconds=usage.seconds,
        cost=usage.cost or None, model=usage.model, stage=record.stage,
        candidates=tuple((one.answer, one.probability) for one in record.candidates),
        cutoff=record.cutoff if math.isfinite(record.cutoff) else None, decision=decision_of(record),
    )  # fmt: skip


def decision_of(record: StageRecord) -> str:
    """Returns which candidate a stage took, in a sentence."""
    return f"{record.selection.index}: {record.reading.value}"


def save_route(folder: Path, route: Route, image: Image.Image, model: str, prompts: str) -> None:
    """Writes a route as a transcript, which ``carm-env replay`` shows; an existing one is replaced.

    Args:
        folder: folder of the transcript.
        route: the route.
        image: the image.
        model: name of the model.
        prompts: hash of the prompts.

    Raises:
        TranscriptError: the folder holds something else, or cannot be written.
    """
    lines: list[dict[str, Any]] = []
    images: dict[str, bytes] = {}

    def keep(line: dict[str, Any], new: Any) -> None:
        lines.append(line)
        images.update(new)

    recorder, shown = TranscriptRecorder(keep), np.asarray(image)
    recorder.reset(shown, {}, None, format=FORMAT, policy=f"router:{model}", prompts=prompts)
    for step, record in enumerate(route.stages, start=1):
        is_last = step == len(route.stages)
        facts: dict[str, Any] = {
            "abstained": is_last and route.card_id == NO_CARD,
            "confidence": record.selection.probability,
        }
        recorder.answer(step, shown, {}, None, exchange_of(record), **facts)
    recorder.end("abstained" if route.card_id == NO_CARD else "success", route.card_id != NO_CARD)
    write_transcript(folder, lines, images)


def route_lines(route: Route) -> Iterator[str]:
    """Yields a route as lines of text: every stage with its candidates, cutoff and decision, then the card."""
    for record in route.stages:
        cutoff = f"cutoff {record.cutoff:.4g}" if math.isfinite(record.cutoff) else "no cutoff"
        candidates = ", ".join(f"{one.answer!r} {one.probability:.3f}" for one in record.candidates)
        yield f"  {record.stage:8} {candidates}; {cutoff}; {decision_of(record)}"
        if record.reading.fault:
            yield f"           {record.reading.fault}: {record.reading.message}"
    yield f"  answer   {route.card_id}, probability {route.confidence:.3f}: {route.reason}"


def route_json(route: Route) -> dict[str, Any]:
    """Returns a route as JSON."""
    return {
        "card": route.card_id,
        "reason": route.reason,
        "confidence": route.confidence,
        "stopped_early": route.stopped_early,
        "requests": route.requests,
        "tokens": route.tokens,
        "stages": [
            {
                "stage": record.stage,
                "candidates": [{"answer": one.answer, "probability": one.probability} for one in record.candidates],
                "cutoff": record.cutoff if math.isfinite(record.cutoff) else None,
                "index": record.selection.index,
                "value": record.reading.value,
                "justification": record.reading.justification,
                "fault": record.reading.fault,
                "message": record.reading.message,
            }
            for record in route.stages
        ],
    }
