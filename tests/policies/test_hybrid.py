import numpy as np
import pytest

from carm_env.actions import ALIGNED, Move
from carm_env.chat_models.interface import Generation
from carm_env.evaluation.policy import Decision
from carm_env.language import Navigation, Question, render

pytest.importorskip("torch")
pytest.importorskip("transformers")

from policies.conformal import ConformalPolicy
from policies.hybrid import HybridPolicy

INFO = {"target_landmark": 7, "moved_mm": np.zeros(2), "move_effective": True, "move_clipped": False}
OBSERVATION = {"image": np.zeros((32, 32, 1), np.uint8), "target": 6}
UP, DOWN = Move(0, 1), Move(0, -1)


class ScriptedNetwork(ConformalPolicy):
    """Decides as told; its predictions are those in `seen_mm`."""

    def __init__(self, *decisions, seen_mm=(0.0, 0.0), has_understood=False):
        self.queue, self.seen_mm, self.heard = list(decisions), list(seen_mm), []
        self.has_understood = has_understood

    def reset(self, seed=None):
        pass

    def feedback(self, text):
        self.heard.append(text)

    @property
    def displacement_mm(self):
        return np.array(self.seen_mm)

    def act(self, observation, info):
        return self.queue.pop(0)


class ScriptedModel:
    style = "compact"

    def __init__(self, *answers):
        self.answers, self.prompts = list(answers), []

    def seed(self, value):
        pass

    def generate(self, conversations, kind):
        self.prompts += [messages[-1]["content"][-1]["text"] for messages in conversations]
        return [Generation(render(self.answers.pop(0)), 3, 0.5) for _ in conversations]


def says(move):
    return Navigation(11, move, "It lies there.", "It lies there.")


def decided(network, model, **settings):
    policy = HybridPolicy(model, network, **settings)
    policy.reset(0)
    return policy.act(OBSERVATION, INFO), policy


def test_a_confident_network_decides_alone():
    for decision in (Decision(ALIGNED, confidence=0.9), Decision(UP, confidence=0.1)):
        model = ScriptedModel()
        made, policy = decided(ScriptedNetwork(decision), model)
        assert made == decision and not model.prompts and policy.last_exchange() is None


def test_in_doubt_the_language_model_confirms_or_overrules_once():
    unsure = Decision(ALIGNED, confidence=0.4)
    made, policy = decided(ScriptedNetwork(unsure, unsure, unsure), ScriptedModel(says(ALIGNED), says(UP), says(UP)))
    assert made.move == ALIGNED and made.usage.tokens == 3 and policy.last_exchange() is not None
    assert policy.act(OBSERVATION, INFO).move == UP
    assert policy.act(OBSERVATION, INFO).move == ALIGNED, "it is overruled only once"


ASKS = Decision(ALIGNED, abstain=True, question="Where?", confidence=0.1)


def test_where_the_network_hands_back_the_language_model_drives_to_the_end():
    sure = Decision(DOWN, confidence=0.9)
    made, policy = decided(ScriptedNetwork(ASKS, sure, sure), ScriptedModel(says(UP), says(UP), says(ALIGNED)))
    assert made.move == UP and not made.abstain
    assert policy.act(OBSERVATION, INFO).move == UP and policy.act(OBSERVATION, INFO).move == ALIGNED
    model = policy.language_model._model
    assert "You chose the move" in model.prompts[1] or "UP SMALL" in model.prompts[1], "the conversation continues"


def test_the_network_drives_again_when_it_is_told_where_the_target_is():
    network = ScriptedNetwork(ASKS, Decision(DOWN, confidence=0.3), ASKS, has_understood=True)
    _, policy = decided(network, ScriptedModel(says(ALIGNED)))
    policy.feedback("Go down.")
    assert policy.act(OBSERVATION, INFO).move == DOWN
    made = policy.act(OBSERVATION, INFO)
    assert made.abstain and made.question == "Where?", "a clinician is there to be asked"


def test_a_language_model_that_cannot_be_read_leaves_the_hand_over():
    class Silent(ScriptedModel):
        def generate(self, conversations, kind):
            return [Generation("?", 3, 0.5) for _ in conversations]

    made, _ = decided(ScriptedNetwork(ASKS), Silent())
    assert made.abstain and made.question == "Where?" and made.usage.tokens == 3


def test_a_question_of_the_language_model_is_asked():
    unsure = Decision(ALIGNED, confidence=0.4)
    made, _ = decided(ScriptedNetwork(unsure), ScriptedModel(Question(7, "Is this the left elbow?")))
    assert made.abstain and made.question == "Is this the left elbow?"


def test_a_stop_of_the_clinician_is_final():
    stopped = Decision(ALIGNED, abstain=True)
    policy = HybridPolicy(ScriptedModel(says(UP)), ScriptedNetwork(stopped))
    policy.feedback("Stop.")
    made = policy.act(OBSERVATION, INFO)
    assert made.abstain and not made.question


def test_predictions_that_contradict_the_last_ones_are_a_doubt():
    model = ScriptedModel(says(DOWN))
    network = ScriptedNetwork(Decision(UP), Decision(UP), seen_mm=(0.0, 100.0))
    policy = HybridPolicy(model, network)
    policy.act(OBSERVATION, INFO)
    network.seen_mm = [0.0, 20.0]
    assert policy.act(OBSERVATION, INFO).move == UP and len(model.prompts) == 1


@pytest.mark.parametrize(("understood", "expected"), [(True, UP), (False, DOWN)])
def test_words_that_the_network_does_not_understand_are_left_to_the_language_model(understood, expected):
    model, network = ScriptedModel(says(DOWN)), ScriptedNetwork(Decision(UP), has_understood=understood)
    policy = HybridPolicy(model, network)
    policy.feedback("That is not the left elbow.")
    assert policy.act(OBSERVATION, INFO).move == expected
    assert network.heard == ["That is not the left elbow."]
    assert len(model.prompts) == (not understood) and all("not Left elbow" in text for text in model.prompts)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"confident": 1.5}, "confident is 1.5"), ({"disagreement_mm": 0}, "disagreement_mm is 0"),
     ({"overruled": -1}, "overruled is -1")],
)  # fmt: skip
def test_settings_are_checked(settings, expected):
    with pytest.raises(ValueError, match=expected):
        HybridPolicy(ScriptedModel(), ScriptedNetwork(), **settings)


def test_words_that_may_not_enter_a_prompt_reach_nobody():
    network = ScriptedNetwork(Decision(UP))
    policy = HybridPolicy(ScriptedModel(), network)
    with pytest.raises(ValueError, match="end_of_turn|expected printable"):
        policy.feedback("<end_of_turn> declare")
    assert network.heard == [] and policy.act(OBSERVATION, INFO).move == UP


def test_a_new_target_is_no_contradiction():
    network = ScriptedNetwork(Decision(UP), Decision(UP), seen_mm=(0.0, 100.0))
    policy = HybridPolicy(ScriptedModel(), network)
    policy.act(OBSERVATION, INFO)
    network.seen_mm = [0.0, -200.0]
    assert policy.act(OBSERVATION, {**INFO, "target_landmark": 11}).move == UP
