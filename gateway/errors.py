"""What can go wrong in the gateway.

GatewayError
├── BadSettings        the owner's: a setting is wrong; names the key; exit code 78
├── Revoked            the manager's: this host may not come back; exit code 77
├── NotWelcome         the manager's: refused for now; try again every 5 minutes
├── LinkLost           the world's: no connection to the manager; dial again
├── CannotRun          the task's: refused with a stable reason; nothing was spawned
├── NoAnswer           the world's: a file system that does not answer in time
├── AlreadyStarted     ours: an attempt is started at most once; adopt it instead
├── KeeperLost         the world's: the keeper of an attempt is gone
└── KeeperTooNew       the owner's: a gateway of a newer release has started it; upgrade, or wait until it has ended
"""


class GatewayError(Exception):
    """Base of everything the gateway raises on purpose."""


class BadSettings(GatewayError):
    """A setting is wrong."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key


class Revoked(GatewayError):
    """The manager says that this host's credential is revoked for good."""


class NotWelcome(GatewayError):
    """The manager refuses this gateway: bad token, wrong host id, or a protocol it cannot speak."""


class LinkLost(GatewayError):
    """The connection to the manager could not be made, or is gone."""


class CannotRun(GatewayError):
    """This host will not run the task. `reason` is one of shared_types.tasks.Reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class NoAnswer(GatewayError):
    """A file system does not answer in time."""


class AlreadyStarted(GatewayError):
    """This attempt was started before, whatever became of it."""


class KeeperTooNew(GatewayError):
    """The keeper of this attempt was started by a newer release, and keeps to a contract that we do not know."""

    def __init__(self, uid: str, contract: int, known: int) -> None:
        super().__init__(
            f"the keeper of attempt {uid} is of a newer release: it keeps to contract {contract}, this gateway knows up"
            f" to {known}"
        )


class KeeperLost(GatewayError):
    """The keeper of an attempt ended without an exit record."""
