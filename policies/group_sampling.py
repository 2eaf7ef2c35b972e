"""Sampling of groups of answers from a model of Gemma-3's class, to which the embedded model belongs.

A group of answers shares its prompt, which is read once; and every answer has a random number generator of its own, so
that it does not depend on the other answers of the batch, nor on the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carm_env.system.extras import optional_imports

with optional_imports("llm", "Training a language model"):
    import torch
    from torch import Tensor
    from transformers import Gemma3ForConditionalGeneration

Constraint = Callable[[Tensor, Tensor], Tensor]
"""A logits processor: token ids ``(n, t)`` and scores ``(n, vocabulary)`` to scores."""


def shares_prompts(model: Any) -> bool:
    """Returns whether `sample_groups` can sample from a model."""
    return isinstance(model, Gemma3ForConditionalGeneration)


@dataclass(frozen=True)
class SamplingOptions:
    """How answers are sampled.

    Attributes:
        max_new_tokens: longest answer.
        temperature: sampling temperature; 0 for the likeliest answers.
        stops: ids of the tokens that end an answer.
        banned: ids of the tokens that are never sampled.
        pad: id that fills up answers.
    """

    max_new_tokens: int
    temperature: float
    stops: tuple[int, ...]
    banned: tuple[int, ...]
    pad: int


@torch.no_grad()
def sample_groups(
    model: Any,
    inputs: Mapping[str, Tensor],
    copies: int,
    options: SamplingOptions,
    seeds: Sequence[int],
    constraint: Constraint | None = None,
) -> tuple[list[list[int]], list[list[float]]]:
    """Samples a group of answers to each prompt.

    Args:
        model: the model, in evaluation mode.
        inputs: ``input_ids`` and ``attention_mask`` ``(n, t)``, padded on the left, and the model's other inputs.
        copies: size of each group.
        options: how answers are sampled.
        seeds: ``(n * copies,)`` seed of each answer, group by group.
        constraint: allows only some tokens, such as `policies.constrained.PatternConstraint`; it is given the answers
            after the prompts, and scores with the random part.

    Returns:
        Token ids of the answers, with the token that ends each, and the logarithms of their probabilities at this
        temperature, before tokens were banned.
    """
    device = inputs["input_ids"].device
    # Padding on the left has no place of its own: the first token of every prompt is at position 0.
    places = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    outputs = model(**inputs, position_ids=places, use_cache=True, logits_to_keep=1)
    cache, logits = outputs.cache, outputs.logits[:, -1]
    cache.batch_repeat_interleave(copies)
    logits = logits.repeat_interleave(copies, 0)
    ids, mask = (inputs[name].repeat_interleave(copies, 0) for name in ("input_ids", "attention_mask"))
    positions = mask.sum(1)
    count = len(ids)
    random = [torch.Generator(device).manual_seed(seed) for seed in seeds] if options.temperature > 0 else []
    noise = torch.empty_like(logits, dtype=torch.float32)
    stops = torch.tensor(options.stops, device=device)
    banned = torch.tensor(options.banned, device=device, dtype=torch.long)
    answers: list[list[int]] = [[] for _ in range(count)]
    logps: list[list[float]] = [[] for _ in range(count)]
    # Rows of the batch that still run; answers that have ended leave it.
    rows = torch.arange(count, device=device)
    for step in range(options.max_new_tokens):
        scores = logits.float() / (options.temperature or 1.0)
        likely = torch.log_softmax(scores, -1)
        scores = scores.index_fill(1, banned, float("-inf"))
        for place, row in enumerate(rows.tolist()):
            if random:
                noise[place].exponential_(generator=random[row])
        if random:
            # The maximum with Gumbel noise is a sample of the softmax.
            scores = scores - noise[: len(rows)].log()
        if constraint is not None:
            scores = constraint(ids, scores)
        tokens = scores.argmax(-1)
        chosen = likely.gather(1, tokens[:, None])[:, 0].tolist()
        for row, token, logp in zip(rows.tolist(), tokens.tolist(), chosen, strict=True):
            answers[row].append(token)
            logps[row].append(logp)
        running = ~torch.isin(tokens, stops)
        if not running.any() or step == options.max_new_tokens - 1:
            break
        ids = torch.cat([ids, tokens[:, None]], 1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        if not running.all():
            kept = running.nonzero()[:, 0]
            rows, ids, mask, positions, tokens = rows[kept], ids[kept], mask[kept], positions[kept], tokens[kept]
            cache.batch_select_indices(kept)
        outputs = model(
            input_ids=tokens[:, None], attention_mask=mask, position_ids=positions[:, None], cache=cache, use_cache=True
        )
        logits, positions = outputs.logits[:, -1], positions + 1
    return answers, logps
