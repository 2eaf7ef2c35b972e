import itertools
import sys
import types
from pathlib import Path

import pytest

from carm_env.system import cluster as module
from carm_env.system.cluster import MAX_RETRIES, Cluster, ClusterError, check_engine
from carm_env.system.processes import WorkerError


class RayError(Exception):
    def __init__(self, cause=None):
        super().__init__(str(cause or "lost"))
        self.cause = cause


class FakeRay:
    """Runs calls at once, in this process; a call of `losses` is lost that often."""

    def __init__(self, losses=None, cpus=2, gpus=0):
        names = ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "ObjectLostError")
        self.exceptions = types.SimpleNamespace(
            RayError=RayError, **{name: type(name, (RayError,), {}) for name in names}
        )
        self.losses, self.resources, self.largest = dict(losses or {}), {"CPU": cpus, "GPU": gpus}, 0
        self.numbers = itertools.count()

    def cluster_resources(self):
        return self.resources

    def remote(self, **options):
        assert options["max_retries"] == 0
        return lambda call: types.SimpleNamespace(remote=lambda folder, work, value: (next(self.numbers), work, value))

    def wait(self, calls, num_returns, timeout):
        self.largest = max(self.largest, len(calls))
        return calls[-1:], calls[:-1]

    def get(self, call):
        _, work, value = call
        if self.losses.get(value, 0):
            self.losses[value] -= 1
            raise self.exceptions.NodeDiedError()
        try:
            return work(value)
        except Exception as error:
            raise RayError(error) from error


def double(value):
    return 2 * value


def divide(value):
    return 1 // value


def test_a_lost_call_runs_again(capsys):
    ray = FakeRay({3: MAX_RETRIES, 5: 1})
    assert sorted(Cluster(ray).run(double, range(9), "number {}".format)) == [2 * value for value in range(9)]
    messages = capsys.readouterr().err
    assert f"number 3 lost its worker (NodeDiedError) and runs again ({MAX_RETRIES} of {MAX_RETRIES} times)" in messages
    assert messages.count("runs again") == MAX_RETRIES + 1


def test_a_call_that_is_always_lost_ends_the_run():
    ray = FakeRay({3: MAX_RETRIES + 1})
    with pytest.raises(
        WorkerError, match=f"number 3 lost its worker {MAX_RETRIES + 1} times, the last time by NodeDied"
    ):
        list(Cluster(ray).run(double, [1, 2, 3, 4, 5, 6], "number {}".format))
    assert next(ray.numbers) == 6 + MAX_RETRIES


def test_an_exception_of_a_call_arrives_as_it_was_raised():
    with pytest.raises(ZeroDivisionError):
        list(Cluster(FakeRay()).run(divide, [1, 0]))
    with pytest.raises(ClusterError, match="cannot import planes: install the same packages on every machine"):
        raise module._cause(RayError(ModuleNotFoundError("No module", name="planes")))


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "share", "slots"),
    [(8, 0, None, 0, 8), (8, 0, 3, 0, 3), (8, 2, None, 0.5, 4), (8, 0, 3, 1, 0)],
)
def test_calls_are_bounded_by_cpus_gpus_and_workers(cpus, gpus, workers, share, slots):
    assert Cluster(FakeRay(cpus=cpus, gpus=gpus), workers, share).slots == slots


def test_few_calls_are_handed_out_ahead():
    ray = FakeRay(cpus=2)
    run = Cluster(ray).run(double, itertools.count())
    assert [next(run) for _ in range(20)] and ray.largest == 4
    run.close()
    assert next(ray.numbers) < 20 + 4


def test_a_cluster_without_cpus_is_given_up(monkeypatch):
    ray = FakeRay(cpus=0)
    monkeypatch.setattr(ray, "wait", lambda calls, num_returns, timeout: ([], calls))
    times = itertools.count(0.0, 50.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    with pytest.raises(ClusterError, match="no machine with a CPU for 120 s"):
        list(Cluster(ray).run(double, [1]))


def test_options_of_ray_need_ray():
    check_engine("processes")
    check_engine("ray", "auto", 0.5)
    with pytest.raises(ValueError, match="need --engine ray"):
        check_engine("processes", ray_gpus=1)
    with pytest.raises(ValueError, match="--ray-gpus is nan"):
        check_engine("ray", ray_gpus=float("nan"))


def test_workers_search_the_folders_that_are_not_installed(tmp_path):
    found = module._search_path([str(tmp_path), "", str(tmp_path), "absent", sys.prefix + "/lib"], [sys.prefix])
    assert found == [str(tmp_path), str(Path.cwd())]


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"carm-env\[ray\]"), module.connect():
        pass
