import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks import leaderboard  # noqa: E402
from carm_env import CArmNavEnv  # noqa: E402
from carm_env.chat_models.interface import Generation, ModelError  # noqa: E402
from carm_env.language.answers import Navigation, Ranking, render  # noqa: E402
from carm_env.language.grammar import parse  # noqa: E402
from carm_env.language.reasons import Situation, reasons_are_true  # noqa: E402
from carm_env.system.command_line import run_script  # noqa: E402
from carm_env.system.errors import UnknownNameError  # noqa: E402
from carm_env.views.read import read_views  # noqa: E402
from policies import make_policy  # noqa: E402
from policies.localizers import make_localizer  # noqa: E402
from policies.lofi.encoder import LofiEncoder  # noqa: E402
from policies.lofi.index import EmbeddingIndexError, load_index  # noqa: E402
from policies.lofi.retrieval import RetrievalLocalizer, RetrievalPolicy  # noqa: E402


class Recorder:
    """A chat model that keeps what it is asked, and gives the last answer that it was shown."""

    style = "compact"

    def __init__(self):
        self.asked = []

    def generate(self, conversations, kind):
        self.asked += conversations
        return [Generation(self.last_answer(messages), 1, 0.0) for messages in conversations]

    @staticmethod
    def last_answer(messages):
        answers = [message for message in messages if message["role"] == "assistant"]
        return answers[-1]["content"][0]["text"] if answers else ""

    def seed(self, value):
        pass


@pytest.fixture
def views(index_folder):
    return read_views(index_folder.parent / "views", "train")


def order_of(index_folder, encoder, image):
    index = load_index(index_folder)
    similarities = index.embeddings @ LofiEncoder(encoder).embed_images(image[None])[0]
    return np.argsort(similarities, kind="stable")


def test_the_most_similar_views_and_their_true_answers_come_before_the_question(index_folder, encoder, views):
    model = Recorder()
    image = views.images[5]
    localizer = RetrievalLocalizer(model, index_folder, k=4)
    found = localizer.closest(image[None])
    messages = model.asked[0]
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 4, "user"]
    nearest = order_of(index_folder, encoder, image)[-4:]
    for row, user, assistant in zip(nearest, messages[1:-1:2], messages[2:-1:2], strict=True):
        shown = np.asarray(user["content"][0]["image"])[..., 0]
        assert (shown == views.images[row]).all()
        expected = render(Ranking(tuple(int(key) for key in views.closest_landmarks[row])))
        assert assistant["content"][0]["text"] == expected
    assert (np.asarray(messages[-1]["content"][0]["image"])[..., 0] == image).all()
    # The view itself is in the pool, so it is the last demonstration, whose answer the model repeats.
    assert (found[0] == views.closest_landmarks[5]).all()
    assert localizer.centred(image[None])[0].tolist() == views.closest_landmarks[5, :2].tolist()


def test_navigation_and_grounding_have_true_demonstrations(index_folder, views):
    model = Recorder()
    localizer = RetrievalLocalizer(model, index_folder, k=3)
    target = int(views.visible.sum(0).argmax()) + 1
    row = int(np.flatnonzero(views.visible[:, target - 1])[0])
    situation = Situation(views.displacement_mm[row].astype(float), views.visible[row])
    assert localizer.steps(views.images[row : row + 1], [target], [situation])["best_move"].all()
    answers = [message["content"][0]["text"] for message in model.asked[0] if message["role"] == "assistant"]
    assert len(answers) == 3
    step = parse("navigation", answers[-1])
    assert isinstance(step, Navigation) and reasons_are_true(step, situation, target)
    (boxes,) = localizer.ground(views.images[row : row + 1], [target])
    expected = load_index(index_folder).boxes[row, target - 1]
    assert boxes[0] == pytest.approx(expected, abs=1e-3)


def test_answers_alone_are_text_before_the_question(index_folder, views):
    model = Recorder()
    RetrievalLocalizer(model, index_folder, k=3, form="text").closest(views.images[5:6])
    (system, user) = model.asked[0]
    assert system["role"] == "system" and [part["type"] for part in user["content"]] == ["image", "text"]
    lines = user["content"][1]["text"].split("\n")
    assert "most similar X-rays of other patients" in lines[0] and lines[-1] == "Closest?"
    assert lines[3] == render(Ranking(tuple(int(key) for key in views.closest_landmarks[5])))


