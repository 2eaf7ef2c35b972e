"""The benchmarks of language models."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import correction, localization
from carm_env.evaluation.localization import centred_views
from carm_env.language.advice_reader import read_advice
from carm_env.system.command_line import run_script

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

_path = Path(__file__).parents[1] / "training" / "tiny_models.py"
_spec = importlib.util.spec_from_file_location("tiny_models", _path)
tiny_models = importlib.util.module_from_spec(_spec)
sys.modules["tiny_models"] = tiny_models
_spec.loader.exec_module(tiny_models)


def run(script, words):
    return run_script(script.run, script.Arguments, given=words)


class Obedient:
    """Names the right landmark in every other view; then it believes a clinician who names one."""

    def __init__(self, targets):
        self.targets = targets

    def centred(self, images):
        first = np.where(np.arange(len(images)) % 2 == 0, self.targets, self.targets % 14 + 1)
        return np.stack([first, (first + 1) % 14 + 1], 1)

    def correct(self, images, before, feedback):
        named = [
            next((advice.landmark for advice in read_advice(text) if advice.kind == "landmark"), first)
            for text, (first, _) in zip(feedback, before, strict=True)
        ]
        return np.array([[key, key % 14 + 1] for key in named])


def test_fixed_and_broken_answers_are_counted_by_kind_of_feedback(small_patients):
    # The landmark at the centre of each view is the closest one in this patient.
    patients = list(small_patients[:1])
    targets = np.concatenate([centred_views(name, 1).targets for name in patients])
    found = correction.measure(Obedient(targets), patients, 1)
    assert found["right_at_first"]["value"] == pytest.approx(0.5)
    assert set(correction.KINDS) <= set(found)
    assert found["landmark"]["fixed"]["value"] == 1 and found["landmark"]["broken"]["value"] == 0
    for kind in ("control", "verdict", "direction"):
        assert found[kind]["fixed"]["value"] == 0
    assert found["direction"]["broken"] is None, "there is no direction to look in from a right answer"
    assert 0 < found["wrong"]["broken"]["value"] < 1 and found["wrong"]["fixed"]["value"] < 0.5
    assert "landmark" in correction.report(found)


def test_reading_and_constrained_decoding_are_reported(small_patients, tmp_path):
    pytest.importorskip("regex")
    model = tiny_models.tiny_gemma3(tmp_path / "g")
    arguments = ["--policy", f"mllm:{model}", "--patients", small_patients[0], "--views", "1", "--constrained"]
    path = tmp_path / "l.json"
    more = ["--reading", "lenient", "--out", str(tmp_path), "--json", str(path)]
    assert run(localization, [*arguments, *more]) == 0
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert figures["reading"] == "lenient" and figures["constrained"] is True and len(figures["prompts"]) == 12


def test_only_a_language_model_can_be_corrected(capsys):
    assert run(correction, ["--policy", "cnn"]) == 2
    assert "expected mllm or mllm:CHECKPOINT" in capsys.readouterr().err


TASK = """task: tiny_questions
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: answer
metric_list:
  - metric: acc
"""


def test_general_ability_on_a_local_task(tmp_path, monkeypatch, capsys):
    pytest.importorskip("lm_eval")
    from benchmarks import general

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "questions.jsonl"
    data.write_text(
        "".join(json.dumps({"question": f"Is {n} even?", "answer": n % 2}) + "\n" for n in range(6)), encoding="utf-8"
    )
    task = tmp_path / "tiny.yaml"
    task.write_text(TASK.format(data=data), encoding="utf-8")
    model = str(tiny_models.tiny_gemma3(tmp_path / "model"))
    arguments = ["--model", model, "--before", model, "--tasks", str(task), "--shots", "1"]
    assert run(general, [*arguments, "--json", str(tmp_path / "g.json")]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "g.json").read_text(encoding="utf-8"))
    assert 0 <= found["after"]["tiny_questions"]["acc"] <= 1 and found["after"] == found["before"]
    assert "change +0.0000" in capsys.readouterr().out
    assert run(general, ["--model", model, "--tasks", "no_such_task"]) == 2
    assert "does not know" in capsys.readouterr().err
    assert run(general, ["--model", model, "--tasks", "gone.yaml"]) == 2
    assert "gone.yaml, which does not exist" in capsys.readouterr().err
