"""One function applied to many values on the machines of a Ray cluster.

The counterpart of `carm_env.system.processes` beyond one machine, built on Ray core (extra ``ray``). A call whose
worker process or machine is lost runs again, `MAX_RETRIES` times at most.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from carm_env.system.errors import CArmEnvError
from carm_env.system.extras import require
from carm_env.system.messages import announce
from carm_env.system.processes import WorkerError
from carm_env.system.telemetry import disable_telemetry
from carm_env.system.threads import become_worker, usable_cpus

Value = TypeVar("Value")
Result = TypeVar("Result")

EngineName = Literal["processes", "ray"]
"""What runs work in parallel: processes of this machine, or the machines of a Ray cluster."""

ADDRESS_VARIABLE = "RAY_ADDRESS"
MAX_RETRIES = 3
"""How often a call runs again after its worker process or machine was lost."""

_AHEAD = 2
"""Calls handed to Ray per CPU: a free CPU finds the next call at once, and an interruption loses few."""
_FORMS = "HOST:PORT of the head node, or auto for the cluster of this machine"
_CONNECT_S = 5.0
_POLL_S = 5.0
_PATIENCE_S = 120.0
"""How long to wait for a machine with a free CPU when the cluster has lost the last one."""
_CHECK_S = 300.0
_STORE_BYTES = 100_000_000
"""Object store of a Ray that is started here: results are small."""


class ClusterError(CArmEnvError, RuntimeError):
    """A Ray cluster cannot be used; the message says why and what to do. Finished work is kept."""


def check_engine(engine: EngineName, ray_address: str | None = None, ray_gpus: float = 0.0) -> None:
    """Checks the options of the engine.

    Raises:
        ValueError: an option of Ray without Ray, or a number of GPUs below 0.
    """
    if not ray_gpus >= 0:
        raise ValueError(f"--ray-gpus is {ray_gpus}, expected 0 or more.")
    if engine != "ray" and (ray_address is not None or ray_gpus):
        raise ValueError("--ray-address and --ray-gpus need --engine ray: add it, or leave them out.")


class Cluster:
    """A connection to a Ray cluster; `connect` makes one.

    Args:
        ray: the module ``ray``, connected.
        workers: largest number of calls at the same time; None for one per CPU of the cluster.
        gpus: GPUs of each call; a fraction lets several calls share one.
        memory: bytes of memory of each call.
    """

    def __init__(self, ray: Any, workers: int | None = None, gpus: float = 0.0, memory: int = 0) -> None:
        self._ray, self._workers = ray, workers
        self._needs = {"CPU": 1.0, **({"GPU": gpus} if gpus else {}), **({"memory": memory} if memory else {})}
        failures = ray.exceptions
        self._losses = (
            failures.WorkerCrashedError, failures.NodeDiedError, failures.OutOfMemoryError, failures.ObjectLostError,
        )  # fmt: skip

    @property
    def slots(self) -> int:
        """Number of calls that can run at the same time on the machines that the cluster has now."""
        found = self._ray.cluster_resources()
        slots = min(int(found.get(name, 0) / amount) for name, amount in self._needs.items())
        return slots if self._workers is None else min(slots, self._workers)

    @property
    def _needed(self) -> str:
        memory = self._needs.get("memory", 0.0)
        parts = ["a CPU", f"{self._needs.get('GPU', 0):g} GPU", f"{memory / 1e9:g} GB of memory"]
        return " and ".join(part for part in parts if not part.startswith("0"))

    @property
    def machines(self) -> list[str]:
        """Ids of the machines that run calls."""
        return [node["NodeID"] for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]

    def on_every_machine(self, work: Callable[[], Result]) -> list[Result]:
        """Returns the result of ``work()`` on each machine; one that is lost meanwhile is left out.

        Raises:
            ClusterError: a machine does not answer, or cannot import what `work` needs.
        """
        affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        remote = self._ray.remote(num_cpus=0, max_retries=MAX_RETRIES)(_call)
        calls = [
            remote.options(scheduling_strategy=affinity(machine, soft=False)).remote(os.getcwd(), work)
            for machine in self.machines
        ]
        results = []
        for call in calls:
            try:
                results.append(self._ray.get(call, timeout=_CHECK_S))
            except (*self._losses, self._ray.exceptions.TaskUnschedulableError):
                continue
            except self._ray.exceptions.GetTimeoutError as error:
                raise ClusterError(
                    f"a machine of the Ray cluster has not answered within {_CHECK_S:.0f} s: look at `ray status`."
                ) from error
            except self._ray.exceptions.RayError as error:
                raise _cause(error) from error
        return results

    def run(
        self, work: Callable[[Value], Result], values: Iterable[Value], describe: Callable[[Value], str] = str
    ) -> Iterator[Result]:
        """Yields ``work(value)`` for every value, in the order in which they finish.

        A call whose worker process or machine is lost runs again on whatever machine is free. When the caller stops
        iterating, or is interrupted, no other call starts, and the running ones end with the connection: in Ray 2.60,
        cancelling a call that is just finishing ends this process.

        Args:
            work: a module-level function; it and the values are pickled.
            values: read as they are needed.
            describe: names a value in messages.

        Raises:
            WorkerError: a call was lost more than `MAX_RETRIES` times.
            ClusterError: no machine with a CPU is left.
        """
        memory = {"memory": self._needs["memory"]} if "memory" in self._needs else {}
        remote = self._ray.remote(num_cpus=1, num_gpus=self._needs.get("GPU", 0), max_retries=0, **memory)(_call)
        queue, lost = iter(values), deque[tuple[Value, int]]()
        running: dict[Any, tuple[Value, int]] = {}
        exhausted, idle_since = False, time.monotonic()
        while True:
            while len(running) < max(1, _AHEAD * self.slots):
                if lost:
                    value, losses = lost.popleft()
                else:
                    try:
                        value, losses = next(queue), 0
                    except StopIteration:
                        exhausted = True
                        break
                running[remote.remote(os.getcwd(), work, value)] = value, losses
            if not running and exhausted:
                return
            done, _ = self._ray.wait(list(running), num_returns=1, timeout=_POLL_S)
            if done or self.slots:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > _PATIENCE_S:
                raise ClusterError(
                    f"the Ray cluster has had no machine with {self._needed} for {_PATIENCE_S:.0f} s: start one "
                    "(`ray start --address HEAD:6379`) and run the command again. Finished work is kept."
                )
            for call in done:
                value, losses = running.pop(call)
                try:
                    result = self._ray.get(call)
                except self._losses as error:
                    lost.append((value, self._count_loss(describe(value), losses, error)))
                except self._ray.exceptions.RayError as error:
                    raise _cause(error) from error
                else:
                    yield result

    def _count_loss(self, what: str, losses: int, error: Exception) -> int:
        """Returns how often a value has been lost by now, and says so."""
        kind = type(error).__name__
        if losses >= MAX_RETRIES:
            raise WorkerError(
                f"{what} lost its worker {losses + 1} times, the last time by {kind}: it may need more memory than a "
                "machine has, or crash Python. Finished work is kept."
            ) from error
        announce(f"{what} lost its worker ({kind}) and runs again ({losses + 1} of {MAX_RETRIES} times)")
        return losses + 1


def _cause(error: Exception) -> BaseException:
    """Returns the exception that a call raised on its machine; an error of Ray itself becomes a `ClusterError`."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, ModuleNotFoundError) and not isinstance(cause, CArmEnvError):
        return ClusterError(
            f"a machine of the Ray cluster cannot import {cause.name}: install the same packages on every machine, and "
            "keep a clone of the repository at the same path, or share one."
        )
    if isinstance(cause, BaseException):
        return cause
    return ClusterError(f"the Ray cluster failed ({type(error).__name__}): {error}")


