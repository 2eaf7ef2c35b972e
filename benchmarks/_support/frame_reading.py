"""A person's or a model's reading of X-ray frames: which landmarks are closest to the centre, and where they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_env.landmarks import N_CLOSEST, landmark
from carm_env.system.errors import CArmEnvError, check_keys, finite_number, shortened
from carm_env.system.structured_files import read_yaml_mapping

VERSION = 1
CERTAINTIES = ("certain", "moderate", "low")
_KEYS = ("version", "reader", "date", "method", "frames")
_FRAME_KEYS = ("file", "sha256", "start", "closest", "visible", "reasoning")
_RANK_KEYS = ("landmark", "certainty")
_POSITION_KEYS = ("landmark", "position", "certainty")
_SHA256 = re.compile("[0-9a-f]{64}")


class FrameReadingError(CArmEnvError, ValueError):
    """A file of readings has a missing or wrong value; the message names the file and the frame."""


@dataclass(frozen=True)
class ReadPosition:
    """A landmark that is seen in a frame.

    Attributes:
        landmark: its id.
        position: ``(x, y)`` from the upper left corner, as shares of the sides of the image.
        certainty: one of `CERTAINTIES`.
    """

    landmark: int
    position: tuple[float, float]
    certainty: str


@dataclass(frozen=True)
class FrameReading:
    """What was read in one frame.

    Attributes:
        file: name of the file.
        sha256: its hash.
        start: the frame is the first one of an episode.
        closest: id and certainty of up to three landmarks closest to the centre, nearest first.
        visible: the landmarks in the image.
        reasoning: one sentence.
    """

    file: str
    sha256: str
    start: bool
    closest: tuple[tuple[int, str], ...]
    visible: tuple[ReadPosition, ...]
    reasoning: str

    @property
    def is_ambiguous(self) -> bool:
        """Another landmark is about as near to the centre as the first one."""
        return self.closest[0][1] == "low"


def read_frame_readings(path: Path) -> tuple[FrameReading, ...]:
    """Reads a file of readings, such as ``benchmarks/published_frames.yaml``.

    Raises:
        OSError: the file cannot be opened.
        StructuredFileError: the file is not valid YAML.
        UnknownNameError: an unknown key, landmark or certainty.
        FrameReadingError: another wrong value.
    """
    content = read_yaml_mapping(path)
    _check(path.name, content, _KEYS)
    if content["version"] != VERSION:
        raise FrameReadingError(f"{path.name}: version is {shortened(content['version'])}, expected {VERSION}.")
    if not isinstance(content["frames"], list) or not content["frames"]:
        raise FrameReadingError(f"{path.name}: frames is {shortened(content['frames'])}, expected a list of readings.")
    frames = tuple(_frame(f"{path.name}, frame {number}", item) for number, item in enumerate(content["frames"], 1))
    names = [frame.file for frame in frames]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FrameReadingError(f"{path.name}: {twice} occurs twice, expected one reading of each frame.")
    return frames


def _check(where: str, item: Any, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise FrameReadingError(f"{where} is {shortened(item)}, expected a mapping with {', '.join(keys)}.")
    check_keys(f"key of {where}", item, keys)
    missing = [key for key in keys if key not in item]
    if missing:
        raise FrameReadingError(f"{where} lacks {', '.join(missing)}.")
    return item


def _frame(where: str, item: Any) -> FrameReading:
    _check(where, item, _FRAME_KEYS)
    file, sha256, start = item["file"], item["sha256"], item["start"]
    if not isinstance(file, str) or Path(file).name != file:
        raise FrameReadingError(f"{where}: file is {shortened(file)}, expected the name of a file without a folder.")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise FrameReadingError(f"{where}: sha256 is {shortened(sha256)}, expected 64 hexadecimal digits.")
    if not isinstance(start, bool):
        raise FrameReadingError(f"{where}: start is {shortened(start)}, expected true or false.")
    if not isinstance(item["reasoning"], str):
        raise FrameReadingError(f"{where}: reasoning is {shortened(item['reasoning'])}, expected a sentence.")
    ranks = [_check(f"{where}: closest", rank, _RANK_KEYS) for rank in _list(where, "closest", item)]
    closest = tuple((landmark(rank["landmark"]).id, _certainty(where, rank)) for rank in ranks)
    if not 2 <= len({key for key, _ in closest}) == len(closest) <= N_CLOSEST:
        raise FrameReadingError(f"{where}: closest has {len(closest)} entries, expected two or three different ones.")
    visible = tuple(_position(where, seen) for seen in _list(where, "visible", item))
    if len({seen.landmark for seen in visible}) < len(visible):
        raise FrameReadingError(f"{where}: visible has a landmark twice.")
    return FrameReading(file, sha256, start, closest, visible, item["reasoning"].strip())


def _list(where: str, name: str, item: Mapping[str, Any]) -> list[Any]:
    if not isinstance(item[name], list):
        raise FrameReadingError(f"{where}: {name} is {shortened(item[name])}, expected a list.")
    return item[name]


def _position(where: str, seen: Any) -> ReadPosition:
    _check(f"{where}: visible", seen, _POSITION_KEYS)
    found = landmark(seen["landmark"])
    given = seen["position"]
    if not isinstance(given, list) or len(given) != 2:
        raise FrameReadingError(f"{where}: position of {found.name} is {shortened(given)}, expected [x, y].")
    x, y = (finite_number(f"{where}: position of {found.name}", value) for value in given)
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise FrameReadingError(f"{where}: position of {found.name} is {given}, expected shares of the side, 0 to 1.")
    return ReadPosition(found.id, (x, y), _certainty(where, seen))


def _certainty(where: str, item: Mapping[str, Any]) -> str:
    check_keys(f"certainty in {where}", [item["certainty"]], CERTAINTIES)
    return str(item["certainty"])
