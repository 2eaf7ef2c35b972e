import errno
import os
import subprocess
import sys
import threading

import pytest

from carm_env.system import locks
from carm_env.system.locks import BusyError, lock
from carm_env.system.output_folders import lock_output

HOLDER = """
import sys, time
from pathlib import Path
from carm_env.system.locks import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock ``tmp_path/a``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lock_excludes_other_processes_and_disappears_with_a_killed_one(holder, tmp_path):
    path = tmp_path / "a"
    with pytest.raises(BusyError, match="another process holds"), lock(path, 0):
        pass
    holder.kill()
    holder.wait()
    assert path.exists()
    with lock(path, 0) as held:
        assert held and path.read_text(encoding="utf-8") == str(os.getpid())
    assert not path.exists(), "the file of the killed process is removed, too"


def test_a_lock_excludes_other_blocks_of_one_process(tmp_path):
    with lock(tmp_path / "a"), pytest.raises(BusyError), lock(tmp_path / "a", 0.1):
        pass
    with lock(tmp_path / "a", 0), lock(tmp_path / "b", 0):
        pass
    assert os.listdir(tmp_path) == []


def test_a_lock_that_its_holder_removed_is_not_taken(tmp_path, monkeypatch):
    path, real = tmp_path / "a", locks._lock_handle
    seen = []

    def removed_in_between(handle):
        if not seen:
            seen.append(handle)
            path.unlink()
        return real(handle)

    monkeypatch.setattr(locks, "_lock_handle", removed_in_between)
    with lock(path, 0) as held:
        assert held and path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="patches flock")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_announced_once(tmp_path, monkeypatch, capsys, number):
    def flock(handle, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    for _ in range(2):
        with lock(tmp_path / "a") as held:
            assert not held
    assert capsys.readouterr().err.count("without locks") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_does_not_keep_the_lock_of_its_parent(tmp_path):
    reader, writer = os.pipe()
    with lock(tmp_path / "a"):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    with lock(tmp_path / "a", 0) as held:
        assert held
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    os.close(reader)


def test_an_output_folder_has_one_writer(tmp_path, capsys):
    out = tmp_path / "new" / "out"
    with lock_output(out, "--out"):
        with pytest.raises(BusyError, match=rf"\(number {os.getpid()}\) writes to .*choose another folder with --out"):
            with lock_output(out, "--out"):
                pass
        with lock_output(tmp_path / "other", "--out"):
            pass
    with lock_output(out, "--out"):
        pass
    assert os.listdir(out) == []


def test_a_waiting_writer_is_announced(holder, tmp_path, capsys):
    (tmp_path / "a").rename(tmp_path / ".lock")
    threading.Timer(0.2, holder.kill).start()
    with lock_output(tmp_path, "--out", wait=True):
        assert (tmp_path / ".lock").read_text(encoding="utf-8") == str(os.getpid())
    assert f"waiting for another process (number {holder.pid})" in capsys.readouterr().err
