"""A few kills of each kind; `kills.py` makes two hundred."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.killing import Kill, run_forked

SCRIPT = Path(__file__).with_name("kills.py")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and reads /proc")


def test_a_few_kills_lose_nothing(tmp_path):
    pytest.importorskip("SimpleITK")
    command = [
        sys.executable,
        str(SCRIPT),
        "--kills",
        "2",
        "--only",
        "build",
        "replace",
        "render-dataset",
        "leaderboard",
    ]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "f.json")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert found["name"] == "kills" and found["passed"] and found["figures"]["in_saves"] >= 2
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"]


def test_a_process_is_killed_at_a_call_and_its_file_cut(tmp_path):
    def write():
        (tmp_path / "folder").mkdir()
        with (tmp_path / "a").open("wb") as file:
            file.write(b"0123456789")
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp_path / "a", tmp_path / "b")

    log = tmp_path / "log"
    whole = run_forked(write, log)
    assert (whole.killed, whole.status, whole.calls) == (False, 0, 3)
    for name in ("a", "b"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "folder").rmdir()
    outcome = run_forked(write, log, Kill(call=1, half=True))
    assert outcome.killed and outcome.calls == 1 and (tmp_path / "a").read_bytes() == b"01234"
    assert not (tmp_path / "b").exists()


def test_an_exception_is_a_status_and_an_orphan_is_found(tmp_path, monkeypatch):
    def start_and_wait():
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2)"])
        os.mkdir(tmp_path / "a")
        raise ValueError("boom")

    monkeypatch.setattr("tests.reliability.killing.ORPHAN_S", 0.2)
    outcome = run_forked(start_and_wait, tmp_path / "log", Kill(call=0))
    assert outcome.killed and len(outcome.orphans) == 1
    failed = run_forked(start_and_wait, tmp_path / "log")
    assert failed.status == 1 and "ValueError: boom" in (tmp_path / "log").read_text(encoding="utf-8")
