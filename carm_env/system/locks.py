"""Locks between processes: files that one process holds, and that a killed process no longer holds.

A lock is a hidden file that is locked by the operating system (``flock``, on Windows ``msvcrt.locking``), so that no
process needs to judge whether another one is alive. The holder removes the file when it ends. After a kill the file
stays, unlocked, until the next process takes and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from carm_env.system.errors import CArmEnvError
from carm_env.system.messages import announce
from carm_env.system.processes import check_not_starting

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_POLL_S = 0.02
_WITHOUT_LOCKS = {
    getattr(errno, name) for name in ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK") if hasattr(errno, name)
}
"""Errors of file systems that have no locks, such as some network shares."""
_LOCKED_BYTE = 1 << 30
"""On Windows nobody can read a locked byte: the locked one is far behind the text."""

_held: set[int] = set()
_announce_once = functools.cache(announce)


class BusyError(CArmEnvError, OSError):
    """Another process works on the same file or folder; the message says what to do."""


@contextlib.contextmanager
def lock(path: Path, timeout_s: float | None = None) -> Iterator[bool]:
    """Holds the lock file `path` inside the block; yields whether it is held.

    It is not held, and an announcement says so, where the file system has no locks. Two locks of one path exclude each
    other in one process, too.

    Args:
        path: the lock file; its folder must exist.
        timeout_s: how long to wait for another holder; None waits until it ends, 0 does not wait.

    Raises:
        BusyError: another process, or another block of this one, still holds it.
        OSError: the file cannot be created.
        UnguardedScriptError: the lock is held, and this is a worker that is still importing the script that was
            started: its parent, which may hold the lock, waits for it.
    """
    handle = _acquire(path, timeout_s)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            _release(path, handle)


def _acquire(path: Path, timeout_s: float | None) -> int | None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        try:
            handle = _take(path)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            _announce_once(
                f"{path.parent} is on a file system without locks ({error.strerror}): let only one process at a time "
                "write there. What a killed process leaves behind is not removed."
            )
            return None
        if handle is not None:
            _held.add(handle)
            return handle
        if deadline is not None and time.monotonic() >= deadline:
            raise BusyError(f"another process holds {path}: wait until it ends.")
        check_not_starting()
        time.sleep(_POLL_S)


def _take(path: Path) -> int | None:
    """Opens and locks a file; returns its handle, or None while another holder has it."""
    while True:
        handle = _open(path)
        if handle is None:
            return None
        try:
            if not _lock_handle(handle):
                os.close(handle)
                return None
        except OSError as error:
            os.close(handle)
            if error.errno in _WITHOUT_LOCKS:
                path.unlink(missing_ok=True)
            raise
        if _is_same(handle, path):
            break
        # Its last holder removed it after it was opened here.
        os.close(handle)
    with contextlib.suppress(OSError):  # opened for reading only, or the disk is full
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, str(os.getpid()).encode())
    return handle


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        if sys.platform == "win32":
            return None  # its holder is removing it
        # It belongs to another user.
        return os.open(path, os.O_RDONLY)


def _lock_handle(handle: int) -> bool:
    """Locks an open file, unless another holder has locked it; returns whether it did."""
    try:
        if sys.platform == "win32":
            os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def _is_same(handle: int, path: Path) -> bool:
    """Returns whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _release(path: Path, handle: int) -> None:
    if handle not in _held:
        return  # a forked process has closed it, and its parent still holds it
    _held.discard(handle)
    with contextlib.suppress(OSError):
        # Removed while it is held, so that nobody can hold a file that has no name. Windows removes no open file.
        path.unlink()
    os.close(handle)
    if sys.platform == "win32":
        with contextlib.suppress(OSError):
            path.unlink()


def _forget_locks() -> None:
    # A forked process shares the locks of its parent: they would stay locked when only the parent ends.
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
