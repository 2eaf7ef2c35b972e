"""Trainings in one process must not know of each other."""

import pytest


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps the precision and the device of the first training in a process."""
    yield
    try:
        from accelerate.state import AcceleratorState
    except ImportError:
        return
    AcceleratorState._reset_state(reset_partial_state=True)
