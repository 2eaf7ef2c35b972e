"""The model of a training of LoFi: a small one, or pretrained parts with LoRA."""

from __future__ import annotations

from collections.abc import Sequence

from carm_env.xray_datasets.grounded import GroundedReport
from policies.lofi.checkpoint import Lofi, pretrained_lofi, small_lofi
from policies.lofi.model import small_configs
from policies.lofi.text import small_tokenizer
from training._support.lofi.arguments import LofiArguments

SMALL_SIZE = 128
"""Side of the images of a small model, pixels."""


def build_lofi(arguments: LofiArguments, reports: Sequence[GroundedReport]) -> Lofi:
    """Builds a small model with a tokenizer of its own, or loads pretrained parts and adds LoRA.

    Args:
        arguments: settings of the training.
        reports: reports whose texts the tokenizer of a small model is trained on.

    Raises:
        ModelError: a pretrained model does not exist or is of another class.
    """
    if arguments.image_text_model:
        ranks = arguments.encoder_rank, arguments.language_rank
        return pretrained_lofi(
            arguments.image_text_model, arguments.language_model, arguments.image_size, ranks, arguments.queries
        )
    texts = [sentence.text for report in reports for sentence in report.sentences]
    tokenizer = small_tokenizer(texts)
    stops = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    encoders, language = small_configs(len(tokenizer), stops, arguments.image_size or SMALL_SIZE)
    return small_lofi(encoders, language, tokenizer, arguments.queries, arguments.seed)
