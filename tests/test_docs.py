"""Runs the code blocks of README.md and docs/.

- Python blocks of a page run in order, in one namespace, in a temporary folder.
- A Python or YAML block with a title (```` ```python title="mine.py" ````) is written to that file of the folder.
- Every command of a ``bash`` block is parsed by the program it starts: unknown flags and values fail. A command that
  writes nothing outside its folder and takes seconds runs for real below ``<!-- run -->``.

HTML comments above a block say what differs in the test: ``<!-- run -->``, ``<!-- replace: OLD -> NEW -->`` (smaller
settings; it implies ``run``) and ``<!-- skip: REASON -->``.
"""

import argparse
import importlib.util
import json
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro

from carm_env import cli
from carm_env.evaluation.intervals import MIN_PATIENTS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?P<comments>(?:^ *<!--[^\n]*-->\n+)*)^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
PLAIN_LANGUAGES = {"text", "json", "bibtex", "html", "mermaid"}
# Programs that set up a machine. Their arguments are checked in `_check_set_up`.
SET_UP_PROGRAMS = {
    "apt-get", "cd", "export", "git", "inspect", "make", "mkdocs", "mypy", "nvidia-smi", "pip", "pre-commit", "pytest",
    "ruff", "tensorboard", "vf-eval", "vllm",
}  # fmt: skip


class ArgumentsParsed(BaseException):
    """The command line is valid, and nothing of the command has run."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    title: str
    text: str
    skip: str
    runs: bool


def read_blocks(page: Path) -> list[Block]:
    source = page.read_text(encoding="utf-8")
    blocks = []
    for match in BLOCK.finditer(source):
        comments, info = match["comments"], match["info"]
        text = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        replacements = re.findall(r"<!-- *replace: (.*?) -> (.*?) *-->", comments)
        for old, new in replacements:
            assert old in text, f"{page.name}: {old!r} of a replace comment is not in the block below it."
            text = text.replace(old, new)
        skip = re.search(r"<!-- *skip: *(.*?) *-->", comments)
        assert not skip or skip[1], f"{page.name}: a skip comment has no reason."
        title = re.search(r'title="([^"]+)"', info)
        blocks.append(
            Block(
                page,
                source.count("\n", 0, match.start("info")) + 1,
                info.split()[0] if info.split() else "",
                title[1] if title else "",
                text,
                skip[1] if skip else "",
                bool(replacements) or "<!-- run -->" in comments,
            )
        )
    return blocks


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    """The working folder of a page; modules that the page writes can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_blocks_of_the_page_run(page, in_tmp_path, monkeypatch):
    namespace = {"__name__": "page"}
    for block in read_blocks(page):
        where = f"{page_id(page)}, line {block.line}"
        if block.title and block.language in ("python", "yaml"):
            Path(block.title).write_text(block.text, encoding="utf-8")
        if block.skip or block.language in PLAIN_LANGUAGES or block.language == "yaml":
            continue
        if block.language == "python":
            # The traceback of a failure names the page and its line.
            exec(compile("\n" * block.line + block.text, str(page), "exec"), namespace)
        elif block.language == "bash":
            for words in commands(block.text):
                check_command(words, where, block.runs, monkeypatch)
        else:
            pytest.fail(
                f"{where}: the language of the block is {block.language!r}, expected python, bash, yaml or text."
            )


