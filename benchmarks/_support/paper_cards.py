"""A repository of model cards like the paper's: 84 cards over its 26 modalities.

The paper lists the modalities, and says that the cards cover classification, segmentation, detection and grading; it
does not publish the cards. The captions here follow its two examples. The file `PAPER_CARDS` holds the repository; run
this module to write it again.

Source: "One VLM, Two Roles: Stage-Wise Routing and Specialty-Level Deployment for Clinical Workflows", section 3,
prerequisite 2.
"""

from __future__ import annotations

from pathlib import Path

from carm_env.system.files import write_text
from carm_env.system.structured_files import dump_yaml
from policies.routing.cards import ModelCard, card_values

PAPER_CARDS = Path(__file__).parents[1] / "paper_cards"
"""Folder of the repository, as ``--cards`` takes it."""
MODALITIES = (
    "brain CT scan", "brain MRI scan", "breast histopathology (H&E) scan", "breast mammography scan",
    "breast ultrasound scan", "cervix cytology scan", "cervix histology scan", "cervix histopathology (H&E) scan",
    "chest CT scan", "colonoscopy scan", "colon histopathology (H&E) scan", "esophageal gastroscopy scan",
    "fundus photography scan", "gallbladder ultrasound scan", "kidney CT scan", "kidney histopathology scan",
    "kidney MRI scan", "kidney ultrasound scan", "liver CT scan", "liver ultrasound scan",
    "lung histopathology (H&E) scan", "prostate histopathology (H&E) scan", "skin dermatology scan",
    "skin dermoscopy scan", "skin histopathology (H&E) scan", "skin multimodal panel (dermoscopy+RCM+H&E)",
)  # fmt: skip
"""The paper's modalities, in its order."""
_TASKS = (
    "Classifies benign vs. malignant findings in a {}.",
    "Segments lesion regions in a {}.",
    "Detects lesions in a {} and marks them with boxes.",
)
_GRADING = "Grades the severity of the disease in a {}."
_GRADED = (
    "breast histopathology (H&E) scan", "cervix histopathology (H&E) scan", "colon histopathology (H&E) scan",
    "fundus photography scan", "prostate histopathology (H&E) scan", "skin dermoscopy scan",
)  # fmt: skip
"""Modalities with a fourth card, so that there are 84."""


def paper_cards() -> list[ModelCard]:
    """Returns the cards, ``MODEL_01`` to ``MODEL_84``."""
    pairs = [
        (modality, caption.format(modality))
        for modality in MODALITIES
        for caption in (*_TASKS, *([_GRADING] if modality in _GRADED else []))
    ]
    return [ModelCard(f"MODEL_{number:02d}", modality, task) for number, (modality, task) in enumerate(pairs, 1)]


if __name__ == "__main__":
    write_text(PAPER_CARDS / "cards.yaml", dump_yaml([card_values(card) for card in paper_cards()], width=120))
