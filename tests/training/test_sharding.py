"""Models whose weights FSDP2 divides among two processes, on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from training import grpo  # noqa: E402

UNEQUAL = """
import os
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from training._support.sharding import whole_weights

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))

dist.init_process_group("gloo")
plain, model = make(), make()
fully_shard(model[1])
fully_shard(model[2], reshard_after_forward=False)
fully_shard(model)
images = torch.ones(3, 4)
for _ in range(2):
    with whole_weights(model), torch.no_grad():
        for _ in range(1 + 3 * dist.get_rank()):
            # As in a generation with an adapter, the forward pass of the whole model is not called.
            with whole_weights(model, None):
                torch.testing.assert_close(model[1](model[0](images)), plain[1](plain[0](images)))
        torch.testing.assert_close(model(images), plain(images))
    for network in (model, plain):
        network.zero_grad()
        network(images).square().sum().backward()
    torch.testing.assert_close(model[1][0].weight.grad.full_tensor(), plain[1][0].weight.grad)
dist.destroy_process_group()
"""


def launch(script, *words, **settings):
    """Runs a script in two processes."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script),
         *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(grpo.__file__).parents[1]), **settings},
        capture_output=True, text=True, timeout=600,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_processes_may_call_a_model_with_whole_weights_differently_often(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNEQUAL, encoding="utf-8")
    launch(script)
