"""An index of embeddings of labelled views: the training images that a new image resembles.

Source: LoFi, section 2, "Retrieval-Based In-Context Learning for Grounding": the pool is searched by cosine similarity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_env.landmarks import N_CLOSEST, N_LANDMARKS
from carm_env.patients.separation import person_of
from carm_env.system.errors import CArmEnvError
from carm_env.system.files import atomic_folder, write_json
from carm_env.system.structured_files import read_json_mapping
from policies.lofi.search import SEARCHES, PoolSearch, make_search

KIND = "lofi_index"
FORMAT = 2
DEFAULT_FOLDER = Path("runs/lofi_index/index")
"""Where `training/lofi_index.py` writes by default."""
_FILES = ("index.json", "index.npz")


class EmbeddingIndexError(CArmEnvError, ValueError):
    """An index cannot be read, is of another encoder, or cannot answer a query; the message says what to do."""


@dataclass(frozen=True, eq=False)
class EmbeddingIndex:
    """Embeddings of views with their labels.

    Attributes:
        embeddings: ``(n, d)`` float32, of length 1.
        closest_landmarks: ``(n, 3)`` ids of the landmarks closest to the middle, nearest first; 0 for none.
        displacement_mm: ``(n, 14, 2)`` from the middle to each landmark, to the left and cranially; NaN where a patient
            lacks it.
        boxes: ``(n, 14, 4)`` region of each visible landmark (`carm_env.reports.view_facts.landmark_regions`), as
            shares of the image's width and height; NaN where the image does not show it.
        patients: ``(n,)`` index of each view's patient in `names`.
        names: names of the patients.
        encoder: fingerprint of the encoder.
        model: folder of the encoder, as it was given.
        views: folder of the dataset with the images of the views, split ``train``, in the same order.
        search: how the pool is searched, one of `policies.lofi.search.SEARCHES`.
    """

    embeddings: NDArray[np.float32]
    closest_landmarks: NDArray[np.int64]
    displacement_mm: NDArray[np.float32]
    boxes: NDArray[np.float32]
    patients: NDArray[np.int64]
    names: tuple[str, ...]
    encoder: str
    model: str
    views: str = ""
    search: str = SEARCHES[0]

    def __len__(self) -> int:
        return len(self.embeddings)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the embeddings and of the patients."""
        digest = hashlib.sha256("\n".join([self.encoder, *self.names]).encode())
        digest.update(self.embeddings.astype(np.float16).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _pool(self) -> PoolSearch:
        return make_search(self.search, self.embeddings)

    def check_encoder(self, fingerprint: str) -> None:
        """Raises EmbeddingIndexError unless the index was built with the encoder of this fingerprint."""
        if fingerprint != self.encoder:
            raise EmbeddingIndexError(
                f"the index was built with the encoder {self.encoder}, but the queries are embedded by {fingerprint}: "
                "build the index again with this encoder."
            )

    def check_queries(self, patients: Sequence[str]) -> None:
        """Raises EmbeddingIndexError if a patient that is asked about is in the pool, in whatever pose."""
        own = {person_of(name) for name in self.names}
        if shared := [name for name in patients if person_of(name) in own]:
            raise EmbeddingIndexError(
                f"{shared[0]} is in the pool of the index, so its own images would answer for it (leakage): build the "
                "index of other patients, or evaluate others."
            )

    def nearest(
        self, queries: NDArray[np.float32], k: int, among: NDArray[np.int64] | None = None, what: str = "views"
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Returns the `k` most similar views of each query, and their cosine similarities, both ``(m, k)``.

        Args:
            queries: ``(m, d)`` embeddings of length 1.
            k: number of views.
            among: ``(p,)`` different views to choose from; by default all.
            what: what these views are, for messages.

        Raises:
            EmbeddingIndexError: `k` is larger than the pool, or the embeddings have another width.
        """
        size = len(self) if among is None else len(among)
        if not 1 <= k <= size:
            raise EmbeddingIndexError(f"k is {k}, but the pool has {size} {what}: expected 1 to {size}.")
        if queries.ndim != 2 or queries.shape[1] != self.embeddings.shape[1]:
            raise EmbeddingIndexError(
                f"queries are {queries.shape}, expected (m, {self.embeddings.shape[1]}): embed them with the encoder "
                "of the index."
            )
        return self._pool.nearest(queries, k, among)

    def searched_with(self, search: str) -> EmbeddingIndex:
        """Returns the index with another search; raises UnknownNameError or MissingExtraError as `make_search`."""
        changed = replace(self, search=search)
        changed._pool  # noqa: B018 - a missing package is reported here
        return changed

    def save(self, folder: Path) -> None:
        """Writes the index atomically; replaces the whole folder."""
        with atomic_folder(folder) as temporary:
            np.savez(
                temporary / _FILES[1], embeddings=self.embeddings.astype(np.float16), patients=self.patients,
                closest_landmarks=self.closest_landmarks, displacement_mm=self.displacement_mm, boxes=self.boxes,
            )  # fmt: skip
            about = {"names": list(self.names), "encoder": self.encoder, "model": self.model, "views": self.views}
            write_json(temporary / _FILES[0], {"kind": KIND, "format": FORMAT, **about})


def load_index(folder: str | Path) -> EmbeddingIndex:
    """Loads an index.

    Raises:
        FileNotFoundError: there is no index in the folder.
        EmbeddingIndexError: a file is damaged or of another format.
    """
    path = Path(folder)
    if not (path / _FILES[0]).is_file():
        raise FileNotFoundError(
            f"no index at {path}, expected {' and '.join(_FILES)} there: build it with `python training/lofi_index.py`."
        )
    try:
        about = read_json_mapping(path / _FILES[0])
        if (about["kind"], about["format"]) != (KIND, FORMAT):
            raise ValueError(f"kind {about['kind']!r}, format {about['format']!r}, expected {KIND!r}, {FORMAT}")
        with np.load(path / _FILES[1], allow_pickle=False) as stored:
            embeddings = stored["embeddings"].astype(np.float32)
            closest, patients = stored["closest_landmarks"].astype(np.int64), stored["patients"].astype(np.int64)
            displacement = stored["displacement_mm"].astype(np.float32)
            boxes = stored["boxes"].astype(np.float32)
        names = tuple(map(str, about["names"]))
        n = len(embeddings)
        expected = {
            (n, N_CLOSEST): closest,
            (n,): patients,
            (n, N_LANDMARKS, 2): displacement,
            (n, N_LANDMARKS, 4): boxes,
        }
        if embeddings.ndim != 2 or any(array.shape != shape for shape, array in expected.items()):
            raise ValueError("its arrays do not belong together")
        if not np.isfinite(embeddings).all() or not ((closest >= 0) & (closest <= N_LANDMARKS)).all():
            raise ValueError("a number is out of range")
        if not n or not ((patients >= 0) & (patients < len(names))).all():
            raise ValueError("it has no views, or a view of no patient")
        # Half precision shortens the vectors a little.
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        return EmbeddingIndex(
            embeddings, closest, displacement, boxes, patients, names, str(about["encoder"]), str(about["model"]),
            str(about["views"]),
        )  # fmt: skip
    except Exception as error:  # numpy raises many kinds for a damaged file
        raise EmbeddingIndexError(f"{path} cannot be read ({error}): build the index again.") from error
