import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carm_env import patient_store as store
from carm_env.evaluation.leaderboard import EvaluationArguments, evaluate
from carm_env.system.command_line import INTERRUPTED, run_script
from carm_env.transcripts.read import find_transcripts, read_transcript
from tests.conftest import NAMES, small_patient

pytest.importorskip("ray", reason="ray is not installed: pip install 'carm-env[ray]'")

POLICY = """
import time
from pathlib import Path

import ray

from carm_env.evaluation.reference import OraclePolicy


class Slow(OraclePolicy):
    "Takes its time, notes the machine on which it runs, and hangs in episode 3."

    def reset(self, seed=None):
        super().reset(seed)
        self.hangs = seed == 3
        if ray.is_initialized():
            Path("machines", ray.get_runtime_context().get_node_id()).touch()

    def act(self, observation, info):
        time.sleep(600 if self.hangs else 0.25)
        return super().act(observation, info)
"""
SCRIPT = [sys.executable, "-m", "carm_env.cli", "evaluate"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a policy and a suite, and with a data folder of small patients."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "slow.py").write_text(POLICY, encoding="utf-8")
    (folder / "machines").mkdir()
    episodes = ", ".join(
        f"{{patient: '{NAMES[number % 4]}', target: {1 + number % 14}, start: {1 + (number + 5) % 14}}}"
        for number in range(40)
    )
    suite = (
        "{name: tiny, version: 1, description: test, max_steps: 20, environment: {image_size: 16}, "
        f"episodes: [{episodes}]}}"
    )
    (folder / "tiny.yaml").write_text(suite, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(store.DATA_VARIABLE, str(folder / "data"))
        for seed, name in enumerate(NAMES):
            store.save_imported(small_patient(name, seed))
    return folder


@pytest.fixture(scope="module")
def environment(folder):
    root = Path(__file__).parents[3]
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH", ""))))
    return {
        **os.environ, store.DATA_VARIABLE: str(folder / "data"), "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip


@pytest.fixture(scope="module")
def cluster(environment, tmp_path_factory):
    """A running cluster of two machines: its process and its address."""
    script = Path(__file__).parents[2] / "ray_cluster.py"
    log = tmp_path_factory.mktemp("log") / "cluster.txt"
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, str(script)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors, text=True, encoding="utf-8", start_new_session=True,
        )  # fmt: skip
        try:
            lines = iter(process.stdout.readline, "")
            address = next((line.strip() for line in lines if re.fullmatch(r"[\d.]+:\d+", line.strip())), None)
            assert address, log.read_text(encoding="utf-8")
            yield process, address
        finally:
            process.stdin.close()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def words(out, *more):
    given = ("--policy", "slow.py:Slow", "--suite", "tiny.yaml", "--out", out, "--decision-timeout", 2, "--no-figures")
    return [str(word) for word in (*given, *more)]


def comparable(out):
    """The lines of a run without what differs from run to run, sorted."""
    lines = [json.loads(line) for line in (out / "episodes.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        del line["latency_ms"], line["decision_ms"], line["cost"], line["run"]
    return sorted(json.dumps(line) for line in lines)


def wait_until(condition, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.poll()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ray's clusters of several nodes do not run on Windows")
def test_results_survive_a_lost_machine_and_an_interruption(folder, environment, cluster, tmp_path, start_process):
    """One story, because starting a cluster takes long: Ctrl-C, a resumed run that loses a machine, and the results."""
    process, address = cluster
    plain, out = tmp_path / "plain", tmp_path / "out"
    given = words(out, "--engine", "ray", "--ray-address", address, "--transcripts", out / "transcripts")

    run = start_process([*SCRIPT, *given], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: (out / "episodes.jsonl").exists(), run)
    run.send_signal(signal.SIGINT)
    output, errors = run.communicate(timeout=120)
    assert run.returncode == INTERRUPTED, errors
    assert "2 machine(s), 2 worker(s)" in output
    kept = (out / "episodes.jsonl").read_text(encoding="utf-8")
    assert f"Interrupted: {kept.count(chr(10))} finished episodes" in output

    for path in (folder / "machines").iterdir():
        path.unlink()
    run = start_process(
        [*SCRIPT, *given, "--resume"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until(lambda: len(list((folder / "machines").iterdir())) == 2, run)
    process.stdin.write("kill\n")
    process.stdin.flush()
    assert process.stdout.readline() == "killed\n"
    output, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors
    assert re.search(r"carm-env: episode \d+ of tiny with slow.py:Slow lost its worker .* runs again \(1 of 3", errors)
    assert (out / "episodes.jsonl").read_text(encoding="utf-8").startswith(kept)

    subprocess.run([*SCRIPT, *words(plain, "--workers", "2")], cwd=folder, env=environment, check=True)
    assert comparable(out) == comparable(plain) and len(comparable(plain)) == 40
    assert sum('"outcome": "timeout"' in line for line in comparable(out)) == 1
    scores = [json.loads((path / "leaderboard.json").read_text(encoding="utf-8")) for path in (out, plain)]
    for found in scores:
        for name in ("latency_ms", "latency_ms_p50", "latency_ms_p95"):
            del found["slow.py:Slow"]["tiny"][name]
    assert scores[0] == scores[1]
    transcripts = [read_transcript(path) for path in find_transcripts(out / "transcripts")]
    assert sorted(item.start.episode for item in transcripts) == list(range(40))

    # The cluster does not know a patient that only the data folder of this process has.
    other = {**environment, store.DATA_VARIABLE: str(tmp_path / "data")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(store.DATA_VARIABLE, str(tmp_path / "data"))
        store.save_imported(small_patient("imported:five", 5))
        store.save_imported(small_patient("imported:one", 6))
    lacking = [*words(tmp_path / "five", "--engine", "ray", "--ray-address", address), "--patients", "five", "one"]
    lacking[lacking.index("tiny.yaml")] = "uniform"
    done = subprocess.run([*SCRIPT, *lacking], cwd=folder, env=other, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2 and "error: the machines of the cluster differ" in done.stderr
    assert re.search("cannot load the patient imported:five .*import or install it there, too", done.stderr)
    assert re.search("has another patient imported:one .fingerprint", done.stderr)
    assert not (tmp_path / "five" / "episodes.jsonl").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--engine", "ray", "--ray-address", "127.0.0.1:9"], "no Ray cluster answers at 127.0.0.1:9"),
        (["--engine", "ray", "--ray-address", "head"], "--ray-address is 'head', expected HOST:PORT"),
        (
            ["--engine", "ray", "--ray-address", "ray://127.0.0.1:9"],
            "--ray-address is 'ray://127.0.0.1:9', expected HOST",
        ),
        (["--ray-address", "auto"], "need --engine ray"),
        (["--engine", "ray", "--ray-gpus", "-1"], "--ray-gpus is -1"),
    ],
)
def test_a_cluster_that_is_not_there_is_named_at_once(more, message, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    started = time.monotonic()
    assert run_script(evaluate, EvaluationArguments, given=words(tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert time.monotonic() - started < 10


def test_the_address_of_the_environment_is_named(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert run_script(evaluate, EvaluationArguments, given=words(tmp_path / "out", "--engine", "ray")) == 2
    assert re.search("no Ray cluster answers at 127.0.0.1:9 .*or correct RAY_ADDRESS", capsys.readouterr().err)
