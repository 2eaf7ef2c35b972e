"""DeepDRR without a GPU: cupy made of numpy, and DeepDRR's kernel compiled for the CPU."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest


def _sibling(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _forget_deepdrr():
    for name in [name for name in sys.modules if name.partition(".")[0] == "deepdrr"]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def has_deepdrr():
    for package in ("deepdrr", "killeengeo", "strenum"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install --no-deps deepdrr killeengeo strenum")


@pytest.fixture
def fake_cupy():
    """`build` and `Device` of the fake."""
    return _sibling("fake_cupy")


@pytest.fixture
def cupy(has_deepdrr, fake_cupy, monkeypatch):
    """A cupy that records, in the place of the real one; deepdrr is imported anew with it."""
    _forget_deepdrr()
    module = fake_cupy.build()
    monkeypatch.setitem(sys.modules, "cupy", module)
    yield module
    _forget_deepdrr()


@pytest.fixture
def running_cupy(has_deepdrr, fake_cupy, monkeypatch):
    """The same, which runs DeepDRR's kernel on the CPU."""
    kernel = _sibling("kernel_on_cpu")
    if kernel.COMPILER is None:
        pytest.skip("no g++ to compile DeepDRR's kernel for the CPU with")
    _forget_deepdrr()
    module = fake_cupy.build(kernel.compile_kernel)
    monkeypatch.setitem(sys.modules, "cupy", module)
    yield module
    _forget_deepdrr()


@pytest.fixture(scope="session")
def agreement():
    """Compare two pictures: ``agreement(image, reference) -> shift, ncc, mean, p99``.

    The shift (pixels, the longer of both axes) is the least-squares answer of the reference's gradient.
    """

    def compare(image, reference):
        image, reference = np.asarray(image, float), np.asarray(reference, float)
        rows, columns = np.gradient(reference)
        basis = np.stack([rows.ravel(), columns.ravel(), np.ones(rows.size)], axis=1)
        step = np.linalg.lstsq(basis, (reference - image).ravel(), rcond=None)[0]
        difference = np.abs(image - reference)
        return {
            "shift": float(np.abs(step[:2]).max()),
            "ncc": float(np.corrcoef(image.ravel(), reference.ravel())[0, 1]),
            "mean": float(difference.mean()),
            "p99": float(np.percentile(difference, 99)),
        }

    return compare
