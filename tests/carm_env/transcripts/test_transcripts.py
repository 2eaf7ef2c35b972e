"""Transcripts are written line by line and read back; damaged and hostile ones break nothing."""

import json

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import carm_env  # noqa: F401  registers the environment
from carm_env.actions import Move
from carm_env.language.chat import ChatCArm, image_part, text_part
from carm_env.transcripts.read import find_transcripts, read_start, read_transcript
from carm_env.transcripts.records import FORMAT, MAX_TEXT_CHARACTERS, Exchange, TranscriptError, text_hash, writable
from carm_env.transcripts.write import TranscriptFolder, TranscriptRecorder, episode_folder_name, write_transcript

BLACK, WHITE = np.zeros((4, 6, 1), np.uint8), np.full((4, 6, 1), 255, np.uint8)
INFO = {"patient": "virtual:7", "target_landmark": 11, "distance_mm": 90.0, "exposures": 1, "dose_mgy": 0.1,
        "is_success": False, "isocenter_lps_mm": np.zeros(3), "moved_mm": np.zeros(2)}  # fmt: skip


def asked(image, text="Where to?", answer="up"):
    system = {"role": "system", "content": [text_part("Drive.")]}
    return Exchange([system, {"role": "user", "content": [image_part(image), text_part(text)]}], answer, tokens=3)


@pytest.fixture
def recorder(tmp_path):
    recorder = TranscriptRecorder(TranscriptFolder(tmp_path / "episode").keep)
    recorder.reset(BLACK, INFO, None, format=FORMAT, policy="mine", prompts="abc")
    return recorder


def damage(folder, number, text):
    path = folder / "transcript.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(b"\n".join(lines))


def test_an_episode_survives_writing_and_reading(recorder, tmp_path):
    recorder.answer(1, WHITE, {**INFO, "exposures": 2}, None, asked(BLACK), Move(0, 1), latency_s=0.5)
    recorder.answer(2, WHITE, {**INFO, "exposures": 2}, None, asked(WHITE, answer="<b>"), reward=-0.1)
    recorder.feedback("look again")
    recorder.end("timeout", False)
    transcript = read_transcript(tmp_path / "episode")
    assert transcript.problems == () and transcript.start.policy == "mine" and transcript.start.patient == "virtual:7"
    first, second = transcript.answers
    assert (first.image, first.next_image, first.action, first.move) == (
        "xray-000.png", "xray-001.png", Move(0, 1).index, "CENTER NONE / UP SMALL",
    )  # fmt: skip
    assert first.tokens == 3 and first.latency_s == 0.5 and first.cost is None
    assert (second.text, second.action, second.reward, second.next_image) == ("<b>", None, -0.1, "xray-001.png")
    assert transcript.events[-1].text == "look again" and transcript.end.outcome == "timeout"
    system, user = first.messages
    assert transcript.texts[system["content"][0]["text"]] == "Drive."
    assert user["content"][0] == {"image": "xray-000.png"}
    assert transcript.image("xray-001.png").tolist() == WHITE[..., 0].tolist()


def test_texts_and_x_rays_are_written_once(recorder, tmp_path):
    for step in range(1, 6):
        recorder.answer(step, BLACK, INFO, None, asked(BLACK))
    lines = (tmp_path / "episode" / "transcript.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["reset", "text", "text", *["answer"] * 5]
    assert len(list((tmp_path / "episode").glob("*.png"))) == 1


def test_every_step_is_on_the_disk_before_the_next(recorder, tmp_path):
    for step in (1, 2):
        recorder.answer(step, WHITE, INFO, None, asked(BLACK))
        assert [answer.step for answer in read_transcript(tmp_path / "episode").answers] == [1, 2][:step]
    assert read_transcript(tmp_path / "episode").end is None


def test_a_repeated_episode_replaces_its_interrupted_transcript(recorder, tmp_path):
    recorder.answer(1, WHITE, INFO, None)
    TranscriptRecorder(TranscriptFolder(tmp_path / "episode").keep).reset(BLACK, INFO, None, format=FORMAT)
    assert read_transcript(tmp_path / "episode").answers == []
    assert not (tmp_path / "episode" / "xray-001.png").exists()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\0b\ud800c", "a\ufffdb\ufffdc"),
        ("\u2028\r\n\x1b", "\u2028\r\n\x1b"),
        (None, "None"),
        (b"x", "b'x'"),
        ("x" * (MAX_TEXT_CHARACTERS + 5), "x" * MAX_TEXT_CHARACTERS + "... (1,000,005 characters)"),
    ],
    ids=["unwritable", "line breaks", "None", "bytes", "long"],
)
def test_any_answer_can_be_written_and_read(recorder, tmp_path, text, kept):
    assert writable(text) == kept
    recorder.answer(1, BLACK, INFO, None, asked(BLACK, answer=text))
    transcript = read_transcript(tmp_path / "episode")
    assert transcript.answers[0].text == kept and not transcript.problems


