"""Writes transcripts, line by line while an episode runs.

A line is on the disk before the next step begins, and an X-ray before the line that names it. A killed process leaves
all finished steps, and at most one incomplete line, which the reader names and skips.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carm_env.actions import Move
from carm_env.geometry import CArmPose
from carm_env.system.files import atomic_folder, content_hash
from carm_env.transcripts.records import (
    LINES,
    TRANSCRIPT_FILE,
    AnswerLine,
    CArmState,
    EndLine,
    Exchange,
    FeedbackLine,
    Line,
    ResetLine,
    TextLine,
    TranscriptError,
    text_hash,
    writable,
)

Keep = Callable[[dict[str, Any], Mapping[str, bytes]], None]
"""Receives a line, and the X-rays that it is the first to name, as file name to PNG."""
_EVENTS = {kind: event for event, kind in LINES.items()}
_STATE_FIELDS = frozenset(item.name for item in dataclasses.fields(CArmState))
_NAME_CHARACTERS, _HASH_DIGITS = 40, 8
_DECIMALS = 6


def episode_folder_name(policy: str, suite: str, episode: int, *key: Any) -> str:
    """Returns the name of an episode's folder: safe on every file system, and different for different episodes.

    Args:
        policy: name of the policy, which may be a path or a URL.
        suite: name of the suite.
        episode: index of the episode.
        *key: further values that tell episodes apart, such as the hash of the suite and the seed.

    >>> episode_folder_name("mllm:http://localhost:8000/v1#my-model", "smoke", 3)
    'mllm-http-localhost-8000-v1-my-model-smoke-003-327962d3'
    """
    digits = content_hash([policy, suite, episode, *key])[:_HASH_DIGITS]
    return f"{_slug(policy)}-{_slug(suite)}-{episode:03d}-{digits}"


def _slug(name: str) -> str:
    # The end of a path or URL tells most.
    plain = re.sub("[^a-z0-9]+", "-", name.lower())[-_NAME_CHARACTERS:].strip("-")
    return plain or "unnamed"


class TranscriptFolder:
    """Keeps the lines of a recorder in a folder, each at once.

    Args:
        folder: the folder. A transcript of an earlier attempt at the same episode is replaced.

    Raises:
        TranscriptError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            if (folder / TRANSCRIPT_FILE).is_file():
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TranscriptError(f"the transcript {folder} cannot be written: {error}.") from error

    def keep(self, line: dict[str, Any], images: Mapping[str, bytes]) -> None:
        """Appends a line after its X-rays; raises TranscriptError if the folder cannot be written."""
        try:
            for name, png in images.items():
                with (self._folder / name).open("wb") as file:
                    _write_through(file, png)
            with (self._folder / TRANSCRIPT_FILE).open("ab") as file:
                _write_through(file, _encoded(line))
        except OSError as error:
            raise TranscriptError(
                f"the transcript {self._folder} cannot be written: {error}. The finished episodes are kept; free some "
                "space, or leave out --transcripts, and continue with --resume."
            ) from error


