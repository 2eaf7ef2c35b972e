"""The output folder of ``carm-env localize``: results, annotated images and what may be replaced there."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from carm_env.ct.radiographs import SUFFIXES
from carm_env.system.errors import CArmEnvError
from carm_env.system.output_folders import lock_output

ANNOTATED, CSV, JSON = "annotated", "localization.csv", "localization.json"
CSV_START, JSON_START = b"file,status,reason,", b'{\n  "policy": '
"""First bytes of the results: files that begin otherwise are not replaced."""
_SOFTWARE = "carm-env localize"
_MAX_NAME_BYTES = 180
"""File systems allow 255 bytes, and the lock and the temporary file of a write have longer names."""


def own_paths(out: Path) -> tuple[Path, ...]:
    """Returns what the command writes to its output folder: these paths hold no images to examine."""
    return tuple(out / name for name in (ANNOTATED, CSV, JSON))


def check_output(out: Path, path: Path) -> None:
    """Checks that the output folder holds nothing of others that would be replaced or removed.

    Args:
        out: the output folder; it need not exist.
        path: the image or the folder of images.

    Raises:
        ValueError: it is a file, named like an image, the folder of the images, holds the image among its annotated
            images, or holds files of others under the names of the results.
    """
    if os.path.lexists(out) and not out.is_dir():
        raise ValueError(f"--out is {out}, which is not a folder, expected a folder: choose another name.")
    if not out.is_dir() and out.suffix.lower() in SUFFIXES:
        raise ValueError(f"--out is {out}, the name of an image, expected a folder, e.g. --out {out.stem or 'found'}.")
    folder, annotated = path if path.is_dir() else path.parent, out.resolve() / ANNOTATED
    if out.resolve() == folder.resolve() or annotated in (path.resolve(), *path.resolve().parents):
        raise ValueError(f"--out is {out}, the folder of the images, expected another folder.")
    for found in _of_others(out):
        raise ValueError(
            f"--out is {out}, but {found} was not written by carm-env localize, expected a folder without it: choose "
            "another folder, or move it."
        )


@contextlib.contextmanager
def open_output(out: Path) -> Iterator[None]:
    """Creates and locks the output folder; one that is created and stays empty is removed again.

    Raises:
        ValueError: the folder cannot be created or written.
        BusyError: another process writes there.
    """
    is_new = not out.exists()
    try:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock_output(out, "--out"))
            except OSError as error:
                if isinstance(error, CArmEnvError):
                    raise
                raise ValueError(
                    f"--out is {out}, which cannot be created or written ({error.strerror or error}), expected a "
                    "folder for the results: choose another one."
                ) from error
            yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                out.rmdir()


def remove_earlier_run(out: Path, drawing: Path | None) -> None:
    """Removes the results and annotated images of an earlier run, and folders that become empty.

    Results are removed at the start of a run: if it is killed, they would belong to other annotated images.

    Args:
        out: the output folder.
        drawing: the annotated image of this run, relative to the output folder; None if there is none yet.
    """
    for name in (JSON, CSV):
        (out / name).unlink(missing_ok=True)
    for parent, _, names in os.walk(out / ANNOTATED, topdown=False):
        for path in (Path(parent, name) for name in names):
            if _is_own_image(path) and not (drawing and path.samefile(out / drawing)):
                path.unlink()
        with contextlib.suppress(OSError):
            Path(parent).rmdir()


def _of_others(out: Path) -> Iterator[Path]:
    """Yields the files, links and folders at the paths of the results that the command did not write."""
    for path, start in ((out / CSV, CSV_START), (out / JSON, JSON_START)):
        if os.path.lexists(path) and not _starts_with(path, start):
            yield path
    annotated = out / ANNOTATED
    if os.path.lexists(annotated) and (annotated.is_symlink() or not annotated.is_dir()):
        yield annotated
        return
    for parent, folders, names in os.walk(annotated):
        here = Path(parent)
        yield from (here / name for name in sorted(folders) if (here / name).is_symlink())
        yield from (here / name for name in sorted(names) if not (name.startswith(".") or _is_own_image(here / name)))


def _starts_with(path: Path, start: bytes) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _is_own_image(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with Image.open(path, formats=("PNG",)) as opened:
            return bool(opened.info.get("Software") == _SOFTWARE)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def software_mark() -> PngInfo:
    """Returns the text chunk by which a later run recognises an annotated image of the command."""
    mark = PngInfo()
    mark.add_text("Software", _SOFTWARE)
    return mark


def printable_name(text: str) -> str:
    r"""Returns text in which bytes of file names that are not UTF-8 are escaped.

    >>> printable_name("a\udcff.png")
    'a\\udcff.png'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def output_names(files: Sequence[Path]) -> dict[Path, Path]:
    """Returns the annotated image of each file, relative to the output folder.

    It has the name of its file and the suffix ``.png``; files that differ in their suffix alone keep it, and a number
    makes further names unique. Long names are shortened.

    Args:
        files: paths relative to the folder of the images.
    """
    counts = Counter(_key(file.with_suffix("")) for file in files)
    taken = {_key(_short(parent)) for file in files for parent in file.parents}
    names = {}
    for file in files:
        stem = file.with_suffix("")
        wanted = stem if counts[_key(stem)] == 1 else file
        names[file] = Path(ANNOTATED) / next(name for name in _candidates(wanted, file) if _key(name) not in taken)
        taken.add(_key(names[file].relative_to(ANNOTATED)))
    return names


def _candidates(wanted: Path, file: Path) -> Iterator[Path]:
    for name in (wanted, file):
        short = _short(name)
        yield short.with_name(f"{short.name}.png")
    short, number = _short(file), 2
    while True:
        yield short.with_name(f"{short.name}-{number}.png")
        number += 1


def _key(path: Path) -> str:
    # Some file systems ignore the case.
    return path.as_posix().casefold()


def _short(path: Path) -> Path:
    """Returns a path of short UTF-8 names."""
    return Path(*(_cut(re.sub("[\ud800-\udfff]", "_", part)) for part in path.parts))


def _cut(name: str) -> str:
    return name.encode("utf-8")[:_MAX_NAME_BYTES].decode("utf-8", "ignore")