def test_what_a_policy_decides_may_be_of_any_kind(recorder, tmp_path):
    facts = {"confidence": "high", "closest_landmarks": 7, "rationale": None, "latency_s": float("nan")}
    recorder.answer(1, BLACK, INFO, None, **facts)
    recorder.answer(2, BLACK, INFO, None, confidence=np.float32(0.5), closest_landmarks=np.array([3, 4]))
    first, second = read_transcript(tmp_path / "episode").answers
    assert (first.confidence, first.closest_landmarks, first.latency_s) == (None, (), None)
    assert (second.confidence, second.closest_landmarks) == (0.5, (3, 4))


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "plain"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
        {"role": "user", "content": [{"type": "image", "image": "no image"}, "text", None, 3]},
        {"content": None},
        "text",
        None,
    ],
)  # fmt: skip
def test_messages_may_have_any_form(recorder, tmp_path, message):
    recorder.answer(1, BLACK, INFO, None, Exchange([message], "up"), fault="invalid", tokens=5)
    transcript = read_transcript(tmp_path / "episode")
    (answer,) = transcript.answers
    assert not transcript.problems and len(answer.messages) == 1 and answer.text == "up"
    assert answer.fault == "invalid" and answer.tokens == 5
    assert all(part["text"] in transcript.texts for part in answer.messages[0]["content"])


def test_an_exchange_is_recorded_once(recorder, tmp_path):
    exchange = asked(BLACK)
    for step in (1, 2):
        recorder.answer(step, BLACK, INFO, None, exchange)
    recorder.crash(INFO, None, exchange)
    recorder.crash(INFO, None, asked(BLACK, answer="last words"))
    answers = read_transcript(tmp_path / "episode").answers
    assert [(answer.step, answer.text) for answer in answers] == [(1, "up"), (2, ""), (3, "last words")]


def test_the_path_of_a_patient_is_not_written(tmp_path):
    recorder = TranscriptRecorder(TranscriptFolder(tmp_path / "e").keep)
    recorder.reset(BLACK, {**INFO, "patient": "/data/Doe^Jane/ct.nii.gz"}, None, format=FORMAT)
    assert b"Doe" not in (tmp_path / "e" / "transcript.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"event": "ans', "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 5000, "nested"),
        ('{"event": "answer"}', "has no 'step'"),
        ('{"event": "answer", "step": "1"}', "step is '1', expected int"),
        ('{"event": "answer", "step": true}', "step is True"),
        ('{"event": "answer", "step": 1, "text": null}', "text is None"),
        ('{"event": "answer", "step": 1, "action": 49}', "expected 0 to 48"),
        ('{"event": "answer", "step": 1, "target": 99}', "expected the id of a landmark"),
        ('{"event": "answer", "step": 1, "cost": NaN}', "expected a finite one"),
        ('{"event": "answer", "step": 1, "messages": [{"role": "user", "content": [{"text": 1}]}]}', "has a message"),
        ('{"event": "answer", "step": 1, "messages": ["x"]}', "messages is"),
        ('{"event": "reset", "format": 1}', "a second reset"),
        ('{"event": "text", "hash": "00", "text": "other"}', "another hash"),
        ('{"event": "party"}', "expected an object with event"),
        ("[]", "expected an object with event"),
    ],
)  # fmt: skip
def test_a_damaged_line_is_named_and_skipped(recorder, tmp_path, line, reason):
    for step in (1, 2, 3):
        recorder.answer(step, BLACK, INFO, None)
    damage(tmp_path / "episode", 3, line)
    transcript = read_transcript(tmp_path / "episode")
    assert [answer.step for answer in transcript.answers] == [1, 3]
    assert len(transcript.problems) == 1 and "line 3" in transcript.problems[0] and reason in transcript.problems[0]


