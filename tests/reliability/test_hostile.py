"""The script of hostile inputs, and that it finds what it looks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability import hostile
from tests.reliability.hostile_inputs import Case
from tests.reliability.network_guard import guarded

pytest.importorskip("pydicom")
pytest.importorskip("SimpleITK")


def test_hostile_archives_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "hostile.json"
    assert hostile.run(hostile.Arguments(out, ("archives",), each=4)) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["passed"] and found["figures"]["hostile_inputs"] == 4 and not found["failures"]


def _outside(target: Path) -> None:
    (target.parents[1] / "x").write_text("x", encoding="utf-8")
    raise FileNotFoundError


def _code(target: Path) -> None:
    (target / "marker").write_text("x", encoding="utf-8")
    raise FileNotFoundError


def _disk(target: Path) -> None:
    (target / "x").write_bytes(b"x" * 1000)
    raise FileNotFoundError


def _untyped(target: Path) -> None:
    raise KeyError("x")


def _hang(target: Path) -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (_outside, "it left its folder"),
        (_code, "its code was run"),
        (_disk, "it wrote 1,000 bytes, declared are 100"),
        (_untyped, "KeyError"),
        (_hang, "TimeoutError: took more than 1 s"),
        (str, "it was accepted"),
    ],
)
def test_faults_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: object, fault: str) -> None:
    monkeypatch.setattr(hostile, "_INPUT_SECONDS", 1)
    monkeypatch.setattr(hostile.tempfile, "tempdir", None)
    case = Case(lambda folder: folder, read, lambda target: 100)  # type: ignore[arg-type]
    assert hostile.run_case("x", case, tmp_path)["fault"].startswith(fault)


def test_attempts_to_use_the_network_are_recorded(tmp_path: Path) -> None:
    environment, attempts = guarded({}, tmp_path)
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError as error: print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert "the network is forbidden here" in done.stdout
    assert "192.0.2.1" in attempts.read_text(encoding="utf-8")
