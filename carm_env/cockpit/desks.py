"""Desks: what a page works on and the disk keeps, such as an annotation or a study.

A desk belongs to one page at a time. Its state is on the disk after every message, so a page that reconnects, also to a
server that was killed and started again, opens the desk again and continues. A page that opens the desk of another
page takes it away from that one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol, TypeVar

from carm_env.cockpit.connection import Connection, DisconnectedError, Outgoing
from carm_env.cockpit.parsing import parse
from carm_env.cockpit.refusals import FULL, TURN, RefusedError, refusal_of

log = logging.getLogger("carm_env.cockpit")
Result = TypeVar("Result")
OPEN = "open"
"""Value of ``type`` of the message that opens a desk; its class has a property `key`."""


class Desk(Protocol):
    """What a page works on. The methods may block; they are called one after the other."""

    def show(self) -> Sequence[Outgoing]:
        """Returns everything that a page shows which has just opened the desk."""

    def answer(self, message: Any) -> Sequence[Outgoing]:
        """Carries out a message and returns what the page is sent; its changes are on the disk by then."""

    def close(self) -> None:
        """Lets another page or process open the desk."""


class _Seat:
    """A desk and the page that uses it."""

    def __init__(self, key: Hashable, connection: Connection) -> None:
        self.key, self.connection = key, connection
        self.desk: Desk | None = None
        self.lock = asyncio.Lock()


class Desks:
    """The desks of one kind that are in use.

    Args:
        what: the kind, as sentences name it, such as ``annotation``.
        limit: number of pages that are served at once.
        pool: runs what takes longer than a millisecond.
        messages: from the value of ``type`` to the class of the message; `OPEN` is one of them.
        make: constructs a desk for the message that opens it.
        busy: a sentence for the page while the desk is constructed.
    """

    def __init__(
        self,
        what: str,
        limit: int,
        pool: Executor,
        messages: Mapping[str, type[Any]],
        make: Callable[[Any], Desk],
        busy: str,
    ) -> None:
        self._what, self._limit, self._pool = what, limit, pool
        self._messages, self._make, self._busy = messages, make, busy
        self._seats: dict[Hashable, _Seat] = {}
        self._closing: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._seats)

    async def serve(self, connection: Connection) -> None:
        """Answers the messages of a page until it disconnects.

        Raises:
            DisconnectedError: the page has gone.
        """
        seat: _Seat | None = None
        try:
            while True:
                text = await connection.receive()
                if text is None:
                    continue
                try:
                    message = parse(text, self._messages)
                    if isinstance(message, self._messages[OPEN]):
                        await self._leave(seat)
                        seat = None
                        seat = await self._open(connection, message)
                    elif seat is None:
                        raise RefusedError(TURN, f"No {self._what} is open yet: open one first.")
                    else:
                        await self._answer(seat, message)
                except DisconnectedError:
                    raise
                except Exception as error:
                    refusal = refusal_of(error)
                    log.warning("%s: message refused: %s", self._what, refusal.reason)
                    await connection.refuse(refusal)
        finally:
            await self._leave(seat)

    async def _open(self, connection: Connection, message: Any) -> _Seat:
        while (taken := self._seats.get(message.key)) is not None:
            try:
                await taken.connection.take_away(self._what)
            except DisconnectedError:
                log.info("%s: the page that had it is gone", self._what)
            await self._leave(taken)
        if len(self._seats) >= self._limit:
            raise RefusedError(
                FULL,
                f"{self._limit} pages of this kind are open, and the server serves no more: close one, or start the "
                "server with a higher --max-sessions.",
            )
        seat = _Seat(message.key, connection)
        self._seats[seat.key] = seat
        try:
            async with seat.lock:
                await connection.send({"type": "busy", "text": self._busy})
                seat.desk = await self._run(self._make, message)
            await self._send(seat, seat.desk.show)
        except BaseException:
            await self._leave(seat)
            raise
        log.info("%s: opened (%d of %d)", self._what, len(self), self._limit)
        return seat

    async def _answer(self, seat: _Seat, message: Any) -> None:
        desk = seat.desk
        if desk is None:
            raise DisconnectedError("Another page took the desk.")
        await self._send(seat, lambda: desk.answer(message))

    async def _send(self, seat: _Seat, answers: Callable[[], Sequence[Outgoing]]) -> None:
        async with seat.lock:
            if seat.desk is None:
                raise DisconnectedError("Another page took the desk.")
            for answer in await self._run(answers):
                await seat.connection.send(answer)

    async def _leave(self, seat: _Seat | None) -> None:
        """Closes the desk of a seat, after the message that is being answered."""
        if seat is None:
            return
        # The desk is closed to the end also if the page's task is cancelled meanwhile.
        closing = asyncio.ensure_future(self._close(seat))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.shield(closing)

    async def _close(self, seat: _Seat) -> None:
        async with seat.lock:
            desk, seat.desk = seat.desk, None
            try:
                if desk is not None:
                    await self._run(desk.close)
            finally:
                # Not before: a page that comes back at once waits here until the files are free.
                if self._seats.get(seat.key) is seat:
                    del self._seats[seat.key]

    async def _run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*arguments))
