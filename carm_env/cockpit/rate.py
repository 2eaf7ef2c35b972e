"""A limit on the rate of messages."""

from __future__ import annotations

import time
from collections.abc import Callable

NOTICE_S = 1.0
"""A sender that is too fast is told so at most once in this time."""
MAX_REFUSED = 2000
"""A sender is disconnected after this number of refused messages without a pause."""


class RateLimit:
    """Allows a number of messages per second, and twice as many in a burst.

    Args:
        per_second: messages per second.
        clock: returns the time in seconds.

    Attributes:
        refused: messages that were refused since the last one that was allowed after a full pause.

    >>> limit = RateLimit(2.0, clock=lambda: 0.0)
    >>> [limit.allows() for _ in range(6)]
    [True, True, True, True, False, False]
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._clock = per_second, clock
        self._burst = 2 * per_second
        self._left, self._last = self._burst, clock()
        self._noticed: float | None = None
        self.refused = 0

    def allows(self) -> bool:
        """Counts a message; returns whether it may be answered."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._last) * self._per_second)
        self._last = now
        if self._left >= self._burst:
            self.refused = 0
        if self._left < 1:
            self.refused += 1
            return False
        self._left -= 1
        return True

    def is_notice_due(self) -> bool:
        """Returns whether the sender is to be told now that it is too fast."""
        now = self._clock()
        if self._noticed is not None and now - self._noticed < NOTICE_S:
            return False
        self._noticed = now
        return True
