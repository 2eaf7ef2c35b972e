"""Takes an archive with a CT from the page and imports it as a patient."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from carm_env.cockpit.refusals import RefusedError
from carm_env.ct.errors import CTImportError
from carm_env.ct.importer import import_ct, prepare_import
from carm_env.landmarks import N_LANDMARKS

ARCHIVE_TYPE = "application/zip"
TOO_LARGE, NOT_A_CT = "the upload is too large", "the upload is no CT"
_FILE = "upload.zip"


async def receive(chunks: AsyncIterator[bytes], folder: Path, max_mb: int) -> Path:
    """Writes an upload to a file of a folder.

    Args:
        chunks: the body of the request.
        folder: an empty folder.
        max_mb: largest size, MB.

    Raises:
        RefusedError: the upload is larger.
    """
    left = max_mb << 20
    path = folder / _FILE
    with path.open("wb") as file:
        async for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                raise RefusedError(
                    TOO_LARGE, f"The archive has more than {max_mb} MB: import it with `carm-env import`."
                )
            file.write(chunk)
    return path


def check_name(name: str) -> None:
    """Checks, before anything is received, that a patient of this name can be saved.

    Raises:
        ValueError, OSError: it cannot.
    """
    prepare_import(name)


def import_upload(path: Path, name: str) -> dict[str, Any]:
    """Imports an archive that was received; returns what the page is told.

    Raises:
        RefusedError: the archive is not safe to unpack, or holds no CT.
        ValueError, OSError: the patient cannot be saved.
    """
    try:
        imported = import_ct(path, name)
    except CTImportError as error:
        # The temporary folder means nothing to the user.
        text = str(error).replace(str(path), "The archive").replace(str(path.parent), "")
        raise RefusedError(f"{NOT_A_CT} ({type(error).__name__})", text) from error
    found = len(imported.patient.landmarks_lps_mm)
    return {
        "patient": imported.patient.id,
        "landmarks": f"{found}/{N_LANDMARKS}",
        "notes": [*imported.notes, *imported.assumptions],
    }


def upload_folder() -> tempfile.TemporaryDirectory[str]:
    """Returns a temporary folder for one upload, which is removed afterwards."""
    return tempfile.TemporaryDirectory(prefix="carm-env-upload-", ignore_cleanup_errors=True)
