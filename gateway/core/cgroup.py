"""Where the agents' cgroups are made, and what they are called.

    <the gateway's own cgroup>/fleetgate-<home>.<attempt>      v2; flat, so that there is nothing else to tidy up

Below the gateway's own, because that is the place which a service manager gives to a service to divide (`Delegate=`),
and in which it may move processes without being root. No controller is used, so the gateway and its keepers may stay
where they are: only cgroups that hand out controllers must be empty.
"""

import re
from hashlib import sha256
from pathlib import PurePosixPath

_ESCAPE = re.compile(r"\\([0-7]{3})")


def place(membership: str, mounts: str) -> PurePosixPath | None:
    """Our own cgroup, from /proc/self/cgroup and /proc/self/mountinfo; None: there is none that could be written to.

    >>> place("0::/app.slice\\n", "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\\n")
    PurePosixPath('/sys/fs/cgroup/app.slice')
    """
    own = next((line[3:] for line in membership.splitlines() if line.startswith("0::/")), None)
    if own is None or own.endswith(" (deleted)"):
        return None
    for line in mounts.splitlines():
        ours, _, theirs = line.partition(" - ")
        fields, kind = ours.split(" "), theirs.split(" ")
        if kind[0] != "cgroup2" or len(fields) < 6 or "rw" not in fields[5].split(",") or "ro" in kind[-1].split(","):
            continue
        root, point = PurePosixPath(_plain(fields[3])), PurePosixPath(_plain(fields[4]))
        path = PurePosixPath(own)
        # Above the root of a namespace everything is called `..`: there is no way there from here.
        if ".." not in path.parts and ".." not in root.parts and path.is_relative_to(root):
            return point / path.relative_to(root)
    return None


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def prefix(home: str) -> str:
    """What the cgroups of one gateway's attempts begin with; several gateways may share a place."""
    return f"fleetgate-{sha256(home.encode(errors='surrogateescape')).hexdigest()[:12]}."


def name(home: str, uid: str) -> str:
    return prefix(home) + uid


def is_name(text: str, uid: str) -> bool:
    """Of the cgroup of this attempt, whichever gateway it is of."""
    return re.fullmatch(r"fleetgate-[0-9a-f]{12}\." + re.escape(uid), text) is not None
