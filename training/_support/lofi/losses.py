"""The losses of LoFi.

Source: "LoFi: Location-Aware Fine-Grained Representation Learning for Chest X-ray", section 2. The temperature and the
bias of the sigmoid loss are SigLIP's, which the paper starts from (Zhai et al., "Sigmoid Loss for Language Image
Pre-Training", ICCV 2023).
"""

from __future__ import annotations

from carm_env.system.extras import optional_imports

with optional_imports("train", "Training"):
    import torch
    from torch import Tensor
    from torch import distributed as dist
    from torch.nn import functional


def sigmoid_loss(images: Tensor, texts: Tensor, temperature: Tensor, bias: Tensor) -> Tensor:
    """Returns the sigmoid loss of the paper's equation 1, over all processes of a training.

    Each pair of an image and a text is a question of its own: do they belong together? The loss is the sum over all
    texts, averaged over the images: ``-log sigmoid(delta * (temperature * image . text + bias))``, where delta is 1 for
    the text of the image and -1 for any other.

    With several processes the images of this process are compared with the texts of all. The mean over processes, which
    `DistributedDataParallel` takes of the gradients, is then the loss of the whole batch in one process, given the
    embeddings. The batch norm of a small model's stem takes its statistics in each process.

    Args:
        images: ``(n, d)`` embeddings of length 1.
        texts: ``(n, d)`` embeddings of length 1; text ``i`` belongs to image ``i``.
        temperature: factor of the similarities, above 0.
        bias: added to the scaled similarities.

    Raises:
        ValueError: there are fewer than two pairs, so that nothing is negative.
    """
    first, everything = 0, texts
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        # Keeps the gradients: a text gets those of the images of all processes.
        from torch.distributed.nn.functional import all_gather

        everything = torch.cat(all_gather(texts.contiguous()))
        first = dist.get_rank() * len(texts)
    if len(everything) < 2:
        raise ValueError(
            "the sigmoid loss got a batch of 1 pair, expected at least 2: the other texts of a batch are the negative "
            "ones. Set a larger --batch-size."
        )
    logits = temperature * images @ everything.T + bias
    signs = -torch.ones_like(logits)
    rows = torch.arange(len(images), device=logits.device)
    signs[rows, first + rows] = 1
    return -functional.logsigmoid(signs * logits).sum(1).mean()


def sequence_losses(logits: Tensor, tokens: Tensor, sequences: Tensor, count: int) -> Tensor:
    """Returns minus the mean log-likelihood per token of each sequence, ``(count,)``.

    This is the captioning, grounding or dense captioning loss of a sequence, depending on its prompt and its target
    (equations 2 and 3). The paper's is a sum over tokens; as in transformers, the mean is taken, so that long targets
    do not outweigh short ones.

    Args:
        logits: ``(m, v)`` scores of all tokens where a target token is predicted; prompts and padding have none.
        tokens: ``(m,)`` the target tokens.
        sequences: ``(m,)`` the sequence, 0 to ``count - 1``, of each.
        count: number of sequences.

    Raises:
        ValueError: a sequence has no target token.
    """
    lengths = torch.bincount(sequences, minlength=count)
    if count and int(lengths.min()) == 0:
        raise ValueError("a sequence has no target token, expected at least one in each: leave out empty texts.")
    losses = functional.cross_entropy(logits.float(), tokens, reduction="none")
    return losses.new_zeros(count).index_add(0, sequences, losses) / lengths


def autoregressive_loss(captioning: Tensor, location: Tensor, samples: Tensor) -> Tensor:
    """Returns the autoregressive loss ``L_tau`` of a batch.

    A sample without boxes contributes its captioning loss. A sample with boxes contributes the captioning loss and the
    mean of its location-aware captioning losses, grounding or dense captioning, in equal shares.

    Args:
        captioning: ``(n,)`` captioning loss of each sample.
        location: ``(m,)`` location-aware captioning losses; may be empty.
        samples: ``(m,)`` the samples that they belong to.
    """
    counts = torch.bincount(samples, minlength=len(captioning))
    located = torch.zeros_like(captioning).index_add(0, samples, location) / counts.clamp(min=1)
    return torch.where(counts > 0, (captioning + located) / 2, captioning).mean()


def total_loss(sigmoid: Tensor, autoregressive: Tensor, weight: float) -> Tensor:
    """Returns ``L_s + lambda * L_tau``; the paper's `weight` lambda is 5."""
    return sigmoid + weight * autoregressive