@pytest.mark.parametrize(
    ("first_line", "reason"),
    [
        (b"{", "no line of a reset"),
        (b"", "no line of a reset"),
        ('{"event": "reset"}', "has no 'format'"),
        (f'{{"event": "reset", "format": {FORMAT + 1}}}', "another version of carm-env"),
    ],
)
def test_a_transcript_without_a_start_is_refused(recorder, tmp_path, first_line, reason):
    recorder.answer(1, BLACK, INFO, None)
    damage(tmp_path / "episode", 1, first_line)
    with pytest.raises(TranscriptError, match=reason):
        read_transcript(tmp_path / "episode")


def test_a_hash_that_no_text_has_leaves_the_answer(recorder, tmp_path):
    recorder.answer(1, BLACK, INFO, None, asked(BLACK))
    damage(tmp_path / "episode", 2, "")
    transcript = read_transcript(tmp_path / "episode")
    assert text_hash("Drive.") not in transcript.texts and transcript.answers[0].text == "up"


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "xray-000.jpg", "xray-777.png", "", "xray-000.png\n"])
def test_only_x_rays_of_the_folder_are_read(recorder, tmp_path, name):
    Image.new("L", (2, 2)).save(tmp_path / "secret.png")
    with pytest.raises(TranscriptError, match="cannot be read"):
        read_transcript(tmp_path / "episode").image(name)


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", "large"], ids=["empty", "cut", "gif", "large"]
)
def test_a_damaged_x_ray_is_refused(recorder, tmp_path, content):
    path = tmp_path / "episode" / "xray-000.png"
    if content == "large":
        Image.new("L", (5000, 2)).save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(TranscriptError, match=r"xray-000\.png cannot be read"):
        read_transcript(tmp_path / "episode").image("xray-000.png")


def test_a_folder_without_transcripts_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(TranscriptError, match="holds no transcript"):
            find_transcripts(folder)
    assert read_start(tmp_path) is None


def test_a_full_or_read_only_disk_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(TranscriptError, match=r"the transcript .* cannot be written"):
        TranscriptFolder(tmp_path / "file" / "episode")


@pytest.mark.parametrize(
    "policy", ["mllm:http://localhost:8000/v1#m", "../../x", "C:\\con", "a" * 400, "", "é\0\n", "my.py:Mine?t=0.2"]
)
def test_folder_names_are_safe(policy, tmp_path):
    name = episode_folder_name(policy, "smoke", 3)
    assert name.replace("-", "").isalnum() and name.isascii() and name == name.lower() and len(name) < 110
    assert name != episode_folder_name(policy.upper() + "x", "smoke", 3)
    (tmp_path / name).mkdir()


def test_names_that_differ_in_case_have_different_folders():
    assert episode_folder_name("m:Mine", "s", 0).lower() != episode_folder_name("m:mine", "s", 0).lower()


def test_a_chat_writes_a_transcript(small_patients, tmp_path):
    chat = ChatCArm(gym.make("CArmNav-v0", patients=small_patients[0], image_size=32), max_steps=2)
    chat.reset(seed=1)
    chat.step("no")
    chat.feedback("look again")
    chat.messages()
    chat.write_log(tmp_path / "log")
    assert read_transcript(tmp_path / "log").end is None
    chat.step("\ud800")
    chat.write_log(tmp_path / "log")
    transcript = read_transcript(tmp_path / "log")
    assert not transcript.problems and transcript.end.outcome == "timeout"
    assert [answer.fault for answer in transcript.answers] == ["form", "characters"]
    last = transcript.answers[-1].messages[-1]["content"][-1]["text"]
    assert "The clinician says: look again" in transcript.texts[last]
    assert transcript.image(transcript.start.image).shape == (32, 32)
    assert transcript.start.projection == "AP" and transcript.start.patient == small_patients[0]


def test_a_log_replaces_nothing_else(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x", encoding="utf-8")
    with pytest.raises(TranscriptError, match="choose another folder"):
        write_transcript(tmp_path / "mine", [], {})
    assert (tmp_path / "mine" / "thesis.txt").exists()
