"""The sessions of a server: bounded in number, and ended when nobody uses them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor

from carm_env.cockpit.offers import Offers
from carm_env.cockpit.refusals import EXPIRED, FULL, RefusedError
from carm_env.cockpit.session import Session
from carm_env.cockpit.settings import CockpitSettings

log = logging.getLogger("carm_env.cockpit")


class SessionStore:
    """The sessions of a server.

    Args:
        settings: settings of the server.
        offers: policies and localisers.
        pool: runs what takes long.
        clock: returns the time in seconds.
    """

    def __init__(
        self, settings: CockpitSettings, offers: Offers, pool: Executor, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._offers, self._pool, self._clock = settings, offers, pool, clock
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def ids(self) -> list[str]:
        """Names of the sessions."""
        return list(self._sessions)

    def open(self) -> Session:
        """Returns a new session; one that nobody is connected to gives way.

        Raises:
            RefusedError: as many pages are connected as there may be sessions.
        """
        self._expire()
        if len(self._sessions) >= self._settings.max_sessions:
            idle = [session for session in self._sessions.values() if not session.is_connected]
            if not idle:
                raise RefusedError(
                    FULL,
                    f"{len(self._sessions)} pages are open, and the server keeps no more: close one, or start the "
                    "server with a higher --max-sessions.",
                )
            self._end(min(idle, key=lambda session: session.last_used))
        session = Session(self._settings, self._offers, self._pool)
        self._sessions[session.id] = session
        log.info("session %s: opened (%d of %d)", session.label, len(self), self._settings.max_sessions)
        return session

    def find(self, name: str) -> Session:
        """Returns a session by its id.

        Raises:
            RefusedError: there is none, or it has expired.
        """
        self._expire()
        session = self._sessions.get(name)
        if session is None:
            raise RefusedError(
                EXPIRED,
                "This session has expired, or the server was restarted: start a new episode. Finished steps are in "
                "the transcripts.",
            )
        return session

    def _expire(self) -> None:
        oldest = self._clock() - 60 * self._settings.session_minutes
        for session in list(self._sessions.values()):
            if not session.is_connected and session.last_used < oldest:
                self._end(session)

    def _end(self, session: Session) -> None:
        del self._sessions[session.id]
        session.close()
        log.info("session %s: ended, it was not used", session.label)
