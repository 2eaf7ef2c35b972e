"""A vote of the nearest neighbours: which landmark is closest to the middle, without a supervised head.

The views of the index that resemble an image most vote for their closest landmarks. A policy reasons on the vote as the
paper's agent does on the network's answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import MoveLattice
from carm_env.evaluation.localization import Localization, RankedLocalizer
from carm_env.evaluation.policy import Decision
from carm_env.geometry import DEFAULT_GEOMETRY
from carm_env.landmarks import N_CLOSEST, N_LANDMARKS
from policies.atlas import BeliefPolicy
from policies.images import image_of
from policies.lofi.encoder import LofiEncoder
from policies.lofi.index import EmbeddingIndex, load_index

DEFAULT_K = 20
_TEMPERATURE = 0.05
"""A neighbour whose cosine similarity is lower than that of the nearest one by this has 1/e of its weight."""


def votes(index: EmbeddingIndex, queries: NDArray[np.float32], k: int = DEFAULT_K) -> NDArray[np.float64]:
    """Returns the shares of the votes for each landmark, ``(m, 14)``.

    A neighbour gives its closest landmark one vote, the second half a vote and the third a third.

    Args:
        index: the pool.
        queries: ``(m, d)`` embeddings of length 1.
        k: number of neighbours.

    Raises:
        EmbeddingIndexError: see `EmbeddingIndex.nearest`.
    """
    chosen, similarities = index.nearest(queries, k)
    weights = np.exp((similarities - similarities[:, :1]) / _TEMPERATURE)
    shares = np.zeros((len(queries), N_LANDMARKS + 1))
    for rank in range(N_CLOSEST):
        np.add.at(
            shares, (np.arange(len(queries))[:, None], index.closest_landmarks[chosen, rank]), weights / (rank + 1)
        )
    # Column 0 stands for no landmark.
    shares = shares[:, 1:]
    return shares / np.maximum(shares.sum(1, keepdims=True), 1e-12)


class KnnClassifier:
    """Names the landmarks closest to the middle of an X-ray by a vote of the nearest neighbours.

    Args:
        folder: folder of an index of `training/lofi_index.py`.
        model: folder of the encoder; by default the one that the index names.
        k: number of neighbours.

    Raises:
        FileNotFoundError: there is no index or no encoder.
        EmbeddingIndexError: the index is damaged, of another encoder, or smaller than `k`.
    """

    def __init__(self, folder: str | Path, model: str | Path = "", k: int = DEFAULT_K) -> None:
        if not str(folder):
            raise FileNotFoundError("knn needs an index: knn:FOLDER, which `python training/lofi_index.py` builds.")
        self.index, self.k = load_index(folder), k
        self._encoder = LofiEncoder(model or self.index.model)
        self.index.check_encoder(self._encoder.fingerprint)
        self.index.nearest(self.index.embeddings[:1], k)
        self.field_of_view_mm = DEFAULT_GEOMETRY.field_of_view_at_mm(self._encoder.isocenter_depth_mm)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns ``(n, 14)`` shares of the votes; `images` are ``(n, H, W)`` or ``(n, H, W, 1)``."""
        grey = images[..., 0] if images.ndim == 4 else images
        return votes(self.index, self._encoder.embed_images(grey), self.k)

    def localize(self, images: NDArray[np.uint8], count: int = N_CLOSEST) -> NDArray[np.int64]:
        """Returns ``(n, count)`` ids of the landmarks with the most votes, the first one first."""
        return np.argsort(-self.probabilities(images), axis=1, kind="stable")[:, :count] + 1

    def locate(self, images: NDArray[np.uint8]) -> Localization:
        """Returns names and shares of the votes."""
        probabilities = self.probabilities(images)
        closest = np.argsort(-probabilities, axis=1, kind="stable")[:, :N_CLOSEST] + 1
        return Localization(closest, probabilities)


class KnnLocalizer(RankedLocalizer):
    """`KnnClassifier` as a localiser.

    Args:
        folder: see `KnnClassifier`.
    """

    def __init__(self, folder: str | Path) -> None:
        classifier = KnnClassifier(folder)
        super().__init__(classifier.localize, classifier.locate, classifier.field_of_view_mm)
        self._index = classifier.index

    def check_patients(self, names: Sequence[str]) -> None:
        """Raises EmbeddingIndexError if a patient to be evaluated is in the pool."""
        self._index.check_queries(names)


class KnnPolicy(BeliefPolicy):
    """The reasoning of `AtlasPolicy` on the vote instead of the true closest landmark.

    Args:
        folder: see `KnnClassifier`.
        lattice: the moves of the environment.
        k: number of neighbours.
    """

    def __init__(self, folder: str | Path = "", lattice: MoveLattice | None = None, k: int = DEFAULT_K) -> None:
        super().__init__(lattice)
        self._classifier = KnnClassifier(folder, k=k)

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Lets the neighbours of the X-ray vote, updates the belief and moves towards the target."""
        shares = self._classifier.probabilities(image_of(observation)[None])[0]
        ranked = tuple(int(index) + 1 for index in np.argsort(-shares, kind="stable")[:N_CLOSEST])
        return self._decide(shares, ranked, info)
