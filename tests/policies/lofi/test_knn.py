import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from carm_env import CArmNavEnv  # noqa: E402
from carm_env.patients.separation import HeldOutPatientError  # noqa: E402
from carm_env.system.errors import MissingExtraError, UnknownNameError  # noqa: E402
from policies import make_policy  # noqa: E402
from policies.localizers import make_localizer  # noqa: E402
from policies.lofi.index import EmbeddingIndex, EmbeddingIndexError, load_index  # noqa: E402
from policies.lofi.knn import KnnClassifier, grounded, votes  # noqa: E402
from training import lofi_index  # noqa: E402


def drawn_index(count=40, width=6):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(count, width)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    closest = np.stack([rng.permutation(14)[:3] + 1 for _ in range(count)])
    displacement = rng.normal(size=(count, 14, 2)).astype(np.float32)
    corners = np.sort(rng.uniform(size=(count, 14, 2, 2)), axis=2).reshape(count, 14, 4).astype(np.float32)
    corners[::2, 3] = np.nan
    patients = np.arange(count) % 2
    return EmbeddingIndex(
        embeddings, closest, displacement, corners, patients, ("virtual:1", "imported:b"), "abc", "model"
    )


def test_votes_equal_a_loop_over_neighbours():
    index = drawn_index()
    queries = drawn_index(5).embeddings + 0.01
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found = votes(index, queries, 7)
    for row, query in enumerate(queries):
        similarities = [float(query @ other) for other in index.embeddings]
        order = sorted(range(40), key=lambda number: -similarities[number])[:7]
        shares = dict.fromkeys(range(1, 15), 0.0)
        for number in order:
            weight = np.exp((similarities[number] - similarities[order[0]]) / 0.05)
            for rank, key in enumerate(index.closest_landmarks[number]):
                shares[int(key)] += weight / (rank + 1)
        expected = np.array(list(shares.values())) / sum(shares.values())
        assert np.allclose(found[row], expected, atol=1e-5)


def test_a_grounded_box_is_the_weighted_mean_over_neighbours_that_show_the_landmark():
    index = drawn_index()
    (found,) = grounded(index, index.embeddings[:1], [4], 3)
    similarities = index.embeddings @ index.embeddings[0]
    showing = [number for number in range(40) if np.isfinite(index.boxes[number, 3, 0])]
    order = sorted(showing, key=lambda number: -similarities[number])[:3]
    weights = [np.exp((similarities[number] - similarities[order[0]]) / 0.05) for number in order]
    expected = sum(w * index.boxes[number, 3] for w, number in zip(weights, order, strict=True)) / sum(weights)
    assert found[0] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(EmbeddingIndexError, match="k is 21, but the pool has 20 views that show Right scapular"):
        grounded(index, index.embeddings[:1], [4], 21)


def test_faiss_finds_what_numpy_finds():
    pytest.importorskip("faiss")
    index = drawn_index(200)
    queries, among = drawn_index(7).embeddings, np.arange(3, 180, 2)
    for rows in (None, among):
        expected, found = (one.nearest(queries, 9, rows) for one in (index, index.searched_with("faiss")))
        assert (expected[0] == found[0]).all() and np.allclose(expected[1], found[1], atol=1e-6)


def test_a_search_that_is_unknown_or_not_installed_is_named(monkeypatch):
    with pytest.raises(UnknownNameError, match="search"):
        drawn_index().searched_with("fais")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"carm-env\[faiss\]"):
        drawn_index().searched_with("faiss")


def test_an_index_survives_and_damage_is_named(tmp_path):
    index = drawn_index()
    index.save(tmp_path / "i")
    found = load_index(tmp_path / "i")
    assert np.allclose(found.embeddings, index.embeddings, atol=1e-3) and found.names == index.names
    assert (found.closest_landmarks == index.closest_landmarks).all() and found.encoder == "abc"
    (tmp_path / "i" / "index.npz").write_bytes(b"x")
    with pytest.raises(EmbeddingIndexError, match="build the index again"):
        load_index(tmp_path / "i")
    with pytest.raises(FileNotFoundError, match="no index at"):
        load_index(tmp_path / "j")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda index: index.nearest(index.embeddings, 41), "k is 41, but the pool has 40 views"),
        (lambda index: index.nearest(index.embeddings[:, :3], 2), "expected \\(m, 6\\)"),
        (lambda index: index.check_encoder("def"), "built with the encoder abc"),
        (lambda index: index.check_queries(["virtual:9", "virtual:1?arms=sides"]), "is in the pool .*leakage"),
    ],
)
def test_wrong_questions_are_named(ask, message):
    with pytest.raises(EmbeddingIndexError, match=message):
        ask(drawn_index())


def test_an_index_is_built_resumed_and_asked(encoder, small_patients, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "o"
    arguments = lofi_index.Arguments(encoder, small_patients[:2], 12, 32, 0, 1, folder)
    lofi_index.run(arguments)
    first = load_index(folder / "index")
    assert len(first) == 24 and first.names == small_patients[:2]
    monkeypatch.setattr(lofi_index.LofiEncoder, "embed_images", lambda *_: pytest.fail("embedded again"))
    lofi_index.run(arguments)
    monkeypatch.undo()
    monkeypatch.setenv("CARM_ENV_DATA", str(tmp_path / "data"))
    assert (load_index(folder / "index").embeddings == first.embeddings).all()

    classifier = KnnClassifier(folder / "index", k=1)
    from carm_env.views.read import read_views

    views = read_views(folder / "views", "train")
    # The nearest neighbour of an image of the pool is the image itself.
    assert (classifier.localize(views.images) == views.closest_landmarks).mean() > 0.95
    localizer = make_localizer(f"knn:{folder / 'index'}")
    assert localizer.closest(views.images[:2]).shape == (2, 3)
    with pytest.raises(EmbeddingIndexError, match="leakage"):
        localizer.check_patients(small_patients)
    policy = make_policy(f"knn:{folder / 'index'}")
    env = CArmNavEnv(patients=[small_patients[3]])
    observation, info = env.reset(seed=0)
    policy.reset(0)
    assert len(policy.act(observation, info).closest_landmarks) == 3
    with pytest.raises(HeldOutPatientError):
        lofi_index.run(lofi_index.Arguments(encoder, ("virtual:3000",), 12, 32, 0, 1, tmp_path / "p"))
    with pytest.raises(EmbeddingIndexError, match="k is 99"):
        KnnClassifier(folder / "index", k=99)
