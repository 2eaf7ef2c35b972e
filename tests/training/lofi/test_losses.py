import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from training._support.lofi import losses  # noqa: E402

TOLERANCE = 1e-6


def embeddings(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=1)


def test_the_sigmoid_loss_equals_a_loop_over_pairs():
    images, texts = embeddings(5, 7, 0), embeddings(5, 7, 1)
    temperature, bias = 3.7, -2.1
    total = 0.0
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            similarity = sum(float(a) * float(b) for a, b in zip(image, text, strict=True))
            delta = 1 if i == j else -1
            total -= math.log(1 / (1 + math.exp(-delta * (temperature * similarity + bias))))
    found = losses.sigmoid_loss(images, texts, torch.tensor(temperature), torch.tensor(bias))
    assert abs(float(found) - total / 5) < TOLERANCE


def test_the_sigmoid_loss_is_that_of_transformers():
    from transformers import SiglipConfig, SiglipModel

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = SiglipModel(
        SiglipConfig(text_config={**tower, "vocab_size": 20, "max_position_embeddings": 8, "projection_size": 16},
                     vision_config={**tower, "image_size": 16, "patch_size": 8})
    ).eval()  # fmt: skip
    torch.nn.init.constant_(model.logit_bias, -3.0)
    with torch.no_grad():
        output = model(input_ids=torch.randint(0, 20, (4, 8)), pixel_values=torch.randn(4, 3, 16, 16), return_loss=True)
        found = losses.sigmoid_loss(output.image_embeds, output.text_embeds, model.logit_scale.exp(), model.logit_bias)
    assert abs(float(found - output.loss)) < TOLERANCE


def test_a_batch_of_one_is_refused():
    one = embeddings(1, 4, 0)
    with pytest.raises(ValueError, match="batch of 1 pair, expected at least 2"):
        losses.sigmoid_loss(one, one, torch.tensor(1.0), torch.tensor(0.0))


def test_sequence_losses_equal_a_loop_over_tokens():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(9, 11, generator=generator)
    tokens = torch.randint(0, 11, (9,), generator=generator)
    sequences = torch.tensor([0, 0, 2, 2, 2, 1, 0, 2, 2])
    found = losses.sequence_losses(logits, tokens, sequences, 3)
    for sequence in range(3):
        terms = []
        for row in range(9):
            if int(sequences[row]) == sequence:
                scores = [float(value) for value in logits[row]]
                terms.append(math.log(sum(map(math.exp, scores))) - scores[int(tokens[row])])
        assert abs(float(found[sequence]) - sum(terms) / len(terms)) < TOLERANCE


def test_a_sequence_without_a_target_is_refused():
    with pytest.raises(ValueError, match="no target token"):
        losses.sequence_losses(torch.zeros(2, 5), torch.tensor([1, 2]), torch.tensor([0, 0]), 2)


def test_samples_with_boxes_share_their_weight_equally():
    captioning = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    location = torch.tensor([6.0, 10.0], dtype=torch.float64, requires_grad=True)
    samples = torch.tensor([2, 0])
    found = losses.autoregressive_loss(captioning, location, samples)
    expected = ((1 + 10) / 2 + 2 + (4 + 6) / 2) / 3
    assert abs(float(found.detach()) - expected) < TOLERANCE
    found.backward()
    assert captioning.grad.tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 6])
    assert location.grad.tolist() == pytest.approx([1 / 6, 1 / 6])
    several = losses.autoregressive_loss(captioning.detach(), location.detach(), torch.tensor([1, 1]))
    assert abs(float(several) - (1 + (2 + 8) / 2 + 4) / 3) < TOLERANCE
    alone = losses.autoregressive_loss(captioning.detach(), location[:0].detach(), samples[:0])
    assert abs(float(alone) - 7 / 3) < TOLERANCE


def test_the_total_is_weighted_by_lambda():
    assert float(losses.total_loss(torch.tensor(0.5), torch.tensor(2.0), 5.0)) == 10.5


WORKER = """
import sys
import torch
from torch import distributed as dist
from training._support.lofi.losses import sigmoid_loss

dist.init_process_group("gloo")
rank = dist.get_rank()
given = torch.load(sys.argv[1], weights_only=True)
rows = slice(3 * rank, 3 * rank + 3)
network = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 6, bias=False, dtype=torch.float64))
network.module.weight.data.copy_(given["weight"])
normalize = torch.nn.functional.normalize
both = normalize(network(torch.cat([given["images"][rows], given["texts"][rows]])), dim=1)
loss = sigmoid_loss(both[:3], both[3:], torch.tensor(5.0), torch.tensor(-1.0))
loss.backward()
mean = loss.detach().clone()
dist.all_reduce(mean)
if rank == 0:
    torch.save({"loss": mean / 2, "gradient": network.module.weight.grad}, sys.argv[2])
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path):
    generator = torch.Generator().manual_seed(3)
    given = {
        name: torch.randn(*shape, generator=generator, dtype=torch.float64)
        for name, shape in (("images", (6, 4)), ("texts", (6, 4)), ("weight", (6, 4)))
    }
    weight = given["weight"].clone().requires_grad_()
    images, texts = (torch.nn.functional.normalize(given[name] @ weight.T, dim=1) for name in ("images", "texts"))
    loss = losses.sigmoid_loss(images, texts, torch.tensor(5.0), torch.tensor(-1.0))
    loss.backward()

    torch.save(given, tmp_path / "given.pt")
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script),
         str(tmp_path / "given.pt"), str(tmp_path / "found.pt")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(losses.__file__).parents[3])},
        capture_output=True, text=True, timeout=300, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert abs(float(found["loss"] - loss.detach())) < TOLERANCE
    assert float((found["gradient"] - weight.grad).abs().max()) < TOLERANCE
