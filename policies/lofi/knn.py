"""A vote of the nearest neighbours: which landmark is closest to the middle, and where, without a supervised head.

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
from carm_env.landmarks import N_CLOSEST, N_LANDMARKS, landmark
from carm_env.xray_datasets.grounded import Box
from policies.atlas import BeliefPolicy
from policies.images import image_of
from policies.lofi.encoder import LofiEncoder
from policies.lofi.index import EmbeddingIndex, load_index
from policies.lofi.search import SEARCHES

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
    weights = _weights(similarities)
    shares = np.zeros((len(queries), N_LANDMARKS + 1))
    for rank in range(N_CLOSEST):
        np.add.at(
            shares, (np.arange(len(queries))[:, None], index.closest_landmarks[chosen, rank]), weights / (rank + 1)
        )
    # Column 0 stands for no landmark.
    shares = shares[:, 1:]
    return shares / np.maximum(shares.sum(1, keepdims=True), 1e-12)


def grounded(
    index: EmbeddingIndex, queries: NDArray[np.float32], targets: Sequence[int], k: int = DEFAULT_K
) -> list[tuple[Box, ...]]:
    """Returns a box of a landmark for each query: the mean of its boxes in its `k` nearest neighbours that show it.

    Neighbours have the same weights as in `votes`. It needs no language model, so it measures the encoder alone.

    Args:
        index: the pool.
        queries: ``(m, d)`` embeddings of length 1.
        targets: ``(m,)`` ids of the landmarks.
        k: number of neighbours.

    Raises:
        EmbeddingIndexError: fewer than `k` views of the pool show a landmark; see also `EmbeddingIndex.nearest`.
    """
    found: list[tuple[Box, ...]] = [()] * len(targets)
    for key in sorted(set(targets)):
        rows = np.flatnonzero(np.asarray(targets) == key)
        item = landmark(key)
        showing = np.flatnonzero(np.isfinite(index.boxes[:, item.index, 0]))
        chosen, similarities = index.nearest(queries[rows], k, showing, f"views that show {item.name}")
        weights = _weights(similarities)
        boxes = (index.boxes[chosen, item.index] * weights[..., None]).sum(1) / weights.sum(1, keepdims=True)
        for row, box in zip(rows.tolist(), boxes.astype(float).tolist(), strict=True):
            found[row] = ((box[0], box[1], box[2], box[3]),)
    return found


def _weights(similarities: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.exp((similarities - similarities[:, :1]) / _TEMPERATURE)


class KnnClassifier:
    """Names the landmarks closest to the middle of an X-ray by a vote of the nearest neighbours.

    Args:
        folder: folder of an index of `training/lofi_index.py`.
        model: folder of the encoder; by default the one that the index names.
        k: number of neighbours.
        search: how the pool is searched, one of `policies.lofi.search.SEARCHES`.

    Raises:
        FileNotFoundError: there is no index or no encoder.
        EmbeddingIndexError: the index is damaged, of another encoder, or smaller than `k`.
        UnknownNameError, MissingExtraError: see `policies.lofi.search.make_search`.
    """

    def __init__(
        self, folder: str | Path, model: str | Path = "", k: int = DEFAULT_K, search: str = SEARCHES[0]
    ) -> None:
        if not str(folder):
            raise FileNotFoundError("knn needs an index: knn:FOLDER, which `python training/lofi_index.py` builds.")
        self.index, self.k = load_index(folder).searched_with(search), k
        self._encoder = LofiEncoder(model or self.index.model)
        self.index.check_encoder(self._encoder.fingerprint)
        self.index.nearest(self.index.embeddings[:1], k)
        self.field_of_view_mm = DEFAULT_GEOMETRY.field_of_view_at_mm(self._encoder.isocenter_depth_mm)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns ``(n, 14)`` shares of the votes; `images` are ``(n, H, W)`` or ``(n, H, W, 1)``."""
        grey = images[..., 0] if images.ndim == 4 else images
        return votes(self.index, self._encoder.embed_images(grey), self.k)

    def ground(self, images: NDArray[np.uint8], targets: Sequence[int]) -> list[tuple[Box, ...]]:
        """Returns the box of a landmark in each image: the mean of its boxes in the neighbours that show it.

        Args:
            images: ``(n, H, W)``.
            targets: id of the landmark in each image.

        Raises:
            EmbeddingIndexError: fewer than `k` views of the pool show a landmark.
        """
        return grounded(self.index, self._encoder.embed_images(images), targets, self.k)

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
        **settings: arguments of `KnnClassifier`.
    """

    def __init__(self, folder: str | Path, **settings: Any) -> None:
        classifier = KnnClassifier(folder, **settings)
        super().__init__(classifier.localize, classifier.locate, classifier.field_of_view_mm)
        self._index, self.ground = classifier.index, classifier.ground

    def check_patients(self, names: Sequence[str]) -> None:
        """Raises EmbeddingIndexError if a patient to be evaluated is in the pool."""
        self._index.check_queries(names)


class KnnPolicy(BeliefPolicy):
    """The reasoning of `AtlasPolicy` on the vote instead of the true closest landmark.

    Args:
        folder: see `KnnClassifier`.
        lattice: the moves of the environment.
        k: number of neighbours.
        search: see `KnnClassifier`.
    """

    def __init__(
        self,
        folder: str | Path = "",
        lattice: MoveLattice | None = None,
        k: int = DEFAULT_K,
        search: str = SEARCHES[0],
    ) -> None:
        super().__init__(lattice)
        self._classifier = KnnClassifier(folder, k=k, search=search)

    def check_patients(self, names: Sequence[str]) -> None:
        """Raises EmbeddingIndexError if a patient to be evaluated is in the pool."""
        self._classifier.index.check_queries(names)

    def act(self, observation: Any, info: Mapping[str, Any]) -> Decision:
        """Lets the neighbours of the X-ray vote, updates the belief and moves towards the target."""
        shares = self._classifier.probabilities(image_of(observation)[None])[0]
        ranked = tuple(int(index) + 1 for index in np.argsort(-shares, kind="stable")[:N_CLOSEST])
        return self._decide(shares, ranked, info)