def _write_through(file: Any, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def write_transcript(folder: Path, lines: Iterable[Mapping[str, Any]], images: Mapping[str, bytes]) -> None:
    """Writes a whole transcript, atomically; an existing one is replaced.

    Raises:
        TranscriptError: the path exists and holds something else, or it cannot be written.
    """
    if folder.exists() and not (folder / TRANSCRIPT_FILE).is_file() and not _is_empty(folder):
        raise TranscriptError(f"{folder} exists and is not a transcript: choose another folder.")
    try:
        with atomic_folder(folder) as temporary:
            for name, png in images.items():
                (temporary / name).write_bytes(png)
            (temporary / TRANSCRIPT_FILE).write_bytes(b"".join(map(_encoded, lines)))
    except OSError as error:
        raise TranscriptError(f"the transcript {folder} cannot be written: {error}.") from error


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


class TranscriptRecorder:
    """Turns the events of one episode into lines and X-rays.

    Args:
        keep: receives every line, such as `TranscriptFolder.keep`.
    """

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._texts: set[str] = set()
        self._names: dict[bytes, str] = {}
        self._new: dict[str, bytes] = {}
        self._shown = ""
        self._exchange: Exchange | None = None
        self._step = 0

    def reset(self, observation: Any, info: Mapping[str, Any], pose: CArmPose | None, **facts: Any) -> None:
        """Records the start of an episode.

        Args:
            observation: the first observation.
            info: the environment's info.
            pose: pose of the C-arm.
            **facts: fields of `ResetLine`.
        """
        self._shown = self._image_name(_observed(observation))
        self._write(ResetLine(image=self._shown, **_state(info, pose), **facts))

    def feedback(self, text: str) -> None:
        """Records a clinician's feedback."""
        self._write(FeedbackLine(text=writable(text)))

    def answer(
        self,
        step: int,
        observation: Any,
        info: Mapping[str, Any],
        pose: CArmPose | None,
        exchange: Exchange | None = None,
        move: Move | None = None,
        **facts: Any,
    ) -> None:
        """Records an answer.

        Args:
            step: number of the answer, from 1.
            observation: the observation after it.
            info: the environment's info after it.
            pose: pose of the C-arm after it.
            exchange: what a language model was asked and answered; one that is recorded already counts as none.
            move: the move that was carried out.
            **facts: further fields of `AnswerLine`, which give way to those of the exchange. Values that a field cannot
                hold are written as None.
        """
        self._step = step
        shown, self._shown = self._shown, self._image_name(_observed(observation))
        said = self._said(None if exchange is self._exchange else exchange)
        known = {name: value for name, value in said.items() if value not in ("", None)}
        self._write(
            AnswerLine(
                step=step,
                image=shown,
                next_image=self._shown,
                action=None if move is None else move.index,
                move="" if move is None else str(move),
                moved_mm=_numbers(info.get("moved_mm", ())),
                **{**_clean(facts), **known},
                **_state(info, pose),
            )
        )

    def crash(self, info: Mapping[str, Any], pose: CArmPose | None, exchange: Exchange | None) -> None:
        """Records the exchange behind an exception of the policy, unless it is recorded already.

        Args:
            info: the environment's last info.
            pose: pose of the C-arm.
            exchange: the last exchange of the policy.
        """
        if exchange is not None and exchange is not self._exchange:
            said = self._said(exchange)
            self._step += 1
            state = _state(info, pose)
            self._write(AnswerLine(step=self._step, image=self._shown, next_image=self._shown, **said, **state))

    def end(self, outcome: str, success: bool, error: str = "") -> None:
        """Records the end of an episode; see `EndLine` for the arguments."""
        self._write(EndLine(outcome=outcome, success=success, error=writable(error)))

    def _said(self, exchange: Exchange | None) -> dict[str, Any]:
        if exchange is None:
            return {}
        self._exchange = exchange
        return {
            "messages": tuple(self._message(message) for message in exchange.messages),
            "text": writable(exchange.text),
            "fault": writable(exchange.fault),
            "message": writable(exchange.message),
            "model": writable(exchange.model),
            "tokens": _integer(exchange.tokens),
            "prompt_tokens": _integer(exchange.prompt_tokens),
            "seconds": _number(exchange.seconds),
            "cost": _number(exchange.cost),
            "stage": writable(exchange.stage),
            "candidates": tuple(
                {"answer": writable(answer), "probability": _number(probability)}
                for answer, probability in exchange.candidates
            ),
            "cutoff": _number(exchange.cutoff),
            "decision": writable(exchange.decision),
        }

    def _message(self, message: Any) -> dict[str, Any]:
        if not isinstance(message, Mapping):
            message = {"content": message}
        content = message.get("content", "")
        parts = content if isinstance(content, (list, tuple)) else [content]
        return {"role": writable(message.get("role", "")), "content": [self._part(part) for part in parts]}

    def _part(self, part: Any) -> dict[str, str]:
        """Returns the reference to a part of a message; a part of an unknown kind is written as its ``repr``."""
        if isinstance(part, Mapping) and "image" in part:
            # Where the image cannot be written, the messages of a policy must not become its crash.
            with contextlib.suppress(TypeError, ValueError):
                return {"image": self._image_name(part["image"])}
        text = writable(part.get("text", part) if isinstance(part, Mapping) else part)
        digits = text_hash(text)
        if digits not in self._texts:
            self._texts.add(digits)
            self._write(TextLine(hash=digits, text=text))
        return {"text": digits}

    def _image_name(self, image: Any) -> str:
        """Returns the file name of an image; equal images share a file."""
        array = _grey(image)
        key = hashlib.sha256(repr(array.shape).encode() + array.tobytes()).digest()
        if key not in self._names:
            name = self._names[key] = f"xray-{len(self._names):03d}.png"
            file = io.BytesIO()
            Image.fromarray(array).save(file, format="PNG")
            self._new[name] = file.getvalue()
        return self._names[key]

    def _write(self, line: Line) -> None:
        new, self._new = self._new, {}
        # What differs between the kinds of lines comes first.
        names = sorted(vars(line), key=lambda name: name in _STATE_FIELDS)
        self._keep({"event": _EVENTS[type(line)], **{name: _listed(getattr(line, name)) for name in names}}, new)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _observed(observation: Any) -> Any:
    return observation["image"] if isinstance(observation, Mapping) else observation


def _grey(image: Any) -> NDArray[np.uint8]:
    """Returns an image as ``(H, W)`` uint8, or ``(H, W, 3)`` if its channels differ."""
    array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if array.ndim == 3 and (array.shape[2] == 1 or (array == array[..., :1]).all()):
        array = array[..., 0]
    return np.ascontiguousarray(array, dtype=np.uint8)


def _state(info: Mapping[str, Any], pose: CArmPose | None) -> dict[str, Any]:
    # Only the last part of a path: what a folder of CTs is called may name a person.
    patient = re.split(r"[/\\]", writable(info.get("patient", "")))[-1]
    return {
        "patient": patient,
        "target": _integer(info.get("target_landmark")) or 0,
        "distance_mm": _number(info.get("distance_mm")),
        "exposures": _integer(info.get("exposures")) or 0,
        "dose_mgy": _number(info.get("dose_mgy")),
        "success": bool(info.get("is_success", False)),
        "isocenter_lps_mm": _numbers(info.get("isocenter_lps_mm", ())),
        "alpha_deg": None if pose is None else pose.alpha_deg,
        "beta_deg": None if pose is None else pose.beta_deg,
        "projection": "" if pose is None else pose.projection,
    }


def _clean(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Converts what a policy decided; its fields are the user's and may hold anything."""
    clean: dict[str, Any] = dict(facts)
    for name in ("confidence", "latency_s", "reward", "seconds", "cost"):
        if name in clean:
            clean[name] = _number(clean[name])
    for name in ("tokens", "prompt_tokens"):
        if name in clean:
            clean[name] = _integer(clean[name])
    if "closest_landmarks" in clean:
        ids = clean["closest_landmarks"]
        ids = [_integer(key) for key in ids] if isinstance(ids, (Sequence, np.ndarray)) else []
        clean["closest_landmarks"] = tuple(key for key in ids if key is not None)
    if "rationale" in clean:
        clean["rationale"] = writable(clean["rationale"])
    return clean


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return round(number, _DECIMALS) if math.isfinite(number) else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return None if number is None or abs(number) >= 2**53 else int(number)


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(np.round(np.asarray(values, float), _DECIMALS).tolist())
