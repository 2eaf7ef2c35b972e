"""Retrieval of reports by images, and of images by reports: R@K in both directions.

Source: LoFi, section 3.1. Each report is divided into parts of five sentences (`grounded.sub_reports`). A query image
finds its report if one of its parts is among the K most similar ones; a part finds its image if this is among the K
most similar images. If similarities are equal, the true one counts as the last of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from carm_env.evaluation.intervals import Estimate, estimate

CUTOFFS = (1, 5, 10, 20, 40)
DIRECTIONS = ("image_to_text", "text_to_image")


def ranks(similarities: NDArray[np.floating], owners: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Returns the rank of the truth of each query, from 1.

    Args:
        similarities: ``(n, m)`` of images and texts.
        owners: ``(m,)`` image of each text; each image has at least one.

    Returns:
        ``(n,)`` rank of the best own text of each image, and ``(m,)`` rank of the image of each text.

    Raises:
        ValueError: the shapes do not match, a similarity is not finite, or an image has no text.
    """
    count, texts = similarities.shape
    if owners.shape != (texts,) or not np.isfinite(similarities).all():
        raise ValueError(
            f"got similarities {similarities.shape} and owners {owners.shape}, expected finite (n, m) and (m,)."
        )
    if set(owners.tolist()) != set(range(count)):
        raise ValueError(f"owners are not the images 0 to {count - 1}, expected a text for each image.")
    own = owners == np.arange(count)[:, None]
    best = np.where(own, similarities, -np.inf).max(1)
    image_ranks = 1 + ((similarities >= best[:, None]) & ~own).sum(1)
    true = similarities[owners, np.arange(texts)]
    # The image itself is as similar as itself.
    text_ranks = (similarities >= true).sum(0)
    return image_ranks.astype(np.int64), text_ranks.astype(np.int64)


def retrieval_estimates(
    similarities: NDArray[np.floating], owners: NDArray[np.int64], patients: Sequence[str]
) -> dict[str, dict[str, Estimate]]:
    """Returns R@K in both directions with intervals clustered by patient.

    Args:
        similarities: see `ranks`.
        owners: see `ranks`.
        patients: patient of each image.

    Returns:
        From a direction of `DIRECTIONS` and ``r_at_1`` and so on to the estimate; cutoffs at which every query would
        succeed by necessity, because there are no more candidates, are left out.
    """
    image_ranks, text_ranks = ranks(similarities, owners)
    clusters = {"image_to_text": list(patients), "text_to_image": [patients[owner] for owner in owners]}
    candidates = {"image_to_text": similarities.shape[1], "text_to_image": similarities.shape[0]}
    return {
        direction: {
            f"r_at_{k}": estimate(found <= k, clusters[direction])
            for k in CUTOFFS
            if k < candidates[direction] or k == 1
        }
        for direction, found in zip(DIRECTIONS, (image_ranks, text_ranks), strict=True)
    }
