"""Isolation of several trainings in one process, and what several of them start from."""

import numpy as np
import pytest

from carm_env.geometry import DEFAULT_ISOCENTER_DEPTH_MM
from carm_env.views.sample import ViewOptions
from carm_env.views.write import write_view_dataset


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Resets accelerate, which keeps the precision and the device of the first training."""
    yield
    try:
        from accelerate.state import AcceleratorState
    except ImportError:
        return
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def dataset(small_patients, tmp_path):
    """Folder of a dataset of 128 views of 32 pixels for each of four small patients, in three splits."""
    splits = {"train": small_patients[:2], "calibration": small_patients[2:3], "test": small_patients[3:4]}
    write_view_dataset(tmp_path / "d", splits, ViewOptions(128, 32), 1)
    return tmp_path / "d"


@pytest.fixture
def backbone(tmp_path):
    """Folder of a tiny displacement network with random weights."""
    pytest.importorskip("torch")
    from policies.checkpoint import save_checkpoint
    from policies.networks import DisplacementNetwork

    tensors = {f"0.{name}": value for name, value in DisplacementNetwork("tiny").state_dict().items()}
    config = {"kind": "conformal", "architecture": "tiny", "image_size": 32, "members": 1, "levels": [0.9],
              "radius": np.ones((1, 14)).tolist(), "isocenter_depth_mm": DEFAULT_ISOCENTER_DEPTH_MM}  # fmt: skip
    save_checkpoint(tmp_path / "backbone", config, tensors, "#")
    return tmp_path / "backbone"
