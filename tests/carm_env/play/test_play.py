"""The desktop window, driven with keys under SDL's dummy video driver."""

import subprocess
import sys

import numpy as np
import pygame
import pytest

from carm_env import cli
from carm_env.actions import ALIGNED, Move
from carm_env.envs.navigation import CArmNavEnv
from carm_env.evaluation.driving import FreeDrive
from carm_env.play.frame import Display, draw_frame, windowed
from carm_env.play.keys import LEGEND, read_key
from carm_env.play.window import NoDisplayError, PlayWindow


@pytest.fixture
def drive(small_patients):
    env = CArmNavEnv(patients="imported:one", image_size=64)
    return FreeDrive(env, {"target": "carina", "start": "skull"}, seed=0)


@pytest.fixture
def window(drive):
    return PlayWindow(drive)


@pytest.mark.parametrize(
    ("key", "modifiers", "move"),
    [
        ("right", {}, Move.from_words("LEFT", "SMALL", "CENTER", "NONE")),
        ("left", {"shift": True}, Move.from_words("RIGHT", "MODERATE", "CENTER", "NONE")),
        ("up", {"ctrl": True}, Move.from_words("CENTER", "NONE", "UP", "LARGE")),
        ("down", {"shift": True, "ctrl": True}, Move.from_words("CENTER", "NONE", "DOWN", "LARGE")),
    ],
)
def test_arrows_are_moves(key, modifiers, move):
    assert read_key(key, **modifiers).move == move


def test_the_legend_names_every_key():
    text = " ".join(LEGEND)
    for key in ("arrows", "Shift", "Ctrl", "Enter", "Space", "Esc", *"cbnwsdaixmzhr"):
        assert key in text


def test_an_episode_by_keyboard(window, drive):
    window.press("down")
    assert drive.view().exposures == 2
    window.press("x", shift=True)
    window.press("q")
    assert drive.view().exposures == 2
    assert window.press("return")
    assert drive.view().has_ended and "the target is" in drive.view().message
    # A key at the wrong time says so, and nothing happens.
    window.press("up")
    assert window._note.startswith("The episode has ended")
    window.press("n")
    assert not drive.view().has_ended and drive.view().exposures == 1
    assert not window.press("escape")


def test_both_axes_take_one_x_ray(window, drive):
    before = drive.env.pose.isocenter_lps_mm
    for key in ("c", "right", "down"):
        window.press(key)
    assert window.pending == Move(1, -1) and drive.view().exposures == 1
    window.press("space")
    after = drive.env.pose.isocenter_lps_mm
    assert drive.view().exposures == 2 and window.pending is None
    assert after[2] == pytest.approx(before[2] - 30.0) and after[0] == pytest.approx(before[0] + 30.0)


def test_an_empty_combination_does_not_declare(window, drive):
    window.press("c")
    window.press("space")
    assert not drive.view().has_ended and drive.view().exposures == 1


def test_window_level_and_polarity_take_no_radiation(window, drive):
    image = drive.view().image
    np.testing.assert_array_equal(windowed(image, Display()), image)
    for key in ("w", "d", "i", "z", "m", "x", "h"):
        before = window.frame()
        window.press(key, ctrl=True)
        assert (window.frame() != before).any(), key
    assert drive.view().exposures == 1
    window.press("r")
    assert window.display == Display()
    assert windowed(image, Display(inverted=True)).tolist() == (255 - image).tolist()


def test_window_and_level_have_three_step_sizes():
    widths = [Display().after(read_key("s", shift=shift, ctrl=ctrl)).window for shift, ctrl in
              ((False, False), (True, False), (False, True))]  # fmt: skip
    assert widths == [252, 240, 192]


def test_the_frame_has_a_fixed_size_and_shows_messages(window, drive):
    first = window.frame()
    assert first.shape == (720, 980, 3) and first.dtype == np.uint8
    drive.move(ALIGNED)
    assert (draw_frame(drive.view(), Display()) != first).any()


def test_the_window_opens_runs_and_closes(window, drive):
    pygame.display.init()
    for key, mod in ((pygame.K_DOWN, pygame.KMOD_LSHIFT), (pygame.K_RETURN, 0), (pygame.K_ESCAPE, 0)):
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=key, mod=mod))
    window.run()
    assert drive.view().has_ended and drive.view().exposures == 2
    assert not pygame.display.get_init()


def test_closing_the_window_ends_it(window):
    pygame.display.init()
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    window.run()


def test_without_a_screen_the_error_says_what_to_do(window, monkeypatch):
    def fail():
        raise pygame.error("No available video device")

    monkeypatch.setattr(pygame.display, "init", fail)
    with pytest.raises(NoDisplayError, match="no screen to open a window on .No available video device.*xvfb-run"):
        window.run()


def quit_at_once(monkeypatch):
    monkeypatch.setattr(PlayWindow, "run", lambda self: self.press("return") and self.press("escape"))


def test_the_command_plays_an_episode(small_patients, monkeypatch):
    quit_at_once(monkeypatch)
    words = ["play", "--patient", "one", "--target", "carina", "--start", "skull", "--size", "64", "--kvp", "70"]
    assert cli.main([*words, "--alpha", "10"]) == 0
    assert cli.main([*words[:5], "--start", "300", "400", "--size", "64"]) == 0


def test_the_command_plays_a_study(small_patients, tmp_path, monkeypatch, capsys):
    quit_at_once(monkeypatch)
    suite = tmp_path / "tiny.yaml"
    suite.write_text(
        "{name: tiny, version: 1, description: test, max_steps: 5, environment: {image_size: 64}, episodes: ["
        "{patient: 'imported:one', target: 1, start: 4}, {patient: 'imported:two', target: 4, start: 1}]}",
        encoding="utf-8",
    )
    words = ["play", "--suite", str(suite), "--study", "anna", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert "human:anna: 1 of 2 episodes are finished." in capsys.readouterr().out
    assert cli.main(words) == 0
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "human:anna has finished all 2 episodes" in text and " mm" not in text
    assert cli.main(["play", "--suite", str(suite), "--episode", "1"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--episode", "1"], "--episode is given without --suite"),
        (["--suite", "smoke", "--target", "1"], "leave --target out"),
        (["--suite", "smoke", "--study", "anna"], "--study and --out belong together"),
        (["--suite", "smoke", "--episode", "20"], "expected 0 to 19"),
        (["--suite", "smok"], "Did you mean 'smoke'"),
        (["--patient", "one", "--start", "left", "knee"], "quote a name of several words"),
        (["--patient", "one", "--target", "knee"], "unknown landmark"),
        (["--patient", "one", "--alpha", "60"], "alpha_deg is 60.0, expected -45 to 45"),
    ],
)
def test_bad_arguments_are_explained(small_patients, capsys, words, message):
    assert cli.main(["play", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_command_starts_without_pygame_being_imported():
    code = "import sys, carm_env.cli.play; sys.exit('pygame' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