def test_the_policy_drives_by_demonstrations_and_says_what_they_are(index_folder, small_patients):
    model = Recorder()
    policy = RetrievalPolicy(model, index_folder, k=2)
    env = CArmNavEnv(patients=[small_patients[3]], image_size=32)
    observation, info = env.reset(seed=0)
    policy.reset(0)
    decision = policy.act(observation, info)
    assert not decision.invalid and len(policy.last_exchange().messages) == 6
    about = policy.description()
    assert about["demonstrations"] == 2 and about["form"] == "images" and len(about["index"]) == 16
    assert policy.prompts() != RetrievalPolicy(model, index_folder, k=3).prompts()


def test_the_embedded_model_is_prompted_and_a_small_context_is_named(index_folder, small_patients):
    policy = make_policy(f"retrieval:mllm?index={index_folder}&k=2&max_tokens=80")
    env = CArmNavEnv(patients=[small_patients[3]], image_size=32)
    observation, info = env.reset(seed=0)
    policy.reset(0)
    assert policy.act(observation, info).usage.prompt_tokens > 150
    policy = make_policy(f"retrieval:mllm_grpo?index={index_folder}&k=12&max_tokens=3500")
    with pytest.raises(ModelError, match=r"12 demonstrations .* context is 4096: about [1-9] demonstrations fit"):
        policy.act(observation, info)
    with pytest.raises(ModelError, match=r"demonstrations fit \(\?k=\d+\)"):
        make_localizer(f"retrieval:mllm?index={index_folder}&k=24&max_tokens=3500").closest(observation["image"][None])


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ("&k=25", EmbeddingIndexError, "k is 25, but the pool has 24 views"),
        ("&form=pictures", UnknownNameError, "form of demonstrations"),
        ("&temprature=1", UnknownNameError, "temperature"),
    ],
)
def test_wrong_settings_are_named(index_folder, settings, kind, message):
    for make in (make_policy, make_localizer):
        with pytest.raises(kind, match=message):
            make(f"retrieval:mllm?index={index_folder}{settings}")


def test_a_wrong_pool_is_named(index_folder, encoder, tmp_path, views):
    with pytest.raises(FileNotFoundError, match=r"no index at .* training/lofi_index.py"):
        make_policy(f"retrieval:mllm?index={tmp_path / 'absent'}")
    other = tmp_path / "other"
    other.mkdir()
    from policies.lofi.checkpoint import load_lofi, save_lofi

    lofi = load_lofi(encoder)
    lofi.model.projection.weight.data += 1
    save_lofi(other, lofi, {"isocenter_depth_mm": 140.0}, "#")
    with pytest.raises(EmbeddingIndexError, match="but the queries are embedded by"):
        RetrievalPolicy(Recorder(), index_folder, k=2, encoder=other)
    index = load_index(index_folder)
    index.closest_landmarks[0] = index.closest_landmarks[0][::-1]
    index.save(index_folder)
    with pytest.raises(EmbeddingIndexError, match="are not those of the index"):
        RetrievalPolicy(Recorder(), index_folder, k=2)


@pytest.mark.parametrize("name", ["knn:{}?k=2", "retrieval:mllm?index={}&k=2", "swapped_images:knn:{}"])
def test_the_leaderboard_refuses_patients_of_the_pool(index_folder, small_patients, tmp_path, name, capsys):
    if name.startswith("swapped"):
        policy = make_policy(name.format(index_folder))
        with pytest.raises(EmbeddingIndexError, match="leakage"):
            policy.check_patients([small_patients[1]])
        return
    words = ["--policies", name.format(index_folder), "--suite", "uniform", "--episodes", "1", "--workers", "1",
             "--out", str(tmp_path / "o")]  # fmt: skip
    assert run_script(leaderboard.run, leaderboard.Arguments, given=[*words, "--patients", small_patients[1]]) == 2
    assert "(leakage)" in capsys.readouterr().err
    with pytest.raises(EmbeddingIndexError, match="leakage"):
        make_localizer(name.format(index_folder)).check_patients([small_patients[0]])
