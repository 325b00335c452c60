"""The keeper of one agent: a small process of its own that starts the agent, writes down all it says, and ends it.

    python -I -S keeper.py < spec.json        the first process forks twice and stays only to report the start

It outlives the gateway: nothing here needs one, so an agent goes on while its gateway is restarted, crashed or
upgraded, and its time limits hold with nobody there. It imports nothing of ours (what runs is what was started,
whatever has been installed since), has one thread and one loop, and asks the operating system, not itself, for truth.

    the attempt's directory    lock        held for life: who holds it lives
                               state.json  made before the agent is started, once: an attempt starts at most once
                               journal     gateway/core/journal.py says what its bytes mean
                               ctl.sock    one JSON per line: hello, write, note, stop, lease; `{"seq": n}`: the
                                           journal grew
                               exit.json   how it ended, even when the disk had no room for the journal's last record
                               keeper.log  only if the keeper itself fails

The contract with gateways, which may be of any other release; `v` is in state.json, hello and exit.json
* For ever, whatever `v` says: the lock; v, pid, startTime, bootId of state.json; SIGTERM to the keeper ends its agent.
* Without a new `v`: more requests (who does not know one answers `bad_request`), fields, notes and flags. Everybody
  passes over what he does not know, and does without what the other does not.
* A new `v`: where a gateway that does not know it would take something for what it is not. A gateway knows every `v`
  up to its own; a keeper of a newer one it leaves alone, and says so (gateway/runtime/process.py).
All that we need is loaded before the first fork: neither we nor the interpreter need be on the disk any more.

Invariants
* Everything the agent says is read, always; what cannot be kept is counted. Memory does not grow with it.
* A write to the agent is in the journal before its first byte is written, once for each key. Should the keeper die
  in between, the agent dies with it (PR_SET_PDEATHSIG), so nobody ever writes it twice.
* A secret that we were told of does not reach the disk, in none of the forms that Masks knows. A record that was
  masked says how often in its flags.
* After every end, also a normal one, nothing of the agent's tree is left. Orphans come to us (child subreaper) and
  only children of ours are signalled, whose pids cannot be used again before we reap them. When the kernel says that
  we have no child, there is no descendant; what left the tree some other way carries our cookie in its environment.
  Where there are cgroups (v2) the agent is born in one of its own, in which we are not: what is in there is killed
  at once, whatever it did to be alone, and the gateway can do it when we are dead.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # no stubs: `signal` without names for its numbers, which take long
import binascii
import ctypes
import errno
import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import time
from zlib import crc32

TYPE_CHECKING = False  # `typing` costs milliseconds at every start
if TYPE_CHECKING:
    from collections.abc import Callable

# What the first process exits with.
STARTED, BAD_SPEC, NOT_SPAWNED, BROKEN, BUSY, SPENT = 0, 64, 69, 70, 75, 76

VERSION = 1
COOKIE = "FLEETGATE_ATTEMPT"
OUT, ERR, IN, NOTE, EXIT, GAP = 1, 2, 3, 4, 5, 6
PARTIAL = 1
MASKED = 1  # the flags' other bits: how often the record was masked
MOST_MASKED = 127
OUTER, INNER = struct.Struct("<II"), struct.Struct("<QQBB")
HEADER_SIZE = OUTER.size + INNER.size
SLICE = 256 * 1024
CHUNK = 64 * 1024
CHUNKS = 1024  # at once, where a writer could keep us for ever
MAX_KEY = 256
MAX_WRITE = 4 * 1024 * 1024
MAX_NOTE = 4096
CODES = ("note", "reason", "by", "code", "inputId")  # of a note: never masked, for programs compare them
MAX_REQUEST = 6 * 1024 * 1024
MAX_WAITING = 8 * 1024 * 1024  # for an agent that does not read
MAX_PEERS = 32
RESERVE = 64 * 1024
MIN_SECRET, MAX_SECRET = 6, 8 * 1024  # characters: what is shorter stands everywhere

SIGNALS = tuple(int(number) for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP))

MAX_GRACE_MS = 24 * 3600 * 1000

LINGER_S = 2.0  # how long what holds stdout may go on after the agent
LEFTOVER_S = 1.0  # between TERM and KILL for what the agent left behind
SYNC_S = 1.0
RETRY_S = 1.0  # after the disk was full
HINT_S = 0.002
SWEEP_S = 0.01
REAP_S = 5.0
LOOK_S = 0.05  # into a file of which nobody tells us that it grew
OWN_TIME = 2 / 3  # of the kill budget: what an agent gets to end by itself when its lease is over
NEVER = float("inf")

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
CLONE3, CLONE_INTO_CGROUP = 435, 0x200000000
IN_MODIFY = 2
TIMER_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
TIMER_ABSTIME = 1

monotonic = time.monotonic


def boottime() -> float:
    """In seconds; goes on while the machine sleeps, and is the same for every process of it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_REALTIME) // 1_000_000


def complain(sentence: str) -> None:
    """Into keeper.log, for people."""
    try:
        os.write(2, f"{wall_ms()} {sentence}\n".encode(errors="replace"))
    except OSError:  # the log is on the disk that we complain about: there is nobody left to tell
        return


def start_time(pid: int | str) -> int:
    """In clock ticks since boot: with the pid, an identity that is never used again."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return int(stat.read().rpartition(b")")[2].split()[19])


# --- what is asked ----------------------------------------------------------------------------------------------


class Spec:
    """What to start and how, from JSON. Raises ValueError, KeyError or TypeError for anything else."""

    def __init__(self, raw: bytes) -> None:
        said = json.loads(raw)
        if said["v"] != VERSION:
            raise ValueError(f"a spec of version {said['v']!r}")
        self.directory = self.text(said["dir"])
        self.uid = self.text(said["uid"])
        self.argv = [self.text(word) for word in said["argv"]]
        self.env = {self.text(name): self.text(value) for name, value in said["env"].items()}
        self.cwd = self.text(said["cwd"])
        self.roots = [self.text(root) for root in said["roots"]]
        self.stdin = self.text(said["stdin"])
        self.input = binascii.a2b_base64(said["input"])
        self.stdout_to_file = bool(said["stdoutToFile"])
        self.run_s = self.seconds(said["runMs"])
        self.idle_s = self.seconds(said["idleMs"])
        self.first_output_s = self.seconds(said["firstOutputMs"])
        self.grace_s = self.seconds(said["graceMs"])
        self.budget_s = self.seconds(said["budgetMs"])
        self.until = self.seconds(said.get("untilMs"))  # gateways before leases do not say it
        self.cap = int(said["capBytes"])
        self.secrets = [self.text(secret) for secret in said["secrets"]]
        self.cgroup = None if said["cgroup"] is None else self.text(said["cgroup"])
        self.nice = int(said["nice"])
        self.oom_score_adj = None if said["oomScoreAdj"] is None else int(said["oomScoreAdj"])
        if not self.argv or not self.uid or self.stdin not in ("pipe", "once", "null"):
            raise ValueError("an empty argv, no uid or an unknown way of stdin")
        self.env[COOKIE] = self.uid

    @staticmethod
    def text(value: object) -> str:
        if not isinstance(value, str) or "\0" in value:
            raise ValueError(f"not a text without NUL: {type(value).__name__}")
        return value

    @staticmethod
    def seconds(value: float | None) -> float:
        return NEVER if value is None else value / 1000


class CannotStart(Exception):
    """The agent was not started; `reason` is one of the stable codes."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


