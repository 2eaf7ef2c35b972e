"""Packs the transcripts of a session, for ``carm-env replay`` and for training."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

from carm_env.system.structured_files import StructuredFileError, parse_json
from carm_env.transcripts.records import TRANSCRIPT_FILE

_READ_ME = """\
Transcripts of the cockpit of carm-env. Research use only, not a medical device.

Show them:                 carm-env replay FOLDER
Fine-tune on the moves:    python training/sft.py --transcripts FOLDER
Learn from corrections:    python training/dpo.py --transcripts FOLDER --corrections 0

The moves of a person are written as answers of a language model, in the style of prompts that the transcript names.
A correction is a declaration of a language model, words against it, and the next move. The commands of training run
from a clone of the repository. They refuse patients that are reserved for tests.
"""


def pack_transcripts(folders: Sequence[Path], with_distance: bool) -> bytes:
    """Returns a zip archive of transcripts.

    Args:
        folders: folders of the transcripts.
        with_distance: keep the true distances to the target, and what policies say that read the true state.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.txt", _READ_ME)
        for folder in folders:
            for path in sorted(folder.iterdir()):
                data = path.read_bytes()
                if path.name == TRANSCRIPT_FILE and not with_distance:
                    data = _without_distance(data)
                archive.writestr(f"{folder.name}/{path.name}", data)
    return file.getvalue()


def _without_distance(data: bytes) -> bytes:
    lines, is_privileged = [], False
    for raw in data.splitlines():
        try:
            line = parse_json(raw.decode(), "a line")
        except (StructuredFileError, UnicodeDecodeError):
            continue
        if not isinstance(line, dict):
            continue
        is_privileged = is_privileged or bool(line.get("privileged_info"))
        hidden = {"distance_mm": None, **({"rationale": "", "closest_landmarks": []} if is_privileged else {})}
        line |= {name: value for name, value in hidden.items() if name in line}
        lines.append(json.dumps(line, allow_nan=False).encode() + b"\n")
    return b"".join(lines)
