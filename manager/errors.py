"""What can go wrong in the manager.

FleetError
├── Refused           theirs: the caller asked for something that cannot be; has a status and a stable code
│   ├── NotFound      404
│   ├── Conflict      409
│   ├── Invalid       400
│   ├── TooMuch       413, 429
│   └── Forbidden     401, 403
├── Stale             an attempt, generation or state that is not the current one: drop it, say so
└── StoreUnavailable  the world's: disk full, database locked; nothing was changed; try again
"""

from typing import ClassVar


class FleetError(Exception):
    """Base of everything the manager raises on purpose."""


class Refused(FleetError):
    """The request cannot be carried out; `detail` says why and `hint` what to do."""

    status: ClassVar[int] = 400
    code: str = "BAD_REQUEST"

    def __init__(
        self, detail: str, *, code: str | None = None, hint: str | None = None, field: str | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.hint = hint
        self.field = field


class Invalid(Refused):
    """The request is not well formed."""

    status = 400
    code = "INVALID"


class Forbidden(Refused):
    """This principal may not do that."""

    status = 403
    code = "FORBIDDEN"


class NotFound(Refused):
    """There is no such thing."""

    status = 404
    code = "NOT_FOUND"


class Conflict(Refused):
    """It cannot be done in this state."""

    status = 409
    code = "CONFLICT"


class TooLarge(Refused):
    """More bytes than we take."""

    status = 413
    code = "TOO_LARGE"


class TooMany(Refused):
    """A limit is reached; try later."""

    status = 429
    code = "TOO_MANY"


class Stale(FleetError):
    """The attempt or connection that speaks is not the current one; nothing was changed."""


class StoreUnavailable(FleetError):
    """The database did not take the change; nothing was changed. `code`: DISK_FULL, IO_ERROR, LOCKED, CORRUPT,
    READ_ONLY, NEWER (written by a newer Fleetgate), IN_USE (by another manager), CLOSED or UNAVAILABLE.
    """

    def __init__(self, detail: str, *, code: str = "UNAVAILABLE") -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
