import json
import sys
import time

import pytest

from benchmarks import gpu_evidence
from benchmarks._support.evidence import Part, run_part
from carm_env.system.command_line import run_script


def python(name, code, limit_s=60.0, **options):
    return Part(name, (sys.executable, "-c", code), limit_s, **options)


def test_a_part_returns_its_figures_and_the_end_of_its_log(tmp_path):
    figures = tmp_path / "figures.json"
    code = f"open({str(figures)!r}, 'w').write('[1, 2]'); print('first'); print('last')"
    result = run_part(python("a part", code, figures=figures), tmp_path, 60, {})
    assert (result.status, result.figures, result.log) == ("passed", [1, 2], ["first", "last"])
    assert (tmp_path / "a_part.log").is_file()


def test_a_failure_is_a_result(tmp_path):
    failed = run_part(python("a", "raise SystemExit(3)"), tmp_path, 60, {})
    assert (failed.status, failed.reason) == ("failed", "exit status 3")
    absent = run_part(Part("b", ("no-such-program",), 60), tmp_path, 60, {})
    assert absent.status == "failed" and "no-such-program" in absent.reason


@pytest.mark.parametrize(("limit_s", "seconds_left"), [(1, 60), (60, 1)])
def test_a_part_that_takes_too_long_is_stopped_with_its_children(tmp_path, limit_s, seconds_left):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    started = time.monotonic()
    result = run_part(python("a", code, limit_s), tmp_path, seconds_left, {})
    assert (result.status, result.reason) == ("timeout", "stopped after 1 s")
    assert time.monotonic() - started < 20


def test_parts_fit_into_the_time_limit(tmp_path):
    assert gpu_evidence.TOTAL_S <= 9 * 60
    assert all(0 < part.limit_s < gpu_evidence.TOTAL_S for part in gpu_evidence.list_parts(tmp_path, True))
    steps = len(gpu_evidence.PATIENTS) * gpu_evidence.VIEWS_PER_PATIENT / gpu_evidence.BATCH_SIZE * gpu_evidence.EPOCHS
    assert steps == gpu_evidence.STEPS


def test_without_a_gpu_every_part_is_skipped_with_a_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_evidence, "cuda_device", lambda: None)
    words = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    assert run_script(gpu_evidence.run, gpu_evidence.Arguments, given=words) == 0
    evidence = json.loads((tmp_path / "out" / "gpu_evidence.json").read_text(encoding="utf-8"))
    assert {(part["status"], part["reason"]) for part in evidence["parts"]} == {("skipped", "no CUDA device")}
    assert evidence["device"] is None and evidence["run"]["date"]
    page = (tmp_path / "out" / "gpu_evidence.md").read_text(encoding="utf-8")
    assert "| train sft" in page and "no CUDA device" in page


def test_a_failed_part_does_not_stop_the_others(tmp_path, monkeypatch):
    parts = [python("broken", "print('cause'); raise SystemExit(1)"), python("working", "print('fine')")]
    monkeypatch.setattr(gpu_evidence, "list_parts", lambda *_: parts)
    arguments = gpu_evidence.Arguments(out=tmp_path / "out", work=tmp_path / "work")
    assert gpu_evidence.run(arguments) == 1
    page = (tmp_path / "out" / "gpu_evidence.md").read_text(encoding="utf-8")
    assert "## Broken" in page and "cause" in page and "fine" in page


def test_a_dry_run_prints_every_command(tmp_path, capsys):
    assert gpu_evidence.run(gpu_evidence.Arguments(out=tmp_path / "out", work=tmp_path, dry_run=True)) == 0
    printed = capsys.readouterr().out
    for words in ("pytest -q -m gpu", "gpu_speed.py", "cnn.py", "conformal.py", "rl.py", "sft.py", "grpo.py"):
        assert words in printed
    assert not (tmp_path / "out").exists()
