"""Decisions of policies in threads of their own, so that one that never comes does not stop a run."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from carm_env.evaluation.policy import Policy
from carm_env.system.threads import torch_threads


class DecisionThread:
    """A thread that makes the decisions of one episode after the other.

    It stays the same from decision to decision, because torch keeps its own threads for each thread that calls it. A
    thread cannot be ended: after a decision that did not come in time the object is discarded, and the call goes on
    until the process ends.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="decisions", daemon=True).start()

    def _run(self) -> None:
        while (order := self._calls.get()) is not None:
            call, future = order
            try:
                future.set_result(call())
            except BaseException as error:  # the caller raises it
                future.set_exception(error)
            # Nothing of a decision stays in memory until the next one.
            del call, future, order

    def close(self) -> None:
        """Ends the thread after the decisions that were submitted."""
        self._calls.put(None)

    def submit(
        self, policy: Policy, observation: Any, info: Mapping[str, Any], prepare: Callable[[], None]
    ) -> Future[tuple[Any, float]]:
        """Starts a decision.

        Args:
            policy: the policy.
            observation: what it decides on.
            info: the environment's info, of which it receives the visible part.
            prepare: is called before the decision.

        Returns:
            What the policy returned, and the seconds that it took, without those of `prepare`.
        """
        future: Future[tuple[Any, float]] = Future()

        def decide() -> tuple[Any, float]:
            try:
                with torch_threads(policy.max_threads):
                    prepare()
                    started = time.perf_counter()
                    decision = policy.act(observation, policy.visible_info(info))
            except SystemExit as error:
                # It would end the run without a word.
                raise RuntimeError(f"the policy exited with {error.code!r}.") from error
            return decision, time.perf_counter() - started

        self._calls.put((decide, future))
        return future
