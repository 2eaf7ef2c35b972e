"""Folders in object storage, such as ``s3://BUCKET/FOLDER``, through fsspec (extra ``storage``)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from carm_env.system.errors import CArmEnvError, MissingExtraError
from carm_env.system.extras import require
from carm_env.system.leftovers import UNFINISHED, hidden_path

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Kinds of object storage whose package has an extra of its own."""


class StorageError(CArmEnvError, OSError):
    """A folder in object storage cannot be read or written; the message names it."""


def is_url(text: str) -> bool:
    """Returns whether a text is a URL, and not the path of a local folder.

    >>> is_url("s3://bucket/views"), is_url("runs/views"), is_url("C:/views")
    (True, False, False)
    """
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.replace("+", "").isalnum()


class StorageFolder:
    """A folder in object storage.

    Args:
        url: URL of the folder, whose scheme chooses the file system of fsspec: ``s3://``, ``gs://``, ``file://``,
            ``memory://`` (within one process), ... Credentials come from the environment or fsspec's configuration.

    Raises:
        MissingExtraError: fsspec, or its package for this kind of storage, is not installed.
        StorageError: fsspec does not know this kind of storage, or cannot use it.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        scheme = url.partition("://")[0]
        purpose = f"Storage at {scheme}://"
        fsspec = require("fsspec", "storage", purpose)
        try:
            self._fs, root = fsspec.url_to_fs(url)
        except ImportError as error:
            package = (getattr(error.__cause__, "name", None) or getattr(error, "name", None) or "").partition(".")[0]
            raise MissingExtraError(package or "for it", _EXTRAS.get(scheme, "storage"), purpose, str(error)) from error
        except Exception as error:  # file systems raise many kinds
            raise StorageError(f"{url} cannot be used ({error}), expected a URL such as s3://BUCKET/FOLDER.") from error
        self._root = PurePosixPath(root)

    def _path(self, name: str) -> str:
        return str(self._root / name)

    @contextlib.contextmanager
    def _explained(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        except (CArmEnvError, FileNotFoundError):
            raise
        except Exception as error:  # file systems raise many kinds
            raise StorageError(
                f"{self.url}/{name} cannot be {what} ({type(error).__name__}: {error}): check the address, the "
                "credentials and the network."
            ) from error

    def sizes(self, folder: str) -> dict[str, int]:
        """Returns the sizes in bytes of the files of a subfolder by name; empty if there is no such folder."""
        with self._explained(folder, "listed"):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
        return {PurePosixPath(item["name"]).name: int(item["size"]) for item in found if item["type"] == "file"}

    def exists(self, name: str) -> bool:
        """Returns whether there is a file of this name."""
        with self._explained(name, "looked for"):
            self._fs.invalidate_cache()
            return bool(self._fs.isfile(self._path(name)))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """Opens a file for reading bytes.

        Raises:
            FileNotFoundError: there is none of this name.
        """
        with self._explained(name, "read"), self._fs.open(self._path(name), "rb") as file:
            yield file

    def write(self, name: str, source: Path) -> None:
        """Copies a local file there, atomically: under a temporary name, which is then changed.

        An existing file is replaced. Nobody sees a part of the file under its name. What a killed process left is
        removed by `remove_unfinished`.
        """
        target = PurePosixPath(self._path(name))
        temporary = str(target.with_name(hidden_path(Path(target.name), UNFINISHED, target.suffix).name))
        with self._explained(name, "written"):
            self._fs.makedirs(str(target.parent), exist_ok=True)
            try:
                self._fs.put_file(str(source), temporary)
                self._fs.mv(temporary, str(target))
            except BaseException:
                with contextlib.suppress(Exception):
                    self._fs.rm_file(temporary)
                raise

    def remove_unfinished(self, folder: str) -> None:
        """Removes what killed processes left in a subfolder; no other process may be writing there."""
        for name in self.sizes(folder):
            if name.startswith(".") and f".{UNFINISHED}-" in name:
                with self._explained(f"{folder}/{name}", "removed"), contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(self._path(f"{folder}/{name}"))