def commands(text: str) -> list[list[str]]:
    """The commands of a block of shell lines, as words, without comments and variables."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
                del command[0]
            if command:
                found.append(command)
    return found


def check_command(words: list[str], where: str, runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if words[:2] == ["accelerate", "launch"]:
        words = ["python", *words[2:]]
    if words[0] == "carm-env":
        start, arguments = lambda: cli.main(arguments), words[1:]
    elif words[0] == "python" and words[1].endswith(".py"):
        script = Path(words[1]) if Path(words[1]).is_file() else ROOT / words[1]
        assert script.is_file(), f"{where}: {words[1]} does not exist."
        start, arguments = lambda: run_script(script, arguments), words[2:]
    elif words[0] == "python" and words[1] == "-m":
        assert importlib.util.find_spec(words[2]), f"{where}: there is no module {words[2]}."
        return
    else:
        _check_set_up(words, where)
        return
    if runs:
        assert start() in (0, None), f"{where}: {shlex.join(words)} failed."
        return
    with monkeypatch.context() as patches:
        # Paths in commands are relative to a clone.
        patches.chdir(ROOT)
        stop_after_parsing(patches)
        try:
            status = start()
        except ArgumentsParsed:
            return
        except SystemExit as error:
            status = error.code
    # `--help` and `--version` end here.
    assert status == 0, f"{where}: {shlex.join(words)} is not accepted; see the captured output."


def run_script(script: Path, arguments: list[str]) -> int | None:
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(sys, "argv", [str(script), *arguments])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as error:
            return error.code
    return 0


def stop_after_parsing(patches: pytest.MonkeyPatch) -> None:
    """Makes the parsers raise `ArgumentsParsed` where they would return."""

    def stopping(parse):
        def parse_and_stop(*args, **kwargs):
            parse(*args, **kwargs)
            raise ArgumentsParsed

        return parse_and_stop

    patches.setattr(tyro, "cli", stopping(tyro.cli))
    patches.setattr(argparse.ArgumentParser, "parse_args", stopping(argparse.ArgumentParser.parse_args))
    if importlib.util.find_spec("trl"):
        from trl import TrlParser

        patches.setattr(TrlParser, "parse_args_and_config", stopping(TrlParser.parse_args_and_config))


def _check_set_up(words: list[str], where: str) -> None:
    if words[0] in (".", "source", "python", "python3"):
        return
    assert words[0] in SET_UP_PROGRAMS, f"{where}: the test does not know the program {words[0]!r}."
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets), f"{where}: {shlex.join(words)} names no target of the Makefile."
    if words[0] == "pip":
        extras = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
        for named in re.findall(r"(?:carm-env|\.)\[([\w,-]+)\]", shlex.join(words)):
            assert set(named.split(",")) <= set(extras), f"{where}: there is no extra {named!r}."


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [page for page in map(page_id, PAGES) if page.startswith("docs/") and page[5:] not in navigation]
    assert not missing


def test_links_to_files_exist():
    broken = []
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if not target.startswith(("http", "mailto:")) and not (page.parent / target).exists():
                broken.append(f"{page_id(page)}: {target}")
    assert not broken


def test_every_command_is_documented():
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert not [name for name in cli.COMMANDS if f"`carm-env {name}`" not in page]


RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = (
    ("2026-11-30/leaderboard.json", "paper-routes"),
    ("2026-11-30/leaderboard.json", "uniform"),
    ("2026-11-30/leaderboard_standard.json", "standard"),
)
PRIVILEGED = {"oracle", "atlas"}


def readme_leaderboard() -> dict[str, list[str]]:
    rows = re.findall(r"^\| `(\w+)`\*? *\|(.*)\|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {policy: [cell.strip() for cell in cells.split("|")] for policy, cells in rows}


@pytest.mark.parametrize(("column", "file", "suite"), [(i, *column) for i, column in enumerate(COLUMNS)])
def test_leaderboard_of_the_readme_equals_the_result_files(column, file, suite):
    results = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    scores = {policy: suites[suite] for policy, suites in results["scores"].items() if suite in suites}
    cells = {policy: row[column] for policy, row in readme_leaderboard().items() if row[column]}
    assert {policy: cell.strip("*") for policy, cell in cells.items()} == {
        policy: shown_success(figures) for policy, figures in scores.items()
    }
    fair = [policy for policy in scores if policy not in PRIVILEGED]
    best = max(fair, key=lambda policy: scores[policy]["success"])
    tied = {best}
    for pair in results["pairs"]:
        policies = {pair["first"], pair["second"]}
        if pair["suite"] == suite and best in policies and pair["better"] is None:
            tied |= policies - PRIVILEGED
    assert {policy for policy, cell in cells.items() if cell.startswith("**")} == tied


TRANSFER = RESULTS / "2026-11-30" / "transfer.json"


def test_the_table_from_virtual_to_real_equals_the_result_file():
    results = json.loads(TRANSFER.read_text(encoding="utf-8"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    heading, rows = re.search(r"^\| group (\|.*\|)\n\|[-|]+\n((?:\| `.*\n)+)", text, re.MULTILINE).groups()
    # The last one stands in the heading of the coverage.
    policies = re.findall(r"`(\w+)`", heading)[:-1]
    groups = [name for name in results["oracle"]]
    shown = {}
    for row in rows.splitlines():
        group, *cells, coverage = [cell.strip() for cell in row.strip("|").split("|")]
        shown[group.strip("`")] = [*cells, coverage]
    assert list(shown) == groups
    for group in groups:
        scores = [results[policy][group] for policy in policies]
        cells = [shown_success({**one, "success_interval": one["interval"]}) for one in scores]
        assert shown[group] == [*cells, f"{100 * results['conformal'][group]['coverage_90']:.0f} %"]


def shown_success(figures: dict) -> str:
    low, high = figures["success_interval"]
    value = f"{100 * figures['success']:.0f} %"
    return value if figures["patients"] < MIN_PATIENTS else f"{value} ({100 * low:.0f}–{100 * high:.0f})"
