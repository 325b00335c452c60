"""The lease of this host: until when it may count on the manager taking it for alive.

    opened(sent)        a connection; `sent` is when its `register` was said
    granted(terms)      the manager's welcome; None: it knows no leases
    said(sent)          a sign of life is on its way
    acknowledged(sent)  the manager has written it down

All times are CLOCK_BOOTTIME of this machine in ms: it cannot be set, goes on in suspend and is the same for every
process. The lease counts from when we said what was acknowledged, not from when we heard of that: the manager, which
counts from when it heard us, is always the later one to give up.

Invariant: only what was said on this connection, and was not acknowledged yet, can prolong it.
"""

from collections import deque
from typing import Final

from shared_types.messages import LeaseTerms

KILL_BUDGET_MS: Final = 15_000  # what our keepers may need, from `until` until nothing of the agent is left
REMEMBERED: Final = 1_000  # signs of life without an answer; what is forgotten prolongs nothing


class Lease:
    """Without terms there is none: everything is fresh and nothing ends by itself."""

    def __init__(self) -> None:
        self._terms: LeaseTerms | None = None
        self._ok = 0
        self._said: deque[int] = deque(maxlen=REMEMBERED)

    def __repr__(self) -> str:
        return "<Lease none>" if self._terms is None else f"<Lease from {self._ok} ttl={self._terms.ttl}>"

    def opened(self, sent: int | None) -> None:
        """`sent` None: we did not say when, so nothing can be granted."""
        self._said = deque([] if sent is None else [sent], maxlen=REMEMBERED)

    def granted(self, terms: LeaseTerms | None) -> None:
        """From the `register` of this connection on."""
        self._terms = terms if self._said else None
        if self._terms is not None:
            self.acknowledged(self._said[0])

    def said(self, sent: int) -> None:
        if self._terms is not None:
            self._said.append(sent)

    def acknowledged(self, sent: int) -> bool:
        """False: it is no answer to anything, and changes nothing."""
        if sent not in self._said:
            return False
        while self._said and self._said[0] <= sent:
            self._said.popleft()
        self._ok = max(self._ok, sent)
        return True

    def is_fresh(self, now: int) -> bool:
        return self._terms is None or now <= self._ok + self._terms.ttl

    def until(self, grace: int | None) -> int | None:
        """When an agent must begin to end that may go on for `grace` ms without a lease; None: never. A manager that
        counts on less time for killing than our keepers need is obeyed by beginning earlier.
        """
        if self._terms is None or grace is None:
            return None
        return self._ok + self._terms.ttl + grace - max(0, KILL_BUDGET_MS - self._terms.kill_budget)
