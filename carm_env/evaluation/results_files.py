"""Result files of several runs, each with a name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carm_env.evaluation.results import EpisodeResult, read_results


@dataclass(frozen=True)
class ResultsFile:
    """A file of results.

    Attributes:
        name: short name, unique among the compared files.
        path: the file.
        results: its results.
        complaints: a message for each line that is not a result.
    """

    name: str
    path: Path
    results: tuple[EpisodeResult, ...]
    complaints: tuple[str, ...]


def read_files(given: Sequence[str]) -> list[ResultsFile]:
    """Reads result files.

    Args:
        given: ``episodes.jsonl`` files or run folders that hold one, each as ``PATH`` or ``NAME=PATH``. Without a name,
            a file is named after its folder, and any other file after itself.

    Raises:
        ValueError: nothing is given, a name is given twice, or a file has no results.
        FileNotFoundError: a file does not exist.
    """
    if not given:
        raise ValueError("no results are given, expected episodes.jsonl files or folders of carm-env evaluate.")
    parts = [split_name(text) for text in given]
    names = [name for name, _ in parts if name]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"the name {repeated[0]!r} is given to two files, expected a different NAME=PATH for each.")
    default = {path.resolve(): _default_name(path) for _, path in parts}
    shared = list(default.values())
    files: list[ResultsFile] = []
    for name, path in parts:
        if not name:
            name = default[path.resolve()]
            name = name if shared.count(name) == 1 else str(path)
            # The same file may be given twice.
            numbered = (name, *(f"{name} #{number}" for number in range(2, 2 * len(parts) + 2)))
            name = next(free for free in numbered if free not in [*names, *(file.name for file in files)])
        path = results_path(path)
        results, complaints = read_results(path)
        if not results:
            why = f": {complaints[0]}" if complaints else ""
            raise ValueError(f"{path} has no results{why}. Expected the episodes.jsonl of carm-env evaluate.")
        files.append(ResultsFile(name, path, tuple(results), tuple(complaints)))
    return files


def split_name(text: str) -> tuple[str, Path]:
    """Splits ``NAME=PATH``; the name is empty for a path alone."""
    name, equals, path = text.partition("=")
    return (name, Path(path)) if name and equals and path and not Path(text).exists() else ("", Path(text))


def _default_name(path: Path) -> str:
    if path.name == "episodes.jsonl":
        return path.resolve().parent.name
    return path.resolve().name if path.is_dir() else path.stem


def results_path(path: Path) -> Path:
    """Returns the file of results at a path, which may be the folder of a run.

    Raises:
        FileNotFoundError: the file does not exist, or the folder holds none.
    """
    if path.is_dir():
        if not (path / "episodes.jsonl").is_file():
            raise FileNotFoundError(f"the folder {path} has no episodes.jsonl, expected a folder of carm-env evaluate.")
        return path / "episodes.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}, expected an episodes.jsonl or its folder.")
    return path
