"""Train LoFi, the paper's location-aware encoder of X-rays and reports.

    python training/lofi.py
    python training/lofi.py --max-steps 20 --no-evaluate
    python training/lofi.py --losses c --output-dir runs/lofi-without-boxes
    python training/lofi.py --config training/configs/lofi_paper.yaml --data mimic
    accelerate launch training/lofi.py --config training/configs/lofi_paper.yaml

Images and texts are aligned by a sigmoid loss; a light language model that sees the image as 64 tokens writes the
report, the boxes of a phrase, and the phrase of boxes. By default a small model is trained on views of virtual
patients, whose reports are written from what is known of them (`carm_env.reports`). The checkpoint is in
``OUTPUT_DIR/checkpoint``; ``benchmarks/retrieval.py`` and ``benchmarks/grounding.py`` evaluate it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from carm_env.evaluation.intervals import Estimate
from carm_env.system.extras import is_installed
from policies.checkpoint import fingerprint
from policies.lofi.checkpoint import Lofi, save_lofi
from policies.lofi.encoder import LofiEncoder
from policies.lofi.evaluation import grounding, retrieval
from training._support.card import model_card
from training._support.lofi.arguments import LofiArguments
from training._support.lofi.build import SMALL_SIZE, build_lofi, initial_backbone
from training._support.lofi.data import GroundedImages
from training._support.lofi.fit import fit_lofi
from training._support.lofi.sources import load_data
from training._support.processes import is_main_process
from training._support.script import TrainingResult, run_training

_DESCRIPTION = """Aligns X-rays with reports, finds the boxes of a phrase and describes boxes, after the paper LoFi."""


def figures_of(lofi: Lofi, test: GroundedImages, seed: int) -> dict[str, float]:
    """Returns retrieval and grounding on images that were never trained on."""
    encoder = LofiEncoder(lofi)
    found: dict[str, Estimate] = {
        f"{direction}_{name}": value
        for direction, values in retrieval(encoder, test.images, test.reports).items()
        for name, value in values.items()
    }
    if any(report.grounded for report in test.reports):
        found |= grounding(encoder, test.images, test.reports, seed, rodeo=is_installed("rodeo"))
    return {name: value.value for name, value in found.items()}


def train(arguments: LofiArguments, words: Sequence[str] = ()) -> TrainingResult:
    """Trains the model, writes the checkpoint and evaluates it on the test patients.

    Args:
        arguments: settings of the training.
        words: words of the command line, for the model card.
    """
    folder = Path(arguments.output_dir)
    backbone = initial_backbone(arguments)
    data = load_data(arguments, arguments.image_size or SMALL_SIZE)
    lofi = build_lofi(arguments, data.train.reports, backbone)
    trained = sum(value.numel() for value in lofi.model.parameters() if value.requires_grad)
    if is_main_process():
        print(f"{trained / 1e6:.2f} M trained parameters, {len(data.train)} images of {lofi.image_size} x "
              f"{lofi.image_size} pixels")  # fmt: skip
    minutes = fit_lofi(lofi, data, arguments, folder)
    figures: dict[str, float] = {}
    if arguments.evaluate and is_main_process():
        figures = figures_of(lofi, data.test().some(arguments.evaluated_images), arguments.seed)
    if is_main_process():
        about = {"epochs": arguments.epochs, "images": len(data.train), "losses": arguments.losses or "none",
                 "autoregressive_weight": arguments.autoregressive_weight, "seed": arguments.seed,
                 "isocenter_depth_mm": arguments.isocenter_depth_mm,
                 **({"backbone": fingerprint(backbone)[:16]} if backbone else {})}  # fmt: skip
        shown = {**about, **{key: value for key, value in lofi.config.items() if not isinstance(value, dict)}}
        for option in ("image_text_model", "language_model"):
            # A folder of this machine is shown by its name alone.
            shown[option] = Path(shown[option]).name if Path(shown[option]).is_dir() else shown[option]
        card = model_card("LoFi", _DESCRIPTION, "training/lofi.py", words, shown, figures, minutes, **data.card)
        save_lofi(folder / "checkpoint", lofi, about, card)
    return TrainingResult(figures, {"minutes": minutes, "seed": arguments.seed}, {"losses": arguments.losses})


def main(given: Sequence[str] | None = None) -> int:
    """Runs the script and returns the exit status."""
    return run_training(train, LofiArguments, __doc__, "", given)


if __name__ == "__main__":
    sys.exit(main())
