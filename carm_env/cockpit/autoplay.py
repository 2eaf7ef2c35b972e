"""Lets the policies of a session drive on at a set pace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable


class Autoplay:
    """Steps that follow one another until they are paused, or until no policy can decide.

    Args:
        step: makes a step; returns whether there can be another one.
        tell: is told when it starts and stops.
        refuse: is told the error that stopped it.

    Attributes:
        is_on: whether another step follows.
    """

    def __init__(
        self,
        step: Callable[[], Awaitable[bool]],
        tell: Callable[[bool], Awaitable[None]],
        refuse: Callable[[Exception], Awaitable[None]],
    ) -> None:
        self.is_on = False
        self._step, self._tell, self._refuse = step, tell, refuse
        self._task: asyncio.Task[None] | None = None
        self._paused = asyncio.Event()

    async def start(self, pace_s: float) -> None:
        """Starts, at another pace if it runs already.

        Args:
            pace_s: pause between two steps, s.
        """
        if self._task is not None and not self._task.done():
            self.pause()
            await self._task
        self.is_on = True
        self._paused.clear()
        self._task = asyncio.create_task(self._run(pace_s))

    def pause(self) -> None:
        """Stops after the step that is being made."""
        self.is_on = False
        self._paused.set()

    async def _run(self, pace_s: float) -> None:
        try:
            await self._tell(True)
            while self.is_on and await self._step():
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._paused.wait(), pace_s)
        except Exception as error:
            await self._refuse(error)
        finally:
            self.is_on = False
            await self._tell(False)
