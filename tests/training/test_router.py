"""The training of the router, its cutoffs, and the choice of specialists, end to end on few images."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from carm_env.evaluation.results import EpisodeResult
from carm_env.patients.separation import HeldOutPatientError
from carm_env.system.structured_files import dump_yaml, read_yaml
from policies.routing.cards import CARDS, CardError, card_values, parse_card, read_repository
from policies.routing.load import load_router
from policies.routing.made_images import FRONTAL, INVERTED, MadeImage, drawings
from training import cutoffs, router, specialists


def few_images(patients, raised, count, seed, domain):
    rng = np.random.default_rng(seed)
    xrays = [MadeImage(rng.integers(0, 60, (256, 256), np.uint8), FRONTAL, finding, finding, "p")
             for finding in ("Head", "Wrist", "Head", "Wrist")]  # fmt: skip
    return [*xrays, *drawings(1, seed, held_out=False)]


@pytest.fixture
def quick(monkeypatch, tmp_path):
    calls = []

    def made(*arguments):
        calls.append(arguments)
        return few_images(*arguments)

    monkeypatch.setattr(router, "training_images", made)
    monkeypatch.setattr(router, "prepare_patients", lambda patients, workers: 0)
    monkeypatch.setattr(router, "sample_images", lambda *given, held_out: few_images([], [], 1, 1, 0.0))
    options = ["--steps", "4", "--batch-size", "4", "--hidden", "32", "--layers", "1", "--test-images", "1"]
    return [*options, "--output-dir", str(tmp_path / "run"), "--json", str(tmp_path / "r.json")], calls


def test_a_router_is_trained_saved_and_loaded(quick, tmp_path, capsys):
    command, calls = quick
    assert router.main(command) == 0
    figures = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert 0 <= figures["final_accuracy"] <= 1 and figures["repository"] == read_repository().fingerprint
    folder = tmp_path / "run" / "checkpoint"
    assert {path.name for path in folder.iterdir()} >= {"model.safetensors", "carm.json", "README.md", "config.json"}
    route = load_router(folder).route(drawings(1, 5, held_out=True).__next__().as_rgb)
    assert route.stages[0].candidates[0].probability >= route.stages[0].candidates[1].probability
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Research use only" in card and str(tmp_path) not in card
    # The images are kept: the second run does not make them again.
    assert router.main(command) == 0 and len(calls) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--hidden", "40"], "multiple of 32"), (["--steps", "0"], "steps is 0"),
     (["--test", "standard/train"], "same person"), (["--train", "virtual:3000"], "reserved for tests"),
     (["--train", "virtual:1000?arms=sides", "--test", "virtual:1000"], "same person")],
)  # fmt: skip
def test_wrong_arguments_are_named(quick, more, message, capsys):
    assert router.main([*quick[0], *more]) == 2
    assert message in capsys.readouterr().err


def write(path, *rows):
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def test_cutoffs_are_learned_from_a_csv(tmp_path, capsys):
    path = write(tmp_path / "s.csv", "stage,p2,label,kind", "1,0.1,FIRST,a", "modality,0.3,second,b", "3,0.2,FIRST,c")
    assert cutoffs.main([path, "--out", str(tmp_path / "c.json")]) == 0
    found = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert found["repository"] == read_repository().fingerprint
    assert found["stages"]["modality"] == {"cutoff": pytest.approx(0.2), "intervals": [[0.1, 0.3]], "score": 2,
                                           "samples": 2}  # fmt: skip
    said = capsys.readouterr().out
    assert "[0.100000, 0.300000)" in said and "finding    no samples" in said


@pytest.mark.parametrize(
    ("rows", "message"),
    [(["stage,p2", "1,0.1"], "has no column 'label'"), (["stage,p2,label"], "has no row"),
     (["stage,p2,label", "1,0.1,FIRST", "4,0.1,FIRST"], "line 3: unknown stage '4'"),
     (["stage,p2,label", "1,high,FIRST"], "line 2: p2 is 'high'"), (["stage,p2,label", "1,1.5,FIRST"], "p2 is '1.5'"),
     (["stage,p2,label", "1,0.1,THIRD"], "expected FIRST or SECOND")],
)  # fmt: skip
def test_a_wrong_csv_is_named(tmp_path, capsys, rows, message):
    assert cutoffs.main([write(tmp_path / "s.csv", *rows)]) == 2
    assert message in capsys.readouterr().err


def episode(policy, target, success, suite="uniform", patient="virtual:2000", number=0):
    values = {item.name: "" for item in dataclasses.fields(EpisodeResult) if item.default is dataclasses.MISSING}
    return EpisodeResult(
        **{**values, "policy": policy, "suite": suite, "patient": patient, "target": target, "success": success,
           "episode": number}
    )  # fmt: skip


def test_a_specialist_needs_a_clear_lead():
    results = [episode(policy, 8, success, number=number) for policy, wins in (("conformal", 5), ("ppo", 9))
               for number, success in enumerate([True] * wins + [False] * (10 - wins))]  # fmt: skip
    results += [episode(policy, 1, True) for policy in ("conformal", "ppo")]
    results += [episode(policy, 1, policy == "ppo", "uniform-polarity-3") for policy in ("conformal", "ppo")]
    found = specialists.successes(results)
    assert found["Wrist"]["ppo"]["value"] == 0.9 and set(found) == {"Head", "Wrist", INVERTED}
    chosen = specialists.choose(found, "conformal", 0.05)
    assert chosen == {"Head": "conformal", "Wrist": "ppo", INVERTED: "ppo"}
    assert specialists.choose(found, "conformal", 0.5)["Wrist"] == "conformal"


def test_a_finding_without_results_of_the_default_is_named():
    with pytest.raises(ValueError, match="conformal has no episode for 'Head', measure it as well"):
        specialists.choose({"Head": {"ppo": {"value": 0.1}}}, "conformal", 0.05)


def test_findings_that_were_not_chosen_stay_on_their_cards(tmp_path):
    shutil.copytree(CARDS, tmp_path / "cards")
    path = next(path for path in (tmp_path / "cards").iterdir() if "id: CONFORMAL\n" in path.read_text("utf-8"))
    card = parse_card(read_yaml(path), "c")
    card = dataclasses.replace(card, findings=(*card.findings, "Normal"))
    path.unlink()
    path = path.with_suffix(".yml")
    path.write_text(dump_yaml(card_values(card)), encoding="utf-8")
    specialists.write_choice(tmp_path / "cards", {"Head": "ppo", "Wrist": "conformal"})
    found = read_repository(tmp_path / "cards").card("CONFORMAL").findings
    assert found[0] == "Wrist" and "Normal" in found and "Head" not in found
    # A list of cards is refused before anything is written.
    (tmp_path / "cards" / "z.yaml").write_text(dump_yaml([card_values(dataclasses.replace(card, id="Z"))]), "utf-8")
    before = {one.name: one.read_bytes() for one in (tmp_path / "cards").iterdir()}
    with pytest.raises(CardError, match="z.yaml holds a list of cards"):
        specialists.write_choice(tmp_path / "cards", {"Head": "conformal"})
    assert before == {one.name: one.read_bytes() for one in (tmp_path / "cards").iterdir()}


def test_results_of_test_patients_choose_no_specialist():
    with pytest.raises(HeldOutPatientError, match="virtual:3000"):
        specialists.successes([episode("ppo", 1, True, patient="virtual:3000")])


def test_the_choice_is_written_into_the_cards(tmp_path):
    shutil.copytree(CARDS, tmp_path / "cards")
    specialists.write_choice(tmp_path / "cards", {"Head": "ppo", "Wrist": "conformal"})
    repository = read_repository(tmp_path / "cards")
    assert repository.card_for(FRONTAL, "Head").id == "PPO" and repository.card_for(FRONTAL, "Wrist").id == "CONFORMAL"
    assert repository.card_for(FRONTAL, INVERTED) == read_repository().card_for(FRONTAL, INVERTED)
    assert repository.card("LOFI").findings and repository.fingerprint != read_repository().fingerprint
    with pytest.raises(ValueError, match="unknown policy of a card"):
        specialists.write_choice(tmp_path / "cards", {"Head": "oracle"})