# --- what is not kept -------------------------------------------------------------------------------------------


def percent(text: bytes, safe: bytes, form: bytes = b"%%%02X") -> bytes:
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~" + safe
    if not text.translate(None, plain):
        return text
    return b"".join(bytes([byte]) if byte in plain else form % byte for byte in text)


def forms_of(secret: str) -> set[bytes]:
    """A text as it may be said: plain, in JSON (and that in JSON), in a URL, in base64, also amidst of other text."""

    def in_json(text: str) -> set[str]:
        forms = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        return forms | {form.replace("/", "\\/") for form in forms}

    once = {secret} | in_json(secret)
    forms = {form.encode(errors="surrogateescape") for text in once for form in {text} | in_json(text)}
    raw = secret.encode(errors="surrogateescape")
    for safe in (b"", b"/", b"!'()*"):
        url = percent(raw, safe)
        forms |= {url, url.replace(b"%20", b"+"), percent(raw, safe, b"%%%02x")}
    for before in (0, 1, 2):
        coded = binascii.b2a_base64(bytes(before) + raw, newline=False)
        inside = coded[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]  # what does not depend on its neighbours
        for form in (inside, coded.rstrip(b"="), coded) if before == 0 else (inside,):
            forms |= {form, form.replace(b"+", b"-").replace(b"/", b"_")}
    return forms


class Masks:
    """Puts MASK in the place of secrets. One that has several lines is looked for line by line, too; a very long one
    in pieces, so that what is kept back at the end of a slice stays short.
    """

    MASK = b"***"

    def __init__(self, secrets: list[str]) -> None:
        whole = {text for secret in secrets for text in (secret, *secret.splitlines())}
        texts = {text[start : start + MAX_SECRET] for text in whole for start in range(0, len(text), MAX_SECRET)}
        forms: set[bytes] = set()
        for text in texts:
            if len(text) >= MIN_SECRET and not text.isspace():
                forms |= forms_of(text)
        self.forms = sorted(forms, key=len, reverse=True)  # the longest that is there is meant
        self.longest = max(map(len, forms), default=0)
        self.anywhere: re.Pattern[bytes] | None = None  # made when one was found: it costs a start most of a ms

    def spans(self, text: bytes) -> list[tuple[int, int]]:
        """Where they are, from the left; those that overlap are one."""
        spans: list[tuple[int, int]] = []
        if self.anywhere is None:
            self.anywhere = re.compile(b"(?=(%s))" % b"|".join(map(re.escape, self.forms)))
        for found in self.anywhere.finditer(text):
            start, end = found.span(1)
            if spans and start < spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        return spans

    def is_in(self, text: bytes) -> bool:
        return any(form in text for form in self.forms)

    def mask(self, text: bytes) -> tuple[bytes, int]:
        """And how many there were."""
        spans = self.spans(text) if self.is_in(text) else []
        parts: list[bytes] = []
        at = 0
        for start, end in spans:
            parts += (text[at:start], self.MASK)
            at = end
        return b"".join((*parts, text[at:])), len(spans)

    def mask_facts(self, facts: dict[str, object]) -> tuple[dict[str, object], int]:
        """The texts in it but the codes, which programs compare."""
        count = 0

        def masked(value: object, name: str = "") -> object:
            nonlocal count
            if isinstance(value, dict):
                return {key: masked(inner, str(key)) for key, inner in value.items()}
            if isinstance(value, list):
                return [masked(inner) for inner in value]
            if not isinstance(value, str) or name in CODES:
                return value
            text, found = self.mask(value.encode(errors="surrogatepass"))
            count += found
            return text.decode(errors="surrogatepass") if found else value

        return {name: masked(value, name) for name, value in facts.items()}, count

    def cut(self, text: bytes, at: int) -> int:
        """Where it may be cut: at `at`, or before the secret that stands there."""
        for start, end in self.spans(text) if self.is_in(text) else ():
            if start < at < end:
                return start or end
        return at


# --- what is kept -----------------------------------------------------------------------------------------------


class Journal:
    """Numbers and appends records. What does not fit (the cap, a full disk) is counted, and the count is a record."""

    def __init__(self, directory: int, cap: int, masks: Masks | None = None) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self.fd = os.open("journal", flags, 0o600, dir_fd=directory)
        self.directory = directory
        self.cap = cap
        self.masks = masks
        self.seq = 0
        self.size = 0
        self.lost_records = 0
        self.lost_bytes = 0
        self.capped = False
        self.torn = False
        self.retry_at = 0.0  # not 0: the disk was full, do not try again before
        self.sync_at = NEVER

    def reserve(self) -> None:
        """Space for the last words of a run that filled the disk."""
        for name, size in (("reserve", RESERVE), ("exit.tmp", 4096)):
            fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=self.directory)
            try:
                os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)

    def output(self, stream: int, lines: list[bytes], flags: int) -> None:
        if self.capped or monotonic() < self.retry_at or not self._report_gap():
            self._lose(lines)
            return
        size = sum(map(len, lines)) + HEADER_SIZE * len(lines)
        if self.size + size > self.cap:
            self.capped = True
            self.say(NOTE, {"note": "capped", "bytes": self.cap})
            self._lose(lines)
            return
        kept = self._append(stream, lines, flags)
        if kept < len(lines):
            self._lose(lines[kept:])

    def take(self, stream: int, data: bytes, flags: int = 0) -> bool:
        """Something of the gateway's, said to us or to be written to the agent. False: it could not be written down."""
        if not self.capped and not self._report_gap():
            return False
        return self._append(stream, [data], flags) == 1

    def say(self, stream: int, facts: dict[str, object]) -> bool:
        """A word of ours. One that cannot be kept is counted like any other record."""
        data, flags = self.noted(facts) if stream == NOTE else (json.dumps(facts, separators=(",", ":")).encode(), 0)
        if self._append(stream, [data], flags):
            return True
        if stream == NOTE:
            self._lose([data])
        return False

    def noted(self, facts: dict[str, object]) -> tuple[bytes, int]:
        """The data of a note, and its flags."""
        masked = 0
        if self.masks is not None:
            facts, masked = self.masks.mask_facts(facts)
        return json.dumps(facts, separators=(",", ":")).encode(), min(masked, MOST_MASKED) << MASKED

    def finish(self, facts: dict[str, object]) -> None:
        """The last record, and the same in exit.json, which needs no free space at all."""
        self._unlink("reserve")
        self._report_gap()
        at = wall_ms()
        seq = self.seq + 1
        if not self.say(EXIT, facts):
            complain("no room for the exit record: it is only in exit.json")
        self.sync()
        data = json.dumps({"v": VERSION, "seq": seq, "at": at, "facts": facts}).encode()
        fd = os.open("exit.tmp", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=self.directory)
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
        os.fsync(fd)
        os.close(fd)
        os.rename("exit.tmp", "exit.json", src_dir_fd=self.directory, dst_dir_fd=self.directory)
        os.fsync(self.directory)

    def sync(self) -> None:
        self.sync_at = NEVER
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            complain(f"journal: {error}")

    def _append(self, stream: int, lines: list[bytes], flags: int) -> int:
        """How many of `lines` are kept. All go in one write."""
        at = wall_ms()
        seq = self.seq
        parts: list[bytes] = []
        counts: dict[int, int] = {}
        if self.masks is not None and stream in (OUT, ERR, IN) and self.masks.is_in(b"\n".join(lines)):
            lines, counts = self._masked(stream, lines)
        for line in lines:
            seq += 1
            inner = INNER.pack(seq, at, stream, flags if not counts else flags | counts.get(seq, 0) << MASKED)
            parts += (OUTER.pack(len(line), crc32(line, crc32(inner))), inner, line)
        data = b"".join(parts)
        written = self._write(data)
        if written == len(data):
            self.seq = seq
            self.size += written
            self.retry_at = 0.0
            return len(lines)
        kept = size = 0
        for line in lines:
            if size + HEADER_SIZE + len(line) > written:
                break
            size += HEADER_SIZE + len(line)
            kept += 1
        self.seq += kept
        self.size += size
        self._cut()
        return kept

    def _masked(self, stream: int, lines: list[bytes]) -> tuple[list[bytes], dict[int, int]]:
        """And how often, by the number that a line will have."""
        assert self.masks is not None
        done, counts = [], {}
        for seq, line in enumerate(lines, self.seq + 1):
            key, nul, data = line.partition(b"\0") if stream == IN else (b"", b"", line)
            masked, count = self.masks.mask(data)
            done.append(key + nul + masked)
            counts[seq] = min(count, MOST_MASKED)
        return done, counts

    def _write(self, data: bytes) -> int:
        if self.torn:
            return 0
        now = monotonic()
        try:
            written = os.write(self.fd, data)
        except OSError as error:  # ENOSPC, EDQUOT, EIO, EFBIG: the world's; the agent goes on
            if not self.retry_at:
                complain(f"journal: {error}")
            written = 0
        if written < len(data):
            self.retry_at = now + RETRY_S  # trying at every line would only cost
        if self.sync_at == NEVER:
            self.sync_at = now + SYNC_S
        return written

    def _cut(self) -> None:
        """Nothing but whole records may stand in the journal."""
        try:
            os.ftruncate(self.fd, self.size)
        except OSError as error:
            self.torn = True  # what came behind could not be read: the journal ends here
            complain(f"journal: cannot cut: {error}")

    def _report_gap(self) -> bool:
        """Where something is missing, that is said before anything else is."""
        if self.lost_records and not self.say(GAP, {"records": self.lost_records, "bytes": self.lost_bytes}):
            return False
        self.lost_records = self.lost_bytes = 0
        return True

    def _lose(self, lines: list[bytes]) -> None:
        self.lost_records += len(lines)
        self.lost_bytes += sum(map(len, lines))

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.directory)
        except FileNotFoundError:
            return  # a start that failed before there was one


