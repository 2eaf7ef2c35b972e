"""One function applied to many values in several processes, which end with the process that started them."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from carm_env.system.errors import CArmEnvError
from carm_env.system.threads import become_worker, thread_environment, threads_per_worker

Value = TypeVar("Value")
Result = TypeVar("Result")

_PARENT_VARIABLE = "CARM_ENV_PARENT"
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.5


class WorkerError(CArmEnvError, RuntimeError):
    """A worker process was killed."""


class UnguardedScriptError(CArmEnvError, RuntimeError):
    """A script does its work again in each worker, which imports it."""


def check_not_starting() -> None:
    """Raises UnguardedScriptError in a worker that is still importing the script that was started.

    A worker that started work of its own then would wait for its parent, which waits for the worker.
    """
    # As multiprocessing does before it starts a process.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UnguardedScriptError(
            "worker processes import the script that was started, and it begins its work again in them: put everything "
            'but imports and definitions into a block `if __name__ == "__main__":`.'
        )


def end_with_parent(parent: int, signalled: bool = False) -> None:
    """Ends this process, without cleaning up, when the process that started it ends in any way.

    Args:
        parent: number of the process that started this one.
        signalled: let Linux send the signal, which nothing in this process can delay. It does so at the end of the
            thread that started this process, so only the main thread may have done that.
    """
    if signalled and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if sys.platform != "win32" and os.getppid() != parent:
        os._exit(1)  # it has ended already
    threading.Thread(target=_wait_for_parent, args=(parent,), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    if sys.platform == "win32":
        # Windows keeps the number of a parent that has ended. A worker knows its parent once it is set up.
        while (process := multiprocessing.parent_process()) is None:
            time.sleep(_POLL_S)
        process.join()
    else:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
    os._exit(1)


@contextlib.contextmanager
def children_end_with_parent() -> Iterator[None]:
    """Lets processes that are started in the block call `end_with_parent` when they import this module."""
    signalled = threading.current_thread() is threading.main_thread()
    os.environ[_PARENT_VARIABLE] = f"{os.getpid()} {int(signalled)}"
    try:
        yield
    finally:
        os.environ.pop(_PARENT_VARIABLE, None)


def _heed_parent() -> None:
    value = os.environ.pop(_PARENT_VARIABLE, None)
    if value is None:
        return
    parent, signalled = map(int, value.split())
    if sys.platform != "win32" and os.getppid() != parent and _is_running(parent):
        return  # started by a child that does not import this module
    end_with_parent(parent, bool(signalled))


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


# At import, because a worker may import much before its first call.
_heed_parent()


def _start_worker(threads: int) -> None:
    # Ctrl-C reaches every process of the terminal; only the main process answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    become_worker(threads)


def run_in_processes(
    work: Callable[[Value], Result], values: Iterable[Value], workers: int, ahead: int = 1
) -> Iterator[Result]:
    """Yields ``work(value)`` for every value; with several workers in the order in which they finish.

    One worker is this process itself. Several workers share this process's threads: each gets `threads_per_worker`.
    When the caller stops iterating, or is interrupted, the running calls finish and no other call starts. When this
    process is killed, the workers end at once.

    Args:
        work: a module-level function; it and the values are pickled.
        values: read as they are needed.
        workers: number of processes.
        ahead: values handed to each worker in advance: 1 for long calls, more for short ones.

    Raises:
        WorkerError: a worker was killed, for example because memory ran out.
        UnguardedScriptError: this is a worker that is still importing the script that was started.
    """
    if workers == 1:
        yield from map(work, values)
        return
    check_not_starting()
    threads = threads_per_worker(workers)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(threads,))
    running: set[Future[Result]] = set()
    queue = iter(values)
    try:
        exhausted = False
        while running or not exhausted:
            # Few at a time, so that an interruption does not wait for many.
            while not exhausted and len(running) < ahead * workers:
                try:
                    # A worker starts at a submission, and imports the main module before its initializer runs.
                    with thread_environment(threads), children_end_with_parent():
                        running.add(pool.submit(work, next(queue)))
                except StopIteration:
                    exhausted = True
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise WorkerError(
            f"one of {workers} worker processes was killed, perhaps because memory ran out: take fewer (--workers) and "
            "run the command again. Finished work is kept. In a script of your own, see that its work stands in a "
            'block `if __name__ == "__main__":`.'
        ) from error
    except KeyboardInterrupt:
        print("\nInterrupted: the running calls finish first.", file=sys.stderr, flush=True)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
