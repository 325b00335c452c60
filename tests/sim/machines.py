"""A host without an operating system: its disk, the keepers on it and the agents under them.

These are doubles of gateway/runtime/{attempt,kept,keeper}.py, at the boundary where those ask the operating system.
`Keeper` answers what the real keeper answers and journals in the real format; rules that are copied from keeper.py are
named at the copy. What is above (crew, runner, spool, process.Keeper, memory) is real and uses these.
"""

import asyncio
import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import PurePosixPath
from random import Random
from typing import Any, Final, Protocol

import msgspec

from gateway.core.journal import HEADER, MAX_NOTE, ExitFacts, Record, Stream, encode, exit_facts, exit_record
from gateway.runtime import attempt as real_attempt
from gateway.runtime import keeper as real_keeper
from gateway.runtime.kept import Kept
from tests.sim.kernel import Machine

SYNC_S: Final = 1.0  # keeper.SYNC_S
WRITEBACK_S: Final = 5.0  # what was not synced is on the disk after so long
CHUNK: Final = 30


class File:
    """A small file beside the attempts; not synced, so a boot after a power cut may lose it."""

    def __init__(self, disk: "Disk", name: str) -> None:
        self.disk = disk
        self.name = name

    @property
    def parent(self) -> "File":
        return self

    def mkdir(self, **_: object) -> None:
        return

    def read_text(self, encoding: str) -> str:
        if self.name not in self.disk.files:
            raise FileNotFoundError(self.name)
        return self.disk.files[self.name]

    def write_text(self, text: str, encoding: str) -> None:
        self.disk.files[self.name] = text

    def unlink(self, *, missing_ok: bool) -> None:
        self.disk.files.pop(self.name, None)


class Directory:
    """An attempt's directory."""

    def __init__(self, disk: "Disk", uid: str) -> None:
        self.disk = disk
        self.name = uid
        self.is_there = False
        self.kept: bytes | None = None
        self.said = 0
        self.state: real_attempt.State | None = None
        self.state_at = 0.0
        self.void = False
        self.journal = bytearray()
        self.has_journal = False
        self.synced = 0
        self.ending: bytes | None = None
        self.keeper: Keeper | None = None
        self.readers: list[asyncio.Future[None]] = []

    def exists(self) -> bool:
        return self.is_there

    def absolute(self) -> "Directory":
        return self

    def __truediv__(self, name: str) -> PurePosixPath:
        return PurePosixPath("/attempts") / self.name / name

    def __str__(self) -> str:
        return f"/attempts/{self.name}"

    def grew(self) -> None:
        readers, self.readers = self.readers, []
        for reader in readers:
            loop: Any = reader.get_loop()
            if loop.process.is_alive and not reader.done():
                reader.set_result(None)

    def lose_power(self, random: Random, now: float) -> None:
        """What a boot finds."""
        self.keeper = None
        if self.synced < len(self.journal):
            del self.journal[random.randint(self.synced, len(self.journal)) :]
        self.synced = len(self.journal)
        if self.state is not None and now - self.state_at < WRITEBACK_S and random.random() < 0.5:
            self.state = None
            self.journal.clear()
            self.synced = 0
            self.has_journal = False


class Disk:
    """Of one host; `Disk / name` is a file, `home` of all functions of `attempts`."""

    def __init__(self, machine: Machine, boot_id: Callable[[], str]) -> None:
        self.machine = machine
        self.boot_id = boot_id
        self.files: dict[str, str] = {}
        self.directories: dict[str, Directory] = {}
        self.is_full = False

    def __truediv__(self, name: str) -> File:
        return File(self, name)

    def directory(self, uid: str) -> Directory:
        found = self.directories.get(uid)
        if found is None:
            found = self.directories[uid] = Directory(self, uid)
        return found


class Attempts:
    """Stands in for the module gateway/runtime/attempt.py."""

    PRIVATE = real_attempt.PRIVATE
    State = real_attempt.State

    def directory(self, home: Disk, uid: str) -> Directory:
        return home.directory(uid)

    def make(self, home: Disk, uid: str) -> Directory:
        path = home.directory(uid)
        path.is_there = True
        return path

    def found(self, home: Disk) -> list[str]:
        return sorted(uid for uid, path in home.directories.items() if path.is_there)

    def forget(self, home: Disk, uid: str) -> None:
        path = home.directory(uid)
        if not path.is_there:
            return
        if self.is_kept(path):
            raise TimeoutError(f"attempt {uid} still has its keeper")
        del home.directories[uid]

    def tidy(self, home: Disk) -> None:
        return

    def void(self, path: Directory) -> bool:
        if path.state is not None:
            return path.void
        if not path.is_there:
            return True
        path.state = real_attempt.State(pid=0, start_time=0, boot_id="")
        path.state_at = path.disk.machine.kernel.now
        path.void = True
        return True

    def is_kept(self, path: Directory) -> bool:
        return path.keeper is not None

    def state(self, path: Directory) -> real_attempt.State | None:
        return None if path.void else path.state

    def last_record(self, path: Directory) -> Record | None:
        if path.ending is not None:
            seq, at, facts = json.loads(path.ending)
            return Record(seq, at, Stream.EXIT, json.dumps(facts).encode())
        return exit_record(bytes(path.journal[-(MAX_NOTE + HEADER.size) :]))

    def ending(self, path: Directory) -> ExitFacts | None:
        record = self.last_record(path)
        return None if record is None else exit_facts(record.data)

    async def sweep(self, path: Directory) -> None:
        """The kernel has killed the agent with its keeper, and it had started nothing."""


