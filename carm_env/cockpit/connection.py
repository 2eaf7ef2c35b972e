"""The connection to one page: its messages, bounded in rate, and what it is sent."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from carm_env.cockpit.rate import MAX_REFUSED, RateLimit
from carm_env.cockpit.refusals import MESSAGE, RATE, TAKEN, RefusedError

log = logging.getLogger("carm_env.cockpit")
Outgoing = dict[str, Any] | bytes
"""A message to a page: JSON, or a frame (`carm_env.cockpit.frames`)."""
_POLICY_VIOLATION = 1008


class DisconnectedError(ConnectionError):
    """The page has gone, or was disconnected."""


class Socket(Protocol):
    """The part of Starlette's WebSocket that a connection uses."""

    async def receive(self) -> Mapping[str, Any]:
        """Returns the next event."""

    async def send_bytes(self, data: bytes) -> None:
        """Sends a binary message."""

    async def send_text(self, data: str) -> None:
        """Sends a text."""

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Closes the socket."""


class Connection:
    """One page that is connected.

    Args:
        socket: its socket, accepted.
        messages_per_second: messages that are answered in a second.
    """

    def __init__(self, socket: Socket, messages_per_second: float) -> None:
        self._socket = socket
        self._rate = RateLimit(messages_per_second)
        self._sending = asyncio.Lock()

    async def send(self, message: Outgoing) -> None:
        """Sends a message.

        Raises:
            DisconnectedError: the page has gone.
        """
        text = "" if isinstance(message, bytes) else json.dumps(message, allow_nan=False)
        async with self._sending:
            try:
                if isinstance(message, bytes):
                    await self._socket.send_bytes(message)
                else:
                    await self._socket.send_text(text)
            except Exception as error:
                # Which class of exception says so depends on the server.
                raise DisconnectedError("The page has gone.") from error

    async def refuse(self, error: RefusedError) -> None:
        """Tells the page what was refused."""
        await self.send({"type": "refused", "reason": error.reason, "text": str(error)})

    async def receive(self) -> str | None:
        """Returns the next message; None for one that is refused.

        Raises:
            DisconnectedError: the page has gone, or did not slow down.
        """
        try:
            received = await self._socket.receive()
        except RuntimeError as error:
            # It was closed from this side.
            raise DisconnectedError("The page was disconnected.") from error
        if received["type"] == "websocket.disconnect":
            raise DisconnectedError("The page has gone.")
        if not self._rate.allows():
            await self._slow_down()
            return None
        text = received.get("text")
        if text is None:
            log.warning("message refused: %s", MESSAGE)
            await self.refuse(RefusedError(MESSAGE, "A message is binary, expected text."))
            return None
        return str(text)

    async def close(self, reason: str = "", fault: bool = False) -> None:
        """Closes the connection.

        Args:
            reason: why.
            fault: whether the page did what it must not.
        """
        try:
            await self._socket.close(_POLICY_VIOLATION if fault else 1000, reason[:120])
        except Exception as error:
            raise DisconnectedError("The page has gone.") from error

    async def take_away(self, what: str) -> None:
        """Tells the page that another one has taken its place, and closes the connection."""
        text = f"This {what} was opened in another tab or window."
        await self.send({"type": "taken", "reason": TAKEN, "text": text})
        await self.close(TAKEN)

    async def _slow_down(self) -> None:
        if self._rate.is_notice_due():
            log.warning("message refused: %s", RATE)
            await self.refuse(
                RefusedError(RATE, "Too many messages in a second: this one and the next ones are left out. Slow down.")
            )
        if self._rate.refused > MAX_REFUSED:
            log.warning("page disconnected: %s", RATE)
            await self.close(RATE, fault=True)
            raise DisconnectedError("The page did not slow down.")
