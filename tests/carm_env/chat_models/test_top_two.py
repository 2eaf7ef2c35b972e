import pytest

pytest.importorskip("openai")

from benchmarks._support.fake_server import fake_server
from carm_env.chat_models.interface import ModelError
from carm_env.chat_models.served import ServedModel
from carm_env.chat_models.specification import ModelSpecification
from carm_env.chat_models.top_two import Candidate, ServedTopTwo, parse_two_answers

MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "Which modality?"}]}]


def served(server, query="", ask_for_two=False):
    return ServedTopTwo(ServedModel(ModelSpecification.parse(f"{server.url}#m{query}")), ask_for_two)


def answer(body):
    """Continues the beginning of the last turn if there is one."""
    last = body["messages"][-1]
    return " CT scan" if last["role"] == "assistant" else "None"


def test_both_answers_come_with_the_probabilities_of_their_first_tokens():
    with fake_server(answer) as server:
        server.first_tokens = [("None", 0.7), ("chest", 0.2)]
        found = served(server).top_two(MESSAGES)
    assert found.candidates == (
        Candidate("None", pytest.approx(0.7)), Candidate("chest CT scan", pytest.approx(0.2)),
    )  # fmt: skip
    assert found.requests == 2 and found.tokens == 100 and found.prompt_tokens == 2000
    (_, _, first), (_, _, second) = server.requests
    assert first["logprobs"] and first["top_logprobs"] == 2 and first["temperature"] == 0
    assert second["continue_final_message"] and not second["add_generation_prompt"]


def test_the_candidates_are_in_order_whatever_the_server_sends():
    with fake_server(answer) as server:
        server.first_tokens = [("chest", 0.2), ("None", 0.7), ("x", 0.01)]
        assert [one.probability for one in served(server).top_two(MESSAGES).candidates] == pytest.approx([0.7, 0.2])


def test_a_server_without_logprobs_is_named():
    with fake_server(answer) as server, pytest.raises(ModelError, match="gives no logprobs.*--ask-for-two"):
        served(server).top_two(MESSAGES)


def test_a_server_without_logprobs_is_asked_for_two_answers_only_if_told_to():
    with fake_server("70 %: None\n20 %: chest CT scan") as server:
        found = served(server, ask_for_two=True).top_two(MESSAGES)
    assert found.candidates == (Candidate("None", 0.7), Candidate("chest CT scan", 0.2)) and found.requests == 1
    assert "two likeliest answers" in server.requests[0][2]["messages"][-1]["content"][-1]["text"]


def test_an_answer_without_two_lines_is_named():
    with fake_server("I cannot say.") as server, pytest.raises(ModelError, match="expected lines such as"):
        served(server, ask_for_two=True).top_two(MESSAGES)


def test_another_protocol_has_no_probabilities():
    pytest.importorskip("anthropic")
    with fake_server(answer) as server, pytest.raises(ModelError, match="protocol anthropic, which gives no prob"):
        served(server, "?api=anthropic").top_two(MESSAGES)


def test_lines_of_two_answers():
    assert parse_two_answers("first\n 12.5% - a\n80 %, b\n3 %: c") == (Candidate("b", 0.8), Candidate("a", 0.125))
    assert parse_two_answers("900 %: a") == (Candidate("a", 1.0),)
    assert parse_two_answers("") == ()
