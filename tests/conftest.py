import os
import signal
import subprocess
import warnings

# Set before anything is imported: tests open no window, and run on one thread per worker process.
os.environ |= {"SDL_VIDEODRIVER": "dummy", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import hypothesis
import numpy as np
import pytest

from carm_env import patient_store as store
from carm_env.anatomy.layout import landmark_layout
from carm_env.landmarks import LANDMARKS
from carm_env.patient import Patient
from carm_env.system.telemetry import disable_telemetry
from carm_env.system.threads import usable_cpus
from carm_env.volume import Volume
from tests.reliability import network_guard

SPACING_MM = 8.0
MAX_TEST_PROCESSES = 8
NAMES = ("imported:one", "imported:two", "imported:three", "imported:four")


# Property tests have no deadline, because they would fail on a busy machine.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")
network_guard.install()
# Otherwise `datasets.load_dataset` reports to its bucket, unless an earlier test of the same process has turned it off.
disable_telemetry()


@pytest.fixture(autouse=True)
def nothing_is_sent():
    """Fails a test in which anything uses the network; its attempt raises OSError."""
    before = len(network_guard.attempts)
    yield
    assert not network_guard.attempts[before:]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """``pytest -n auto`` starts one process per usable CPU; many of them hold torch, so memory sets a limit."""
    return min(usable_cpus(), MAX_TEST_PROCESSES)


def small_patient(name: str, seed: int) -> Patient:
    """A patient of 8 mm voxels with landmarks about where people have them."""
    rng = np.random.default_rng(seed)
    plane = landmark_layout().mean_mm + rng.normal(0, 8, (len(LANDMARKS), 2))
    plane = plane - plane.min(0) + 90.0
    hu = np.full((*np.ceil((plane.max(0) + 90.0) / SPACING_MM).astype(int),), -1000, np.int16)
    hu = np.repeat(hu[:, None, :], 24, axis=1)
    hu[4:-4, 4:-4, 4:-4] = 20
    points = {}
    for item, (x, z) in zip(LANDMARKS, plane, strict=True):
        index = np.rint(np.array([x, 96.0, z]) / SPACING_MM).astype(int)
        size = 1 + item.index % 3
        box = tuple(slice(number - size, number + size + 1) for number in index)
        hu[box] = 300 + 80 * item.index
        points[item.id] = index * SPACING_MM
    return Patient(name, Volume.from_origin(hu, SPACING_MM, (0.0, 0.0, 0.0)), points)


@pytest.fixture(name="small_patient")
def small_patient_fixture():
    """The function `small_patient`."""
    return small_patient


@pytest.fixture
def small_patients(tmp_path, monkeypatch):
    """Names of four imported patients of water with a bright cube at each of fourteen landmarks; quick to render."""
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
    for seed, name in enumerate(NAMES):
        store.save_imported(small_patient(name, seed))
    return NAMES


@pytest.fixture
def start_process():
    """Starts a child process that Ctrl-C interrupts, even if SIGINT is ignored here (``nohup``, some CI runners)."""

    def start(command, **options):
        # An ignored signal is inherited, and Python then installs no handler of its own.
        return subprocess.Popen(
            command, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options
        )

    return start


@pytest.fixture
def killed_at():
    """Runs a function in a forked process that is killed at a call; see `kill_at`."""
    return kill_at


def kill_at(module, name, number, function):
    """Runs a function in a forked process and kills it instead of a call.

    Args:
        module: module whose attribute is called.
        name: the attribute, such as ``"replace"`` of `os`.
        number: calls that are still made.
        function: takes no arguments.

    Returns:
        Whether the process was killed; otherwise the function has returned.
    """
    with warnings.catch_warnings():
        # From Python 3.12 on: other threads of the tests are not needed here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        real, calls = getattr(module, name), iter(range(number))

        def call(*arguments, **options):
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(module, name, call)
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the function raised an exception"
    return os.WIFSIGNALED(status)
