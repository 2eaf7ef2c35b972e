"""``carm-env route``: images in, stages, cards and transcripts out."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks._support.paper_cards import PAPER_CARDS
from carm_env.chat_models.top_two import Candidate, TopTwo
from carm_env.cli import main
from carm_env.evaluation.replay import save_replay
from carm_env.transcripts.read import find_transcripts, read_transcript
from policies.routing import load
from policies.routing.cards import read_repository

COLON = "colonoscopy scan"


class Model:
    """Knows colour images as colonoscopies, and rejects grey ones."""

    style = "full"

    def top_two(self, messages):
        shown = [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]
        text = "".join(part["text"] for message in messages for part in message["content"] if part["type"] == "text")
        if not shown:
            answer = "MODEL_30: It classifies polyps."
        elif "modality" in text:
            colours = np.ptp(np.asarray(shown[0], int), axis=2).max()
            answer = COLON if colours else "None"
        else:
            answer = "Polyp"
        return TopTwo((Candidate(answer, 0.7), Candidate("Other", 0.2)), 4, 20, 0.1, model="m")


@pytest.fixture
def routed(monkeypatch):
    monkeypatch.setattr(load, "make_top_two_model", lambda model, ask_for_two: Model())


@pytest.fixture
def image(tmp_path):
    colours = np.zeros((50, 60, 3), np.uint8)
    colours[..., 0] = 200
    return Image.fromarray(colours), tmp_path / "image.png"


def test_every_stage_is_shown_and_saved(routed, image, tmp_path, capsys):
    picture, path = image
    picture.save(path)
    out, results = tmp_path / "out", tmp_path / "r.json"
    command = ["route", str(path), "--cards", str(PAPER_CARDS), "--out", str(out), "--json", str(results)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"modality '{COLON}' 0.700, 'Other' 0.200; no cutoff; FIRST: {COLON}" in said
    assert "answer   MODEL_30, probability 0.700: It classifies polyps." in said
    (record,) = json.loads(results.read_text(encoding="utf-8"))["images"]
    assert record["card"] == "MODEL_30" and [one["stage"] for one in record["stages"]] == [
        "modality",
        "finding",
        "card",
    ]
    (folder,) = find_transcripts(out)
    assert [answer.stage for answer in read_transcript(folder).answers] == ["modality", "finding", "card"]
    # The transcript of an image keeps its folder, whatever is routed with it.
    picture.save(tmp_path / "first.png")
    assert main(["route", str(tmp_path / "first.png"), *command[1:]]) == 0
    assert len(find_transcripts(out)) == 2 and folder in find_transcripts(out)
    assert save_replay(out, None, False).episodes == 2


def saved_as(picture, kind, folder):
    grey = picture.convert("L")
    path = folder / f"{kind}.png"
    if kind == "16-bit":
        Image.fromarray(np.arange(50 * 60, dtype=np.uint16).reshape(50, 60) * 20).save(path)
    elif kind == "RGBA":
        picture.convert("RGBA").save(path)
    elif kind == "palette":
        picture.convert("P").save(path)
    elif kind == "CMYK":
        picture.convert("CMYK").save(path := folder / "cmyk.jpg")
    elif kind == "1-bit":
        grey.convert("1").save(path)
    elif kind == "grey with alpha":
        grey.convert("LA").save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "card"),
    [("RGBA", "MODEL_30"), ("palette", "MODEL_30"), ("CMYK", "MODEL_30"), ("16-bit", "None"), ("1-bit", "None"),
     ("grey with alpha", "None")],
)  # fmt: skip
def test_images_of_odd_modes_are_read_with_their_colours(routed, image, tmp_path, capsys, kind, card):
    path = saved_as(image[0], kind, tmp_path)
    assert main(["route", str(path), "--cards", str(PAPER_CARDS)]) == 0
    assert f"answer   {card}," in capsys.readouterr().out


def test_an_animation_needs_a_frame(routed, image, tmp_path, capsys):
    picture, path = image
    picture.save(path, save_all=True, append_images=[picture.convert("L").convert("RGB")])
    assert main(["route", str(path), "--cards", str(PAPER_CARDS)]) == 2
    assert "holds 2 frames, expected one image: choose one with --frame" in capsys.readouterr().err
    assert main(["route", str(path), "--cards", str(PAPER_CARDS), "--frame", "2"]) == 0
    assert "answer   None," in capsys.readouterr().out


def test_an_unreadable_image_among_others_is_named(routed, image, tmp_path, capsys):
    picture, path = image
    picture.save(path)
    (tmp_path / "damaged.png").write_bytes(path.read_bytes()[:60])
    (tmp_path / "notes.txt").write_text("text", encoding="utf-8")
    results = tmp_path / "r" / "r.json"
    assert main(["route", str(tmp_path), "--cards", str(PAPER_CARDS), "--json", str(results)]) == 1
    captured = capsys.readouterr()
    assert "notes.txt: unreadable: not a PNG, JPEG or DICOM file" in captured.err
    errors = [one["file"] for one in json.loads(results.read_text(encoding="utf-8"))["images"] if "error" in one]
    assert sorted(Path(name).name for name in errors) == ["damaged.png", "notes.txt"]
    assert "damaged.png: unreadable" in captured.err and "MODEL_30" in captured.out
    assert main(["route", str(tmp_path / "damaged.png"), "--cards", str(PAPER_CARDS)]) == 2


def test_bad_cards_and_cutoffs_are_named(routed, image, tmp_path, capsys):
    picture, path = image
    picture.save(path)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "a.yaml").write_text("id: A\ntask: t\n", encoding="utf-8")
    assert main(["route", str(path), "--cards", str(tmp_path / "cards")]) == 2
    assert "a.yaml is not a model card: it has no modality" in capsys.readouterr().err
    other = read_repository().fingerprint
    content = {"format": 1, "repository": other, "model": "", "stages": {"card": {"cutoff": 0.1}}}
    (tmp_path / "c.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["route", str(path), "--cards", str(PAPER_CARDS), "--cutoffs", str(tmp_path / "c.json")]) == 2
    assert f"were learned with the card repository {other[:12]}" in capsys.readouterr().err
    assert main(["route", ""]) == 2