class Lines:
    """Cuts one stream into lines, and lines into slices, but no secret. Keeps at most one slice back, and behind it
    what one secret is long.
    """

    def __init__(self, journal: Journal, stream: int, masks: Masks | None = None) -> None:
        self.journal = journal
        self.stream = stream
        self.masks = masks
        self.most = SLICE if masks is None else SLICE + masks.longest
        self.carry = bytearray()

    def feed(self, chunk: bytes) -> None:
        """At most CHUNK bytes."""
        if b"\n" not in chunk:
            self.carry += chunk
            if len(self.carry) > self.most:
                self.carry[:] = self.cut(bytes(self.carry))
            return
        lines = (bytes(self.carry) + chunk).split(b"\n")
        self.carry[:] = lines.pop()
        while len(lines[0]) > SLICE:
            lines[0] = self.cut(lines[0])
        self.journal.output(self.stream, lines, 0)

    def cut(self, line: bytes) -> bytes:
        """A slice goes; the rest."""
        at = SLICE if self.masks is None else self.masks.cut(line, SLICE)
        self.journal.output(self.stream, [line[:at]], PARTIAL)
        return line[at:]

    def end(self) -> None:
        """The last line counts, newline or not."""
        line = bytes(self.carry)
        while len(line) > SLICE:
            line = self.cut(line)
        if line:
            self.journal.output(self.stream, [line], 0)
        self.carry.clear()


# --- the agent --------------------------------------------------------------------------------------------------