def _call(folder: str, work: Callable[..., Result], *values: Any) -> Result:
    """Runs in a worker process of Ray."""
    with contextlib.suppress(OSError):
        # Relative paths, such as those of checkpoints, mean the same on a machine that has them.
        os.chdir(folder)
    become_worker(1)
    return work(*values)


def machine_name() -> str:
    """Returns the name of this machine, for messages."""
    return socket.gethostname()


@contextlib.contextmanager
def connect(
    address: str | None = None, workers: int | None = None, gpus: float = 0.0, memory: int = 0
) -> Iterator[Cluster]:
    """Connects to a Ray cluster inside the block.

    Args:
        address: ``HOST:PORT`` of the head node of the cluster that this machine belongs to, or ``auto``; by default the
            environment variable ``RAY_ADDRESS``. Without either, Ray is started on this machine for the time of the
            block.
        workers: largest number of calls at the same time; None for one per CPU of the cluster.
        gpus: GPUs of each call.
        memory: bytes of memory of each call.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: no cluster answers at the address, or it runs other versions of Ray and Python.
        ValueError: the address has another form.
    """
    disable_telemetry()
    ray = require("ray", "ray", "--engine ray")
    require("ray.util.scheduling_strategies", "ray", "--engine ray")
    given = address or os.environ.get(ADDRESS_VARIABLE) or None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": _runtime_environment()}
    if given is None:
        options |= {
            "address": "local", "num_cpus": workers or usable_cpus(), "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
        }  # fmt: skip
    else:
        _check_listening(given, "--ray-address" if address else ADDRESS_VARIABLE)
        options["address"] = given
    try:
        ray.init(**options)
    except (OSError, RuntimeError, ValueError, SystemExit, ray.exceptions.RayError) as error:
        # Ray exits if what listens at the address is no Ray.
        where = f"the Ray cluster at {given} cannot be used" if given else "Ray cannot be started on this machine"
        why = "it does not answer" if isinstance(error, SystemExit) else str(error).strip()
        raise ClusterError(f"{where}: {why}") from error
    try:
        yield Cluster(ray, workers, gpus, memory)
    finally:
        ray.shutdown()


def _check_listening(address: str, option: str) -> None:
    """Raises unless something listens at an address: Ray itself would try for two minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{option} is {address!r}, expected {_FORMS}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error}): start its head node (`ray start --head --port 6379`), or "
            f"correct {option}, expected {_FORMS}."
        ) from error


def _runtime_environment() -> dict[str, Any]:
    """Lets worker processes find the modules that this process finds outside of its installation."""
    folders = _search_path(sys.path, (sys.prefix, sys.base_prefix))
    return {"env_vars": {"PYTHONPATH": os.pathsep.join([*folders, "${PYTHONPATH}"])}} if folders else {}


def _search_path(entries: Sequence[str], installed: Sequence[str]) -> list[str]:
    paths = [Path(entry or ".").absolute() for entry in entries]
    outside = [path for path in paths if not any(Path(prefix) in path.parents for prefix in installed)]
    return list(dict.fromkeys(str(path) for path in outside if path.exists()))
