"""Trainings whose weights FSDP2 divides among two processes, on a CPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

from policies.local_model import LocalModel  # noqa: E402
from training import grpo  # noqa: E402

_path = Path(__file__).parent / "tiny_models.py"
_spec = importlib.util.spec_from_file_location("tiny_models", _path)
tiny_models = importlib.util.module_from_spec(_spec)
sys.modules["tiny_models"] = tiny_models
_spec.loader.exec_module(tiny_models)

SCRIPT = """
import sys
import numpy as np
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from training import grpo

begin = AcceleratorState.__init__

def on_cpu(self, *arguments, fsdp_plugin=None, **options):
    # Accelerate uses FSDP on accelerators only, and without a word ignores it on a CPU.
    begin(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP

AcceleratorState.__init__ = on_cpu

def by_length(texts, states, weights=None):
    return {"total": np.array([float(len(text) % 7) for text in texts]), "regret": np.zeros(len(texts))}

grpo.step_rewards = by_length
grpo.check_answer_length = lambda *given: None
fit = grpo.fit

def checked(trainer, checkpoint):
    found = fit(trainer, checkpoint)
    assert trainer.is_fsdp_enabled and type(trainer.model).__name__.startswith("FSDP")
    return found

grpo.fit = checked
sys.exit(grpo.main(sys.argv[1:]))
"""
SETTINGS = {
    "ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}  # fmt: skip


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
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_processes_may_call_a_model_with_whole_weights_differently_often(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNEQUAL)
    launch(script)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "adapter"), [("step_wise", "true"), ("multi_turn", "true"), ("multi_turn", "false")])
def test_two_processes_with_half_of_the_weights_each_train_and_save(small_patients, tmp_path, mode, adapter):
    model, out, script = tiny_models.tiny_gemma3(tmp_path / "tiny"), tmp_path / "out", tmp_path / "script.py"
    script.write_text(SCRIPT)
    config = Path(grpo.__file__).parent / "configs" / "grpo_gemma3_4b.yaml"
    words = [
        "--config", config, "--model_name_or_path", model, "--output_dir", out, "--mode", mode, "--style", "compact",
        "--use_peft", adapter, "--train", ",".join(small_patients[:2]), "--calibration", small_patients[2],
        "--test", small_patients[3], "--image_size", 56, "--max_steps", 2, "--per_device_train_batch_size", 2,
        "--gradient_accumulation_steps", 1, "--num_generations", 2, "--refresh_steps", 2, "--warmup_steps", 0,
        "--max_completion_length", 12 if mode == "step_wise" else 0, "--max_answers", 3, "--max_answer_tokens", 12,
        "--eval_every", 2, "--eval_episodes", 3, "--perception_every", 0, "--test_episodes", 0, "--save_strategy", "no",
        "--bf16", "false", "--gradient_checkpointing", "false", "--learning_rate", "1e-2",
    ]  # fmt: skip
    assert "step 2/2" in launch(script, *words, **SETTINGS)
    assert (out / ("adapter_model.safetensors" if adapter == "true" else "model.safetensors")).is_file()
    assert json.loads((out / "carm.json").read_text())["trained_by"] == "grpo"
    LocalModel(out)
