"""A session: one page, one or two C-arms, and the messages between them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar

from carm_env.actions import Move
from carm_env.cockpit import messages
from carm_env.cockpit.autoplay import Autoplay
from carm_env.cockpit.body_map import body_map
from carm_env.cockpit.export import pack_transcripts
from carm_env.cockpit.frames import encode_frame
from carm_env.cockpit.lane import PERSON, Lane, Made, make_lanes
from carm_env.cockpit.offers import LOCALIZERS, Offers
from carm_env.cockpit.preparation import prepare
from carm_env.cockpit.refusals import TURN, RefusedError, refusal_of
from carm_env.cockpit.settings import CockpitSettings
from carm_env.language.advice import meaning
from carm_env.language.advice_reader import read_advice
from carm_env.system.errors import UnknownNameError

log = logging.getLogger("carm_env.cockpit")
Result = TypeVar("Result")
Send = Callable[[dict[str, Any] | bytes], Awaitable[None]]
MAX_TALK = 200
"""Lines of the talk that a page is shown again after it has reconnected."""

MAX_TRANSCRIPTS = 50
"""Transcripts of a session that can be exported."""


class Session:
    """The state of one page, which stays when its socket drops.

    Messages of a session are answered one after the other. Who drives can change at once, even while a policy decides.

    Args:
        settings: settings of the server.
        offers: policies and localisers.
        pool: runs what takes longer than a millisecond.

    Attributes:
        id: random name; who knows it can continue the session.
        label: part of the log lines; it does not reveal the id.
    """

    def __init__(self, settings: CockpitSettings, offers: Offers, pool: Executor) -> None:
        self.id = secrets.token_urlsafe(24)
        self.label = secrets.token_hex(3)
        self.lanes: list[Lane] = []
        self._settings, self._offers, self._pool = settings, offers, pool
        self._lock = asyncio.Lock()
        self._send: Send | None = None
        self._body: dict[str, Any] | None = None
        self._talk: list[dict[str, Any]] = []
        self._localizer = ""
        self._autoplay = Autoplay(
            self._make_paced_step, self._tell_playing, lambda error: self._refuse("playing stopped", error)
        )
        self._episodes = 0
        self._transcripts: list[Path] = []
        self.last_used = time.monotonic()

    @property
    def is_connected(self) -> bool:
        """Whether a page is connected."""
        return self._send is not None

    def export(self) -> bytes:
        """Returns a zip archive of the transcripts of this session, the latest last.

        Those of running episodes are left out: a transcript names the landmark that is truly the closest one.
        """
        with_distance = all(lane.shows_distance for lane in self.lanes)
        running = {lane.episode.folder for lane in self.lanes if not lane.has_ended}
        return pack_transcripts([folder for folder in self._transcripts if folder not in running], with_distance)

    async def attach(self, send: Send) -> None:
        """Connects a page, and shows it the state; a page that was connected before is told."""
        if self._send is not None:
            await self._tell({"type": "taken", "text": "This session was opened in another tab or window."})
        self._send = send
        await self._tell({"type": "welcome", "session": self.id})
        if self.lanes:
            await self._tell_all()

    def detach(self, send: Send) -> None:
        """Disconnects a page, unless another one has taken its place."""
        if self._send is send:
            self._send = None
            self._autoplay.pause()
        self.last_used = time.monotonic()

    def close(self) -> None:
        """Ends the session and its threads."""
        self._autoplay.pause()
        for lane in self.lanes:
            lane.close()

    def owns(self, send: Send) -> bool:
        """Returns whether a page is the connected one."""
        return self._send is send

    async def answer(self, message: messages.Message) -> None:
        """Answers a message; what is refused is told to the page and the log."""
        self.last_used = time.monotonic()
        try:
            await self._answer(message)
        except Exception as error:
            await self._refuse(f"{type(message).__name__} refused", error)
            for number, lane in enumerate(self.lanes):
                await self._tell_state(number, lane)

    async def _answer(self, message: messages.Message) -> None:
        if isinstance(message, messages.Pause):
            self._autoplay.pause()
        elif isinstance(message, messages.Play):
            await self._autoplay.start(message.pace_s)
        elif isinstance(message, messages.Drive) and message.driver == PERSON:
            await self._take_over(self._lane(message.lane))
        else:
            async with self._lock:
                await self._answer_in_turn(message)

    async def _answer_in_turn(self, message: messages.Message) -> None:
        if isinstance(message, messages.Start):
            await self._start(message)
        elif isinstance(message, messages.Step):
            await self._step()
        elif isinstance(message, messages.Show):
            await self._show(message.localizer)
        elif isinstance(message, messages.Say):
            await self._say(message)
        elif isinstance(message, messages.MoveMessage):
            lane = self._lane(message.lane)
            await self._run(lane.move, Move.from_index(message.action))
            await self._tell_frame(message.lane, lane)
        elif isinstance(message, messages.Accept):
            lane = self._lane(message.lane)
            await self._run(lane.accept)
            await self._tell_frame(message.lane, lane)
        elif isinstance(message, messages.Drive):
            lane = self._lane(message.lane)
            await self._run(lane.hand_back)
            await self._tell_state(message.lane, lane)

    async def _start(self, start: messages.Start) -> None:
        self._autoplay.pause()
        await self._tell(
            {"type": "busy", "text": "Loading. A virtual patient that is used for the first time takes a minute."}
        )
        prepared = await self._run(prepare, start)
        lanes = await self._run(
            make_lanes, prepared, start, self._offers.make_policy, self._settings.transcripts,
            f"{self.id[:8]}-{self._episodes}",
        )  # fmt: skip
        self._episodes += 1
        for lane in self.lanes:
            lane.close()
        folders = [lane.episode.folder for lane in lanes if lane.episode.folder is not None]
        self._transcripts = [*self._transcripts, *folders][-MAX_TRANSCRIPTS:]
        self.lanes, self._talk = lanes, []
        self._localizer = self._offers.localizer_of(lanes[0].policy_name)
        self._body = await self._run(body_map, lanes[0].episode.env.scene.patient)
        log.info("session %s: an episode has begun with %d policy(s)", self.label, len(start.policies))
        await self._draw_regions()
        await self._tell_all()

    async def _step(self) -> None:
        """Lets every policy that drives make one decision, at the same time."""
        waiting = [(number, lane) for number, lane in enumerate(self.lanes) if lane.awaits_agent]
        if not waiting:
            raise RefusedError(
                TURN, "No policy can make a step: you drive, it waits for you, or the episode has ended."
            )
        made = [(number, lane, lane.ask()) for number, lane in waiting]
        for number, lane in waiting:
            await self._tell_state(number, lane)
        failures = [error for one in made if (error := await self._finish_step(*one)) is not None]
        if failures:
            raise failures[0]

    async def _finish_step(self, number: int, lane: Lane, made: Made) -> Exception | None:
        """Waits for a decision and carries it out; returns the error that prevented this."""
        await lane.wait_for(made)
        if not made.done():
            lane.abandon()
            return None
        try:
            await self._run(lane.take, made)
        except Exception as error:
            return error
        await self._tell_frame(number, lane)
        return None

    async def _make_paced_step(self) -> bool:
        """Makes a step of `Autoplay`; returns whether a policy can make another one."""
        if not self.is_connected or not any(lane.awaits_agent for lane in self.lanes):
            return False
        async with self._lock:
            if self._autoplay.is_on:
                await self._step()
        self.last_used = time.monotonic()
        return True

    async def _tell_playing(self, is_on: bool) -> None:
        await self._tell({"type": "playing", "on": is_on})

    async def _refuse(self, what: str, error: Exception) -> None:
        refusal = refusal_of(error)
        log.warning("session %s: %s: %s", self.label, what, refusal.reason)
        await self._tell({"type": "refused", "reason": refusal.reason, "text": str(refusal)})

    async def _take_over(self, lane: Lane) -> None:
        self._autoplay.pause()
        lane.interrupt()
        async with self._lock:
            await self._run(lane.take_over)
            await self._tell_state(self.lanes.index(lane), lane)

    async def _say(self, message: messages.Say) -> None:
        lane = self._lane(message.lane)
        understood = meaning(read_advice(message.text))
        question = lane.held.kind if lane.held is not None else ""
        await self._run(lane.say, message.text)
        line = {
            "lane": message.lane,
            "who": "you",
            "text": " ".join(message.text.split()),
            "understood": understood,
            "about": question,
        }
        self._talk = [*self._talk, line][-MAX_TALK:]
        await self._tell({"type": "talk", "lines": [line]})
        await self._tell_frame(message.lane, lane)

    async def _show(self, localizer: str) -> None:
        if localizer and localizer not in LOCALIZERS:
            raise UnknownNameError("localizer", localizer, LOCALIZERS)
        self._localizer = localizer
        await self._draw_regions()
        for number, lane in enumerate(self.lanes):
            await self._tell_state(number, lane)

    async def _draw_regions(self) -> None:
        for lane in self.lanes:
            await self._draw_regions_of(lane)

    async def _draw_regions_of(self, lane: Lane) -> None:
        lane.overlay = None
        if self._localizer:
            try:
                lane.overlay = await self._run(self._offers.located, self._localizer, lane.image)
            except Exception:
                self._localizer = ""
                raise

    def _lane(self, number: int) -> Lane:
        if number >= len(self.lanes):
            raise RefusedError(TURN, "There is no episode yet: start one." if not self.lanes else "No such C-arm.")
        return self.lanes[number]

    async def _run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*arguments))

    async def _tell(self, message: dict[str, Any] | bytes) -> None:
        send = self._send
        if send is None:
            return
        try:
            await send(message)
        except (RuntimeError, OSError):
            # The socket has closed; the page reconnects.
            self.detach(send)

    async def _tell_all(self) -> None:
        await self._tell({"type": "begun", "body": self._body, "localizer": self._localizer, "lanes": len(self.lanes)})
        await self._tell({"type": "talk", "lines": self._talk, "from_start": True})
        for number, lane in enumerate(self.lanes):
            await self._tell(self._frame(number, lane))

    async def _tell_frame(self, number: int, lane: Lane) -> None:
        """Shows an X-ray, and then does what can wait: the regions, and the transcript."""
        lane.overlay = None
        await self._tell(self._frame(number, lane))
        await self._run(lane.episode.flush)
        if self._localizer:
            await self._draw_regions_of(lane)
            await self._tell_state(number, lane)

    async def _tell_state(self, number: int, lane: Lane) -> None:
        await self._tell({"type": "lane", "lane": number, "state": lane.state()})

    def _frame(self, number: int, lane: Lane) -> bytes:
        return encode_frame({"type": "frame", "lane": number, "state": lane.state()}, lane.image)
