import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from carm_env.system.processes import WorkerError, children_end_with_parent, run_in_processes


@pytest.mark.parametrize("workers", [1, 2])
def test_the_function_is_called_once_for_every_value(workers):
    assert sorted(run_in_processes(abs, range(-5, 0), workers)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_reaches_the_caller(workers):
    with pytest.raises(TypeError):
        list(run_in_processes(len, [3], workers))


SCRIPT = """
import sys, time
from pathlib import Path
from carm_env.system.processes import WorkerError, children_end_with_parent, run_in_processes

def work(number):
    (Path(sys.argv[1]) / f"{number}.started").touch()
    time.sleep(2)
    (Path(sys.argv[1]) / f"{number}.finished").touch()

if __name__ == "__main__":
    list(run_in_processes(work, range(20), 2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a group of processes")
def test_ctrl_c_finishes_running_calls_and_starts_no_others(tmp_path, start_process):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, str(script), str(out)]
    process = start_process(command, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.started"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "running calls finish first" in errors
    started, finished = ({path.stem for path in out.glob(f"*.{kind}")} for kind in ("started", "finished"))
    assert started == finished and 2 <= len(started) <= 4


# Each worker makes a file of its own: lines of two processes in one pipe can run together.
SLOW_IMPORT = """
import carm_env.system.processes
import multiprocessing, os, sys, time
from pathlib import Path
if multiprocessing.current_process().name != "MainProcess":
    (Path(sys.argv[1]) / f"{os.getpid()}.importing").touch()
    time.sleep(30)
"""
BUSY = """
import os, sys
from pathlib import Path
from carm_env.system.processes import run_in_processes

def work(number):
    (Path(sys.argv[1]) / f"{os.getpid()}.working").touch()
    while True:
        pass
"""
MAIN = """
if __name__ == "__main__":
    list(run_in_processes(work, range(4), 2))
"""
IN_A_THREAD = """
if __name__ == "__main__":
    import threading
    thread = threading.Thread(target=lambda: list(run_in_processes(work, range(4), 2)))
    thread.start()
    thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("code", "word"),
    [
        (BUSY + MAIN, "working"),
        (BUSY + IN_A_THREAD, "working"),
        (SLOW_IMPORT + BUSY + MAIN, "importing"),
    ],
    ids=["busy", "started in a thread", "importing"],
)
def test_workers_end_with_a_killed_main_process(tmp_path, start_process, code, word):
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    process = start_process([sys.executable, str(script), str(out)])
    deadline = time.monotonic() + 60
    while len(list(out.glob(f"*.{word}"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    started = len(list(out.glob(f"*.{word}")))
    children = {
        child
        for task in Path(f"/proc/{process.pid}/task").iterdir()
        for child in (task / "children").read_text(encoding="utf-8").split()
    }
    process.kill()
    process.wait()
    assert started == 2
    assert len(children) == 3, "two workers and the resource tracker"
    deadline = time.monotonic() + 5
    while (left := [child for child in children if is_running(child)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_outlive_the_thread_that_started_them():
    results = run_in_processes(abs, range(-8, 0), 2)
    first = []
    thread = threading.Thread(target=lambda: first.append(next(results)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert sorted([*first, *results]) == list(range(1, 9))


def kill_a_worker(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_killed_worker_is_an_error_that_says_so():
    with pytest.raises(WorkerError, match="--workers"):
        list(run_in_processes(kill_a_worker, range(4), 2))


def test_a_grandchild_is_not_taken_for_an_orphan():
    """A child that does not import the module hands its environment on."""
    code = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', %r]).returncode)"
    inner = "import carm_env.system.processes, os; assert 'CARM_ENV_PARENT' not in os.environ"
    with children_end_with_parent():
        assert subprocess.run([sys.executable, "-c", code % inner], check=False).returncode == 0
    assert "CARM_ENV_PARENT" not in os.environ


UNGUARDED = """
import sys
from pathlib import Path
from carm_env.system.locks import lock
from carm_env.system.processes import run_in_processes

if "--locked" in sys.argv:
    with lock(Path("lock")):
        list(run_in_processes(abs, range(4), 2))
else:
    list(run_in_processes(abs, range(4), 2))
"""


@pytest.mark.parametrize("options", [(), ("--locked",)])
def test_a_script_without_a_guard_is_told_so(tmp_path, options):
    """It neither waits for ever on a lock of its parent, nor blames the memory alone."""
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED, encoding="utf-8")
    command = [sys.executable, str(script), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, encoding="utf-8")
    assert done.returncode != 0 and "UnguardedScriptError: worker processes import the script" in done.stderr
    assert "WorkerError: one of 2 worker" in done.stderr and done.stderr.count('`if __name__ == "__main__":`') >= 2


FREE_LOCK = """
from pathlib import Path
from carm_env.system.locks import lock
from carm_env.system.processes import run_in_processes

with lock(Path("lock")):
    pass
if __name__ == "__main__":
    assert sorted(run_in_processes(abs, [-1], 2)) == [1]
"""


def test_a_worker_may_take_a_free_lock_while_it_imports(tmp_path):
    """As a script does that loads a patient at its top."""
    script = tmp_path / "script.py"
    script.write_text(FREE_LOCK, encoding="utf-8")
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True, timeout=60)
