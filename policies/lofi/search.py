"""The search of a pool of embeddings by cosine similarity: numpy, or faiss where the pool is large.

Both are exact. numpy compares each query with the whole pool at once; faiss keeps the `k` best only, so that it needs
no matrix of all similarities, and uses all cores.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from carm_env.system.errors import UnknownNameError
from carm_env.system.extras import require

SEARCHES = ("numpy", "faiss")

Neighbours = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows of the pool and their similarities, most similar first, both ``(m, k)``."""


class PoolSearch(Protocol):
    """A searchable pool."""

    def nearest(self, queries: NDArray[np.float32], k: int, among: NDArray[np.int64] | None = None) -> Neighbours:
        """Returns the `k` rows of the pool, or of the rows `among` it, that are most similar to each query."""
        ...


class NumpySearch:
    """Compares each query with the whole pool.

    Args:
        embeddings: ``(n, d)`` float32, of length 1.
    """

    def __init__(self, embeddings: NDArray[np.float32]) -> None:
        self._embeddings = embeddings

    def nearest(self, queries: NDArray[np.float32], k: int, among: NDArray[np.int64] | None = None) -> Neighbours:
        """Returns rows and similarities; of equally similar rows the first one comes first."""
        pool = self._embeddings if among is None else self._embeddings[among]
        similarities = queries @ pool.T
        chosen = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        found = chosen if among is None else among[chosen]
        return found, np.take_along_axis(similarities, chosen, 1)


class FaissSearch:
    """Searches a flat index of inner products.

    Args:
        embeddings: ``(n, d)`` float32, of length 1.

    Raises:
        MissingExtraError: faiss is not installed.
    """

    def __init__(self, embeddings: NDArray[np.float32]) -> None:
        self._faiss: Any = require("faiss", "faiss", "The search with faiss")
        self._index: Any = self._faiss.IndexFlatIP(embeddings.shape[1])
        self._index.add(np.ascontiguousarray(embeddings, np.float32))

    def nearest(self, queries: NDArray[np.float32], k: int, among: NDArray[np.int64] | None = None) -> Neighbours:
        """Returns rows and similarities."""
        options = {}
        if among is not None:
            options["params"] = self._faiss.SearchParameters(sel=self._faiss.IDSelectorBatch(among))
        similarities, chosen = self._index.search(np.ascontiguousarray(queries, np.float32), k, **options)
        return chosen.astype(np.int64), similarities


def make_search(name: str, embeddings: NDArray[np.float32]) -> PoolSearch:
    """Returns the search of a pool.

    Args:
        name: one of `SEARCHES`.
        embeddings: ``(n, d)`` float32, of length 1.

    Raises:
        UnknownNameError: an unknown search.
        MissingExtraError: faiss is not installed.
    """
    if name not in SEARCHES:
        raise UnknownNameError("search", name, SEARCHES)
    return FaissSearch(embeddings) if name == "faiss" else NumpySearch(embeddings)
