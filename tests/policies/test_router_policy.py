import numpy as np
import pytest

from carm_env.actions import ALIGNED, Move
from carm_env.chat_models.top_two import Candidate, TopTwo
from carm_env.evaluation.policy import Decision, Policy
from carm_env.system.errors import UnknownNameError

pytest.importorskip("torch")
pytest.importorskip("transformers")

from policies import router
from policies.routing.cutoffs import CutoffsError
from policies.routing.made_images import FRONTAL, INVERTED

OBSERVATION = {"image": np.zeros((32, 32, 1), np.uint8), "target": 0}


def info(target=1):
    return {"target_landmark": target, "moved_mm": np.zeros(2), "move_effective": True, "move_clipped": False}


class Model:
    """Answers the stages as told; in stage 3 the card that the map of findings names."""

    style = "compact"

    def __init__(self, modality=FRONTAL, finding="Chest", cards=None):
        self.modality, self.finding, self.cards, self.asked = modality, finding, cards or {}, []

    def top_two(self, messages):
        text = messages[-1]["content"][-1]["text"]
        self.asked.append(text)
        if text.startswith("modality"):
            answer = self.modality
        elif text.startswith("finding"):
            answer = self.finding
        else:
            answer = next((card for finding, card in self.cards.items() if f"; {finding} :" in text), "None")
        return TopTwo((Candidate(answer, 0.8),), 2, 10, 0.01)


class Specialist(Policy):
    def __init__(self, name):
        self.name, self.heard, self.resets = name, [], 0

    def reset(self, seed=None):
        self.resets += 1

    def feedback(self, text):
        self.heard.append(text)

    def act(self, observation, info):
        return Decision(Move(0, 1), rationale=self.name, confidence=0.6)


@pytest.fixture
def specialists(monkeypatch):
    made = {}

    def maker(name):
        return lambda lattice: made.setdefault(name, Specialist(name))

    monkeypatch.setattr(router, "SPECIALISTS", {name: maker(name) for name in ("conformal", "hybrid", "mllm_grpo")})
    return made


def test_the_card_of_the_targets_region_drives(specialists):
    model = Model(cards={"Head": "MLLM_GRPO", "Wrist": "HYBRID"})
    policy = router.RouterPolicy(model)
    policy.reset(0)
    assert policy.act(OBSERVATION, info(1)).rationale == "mllm_grpo" and policy.card_id == "MLLM_GRPO"
    # Stages 2 and 3 run once for a target, stage 1 for every X-ray.
    policy.act(OBSERVATION, info(1))
    assert [text.split(" ")[0] for text in model.asked] == ["modality", "finding", "card", "modality"]
    assert policy.act(OBSERVATION, info(8)).rationale == "hybrid"


def test_inverted_polarity_comes_before_the_region(specialists):
    policy = router.RouterPolicy(Model(finding=INVERTED, cards={INVERTED: "HYBRID", "Head": "MLLM_GRPO"}))
    assert policy.act(OBSERVATION, info(1)).rationale == "hybrid"


@pytest.mark.parametrize("modality", ["None", "Other"])
def test_no_xray_no_move(specialists, modality):
    policy = router.RouterPolicy(Model(modality))
    decision = policy.act(OBSERVATION, info())
    assert decision.abstain and not decision.question and decision.move == ALIGNED and decision.confidence == 0.8
    assert not specialists and policy.last_exchange().stage == "modality"
    assert policy.last_exchange().candidates == ((modality, 0.8),)


@pytest.mark.parametrize("card", ["None", "LOFI", "CNN", "ARM_EXPERT"])
def test_without_a_card_that_drives_the_default_does(specialists, card):
    policy = router.RouterPolicy(Model(cards={"Head": card}))
    assert policy.act(OBSERVATION, info()).rationale == "conformal" and policy.card_id == ""
    other = router.RouterPolicy(Model(cards={"Head": card}), default="mllm_grpo")
    assert other.act(OBSERVATION, info()).rationale == "mllm_grpo"


def test_an_xray_of_another_modality_counts_as_one_of_the_c_arm(specialists):
    policy = router.RouterPolicy(Model("body-part radiograph", cards={"Head": "HYBRID"}))
    assert policy.act(OBSERVATION, info()).rationale == "hybrid"


def test_tokens_of_the_router_are_counted(specialists):
    policy = router.RouterPolicy(Model(cards={"Head": "HYBRID"}))
    usage = policy.act(OBSERVATION, info()).usage
    assert (usage.tokens, usage.prompt_tokens) == (6, 30) and usage.seconds == pytest.approx(0.03)
    assert policy.act(OBSERVATION, info()).usage.tokens == 2


def test_a_clinicians_words_reach_the_specialist(specialists):
    policy = router.RouterPolicy(Model())
    policy.act(OBSERVATION, info())
    policy.feedback("further up")
    policy.act(OBSERVATION, info())
    assert specialists["conformal"].heard == ["further up"]
    with pytest.raises(ValueError, match="without <"):
        policy.feedback("<end_of_turn>")


def test_a_new_episode_begins_anew(specialists):
    policy = router.RouterPolicy(Model())
    for seed in (0, 1):
        policy.reset(seed)
        policy.act(OBSERVATION, info())
    assert specialists["conformal"].resets == 2
    described = policy.description()
    assert described["default"] == "conformal" and len(described["cards"]) == 12 and policy.prompts()


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown specialist 'conformel'. Did you mean 'conformal'"):
        router.RouterPolicy(Model(), default="conformel")
    path = tmp_path / "c.json"
    path.write_text('{"format": 1, "repository": "abc", "model": "", "stages": {}}', encoding="utf-8")
    with pytest.raises(CutoffsError, match="card repository abc"):
        router.RouterPolicy(Model(), cutoffs=path)
