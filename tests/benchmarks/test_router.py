"""The benchmark of the router, with a model that knows the images, and with one that errs as told."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks import router as benchmark
from benchmarks._support.paper_cards import PAPER_CARDS
from benchmarks._support.router_samples import (
    RememberedModel,
    Split,
    ask,
    final_figures,
    sensitivity,
    stage_figures,
    tuned,
    write_samples,
)
from carm_env.chat_models.top_two import Candidate, TopTwo
from policies.routing.cards import read_repository
from policies.routing.cutoffs import Cutoffs
from policies.routing.made_images import BODY_PART, FRONTAL, HAND, MadeImage
from policies.routing.router import Router
from training import cutoffs as cutoffs_script

REPOSITORY = read_repository()
KINDS = ((FRONTAL, "Head"), (BODY_PART, HAND), ("Other", "Normal"), ("None", "Normal"))


def made(count):
    """Images whose grey value says what they are."""
    return [
        MadeImage(np.full((256, 256), 40 * kind + number, np.uint8), modality, finding, f"kind {kind}", f"p{number}")
        for kind, (modality, finding) in enumerate(KINDS)
        for number in range(count)
    ]


class Model:
    """Right, but for every third image, where the right modality is the likely runner-up."""

    style = "compact"

    def __init__(self, errs=True):
        self.errs, self.calls = errs, 0

    def top_two(self, messages):
        self.calls += 1
        *_, text = (part for message in messages for part in message["content"])
        shown = [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]
        if shown:
            grey = int(np.asarray(shown[0])[0, 0, 0])
            modality, finding = KINDS[grey // 40]
            if text["text"] == "finding":
                return TopTwo((Candidate(finding, 0.9), Candidate("Normal", 0.05)), 2, 8)
            if self.errs and grey % 3 == 0:
                wrong = "None" if modality != "None" else FRONTAL
                return TopTwo((Candidate(wrong, 0.5), Candidate(modality, 0.45)), 2, 30)
            return TopTwo((Candidate(modality, 0.9), Candidate("Other", 0.1)), 2, 30)
        card = "CONFORMAL" if FRONTAL in text["text"] else "BODY_PARTS"
        return TopTwo((Candidate(f"{card}: fits", 0.9), Candidate("None", 0.05)), 5, 40)


def test_cutoffs_correct_what_the_first_answer_gets_wrong():
    model = RememberedModel(Model())
    split = ask(model, REPOSITORY, made(6), "tuning")
    cutoffs = tuned(split.samples, REPOSITORY, "m")
    assert 0.1 < cutoffs.of("modality") < 0.45
    figures = stage_figures(split, cutoffs)["modality"]
    assert figures["accuracy"]["value"] == 1 and figures["accuracy_without_cutoffs"]["value"] == pytest.approx(2 / 3)
    assert figures["difference"] == pytest.approx(1 / 3) and figures["difference_interval"][0] > 0
    whole, final = final_figures(Router(model, REPOSITORY, cutoffs), split)
    assert whole["final_accuracy"] == 1 and whole["non_medical_rejected"] == 1 and len(final) == 24
    assert whole["early_stopping"]["stopped"] == 12 and whole["early_stopping"]["requests"] == 12 * 3 + 12
    assert whole["early_stopping"]["requests_saved"] == 24 and whole["early_stopping"]["tokens_saved"] == 12 * 55
    without, _ = final_figures(Router(model, REPOSITORY), split)
    assert without["final_accuracy"] < 1 and without["non_medical_rejected"] < 1
    # Right cards of 0.9, and four early stops at the runner-up's 0.45.
    assert whole["ece"] == pytest.approx((20 * 0.1 + 4 * 0.55) / 24)


def test_samples_with_two_equal_answers_tune_nothing(tmp_path):
    split = ask(RememberedModel(Model()), REPOSITORY, made(6), "tuning")
    # Whatever the cutoff, the answer is the same: a likely runner-up would only move it.
    equal = [dataclasses.replace(one, second=one.first, p2=0.46) for one in split.samples if one.label == "FIRST"]
    assert equal and not any(one.tunes for one in equal)
    assert tuned([*split.samples, *equal], REPOSITORY, "m") == tuned(split.samples, REPOSITORY, "m")
    write_samples(tmp_path / "s.csv", equal)
    assert len((tmp_path / "s.csv").read_text(encoding="utf-8").splitlines()) == 1


def test_equal_requests_are_made_once():
    model = Model(errs=False)
    remembered = RememberedModel(model)
    split = Split(ask(remembered, REPOSITORY, made(2), "a").samples, made(2))
    calls = model.calls
    final_figures(Router(remembered, REPOSITORY), split)
    assert model.calls == calls


def test_few_tuning_samples_are_enough_or_not():
    model = RememberedModel(Model())
    tuning, held_out = (ask(model, REPOSITORY, made(count), "s") for count in (6, 4))
    rows = [row for row in sensitivity(tuning, held_out, REPOSITORY, 0, sizes=(2,)) if row["stage"] == "modality"]
    assert [row["samples"] for row in rows] == [2, 20]
    assert rows[0]["lowest"] <= rows[0]["mean"] <= rows[1]["mean"] == 1


def test_the_script_measures_both_splits_and_a_folder(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(benchmark, "make_top_two_model", lambda model, ask_for_two: Model())
    monkeypatch.setattr(benchmark, "prepare_patients", lambda patients, workers: 0)
    monkeypatch.setattr(benchmark, "sample_images", lambda tune, raised, count, seed, held_out: made(count))
    (tmp_path / "scans" / "more").mkdir(parents=True)
    for folder in (tmp_path / "scans", tmp_path / "scans" / "more"):
        Image.fromarray(made(1)[0].image).save(folder / "a.png")
    (tmp_path / "scans" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    path, samples = tmp_path / "r.json", tmp_path / "samples.csv"
    benchmark.run(
        benchmark.Arguments(images=(tmp_path / "scans",), csv=samples, json=path, out=tmp_path / "plots", count=4)
    )
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["final_accuracy"] == 1 > found["final_accuracy_without_cutoffs"]
    assert found["non_medical_rejected"] == 1 and 0 <= found["ece"] <= 1
    for split in ("train", "held_out"):
        assert set(found["splits"][split]["stages"]) == {"modality", "finding", "card"}
        assert (tmp_path / "plots" / f"reliability_{split}.png").is_file()
        assert (tmp_path / "plots" / f"selective_{split}.png").is_file()
    folder = found["folders"][str(tmp_path / "scans")]
    assert set(folder["images"]) == {"a.png", "more/a.png"}
    assert sum(folder["cards"].values()) == 2 and list(folder["unreadable"]) == ["b.png"]
    assert "final     1.000 with cutoffs" in capsys.readouterr().out
    # The tuning samples give the same cutoffs again, and those of other cards are refused.
    out = tmp_path / "cutoffs.json"
    assert cutoffs_script.main([str(samples), "--out", str(out)]) == 0
    stages = json.loads(out.read_text(encoding="utf-8"))["stages"]
    assert stages["modality"]["cutoff"] == found["cutoffs"]["modality"]
    with pytest.raises(ValueError, match="card repository"):
        benchmark.run(benchmark.Arguments(cutoffs=out, cards=PAPER_CARDS))


def test_patients_of_both_splits_are_refused():
    with pytest.raises(ValueError, match="same person"):
        benchmark.measure(RememberedModel(Model()), REPOSITORY, benchmark.Arguments(test=("standard/calibration",)))
    with pytest.raises(ValueError, match="reserved for tests"):
        benchmark.measure(RememberedModel(Model()), REPOSITORY, benchmark.Arguments(tune=("virtual:3000?arms=sides",)))


def test_cutoffs_change_nothing_where_no_runner_up_is_right():
    split = ask(RememberedModel(Model(errs=False)), REPOSITORY, made(2), "s")
    figures = stage_figures(split, Cutoffs({"modality": 0.2}))["modality"]
    assert figures["difference"] == 0 and figures["changed_correctness"] == 0
