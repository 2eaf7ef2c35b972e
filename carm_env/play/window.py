"""The desktop window, through pygame."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_env.actions import ALIGNED, Move
from carm_env.evaluation.driving import Drive, DriveError, DriveView
from carm_env.play.frame import Display, draw_frame
from carm_env.play.keys import combined, read_key
from carm_env.system.errors import CArmEnvError

TITLE = "carm-env play (research only)"
_WAIT_MS = 250
"""The clock on the screen is redrawn this often without a key."""


class NoDisplayError(CArmEnvError, RuntimeError):
    """There is no screen to open a window on."""


class PlayWindow:
    """A window in which a person drives with the keyboard.

    Args:
        drive: the episodes.
    """

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self.display = Display()
        self.pending: Move | None = None
        self._note = ""
        self._view = drive.view()
        self._since = time.perf_counter()

    def press(self, key: str, shift: bool = False, ctrl: bool = False) -> bool:
        """Does what a key asks for; returns whether the window stays open.

        Args:
            key: name of the key as of ``pygame.key.name``.
            shift: whether Shift is pressed.
            ctrl: whether Ctrl is pressed.
        """
        command = read_key(key, shift, ctrl)
        if command is None:
            return True
        self._note = ""
        self.display = self.display.after(command)
        try:
            if command.move is not None:
                if self.pending is None:
                    self._decide(command.move)
                else:
                    self.pending = combined(self.pending, command.move)
            elif command.kind == "combine":
                self.pending = Move(0, 0) if self.pending is None else None
            elif command.kind == "expose" and self.pending is not None and not self.pending.is_aligned:
                self._decide(self.pending)
            elif command.kind == "aligned":
                self._decide(ALIGNED)
            elif command.kind == "hand_back":
                self._after(self._drive.hand_back())
            elif command.kind == "next":
                self._after(self._drive.next_episode())
        except DriveError as error:
            # A key at the wrong time is no reason to stop.
            self._note = f"{str(error)[:1].upper()}{str(error)[1:]}"
        return command.kind != "quit"

    def frame(self) -> NDArray[np.uint8]:
        """Returns what the window shows, ``(720, 980, 3)`` uint8."""
        running = 0.0 if self._view.has_ended else time.perf_counter() - self._since
        message = self._note or self._view.message
        if self._view.has_ended:
            message += " n: next episode. Esc: quit."
        shown = replace(self._view, seconds=self._view.seconds + running, message=message)
        return draw_frame(shown, self.display, self.pending)

    def run(self) -> None:
        """Opens the window and returns when the person closes it.

        Raises:
            NoDisplayError: there is no screen.
        """
        pygame = _open_pygame()
        try:
            first = self.frame()
            try:
                surface = pygame.display.set_mode((first.shape[1], first.shape[0]))
            except pygame.error as error:
                raise _no_display(str(error)) from error
            pygame.display.set_caption(TITLE)
            is_open = True
            while is_open:
                pygame.surfarray.blit_array(surface, self.frame().transpose(1, 0, 2))
                pygame.display.flip()
                event = pygame.event.wait(_WAIT_MS)
                if event.type == pygame.QUIT:
                    is_open = False
                elif event.type == pygame.KEYDOWN:
                    shift, ctrl = bool(event.mod & pygame.KMOD_SHIFT), bool(event.mod & pygame.KMOD_CTRL)
                    is_open = self.press(pygame.key.name(event.key), shift, ctrl)
        finally:
            pygame.display.quit()

    def _decide(self, move: Move) -> None:
        self.pending = None
        self._after(self._drive.move(move))

    def _after(self, view: DriveView) -> None:
        self.pending = None
        self._view = view
        self._since = time.perf_counter()


def _open_pygame() -> Any:
    """Returns pygame with an open display."""
    # It prints a greeting, and is slow to import.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import pygame

    asked_for = os.environ.get("SDL_VIDEODRIVER")
    try:
        pygame.display.init()
    except pygame.error as error:
        raise _no_display(str(error)) from error
    if not asked_for and pygame.display.get_driver() in ("dummy", "offscreen"):
        pygame.display.quit()
        raise _no_display("SDL found no video driver with a screen")
    return pygame


def _no_display(reason: str) -> NoDisplayError:
    return NoDisplayError(
        f"there is no screen to open a window on ({reason}), expected a desktop session: run carm-env play there, or "
        "on a virtual screen with `xvfb-run carm-env play`."
    )
