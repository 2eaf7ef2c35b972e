import os
import subprocess
import sys

import pytest

from carm_env.system import cgroups, threads
from carm_env.system.processes import run_in_processes
from carm_env.system.threads import available_threads, thread_environment, threads_per_worker, usable_cpus


@pytest.fixture
def eight_cpus(monkeypatch, tmp_path):
    """Eight CPUs in the affinity mask, and an empty cgroup folder, which is returned."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cgroups, "_MOUNT", tmp_path)
    monkeypatch.setattr(cgroups, "_MEMBERSHIP", tmp_path / "membership")
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("max 100000", 8),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("", 8),
        ("100000 0", 8),
        ("x y z", 8),
        ("0 100000", 8),
    ],
)
def test_cgroup_v2_quota_limits_the_cpus(eight_cpus, quota, cpus):
    (eight_cpus / "cpu.max").write_text(quota, encoding="utf-8")
    assert usable_cpus() == cpus


def test_the_quota_of_a_group_around_the_own_one_counts(eight_cpus):
    (eight_cpus / "membership").write_text("0::/slurm/job/step\n", encoding="utf-8")
    (eight_cpus / "slurm/job/step").mkdir(parents=True)
    (eight_cpus / "slurm/job/step/cpu.max").write_text("max 100000", encoding="utf-8")
    (eight_cpus / "slurm/job/cpu.max").write_text("200000 100000", encoding="utf-8")
    (eight_cpus / "slurm/cpu.max").write_text("600000 100000", encoding="utf-8")
    assert usable_cpus() == 2


@pytest.mark.parametrize(("quota", "cpus"), [("-1", 8), ("300000", 3)])
def test_cgroup_v1_quota_limits_the_cpus(eight_cpus, quota, cpus):
    (eight_cpus / "cpu").mkdir()
    (eight_cpus / "cpu/cpu.cfs_quota_us").write_text(quota, encoding="utf-8")
    (eight_cpus / "cpu/cpu.cfs_period_us").write_text("100000", encoding="utf-8")
    assert usable_cpus() == cpus


@pytest.mark.parametrize(("workers", "share"), [(1, 8), (2, 4), (3, 2), (16, 1)])
def test_workers_share_the_threads(eight_cpus, workers, share):
    assert threads_per_worker(workers) == share


def test_thread_environment_keeps_lower_limits_and_restores_variables(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with thread_environment(3):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("1", "3")
    assert os.environ["OMP_NUM_THREADS"] == "1" and "MKL_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(
    ("text", "threads"), [("2", "2"), ("9", "3"), ("0", "3"), ("-1", "3"), ("two", "3"), ("²", "3")]
)
def test_odd_limits_in_variables_are_replaced(monkeypatch, text, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with thread_environment(3):
        assert os.environ["OMP_NUM_THREADS"] == threads
    assert os.environ["OMP_NUM_THREADS"] == text


def thread_counts(_: int) -> dict[str, int]:
    torch, numba = pytest.importorskip("torch"), pytest.importorskip("numba")
    return {
        "process": available_threads(),
        "torch": torch.get_num_threads(),
        "numba": numba.get_num_threads(),
        "OpenMP": int(os.environ["OMP_NUM_THREADS"]),
    }


@pytest.mark.parametrize("workers", [2, 3])
def test_every_worker_gets_its_share(monkeypatch, workers):
    pytest.importorskip("torch")
    monkeypatch.setattr(threads, "_worker_share", 2 * workers)
    for name in threads.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    counts = list(run_in_processes(thread_counts, range(workers), workers))
    assert counts == [{"process": 2, "torch": 2, "numba": 2, "OpenMP": 2}] * workers


SCRIPT = """
import numba, numpy, torch
from carm_env.system.threads import limit_threads

@numba.njit(parallel=True)
def total(values):
    result = 0.0
    for i in numba.prange(len(values)):
        result += values[i]
    return result

limit_threads(1)
assert total(numpy.ones(10)) == 10
assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 1)
"""


def test_libraries_that_are_already_imported_obey():
    pytest.importorskip("torch")
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
