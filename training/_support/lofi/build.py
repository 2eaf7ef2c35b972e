"""The model of a training of LoFi: a small one, or pretrained parts with LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def initial_backbone(arguments: LofiArguments) -> dict[str, Tensor] | None:
    """Returns the trained ResNet that the image encoder of a small model begins with; None for random weights.

    Args:
        arguments: settings of the training.

    Returns:
        Tensors by their names in the ResNet.

    Raises:
        FileNotFoundError, CheckpointError: see `policies.checkpoint.load_checkpoint`.
        ValueError: it is for another depth of the isocentre than the views.
    """
    if arguments.backbone == RANDOM or arguments.image_text_model:
        return None
    config, tensors = load_checkpoint(_backbone_folder(arguments), CONFORMAL)
    if not arguments.data:
        what = f"the weights of the backbone {arguments.backbone or 'that ships'}"
        check_depth(arguments, trained_depth_mm(config), what)
    member = member_tensors(tensors, 0)
    return {name.removeprefix(_RESNET): value for name, value in member.items() if name.startswith(_RESNET)}


def build_lofi(
    arguments: LofiArguments, reports: Sequence[GroundedReport], backbone: Mapping[str, Tensor] | None
) -> Lofi:
    """Builds a small model with a tokenizer of its own, or loads pretrained parts and adds LoRA.

    Args:
        arguments: settings of the training.
        reports: reports whose texts the tokenizer of a small model is trained on.
        backbone: from `initial_backbone`.

    Raises:
        ModelError: a pretrained model does not exist or is of another class.
        CheckpointError: the backbone is of another architecture.
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
    if backbone is not None:
        resnet = lofi.model.encoders.vision_model.embeddings.patch_embedding.resnet
        fill_network(resnet, backbone, str(_backbone_folder(arguments)))
        resnet.requires_grad_(not arguments.freeze_backbone)
    return lofi


def _backbone_folder(arguments: LofiArguments) -> Path:
    return Path(arguments.backbone) if arguments.backbone else SHIPPED / CONFORMAL
