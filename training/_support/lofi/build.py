"""The model of a training of LoFi: a small one, or pretrained parts with LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from carm_env.xray_datasets.grounded import GroundedReport
from policies.checkpoint import SHIPPED, fill_network, load_checkpoint
from policies.checkpoint_config import trained_depth_mm
from policies.conformal import KIND as CONFORMAL
from policies.conformal import member_tensors
from policies.lofi.checkpoint import Lofi, pretrained_lofi, small_lofi
from policies.lofi.model import small_configs
from policies.lofi.text import small_tokenizer
from training._support.lofi.arguments import RANDOM, LofiArguments
from training._support.views import check_depth

_RESNET = "resnet."
SMALL_SIZE = 128
"""Side of the images of a small model, pixels."""


def build_lofi(arguments: LofiArguments, reports: Sequence[GroundedReport]) -> Lofi:
    """Builds a small model with a tokenizer of its own, or loads pretrained parts and adds LoRA.

    Args:
        arguments: settings of the training.
        reports: reports whose texts the tokenizer of a small model is trained on.

    Raises:
        ModelError: a pretrained model does not exist or is of another class.
        FileNotFoundError, CheckpointError: see `backbone_tensors`.
        ValueError: the backbone is for another depth of the isocentre than the views.
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
    lofi = small_lofi(encoders, language, tokenizer, arguments.queries, arguments.seed)
    if arguments.backbone != RANDOM:
        resnet = lofi.model.encoders.vision_model.embeddings.patch_embedding.resnet
        fill_network(resnet, backbone_tensors(arguments), arguments.backbone or "the shipped conformal")
        resnet.requires_grad_(not arguments.freeze_backbone)
    return lofi


def backbone_tensors(arguments: LofiArguments) -> dict[str, Tensor]:
    """Returns the tensors of the trained ResNet that the image encoder begins with, by their names in it.

    Raises:
        FileNotFoundError, CheckpointError: see `policies.checkpoint.load_checkpoint`.
        ValueError: it is for another depth of the isocentre than the views.
    """
    folder = Path(arguments.backbone) if arguments.backbone else SHIPPED / CONFORMAL
    config, tensors = load_checkpoint(folder, CONFORMAL)
    if not arguments.data:
        known_mm = trained_depth_mm(config)
        what = (
            "the weights of the backbone" if arguments.backbone else "the shipped weights (--backbone random has none)"
        )
        check_depth(arguments, known_mm, what)
    member = member_tensors(tensors, 0)
    return {name.removeprefix(_RESNET): value for name, value in member.items() if name.startswith(_RESNET)}
