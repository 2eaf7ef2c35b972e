import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tqdm import tqdm

from carm_env.system.command_line import CLOSED_OUTPUT, FAILED, INTERRUPTED, exit_status, parse_arguments, run_script
from carm_env.system.errors import UnknownNameError


@dataclass(frozen=True)
class Arguments:
    """Arguments of a script.

    Attributes:
        policies: names of the policies.
        resume: continue an earlier run.
        json: file to write.
        batch_size: episodes per batch.
    """

    policies: tuple[str, ...] = ("oracle",)
    resume: bool = False
    json: Path | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1.")


@pytest.mark.parametrize("flag", ["--batch-size", "--batch_size"])
def test_a_flag_may_have_dashes_or_underscores(flag):
    assert parse_arguments(Arguments, given=[flag, "3"]).batch_size == 3


def test_flags_override_the_configuration_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("policies: [a, b]\nresume: true\nbatch_size: 4\njson: null\n", encoding="utf-8")
    arguments = parse_arguments(Arguments, given=["--batch-size", "9", "--config", str(path)])
    assert arguments == Arguments(("a", "b"), True, None, 9)


def test_a_configuration_file_may_follow_an_equals_sign_and_extend_another_one(tmp_path):
    (tmp_path / "base.yaml").write_text("policies: [a]\nbatch_size: 4\n", encoding="utf-8")
    path = tmp_path / "b.yaml"
    path.write_text("base: base.yaml\nbatch_size: 5\n", encoding="utf-8")
    assert parse_arguments(Arguments, given=[f"--config={path}", "--resume"]) == Arguments(("a",), True, None, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: a.yaml", "expected the name of another YAML file"),
        ("base: [1]", "expected the name of another YAML file"),
        ("base: nowhere.yaml", "nowhere.yaml cannot be read"),
        ("policy: a", "Did you mean 'policies'"),
        ("- a", "expected a mapping"),
        ("a: [", "cannot be read"),
        ("a: &a [1]\nb: *a", "cannot be read: .*anchor or an alias"),
        ("policies: {a: b}", "policies is .*expected a text, a number or a list"),
        ("policies: [[a]]", "policies is .*expected a text, a number or a list"),
        ("1: a", "cannot be read: .*the key 1, expected text"),
    ],
)
def test_a_wrong_configuration_file_is_refused(text, message, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        parse_arguments(Arguments, given=["--config", str(path)])


def test_help_shows_the_fields_docstrings(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_arguments(Arguments, "Does something.", ["--help"])
    printed = capsys.readouterr().out
    assert caught.value.code == 0
    assert "Does something." in printed and "episodes per batch" in printed and "--config FILE" in printed


@pytest.mark.parametrize(
    ("raised", "status", "printed"),
    [
        (UnknownNameError("suite", "smok", ["smoke"]), FAILED, "error: unknown suite 'smok'"),
        (KeyboardInterrupt(), INTERRUPTED, "Interrupted"),
        (None, 0, ""),
    ],
)
def test_the_exit_status_says_how_a_script_ended(raised, status, printed, capsys):
    def run(arguments):
        if raised is not None:
            raise raised

    assert run_script(run, Arguments, given=[]) == status
    assert printed in capsys.readouterr().err


def test_control_characters_in_a_message_are_escaped(capsys):
    def fail() -> None:
        raise ValueError("no file ä\x1b[31m\u202e\udcff:\nsecond line")

    assert exit_status(fail) == FAILED
    assert capsys.readouterr().err == "error: no file ä\\x1b[31m\\u202e\\udcff:\nsecond line\n"


def test_a_value_that_the_dataclass_refuses_ends_the_script(capsys):
    with pytest.raises(SystemExit) as caught:
        run_script(lambda arguments: 0, Arguments, given=["--batch-size", "0"])
    assert caught.value.code == FAILED
    assert "batch_size is 0, expected at least 1" in capsys.readouterr().err


def test_a_fault_of_the_program_passes_through():
    def run(arguments):
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        run_script(run, Arguments, given=[])


OUTPUT_SCRIPT = """
import sys
from carm_env.system.command_line import exit_status

def main():
    print("Sch\\udce4del, 5 \\u00b1 2 mm, \\u2013 \\u4e2d")
    for number in range(int(sys.argv[1])):
        print(number)

sys.exit(exit_status(main))
"""


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1", "cp1252"])
def test_characters_that_the_output_cannot_show_are_escaped(encoding):
    variables = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-c", OUTPUT_SCRIPT, "1"]
    ran = subprocess.run(command, env=variables, capture_output=True, check=True)
    assert ran.stdout.startswith(b"Sch\\udce4del, 5 ") and ran.stdout.endswith(b"\n0\n") and ran.stderr == b""


@pytest.mark.skipif(sys.platform == "win32", reason="redirects with sh")
@pytest.mark.parametrize(
    ("redirection", "status", "errors"),
    [
        (">&-", 0, ""),
        ("2>&- >/dev/null", 0, ""),
        (">/dev/full", FAILED, "error: [Errno 28] No space left on device"),
    ],
)
def test_an_output_that_is_closed_or_full_gives_no_traceback(redirection, status, errors):
    command = ["sh", "-c", f'exec "$0" -c "$1" 9 {redirection}', sys.executable, OUTPUT_SCRIPT]
    ran = subprocess.run(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    assert (ran.returncode, ran.stderr.strip()) == (status, errors)


def test_progress_bars_need_no_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert exit_status(lambda: len(list(tqdm(range(3)))) - 3) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe without a reader gives other errors")
def test_a_reader_that_has_gone_ends_the_program_silently():
    command = [sys.executable, "-c", OUTPUT_SCRIPT, "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(timeout=60) == CLOSED_OUTPUT
