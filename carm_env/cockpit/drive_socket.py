"""The socket of the page on which a person drives, watches and talks."""

from __future__ import annotations

import asyncio
import logging

from carm_env.cockpit.connection import Connection
from carm_env.cockpit.messages import Hello, parse_message
from carm_env.cockpit.refusals import EXPIRED, MESSAGE, RATE, TAKEN, RefusedError
from carm_env.cockpit.session import Session
from carm_env.cockpit.store import SessionStore

log = logging.getLogger("carm_env.cockpit")
_HELLO_S = 10.0
_MAX_PENDING = 64


class DriveSocket:
    """Passes the messages of a page to its session.

    Args:
        connection: the page.
        store: the sessions of the server.
    """

    def __init__(self, connection: Connection, store: SessionStore) -> None:
        self._connection, self._store = connection, store
        self._pending: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answers the messages of the page until it disconnects.

        Raises:
            DisconnectedError: the page has gone.
            TimeoutError: the page does not say hello.
        """
        session = await self._greet()
        if session is None:
            await self._connection.close(fault=True)
            return
        send = self._connection.send
        await session.attach(send)
        try:
            while session.owns(send):
                text = await self._connection.receive()
                if text is not None and session.owns(send):
                    await self._dispatch(session, text)
            # Another tab took the session; this one waits, and can take it back by connecting again.
            await self._connection.refuse(RefusedError(TAKEN, "This session was opened in another tab or window."))
            await self._connection.close()
        finally:
            session.detach(send)

    async def _greet(self) -> Session | None:
        """Opens or finds the session of the page; None if it is refused."""
        text = await asyncio.wait_for(self._connection.receive(), _HELLO_S)
        try:
            message = parse_message(text or "")
            if not isinstance(message, Hello):
                raise RefusedError(MESSAGE, "The first message has to be hello.")
            if not message.session:
                return self._store.open()
            try:
                return self._store.find(message.session)
            except RefusedError as error:
                log.warning("session refused: %s", EXPIRED)
                await self._connection.refuse(error)
                return self._store.open()
        except RefusedError as error:
            log.warning("page refused: %s", error.reason)
            await self._connection.refuse(error)
            return None

    async def _dispatch(self, session: Session, text: str) -> None:
        try:
            message = parse_message(text)
            if isinstance(message, Hello):
                raise RefusedError(MESSAGE, "hello is only the first message.")
            if len(self._pending) >= _MAX_PENDING:
                raise RefusedError(RATE, f"{_MAX_PENDING} messages wait for an answer: this one is left out.")
        except RefusedError as error:
            log.warning("session %s: message refused: %s", session.label, error.reason)
            await self._connection.refuse(error)
            return
        # Not awaited: a person can take over while a policy decides.
        task = asyncio.create_task(session.answer(message))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