class Libc:
    """The calls for which the standard library has no words."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fork = ctypes.PyDLL(None, use_errno=True).syscall  # the interpreter is not told: its lock stays with us
        self.libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)

    def prctl(self, option: int, value: int) -> None:
        if self.libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl: {os.strerror(number)}")

    def fork_into(self, cgroup: int) -> int:
        """As os.fork, but the child is born in that cgroup. To move it there costs 20 ms, and leaves it a moment in
        which it could have children somewhere else.
        """
        args = (ctypes.c_uint64 * 11)(CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup)
        pid = int(self.fork(ctypes.c_long(CLONE3), args, ctypes.c_size_t(ctypes.sizeof(args))))
        if pid < 0:
            raise OSError(ctypes.get_errno(), "clone3")
        return pid

    def forget(self, fd: int, size: int) -> None:
        """Give back the disk space of a file's first bytes; where a file system cannot, they stay until the end."""
        self.libc.fallocate(fd, PUNCH_HOLE, 0, size)

    def watch(self, path: str) -> int:
        """-1 when there is no handle for it: a user may have 128, and programs like to take them."""
        fd = int(self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if fd >= 0 and self.libc.inotify_add_watch(fd, os.fsencode(path), IN_MODIFY) < 0:
            os.close(fd)
            return -1
        return fd

    def timer(self) -> int:
        """A handle that becomes readable at a time of CLOCK_BOOTTIME, as soon as the machine wakes after it: what
        poll() waits for stands still in suspend. -1 when the system gives none.
        """
        return int(self.libc.timerfd_create(time.CLOCK_BOOTTIME, TIMER_FLAGS))

    def wake_at(self, fd: int, at: float) -> None:
        """NEVER disarms it. A time that has passed wakes at once."""
        ns = 0 if at == NEVER else max(1, int(at * 1e9) + 1_000)  # never too early: it wakes us once
        value = (ctypes.c_long * 4)(0, 0, ns // 1_000_000_000, ns % 1_000_000_000)
        if self.libc.timerfd_settime(fd, TIMER_ABSTIME, value, None) != 0:
            complain(f"timerfd_settime: {os.strerror(ctypes.get_errno())}")


def enter(spec: Spec) -> int:
    """The working directory, opened, then judged by where it really is: what is judged is what is used."""
    try:
        fd = os.open(spec.cwd, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise CannotStart("cwd_missing", f"{spec.cwd}: {error.strerror}") from error
    real = os.readlink(f"/proc/self/fd/{fd}")
    for root in spec.roots:
        try:
            root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            continue  # a root that does not exist allows nothing
        allowed = os.readlink(f"/proc/self/fd/{root_fd}").rstrip("/")
        os.close(root_fd)
        if real == allowed or real.startswith(allowed + "/"):
            return fd
    os.close(fd)
    raise CannotStart("cwd_not_allowed", f"{spec.cwd} is {real}, which is in no allowed directory")


class Cgroup:
    """The agent's own. Raises OSError where none can be made."""

    def __init__(self, path: str) -> None:
        os.mkdir(path, 0o755)
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def enter(self) -> None:
        """For the child: not even for a moment is it outside with a child of its own."""
        with open(f"{self.path}/cgroup.procs", "wb", buffering=0) as procs:
            procs.write(b"0")

    def kill(self) -> bool:
        """False: nothing lives in it."""
        try:
            return kill_cgroup(self.path)
        except OSError as error:  # the agent may do to it what we may; then we have its tree and its cookie
            complain(f"cgroup: {error}")
            return False

    def remove(self) -> None:
        try:
            remove_cgroup(self.path)
        except OSError as error:  # somebody lives in it who cannot be killed: the gateway tries again
            complain(f"cgroup: {error}")


def fork(libc: Libc, cgroup: Cgroup | None) -> tuple[int, bool]:
    """The child's pid, and whether it must still enter the cgroup."""
    if cgroup is not None:
        try:
            return libc.fork_into(cgroup.fd), False
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOMEM):
                raise  # os.fork would say the same
    return os.fork(), cgroup is not None


class Child:
    """The agent as it was started: its pid and our ends of its pipes."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.stdin = stdin  # -1: it has none
        self.stdout = stdout  # -1: a file
        self.stderr = stderr


def spawn(spec: Spec, libc: Libc, umask: int, stdout_file: int, cgroup: Cgroup | None = None) -> Child:
    """Raises CannotStart; then nothing was started. A cgroup that does not take it is done without."""
    cwd = enter(spec)
    ours: list[int] = []
    theirs: list[int] = [cwd]

    def pipe(to_child: bool) -> tuple[int, int]:
        read, write = os.pipe()
        theirs.append(read if to_child else write)
        ours.append(write if to_child else read)
        os.set_blocking(ours[-1], False)
        return theirs[-1], ours[-1]

    child_stdin, stdin = (os.open(os.devnull, os.O_RDONLY), -1) if spec.stdin == "null" else pipe(True)
    child_stdout, stdout = (stdout_file, -1) if stdout_file >= 0 else pipe(False)
    child_stderr, stderr = pipe(False)
    failure, say_failure = os.pipe()
    us = os.getpid()
    try:
        pid, must_enter = fork(libc, cgroup)
    except OSError as error:
        raise CannotStart("spawn_failed", f"fork: {error.strerror}") from error
    if pid == 0:
        stage = "prepare"
        try:
            signal.set_wakeup_fd(-1)
            os.setsid()
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != us:  # the keeper died before the kernel knew that we want to die with it
                os._exit(127)
            if must_enter and cgroup is not None:
                stage = "cgroup"
                cgroup.enter()
            stage = "cwd"
            os.fchdir(cwd)
            stage = "prepare"
            for fd, number in ((child_stdin, 0), (child_stdout, 1), (child_stderr, 2)):
                os.dup2(fd, number)
            for number in SIGNALS:
                _signal.signal(number, _signal.SIG_DFL)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
            os.umask(umask)
            if spec.nice:
                os.nice(spec.nice)
            if spec.oom_score_adj is not None:
                with open("/proc/self/oom_score_adj", "w") as score:
                    score.write(str(spec.oom_score_adj))
            stage = "exec"
            os.execve(spec.argv[0], spec.argv, spec.env)  # noqa: S606  # no shell is the point
        except OSError as error:
            os.write(say_failure, f"{stage} {error.errno}".encode())
        except BaseException:  # whatever it is, silence would be taken for success
            os.write(say_failure, f"{stage} {errno.EINVAL}".encode())
            raise
        finally:
            os._exit(127)
    for fd in {*theirs, child_stdin, say_failure}:
        os.close(fd)
    failed = os.read(failure, 100)
    os.close(failure)
    if not failed:
        return Child(pid, stdin, stdout, stderr)
    os.waitpid(pid, 0)
    for fd in ours:
        os.close(fd)
    stage, _, number_text = failed.decode().partition(" ")
    number = int(number_text)
    if stage == "cgroup":
        complain(f"cgroup: {os.strerror(number)}")
        return spawn(spec, libc, umask, stdout_file)
    reason = "cwd_not_allowed" if stage == "cwd" else "spawn_failed"
    if stage == "exec" and number in (errno.ENOENT, errno.ENOTDIR):
        reason = "missing_executable"
    raise CannotStart(reason, f"{spec.cwd if stage == 'cwd' else spec.argv[0]}: {os.strerror(number)}")


class Stdin:
    """Our end of the agent's stdin: writes what it takes, keeps the rest."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.waiting: list[memoryview] = []
        self.size = 0
        self.is_closing = False

    @property
    def is_open(self) -> bool:
        return self.fd >= 0 and not self.is_closing

    @property
    def is_read(self) -> bool:
        """Somebody still has the other end, who may read it."""
        poller = select.poll()
        poller.register(self.fd, select.POLLOUT)
        return not any(events & select.POLLERR for _, events in poller.poll(0))

    def put(self, data: bytes, close: bool) -> None:
        if data:
            self.waiting.append(memoryview(data))
            self.size += len(data)
        self.is_closing = self.is_closing or close

    def flush(self) -> str | None:
        """Write what can be written. Answers who closed it, when it was closed just now."""
        while self.waiting:
            try:
                written = os.write(self.fd, self.waiting[0])
            except BlockingIOError:
                return None
            except OSError:  # EPIPE: the agent has closed it, or is gone; that is its right
                self.close()
                return "agent"
            self.size -= written
            if written == len(self.waiting[0]):
                self.waiting.pop(0)
            else:
                self.waiting[0] = self.waiting[0][written:]
        if self.is_closing and self.fd >= 0:
            self.close()
            return "us"
        return None

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
        self.waiting.clear()
        self.size = 0


class OutputFile:
    """A regular file as the agent's stdout, for programs that lose the tail of a pipe when they exit."""

    def __init__(self, directory: int, libc: Libc) -> None:
        self.libc = libc
        self.write_fd = os.open("stdout", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
        self.fd = os.open("stdout", os.O_RDONLY, dir_fd=directory)
        os.unlink("stdout", dir_fd=directory)  # it lives as long as somebody has it open
        self.events = libc.watch(f"/proc/self/fd/{self.fd}")
        self.read_up_to = 0
        self.forgotten = 0

    def read(self) -> bytes:
        chunk = os.pread(self.fd, CHUNK, self.read_up_to)
        self.read_up_to += len(chunk)
        if self.read_up_to - self.forgotten >= 4 * 1024 * 1024:
            self.forgotten = self.read_up_to
            self.libc.forget(self.write_fd, self.forgotten)
        return chunk

    def drain_events(self) -> None:
        try:
            os.read(self.events, 64 * 1024)
        except BlockingIOError:
            return


# --- the tree ---------------------------------------------------------------------------------------------------


def children() -> list[int]:
    """Our children, dead ones too."""
    me = os.getpid()
    try:
        with open(f"/proc/self/task/{me}/children", "rb") as listed:
            return [int(pid) for pid in listed.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [pid for pid in pids() if parent(pid) == me]


def has_children() -> bool:
    """The kernel's own answer, living or dead."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def kill_strays(uid: str) -> list[int]:
    """Kill what left the tree but carries our cookie. The handle is taken before the look, so that what dies in
    between, and whoever gets its pid, is not hit.
    """
    cookie = f"{COOKIE}={uid}".encode()
    me = os.getpid()
    found = []
    for pid in pids():
        if pid == me:
            continue
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            continue  # gone, or a thread's
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:
                if cookie not in environ.read().split(b"\0"):
                    continue
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            found.append(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone, or another user's, which cannot be ours
        finally:
            os.close(handle)
    return found


def kill_cgroup(path: str) -> bool:
    """Kill at once all that is in it and below it. False: nothing is, or there is none. Raises OSError."""
    try:
        with open(f"{path}/cgroup.events", "rb") as events:
            if b"populated 1" not in events.read():
                return False
        with open(f"{path}/cgroup.kill", "wb", buffering=0) as kill:
            kill.write(b"1")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):  # removed just now
            return False
        raise
    return True


def remove_cgroup(path: str) -> None:
    """With those that the agent made in it. Raises OSError."""
    for folder, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue  # by somebody else


def send(pid: int, *signals: int, group: bool = False) -> None:
    for number in signals:
        try:
            (os.killpg if group else os.kill)(pid, number)
        except ProcessLookupError:
            return
        except PermissionError:
            continue  # it has become another user's: counted among the survivors when its time is up


# --- what is due ------------------------------------------------------------------------------------------------

RUNNING, STOPPING, LINGERING, SWEEPING, GONE = "running", "stopping", "lingering", "sweeping", "gone"
BEGIN, KILL, SWEEP, GIVE_UP = "begin", "kill", "sweep", "give_up"


class Life:
    """The agent's way through its keeper, and what is due when. It decides and does nothing: no clock, no process.

    RUNNING    stop, a time limit          STOPPING   BEGIN: TERM and CONT now; after the grace KILL
    RUNNING    the agent exits             LINGERING  what it left may finish its output
    STOPPING   the agent exits             SWEEPING   SWEEP: TERM, KILL, again and again
    LINGERING  output ended, or LINGER_S   SWEEPING
    SWEEPING   no child, no stray          GONE
    any        the kill budget is over     GONE       GIVE_UP: with a note of who survived
    any        the lease is over           STOPPING or SWEEPING, and KILL within the kill budget

    `now` is CLOCK_MONOTONIC, which stands still in suspend: an agent that sleeps with its machine is not idle. `boot`
    is CLOCK_BOOTTIME: the manager does not sleep with it, so a lease goes on. Both in seconds, as everything else.
    """

    def __init__(
        self,
        *,
        run_s: float = NEVER,
        first_output_s: float = NEVER,
        idle_s: float = NEVER,
        grace_s: float = 5.0,
        budget_s: float = 15.0,
        until: float = NEVER,
    ) -> None:
        self.run_s = run_s
        self.first_output_s = first_output_s
        self.idle_s = idle_s
        self.grace_s = grace_s
        self.budget_s = budget_s
        self.until = until
        self.phase = RUNNING
        self.stop_reason: str | None = None
        self.stop_grace_s = 0.0
        self.is_killing = False
        self.is_lease_over = False
        self.started = self.active = 0.0
        self.run_at = self.first_at = self.kill_at = self.linger_until = self.sweep_at = self.give_up_at = NEVER

    # what happened

    def begin(self, now: float) -> None:
        """The agent was started."""
        self.started = self.active = now
        self.run_at = now + self.run_s
        self.first_at = now + self.first_output_s

    def heard(self, now: float) -> None:
        """The agent said something."""
        self.active = now
        self.first_at = NEVER

    def wrote(self, now: float) -> None:
        """The agent was told something: it has not been silent since for long."""
        self.active = now

    def prolong(self, until: float) -> None:
        """The lease lasts until `until`, NEVER: it is lifted. It never goes back; one that is over is over."""
        self.until = until if NEVER in (until, self.until) else max(self.until, until)

    def stop(self, now: float, reason: str, grace_s: float) -> list[str]:
        """TERM, and KILL after the grace. The first reason stays; a later call can only make it quicker."""
        if self.phase == RUNNING:
            self.phase = STOPPING
            self.stop_reason = reason
            self.stop_grace_s = grace_s
            self.kill_at = now + grace_s
            self.give_up_at = self.kill_at + self.budget_s
            return [BEGIN]
        if self.phase == LINGERING:
            self.begin_sweep(now)
        if self.phase != GONE and not self.is_killing:
            self.kill_at = min(self.kill_at, now + grace_s)
        return []

    def exited(self, now: float) -> None:
        """The agent itself has exited."""
        if self.phase == STOPPING:
            self.begin_sweep(now)
        else:
            self.phase = LINGERING
            self.linger_until = now + LINGER_S

    def output_ended(self, now: float) -> None:
        """Nobody holds its output any more."""
        if self.phase == LINGERING:
            self.begin_sweep(now)

    def begin_sweep(self, now: float) -> None:
        self.phase = SWEEPING
        self.linger_until = NEVER
        self.kill_at = now if self.is_killing else min(self.kill_at, now + LEFTOVER_S)
        self.give_up_at = min(self.give_up_at, now + LEFTOVER_S + self.budget_s)
        self.sweep_at = now

    def swept(self, now: float) -> None:
        """Something was left; it is looked at again soon."""
        self.sweep_at = now + SWEEP_S

    def gone(self) -> None:
        """Nothing of its tree is left, or what is left cannot be killed."""
        self.phase = GONE

    # what to do about it

    def is_refused(self, boot: float) -> bool:
        """It must not be started any more."""
        return boot >= self.until

    def due(self, now: float, boot: float) -> list[str]:
        """What is to be done now, in this order."""
        acts = []
        if boot >= self.until and self.phase != GONE:
            acts += self.lease_over(now, boot - self.until)
        if self.phase == RUNNING:
            for at, reason in (
                (self.run_at, "run_timeout"),
                (self.first_at, "start_timeout"),
                (self.active + self.idle_s, "idle_timeout"),
            ):
                if now >= at:
                    acts += self.stop(now, reason, self.grace_s)
                    break
        if self.phase == STOPPING and now >= self.kill_at:
            self.kill_at = NEVER
            self.is_killing = True
            acts.append(KILL)
        if self.phase == STOPPING and now >= self.give_up_at:
            acts.append(GIVE_UP)
        if self.phase == LINGERING and now >= self.linger_until:
            self.begin_sweep(now)
        if self.phase == SWEEPING and now >= self.sweep_at:
            acts.append(SWEEP)
        return acts

    def lease_over(self, now: float, late_s: float) -> list[str]:
        """Most of the kill budget is the agent's own, however it is ended already. Who wakes when that has passed, as
        a machine that slept, kills at once. Looked at again later, for in between the machine may sleep.
        """
        grace_s = max(0.0, min(self.grace_s, self.budget_s * OWN_TIME - late_s))
        if self.is_lease_over and grace_s > 0:
            return []
        self.is_lease_over = True
        return self.stop(now, "lease_expired", grace_s)

    def next_at(self) -> float:
        """When to look again, on the clock of `now`, unless something happens before."""
        due = min(self.linger_until, self.sweep_at, self.give_up_at)
        if self.phase == RUNNING:
            due = min(due, self.run_at, self.first_at, self.active + self.idle_s)
        elif self.phase == STOPPING:
            due = min(due, self.kill_at)
        return due

    def next_boot(self) -> float:
        """When to look again, on the clock of `boot`."""
        if not self.is_lease_over:
            return self.until
        return self.until + self.budget_s * OWN_TIME if self.phase == STOPPING and not self.is_killing else NEVER


# --- the loop ---------------------------------------------------------------------------------------------------


class Peer:
    """One connection to ctl.sock."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.heard = bytearray()
        self.to_say = bytearray()
        self.follows = False
        self.hinted = 0


class Keeper:
    """The loop: hears agent and gateway, and does what Life finds due."""

    def __init__(self, spec: Spec, libc: Libc, journal: Journal, directory: int) -> None:
        self.spec = spec
        self.libc = libc
        self.journal = journal
        self.directory = directory
        self.life = Life(
            run_s=spec.run_s,
            first_output_s=spec.first_output_s,
            idle_s=spec.idle_s,
            grace_s=spec.grace_s,
            budget_s=spec.budget_s,
            until=spec.until,
        )
        self.poller = select.poll()
        self.handlers: dict[int, Callable[[int, int], object]] = {}
        self.lines = {stream: Lines(journal, stream, journal.masks) for stream in (OUT, ERR)}
        self.open: dict[int, int] = {}  # our ends of its output pipes -> stream
        self.file: OutputFile | None = None
        self.cgroup: Cgroup | None = None
        self.peers: dict[int, Peer] = {}
        self.keys: set[str] = set()
        self.hint_at = 0.0
        self.hinted = 0
        self.told_to_end = False
        self.signalled: set[int] = set()
        self.reap_at = self.file_at = NEVER
        self.timer = -1
        self.timer_at = NEVER
        self.code: int | None = None
        self.signal: int | None = None
        self.duration_s = 0.0

    # -- start

    def listen(self) -> None:
        """Before the agent is started: nothing runs that could not be stopped."""
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.listener.bind(f"/proc/self/fd/{self.directory}/ctl.sock")  # never longer than a socket's name may be
        self.listener.listen(MAX_PEERS)
        self.watch(self.listener.fileno(), select.POLLIN, self.on_connect)
        self.woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, self.on_told)
        self.watch(self.woken, select.POLLIN, self.on_wake)

    def start(self, umask: int) -> Child:
        if self.spec.stdout_to_file:
            self.file = OutputFile(self.directory, self.libc)
        if self.spec.stdin == "null":
            self.spec.input = b""
        if self.spec.input and not self.journal.take(IN, b"launch\0" + self.spec.input):
            raise CannotStart("disk_full", "no room for what the agent is to be told")
        if self.life.is_refused(boottime()):
            raise CannotStart("lease_expired", "the manager was not heard of for too long")
        if self.spec.cgroup is not None:
            try:
                self.cgroup = Cgroup(self.spec.cgroup)
            except OSError as error:  # the agent has its tree and its cookie
                complain(f"cgroup: {error}")
        stdout = -1 if self.file is None else self.file.write_fd
        child = spawn(self.spec, self.libc, umask, stdout, self.cgroup)
        self.child = child
        self.leader = child.pid  # 0 when it has been reaped
        self.stdin = Stdin(child.stdin)
        now = monotonic()
        self.life.begin(now)
        self.reap_at = now + REAP_S
        self.watch(child.pidfd, select.POLLIN, self.on_exit)
        if child.stdout >= 0:
            self.open[child.stdout] = OUT
        self.open[child.stderr] = ERR
        for fd in self.open:
            self.watch(fd, select.POLLIN, self.read_output)
        if self.file is not None and self.file.events >= 0:
            self.watch(self.file.events, select.POLLIN, self.on_file)
        elif self.file is not None:
            self.file_at = now
        self.journal.say(NOTE, {"note": "spawned", "pid": child.pid})
        if self.spec.stdin != "null":
            self.keys.add("launch")
            self.stdin.put(self.spec.input, self.spec.stdin == "once")
            self.flush_stdin()
        self.spec.input = b""
        self.spec.env.clear()
        return child

    def watch(self, fd: int, events: int, handler: Callable[[int, int], object]) -> None:
        self.handlers[fd] = handler
        self.poller.register(fd, events)

    def unwatch(self, fd: int) -> None:
        if self.handlers.pop(fd, None) is not None:
            self.poller.unregister(fd)

    # -- the loop

    def run(self) -> None:
        while self.life.phase != GONE:
            self.set_timer()
            wait = self.next_at() - monotonic()
            timeout = None if wait == NEVER else max(0, int(wait * 1000) + 1) if wait > 0 else 0
            for fd, events in self.poller.poll(timeout):
                handler = self.handlers.get(fd)
                if handler is not None:  # an earlier one of this round may have closed it
                    handler(fd, events)
            self.tick(monotonic())
        self.finish()

    def next_at(self) -> float:
        due = min(self.journal.sync_at, self.life.next_at(), self.reap_at, self.file_at)
        if self.hinted < self.journal.seq and self.peers:
            due = min(due, self.hint_at)
        return due

    def tick(self, now: float) -> None:
        if now >= self.file_at:
            self.read_file()
        if self.told_to_end and self.life.phase == RUNNING:
            self.stop("host_stopping", self.spec.grace_s)
        if not self.open:
            self.life.output_ended(now)
        for act in self.life.due(now, boottime()):
            self.do(act, now)
        if now >= self.reap_at:
            self.reap_at = now + REAP_S
            self.reap()
        if now >= self.journal.sync_at:
            self.journal.sync()
        if self.hinted < self.journal.seq and now >= self.hint_at:
            self.hinted = self.journal.seq
            self.hint_at = now + HINT_S
            for peer in list(self.peers.values()):
                self.hint(peer)

    def do(self, act: str, now: float) -> None:
        if act == BEGIN:
            self.begin_stop()
        elif act == KILL:
            self.signal_tree(signal.SIGKILL)
        elif act == GIVE_UP:
            self.duration_s = now - self.life.started
            self.give_up([self.leader])
        elif act == SWEEP:
            self.sweep(now)

    def set_timer(self) -> None:
        """Without one we look every REAP_S, as we do anyway."""
        at = self.life.next_boot()
        if at == self.timer_at:
            return
        self.timer_at = at
        if self.timer < 0:
            self.timer = self.libc.timer()
            if self.timer < 0:
                return
            self.watch(self.timer, select.POLLIN, self.on_timer)
        self.libc.wake_at(self.timer, at)

    def on_timer(self, fd: int, events: int) -> None:
        """tick() does what there is to do."""
        self.timer_at = NEVER
        try:
            os.read(fd, 8)
        except BlockingIOError:
            return

    def on_told(self, number: int, frame: object) -> None:
        self.told_to_end = True

    def on_wake(self, fd: int, events: int) -> None:
        """A child changed, or we were told to end; tick() does what there is to do."""
        os.read(self.woken, 4096)
        self.reap_at = 0.0
        if self.life.phase == SWEEPING:
            self.life.sweep_at = 0.0

    # -- what the agent says

    def read_output(self, fd: int, events: int = select.POLLIN) -> bool:
        """One chunk. False when there is nothing now, or nothing more."""
        try:
            chunk = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self.unwatch(fd)
            os.close(fd)
            del self.open[fd]
            return False
        self.heard(self.open[fd], chunk)
        return True

    def heard(self, stream: int, chunk: bytes) -> None:
        self.life.heard(monotonic())
        self.lines[stream].feed(chunk)

    def on_file(self, fd: int, events: int) -> None:
        assert self.file is not None
        self.file.drain_events()
        self.read_file()

    def read_file(self) -> None:
        """Not all at once: there may be more for ever."""
        assert self.file is not None
        self.file_at = NEVER
        for _ in range(CHUNKS):
            chunk = self.file.read()
            if not chunk:
                if self.file.events < 0:
                    self.file_at = monotonic() + LOOK_S
                return
            self.heard(OUT, chunk)
        self.file_at = 0.0

    # -- what is said to the agent

    def write(self, key: str, data: bytes, close: bool) -> str:
        """`ok`: it is in the journal, now or already, and so was or will be written; once."""
        if key in self.keys:
            return "ok"
        if self.life.phase not in (RUNNING, STOPPING):
            return "ended"
        if self.stdin.is_open and not self.stdin.is_read:
            self.unwatch(self.stdin.fd)
            self.stdin.close()
            self.journal.say(NOTE, {"note": "stdin_closed", "by": "agent"})
        if not self.stdin.is_open:
            return "closed"
        if self.stdin.size and self.stdin.size + len(data) > MAX_WAITING:
            return "full"
        if not self.journal.take(IN, b"%s\0%s" % (key.encode(), data)):
            return "disk_full"
        self.keys.add(key)
        self.life.wrote(monotonic())
        self.stdin.put(data, close)
        self.flush_stdin()
        return "ok"

    def note(self, key: str, data: bytes, flags: int) -> str:
        """A word of the gateway's. `ok`: it is in the journal, or what has this key is already: never both a write
        and the note that it was not made.
        """
        if key in self.keys:
            return "ok"
        if not self.journal.take(NOTE, data, flags):
            return "disk_full"
        self.keys.add(key)
        return "ok"

    def flush_stdin(self) -> None:
        fd = self.stdin.fd
        closed_by = self.stdin.flush()
        if self.stdin.waiting and fd not in self.handlers:
            self.watch(fd, select.POLLOUT, lambda *_: self.flush_stdin())
        elif not self.stdin.waiting:
            self.unwatch(fd)
        if closed_by is not None:
            self.journal.say(NOTE, {"note": "stdin_closed", "by": closed_by})

    # -- the end

    def stop(self, reason: str, grace_s: float) -> None:
        """TERM, and KILL after the grace. The first reason stays; a later call can only make it quicker."""
        now = monotonic()
        for act in self.life.stop(now, reason, grace_s):
            self.do(act, now)

    def begin_stop(self) -> None:
        grace_s = self.life.stop_grace_s
        facts: dict[str, object] = {"note": "stopping", "reason": self.life.stop_reason, "graceMs": int(grace_s * 1000)}
        self.journal.say(NOTE, facts)
        if grace_s > 0:
            send(self.leader, signal.SIGTERM, signal.SIGCONT, group=True)

    def on_exit(self, fd: int, events: int) -> None:
        """The agent itself has exited. It stays a zombie for now, so that its group cannot become another's."""
        now = monotonic()
        self.unwatch(self.child.pidfd)
        os.close(self.child.pidfd)
        ended = os.waitid(os.P_PID, self.leader, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        if ended.si_code == os.CLD_EXITED:
            self.code = ended.si_status
        else:
            self.signal = ended.si_status
        self.duration_s = now - self.life.started
        self.life.exited(now)

    def sweep(self, now: float) -> None:
        """End what the agent left behind: TERM, after a moment KILL, again and again until nothing is left."""
        alive = self.reap()
        if not alive:
            if self.leader:
                os.waitpid(self.leader, 0)
                self.leader = 0
            if not has_children():
                alive = kill_strays(self.spec.uid)
                is_populated = self.cgroup is not None and self.cgroup.kill()
                if not alive and not is_populated:
                    self.life.gone()
                    return
        elif now >= self.life.kill_at:
            self.life.is_killing = True
            self.signal_tree(signal.SIGKILL)
        else:
            fresh = set(alive) - self.signalled
            if fresh:
                self.signalled |= fresh
                self.signal_tree(signal.SIGTERM, signal.SIGCONT, only=fresh)
        if now >= self.life.give_up_at:
            self.give_up(alive)
        self.life.swept(now)

    def give_up(self, alive: list[int]) -> None:
        """Some cannot be killed: another user's by now, or stuck in the kernel. Better said than waited for."""
        self.journal.say(NOTE, {"note": "survivors", "pids": alive[:100]})
        complain(f"cannot be killed: {alive}")
        self.life.gone()

    def signal_tree(self, *signals: int, only: set[int] | None = None) -> None:
        if self.cgroup is not None and signal.SIGKILL in signals:
            self.cgroup.kill()
        if self.leader:
            send(self.leader, *signals, group=True)
        for pid in self.reap() if only is None else only:
            send(pid, *signals)

    def reap(self) -> list[int]:
        """Our living children but the agent itself: what it has left behind so far."""
        return [pid for pid in set(children()) - {self.leader} if os.waitpid(pid, os.WNOHANG)[0] == 0]

    def finish(self) -> None:
        for fd in list(self.open):
            for _ in range(CHUNKS):
                if not self.read_output(fd):
                    break
        if self.file is not None:
            size = os.fstat(self.file.fd).st_size
            while self.file.read_up_to < size:
                self.heard(OUT, self.file.read())
        for lines in self.lines.values():
            lines.end()
        self.stdin.close()
        if self.cgroup is not None:
            self.cgroup.remove()
        facts: dict[str, object] = {
            "code": self.code,
            "signal": self.signal,
            "stop": self.life.stop_reason,
            "durationMs": int(self.duration_s * 1000),
        }
        self.journal.finish(facts)
        for peer in list(self.peers.values()):
            self.hint(peer)
        self.close_door()

    def close_door(self) -> None:
        self.listener.close()
        os.unlink("ctl.sock", dir_fd=self.directory)

    # -- who asks

    def on_connect(self, fd: int, events: int) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:  # whoever it was has gone, or the system has no more handles: he may knock again
            return
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("iII", credentials)
        if uid not in (os.geteuid(), 0) or len(self.peers) >= MAX_PEERS:
            sock.close()
            return
        sock.setblocking(False)
        peer = self.peers[sock.fileno()] = Peer(sock)
        self.watch(sock.fileno(), select.POLLIN, lambda _, events: self.on_peer(peer, events))

    def on_peer(self, peer: Peer, events: int) -> None:
        if events & select.POLLOUT:
            self.flush(peer)
        if not events & ~select.POLLOUT or peer.sock.fileno() < 0:
            return
        try:
            chunk = peer.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk or len(peer.heard) + len(chunk) > MAX_REQUEST:
            self.drop(peer)
            return
        peer.heard += chunk
        if b"\n" not in chunk:
            return
        *requests, rest = bytes(peer.heard).split(b"\n")
        peer.heard[:] = rest
        for request in requests:
            try:
                answer = self.answer(peer, json.loads(request))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                answer = {"ok": False, "error": "bad_request", "detail": repr(error)[:200]}
            self.tell(peer, answer)

    def answer(self, peer: Peer, asked: dict[str, object]) -> dict[str, object]:
        op = asked["op"]
        if op == "hello":
            peer.follows = bool(asked.get("follow"))
            peer.hinted = self.journal.seq
            return {
                "ok": True,
                "v": VERSION,
                "pid": os.getpid(),
                "startTime": start_time("self"),
                "child": self.child.pid,
                "lastSeq": self.journal.seq,
                "state": self.life.phase,
                "untilMs": None if self.life.until == NEVER else int(self.life.until * 1000),
            }
        if op == "write":
            key, text = key_of(asked), asked["data"]
            if not isinstance(text, str):
                raise ValueError("data")
            data = binascii.a2b_base64(text)
            if len(data) > MAX_WRITE:
                raise ValueError("data")
            return answer_of(self.write(key, data, bool(asked.get("close"))))
        if op == "note":
            key, facts = key_of(asked), asked["facts"]
            if not isinstance(facts, dict) or not isinstance(facts.get("note"), str):
                raise ValueError("facts")
            data = json.dumps(facts, separators=(",", ":")).encode()
            if len(data) > MAX_NOTE:
                raise ValueError("facts")
            return answer_of(self.note(key, *self.journal.noted(facts)))
        if op == "stop":
            reason, grace = asked["reason"], asked["graceMs"]
            if not isinstance(reason, str) or not isinstance(grace, int):
                raise ValueError("reason or graceMs")
            if not 0 < len(reason) <= 100 or not 0 <= grace <= MAX_GRACE_MS:
                raise ValueError("reason or graceMs")
            self.stop(reason, grace / 1000)
            return {"ok": True, "state": self.life.phase}
        if op == "lease":
            until = asked["untilMs"]
            if until is not None and (not isinstance(until, int) or isinstance(until, bool) or until < 0):
                raise ValueError("untilMs")
            self.life.prolong(Spec.seconds(until))
            return {"ok": True, "state": self.life.phase}
        raise ValueError("op")

    def hint(self, peer: Peer) -> None:
        """Not to one that has not taken the last: it will hear of all of it at once."""
        if peer.follows and peer.hinted < self.journal.seq and not peer.to_say:
            peer.hinted = self.journal.seq
            self.tell(peer, {"seq": self.journal.seq})

    def tell(self, peer: Peer, answer: dict[str, object]) -> None:
        if len(peer.to_say) > CHUNK:
            self.drop(peer)  # it asks and does not listen
            return
        peer.to_say += json.dumps(answer, separators=(",", ":")).encode() + b"\n"
        self.flush(peer)

    def flush(self, peer: Peer) -> None:
        fd = peer.sock.fileno()
        if fd < 0:
            return
        try:
            while peer.to_say:
                del peer.to_say[: peer.sock.send(peer.to_say)]
        except BlockingIOError:
            self.poller.modify(fd, select.POLLIN | select.POLLOUT)
            return
        except OSError:
            self.drop(peer)
            return
        self.poller.modify(fd, select.POLLIN)
        self.hint(peer)

    def drop(self, peer: Peer) -> None:
        fd = peer.sock.fileno()
        if fd >= 0:
            self.unwatch(fd)
            del self.peers[fd]
            peer.sock.close()


def key_of(asked: dict[str, object]) -> str:
    key = asked["key"]
    if not isinstance(key, str) or "\0" in key or not 0 < len(key.encode()) <= MAX_KEY:
        raise ValueError("key")
    return key


def answer_of(result: str) -> dict[str, object]:
    return {"ok": True} if result == "ok" else {"ok": False, "error": result}


# --- the start --------------------------------------------------------------------------------------------------


def lock(directory: int) -> bool:
    """Held until the kernel closes it for us. Who only looks whether it is held has it for a moment."""
    fd = os.open("lock", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=directory)
    for _ in range(50):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.002)
        else:
            return True
    return False


def cannot_keep(error: OSError) -> CannotStart:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return CannotStart("disk_full" if full else "spawn_failed", f"the attempt's directory: {error.strerror}")


def who() -> dict[str, object]:
    """This process, for ever: no other has or will have all three."""
    with open("/proc/sys/kernel/random/boot_id") as boot:
        return {"pid": os.getpid(), "startTime": start_time("self"), "bootId": boot.read(36)}


def claim(directory: int, spec: Spec, me: dict[str, object]) -> bool:
    """An attempt starts at most once, ever: also when the keeper that did it is long gone."""
    try:
        fd = os.open("state.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
    except FileExistsError:
        return False
    try:
        os.write(fd, json.dumps({"v": VERSION, "uid": spec.uid, **me, "cgroup": spec.cgroup}).encode())
    except OSError as error:
        raise cannot_keep(error) from error
    finally:
        os.close(fd)
    return True


def prepare(spec: Spec, directory: int, umask: int, libc: Libc) -> tuple[Keeper, Child]:
    """All that must be there before the agent runs, and then the agent. Raises CannotStart, written down."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        masks = Masks(spec.secrets)
        journal = Journal(directory, spec.cap, masks if masks.forms else None)
        journal.reserve()
    except OSError as error:
        raise cannot_keep(error) from error
    keeper = Keeper(spec, libc, journal, directory)
    keeper.listen()
    try:
        child = keeper.start(umask)
    except CannotStart as refusal:
        keeper.close_door()
        if keeper.cgroup is not None:
            keeper.cgroup.remove()
        journal.say(NOTE, {"note": "not_spawned", "reason": refusal.reason, "detail": refusal.detail[:1000]})
        journal.finish({"code": None, "signal": None, "stop": refusal.reason, "durationMs": 0})
        raise
    return keeper, child


def keep(report: int, umask: int) -> None:
    """The keeper's life. `report` is where the first process waits for one JSON."""

    def tell(code: int, **facts: object) -> None:
        try:
            os.write(report, json.dumps({"exit": code, **facts}).encode())
        except BrokenPipeError:  # who waited for it was killed: the directory says the same
            complain("nobody heard of the start")
        os.close(report)

    libc, me = Libc(), who()  # while we wait for a spec nobody waits for us
    with open(0, "rb", closefd=False) as stdin:
        raw = stdin.read()
    try:
        spec = Spec(raw)
        directory = os.open(spec.directory, os.O_RDONLY | os.O_DIRECTORY)
    except (ValueError, KeyError, TypeError, OSError) as error:
        tell(BAD_SPEC, detail=f"{type(error).__name__}: {error}")
        return
    del raw
    log = os.open("keeper.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600, dir_fd=directory)
    null = os.open(os.devnull, os.O_RDWR)
    for fd, number in ((null, 0), (null, 1), (log, 2)):
        os.dup2(fd, number, inheritable=False)
    if not lock(directory):
        tell(BUSY)
        return
    try:
        if not claim(directory, spec, me):
            tell(SPENT)
            return
        keeper, child = prepare(spec, directory, umask, libc)
    except CannotStart as refusal:
        tell(NOT_SPAWNED, reason=refusal.reason, detail=refusal.detail)
        return
    tell(STARTED, pid=me["pid"], startTime=me["startTime"], child=child.pid)
    keeper.run()


def main() -> int:
    """Fork twice, so that nobody is our parent; wait for the report, pass it on."""
    os.closerange(3, 1 << 20)
    os.chdir("/")
    umask = os.umask(0o077)
    reported, report = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(reported)
        os.setsid()
        if os.fork() == 0:
            keep(report, umask)
        return STARTED
    os.close(report)
    os.waitpid(middle, 0)
    with open(reported, "rb") as pipe:
        said = pipe.read()
    os.write(1, said)
    return int(json.loads(said)["exit"]) if said else BROKEN


if __name__ == "__main__":
    os._exit(main())  # nothing to tidy up: what matters is on the disk