class KeptFiles:
    """Stands in for the module gateway/runtime/kept.py."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(Kept)
        self.Kept = Kept

    def write(self, path: Directory, kept: Kept) -> None:
        path.kept = msgspec.json.encode(kept)

    def read(self, path: Directory) -> Kept | None:
        return None if path.kept is None else self._decoder.decode(path.kept)

    def is_there(self, path: Directory) -> bool:
        return path.kept is not None

    def note_said(self, path: Directory, seq: int) -> None:
        path.said = seq

    def said(self, path: Directory) -> int:
        return path.said


class Script:
    """What an agent will do: lines with the pause before each, and how it ends."""

    def __init__(self, random: Random) -> None:
        count = random.choice((1, 3, 6, 12, 25))
        total = random.choice((0.5, 3.0, 12.0, 40.0, 90.0))
        self.lines = [(random.expovariate(count / total), self._line(random, no)) for no in range(count)]
        self.last_pause = random.uniform(0.0, 2.0)
        self.code = 0 if random.random() < 0.85 else random.choice((1, 75))
        self.term_s = random.choice((0.0, 0.05, 1.0, 3.0, 100.0))  # how long it takes to obey TERM

    def _line(self, random: Random, no: int) -> bytes:
        kind = random.choice(("log", "message", "message", "delta", "delta", "delta"))
        said: dict[str, Any] = {"type": "log" if kind == "log" else "message", "content": f"line {no} "}
        if kind == "delta":
            said["data"] = {"delta": True, "role": "assistant"}
        return json.dumps(said).encode()


class Truth:
    """What really became of an attempt; nobody in the world may look at this."""

    def __init__(self, uid: str, task_id: str, attempt: int, host: str) -> None:
        self.uid = uid
        self.task_id = task_id
        self.attempt = attempt
        self.host = host
        self.spawns = 0
        self.is_running = False
        self.has_finished = False  # by itself, with all its output
        self.records: list[Record] = []  # all that were ever journalled, also those that a power cut took
        self.inputs: list[str] = []
        self.code: int | None = None
        self.is_cut = False  # its host lost power, and perhaps some of the journal


class Watch(Protocol):
    """Who is told of what really happens."""

    def spawned(self, keeper: "Keeper") -> None: ...

    def ended(self, keeper: "Keeper", why: str) -> None: ...


class Keeper:
    """One keeper with its agent: gateway/runtime/keeper.Keeper without processes. What is decided, its Life decides."""

    def __init__(self, disk: Disk, path: Directory, spec: real_keeper.Spec, truth: Truth, watch: Watch) -> None:
        self.disk = disk
        self.machine = disk.machine
        self.path = path
        self.spec = spec
        self.truth = truth
        self.watch = watch
        self.life = real_keeper.Life(
            run_s=spec.run_s,
            first_output_s=spec.first_output_s,
            idle_s=spec.idle_s,
            grace_s=spec.grace_s,
            budget_s=spec.budget_s,
            until=spec.until,
        )
        self.keys: set[str] = set()
        self.seq = 0
        self.is_stdin_open = True
        self.code: int | None = None
        self.signal: int | None = None
        self._script: Script
        self._line = 0
        self._duration_s = 0.0
        self._is_sync_planned = False
        self._looks_at = real_keeper.NEVER

    @property
    def is_here(self) -> bool:
        return self.path.keeper is self

    # --- the journal: keeper.Journal

    def say(self, stream: Stream, data: bytes) -> None:
        self.seq += 1
        record = Record(self.seq, self.machine.wall(), stream, data)
        self.truth.records.append(record)
        self.path.journal += encode(record)
        if not self._is_sync_planned:
            self._is_sync_planned = True
            self.machine.after(SYNC_S, self._sync)
        self.path.grew()

    def note(self, **facts: object) -> None:
        self.say(Stream.NOTE, json.dumps(facts, separators=(",", ":")).encode())

    def _sync(self) -> None:
        if self.is_here:
            self._is_sync_planned = False
            self.path.synced = len(self.path.journal)

    # --- the start: keeper.prepare, keeper.Keeper.start

    def start(self, script: Script) -> str | None:
        """The reason why not."""
        self._script = script
        self.path.has_journal = True
        if self.spec.input:
            self.say(Stream.IN, b"launch\0" + self.spec.input)
        if self.life.is_refused(self.machine.boottime()):
            self.note(note="not_spawned", reason="lease_expired", detail="")
            self._end("lease_expired")
            return "lease_expired"
        self.truth.spawns += 1
        self.truth.is_running = True
        self.watch.spawned(self)
        self.life.begin(self.machine.monotonic())
        self.note(note="spawned", pid=4242)
        if self.spec.stdin != "null":
            self.keys.add("launch")
        self._plan_line()
        self.look()
        return None

    # --- the agent

    def _plan_line(self) -> None:
        if self._line < len(self._script.lines):
            self.machine.after(self._script.lines[self._line][0], self._speak)
        else:
            self.machine.after(self._script.last_pause, self._finish_work)

    def _speak(self) -> None:
        if self.is_here and self.truth.is_running:
            self.life.heard(self.machine.monotonic())
            self.say(Stream.OUT, self._script.lines[self._line][1])
            self._line += 1
            self._plan_line()

    def _finish_work(self) -> None:
        if self.is_here and self.truth.is_running:
            self.truth.has_finished = True
            self.truth.code = self._script.code
            self._exits(self._script.code, None)

    def _exits(self, code: int | None, signal: int | None) -> None:
        """keeper.Keeper.on_exit; its output ends with it."""
        if not self.is_here or not self.truth.is_running:
            return
        self.truth.is_running = False
        self.code, self.signal = code, signal
        self.watch.ended(self, f"exit code {code} signal {signal}")
        now = self.machine.monotonic()
        self._duration_s = now - self.life.started
        self.life.exited(now)
        self.machine.after(real_keeper.SWEEP_S, self.look)

    # --- what is due: keeper.Keeper.tick, keeper.Keeper.do

    def look(self) -> None:
        if not self.is_here:
            return
        now, boot = self.machine.monotonic(), self.machine.boottime()
        if not self.truth.is_running:
            self.life.output_ended(now)
        for act in self.life.due(now, boot):
            self._do(act)
        if self.life.phase == real_keeper.GONE:
            self._end(self.life.stop_reason)
        else:
            self._plan_look(now, boot)

    def _plan_look(self, now: float, boot: float) -> None:
        """Its timer of CLOCK_BOOTTIME goes as the monotonic one does, but in suspend: then the thaw makes it look."""
        wait = min(self.life.next_at() - now, self.life.next_boot() - boot)
        if wait != real_keeper.NEVER and not now < self._looks_at <= now + wait:
            self._looks_at = now + max(wait, 0.0) + 0.001
            self.machine.after(max(wait, 0.0) + 0.001, self.look)

    def _do(self, act: str) -> None:
        if act == real_keeper.BEGIN:
            grace_s = self.life.stop_grace_s
            self.note(note="stopping", reason=self.life.stop_reason, graceMs=int(grace_s * 1000))
            if grace_s > 0:
                self.machine.after(self._script.term_s, lambda: self._exits(143, None))
        elif act == real_keeper.KILL:
            self._exits(None, 9)
        elif act == real_keeper.SWEEP:
            self.life.gone()

    def _end(self, stop: str | None) -> None:
        """keeper.Keeper.finish, keeper.Journal.finish: everything is synced before the keeper goes."""
        duration = int(self._duration_s * 1000)
        facts = {"code": self.code, "signal": self.signal, "stop": stop, "durationMs": duration}
        self.say(Stream.EXIT, json.dumps(facts).encode())
        self.path.synced = len(self.path.journal)
        self.path.ending = json.dumps([self.seq, self.machine.wall(), facts]).encode()
        self.path.keeper = None
        self.path.grew()

    # --- what is asked of it: keeper.Keeper.answer

    def stop(self, reason: str, grace_s: float) -> None:
        for act in self.life.stop(self.machine.monotonic(), reason, grace_s):
            self._do(act)
        self.look()

    def write(self, key: str, data: bytes, close: bool) -> str:
        if key in self.keys:
            return "ok"
        if self.life.phase not in (real_keeper.RUNNING, real_keeper.STOPPING):
            return "ended"
        if not self.is_stdin_open:
            return "closed"
        self.say(Stream.IN, key.encode() + b"\0" + data)
        self.keys.add(key)
        self.life.wrote(self.machine.monotonic())
        self.is_stdin_open = not close
        self.truth.inputs.append(key)
        return "ok"

    def note_of_gateway(self, key: str, data: bytes) -> str:
        if key in self.keys:
            return "ok"
        self.say(Stream.NOTE, data)
        self.keys.add(key)
        return "ok"

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        match asked["op"]:
            case "write":
                data = b64decode(asked["data"])
                return real_keeper.answer_of(self.write(asked["key"], data, bool(asked["close"])))
            case "note":
                data = json.dumps(asked["facts"], separators=(",", ":")).encode()
                return real_keeper.answer_of(self.note_of_gateway(asked["key"], data))
            case "stop":
                self.stop(asked["reason"], asked["graceMs"] / 1000)
                return {"ok": True, "state": self.life.phase}
            case "lease":
                self.life.prolong(real_keeper.Spec.seconds(asked["untilMs"]))
                self.look()
                return {"ok": True, "state": self.life.phase}
        raise ValueError(asked["op"])

    # --- what befalls it

    def die(self, why: str) -> None:
        """Killed: its agent dies with it, and nobody writes down how."""
        if self.is_here:
            self.path.keeper = None
            if self.truth.is_running:
                self.truth.is_running = False
                self.watch.ended(self, why)
            self.path.grew()
