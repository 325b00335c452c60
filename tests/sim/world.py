"""One run: some hosts, some people, some faults, and everything that must hold. All of it follows from the seed."""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final

import anyio

from gateway.core.line import Line
from gateway.runtime import attempt as real_attempt
from gateway.runtime import keeper as keeper_module
from gateway.runtime.kept import Kept
from manager.core.lifecycle import ON_A_HOST
from manager.core.tasks import Record
from shared_types.tasks import Reason, TaskState
from tests.sim import checks, house
from tests.sim.house import ATTEMPTS, KEPT, Gateway, Manager, new_database
from tests.sim.kernel import Kernel, Machine, Process
from tests.sim.machines import Directory, Disk, Keeper, Script, Truth
from tests.sim.net import OPEN_S, Connection, End, Path
from tests.sim.people import Author, Lines

HOSTS: Final = 3
TASKS: Final = 8
SETTLED_S: Final = 600.0  # after the faults: every task has ended
CLEAN_S: Final = 700.0  # after that: every host has forgotten what is over
RATE: Final = 0.02  # how wrong clocks go
LOOK_EVERY_S: Final = 5.0
# Moments at which a fault may be aimed: words of the manager, and what happens on a host or on the store's disk.
SAID: Final = ("task:execute", "task:start", "task:abort", "task:input", "task:ack", "registered")
MOMENTS: Final = (*SAID, "spawns", "ends", "commits")


class Host:
    """A machine with a gateway, most of the time."""

    def __init__(self, world: "World", name: str) -> None:
        random = Random(f"{world.seed}:{name}")
        self.world = world
        self.name = name
        self.random = random
        self.slots = random.randint(1, 3)
        self.boots = 1
        wall = 1_800_000_000_000 + random.randint(-3_600_000, 3_600_000)
        self.machine = Machine(world.kernel, name, rate=1.0 + random.uniform(-RATE, RATE), wall_ms=wall)
        self.disk = Disk(self.machine, lambda: f"boot{self.boots}")
        self.path = Path(world.kernel, name, Random(f"{world.seed}:{name}:net"), world.trace)
        self.gateway: Gateway | None = None
        self.is_down = False
        self.killed_keepers = 0

    def start(self) -> None:
        if self.gateway is None and not self.is_down:
            self.world.trace(self.name, "gateway starts")
            self.gateway = Gateway(
                self.machine, self.disk, self.name, self.slots, Random(self.random.random()), self._gateway_died
            )

    def _gateway_died(self, process: Process) -> None:
        self.world.trace(self.name, "gateway is killed")
        self.gateway = None
        for connection in list(self.path.connections):
            if self.is_down:
                connection.is_hole = True  # no machine, nobody who says that it is over
            connection.process_died(process)
        if not self.is_down:
            patience = 0.2 if self.world.is_calm else self.random.choice((0.05, 0.5, 5.0, 25.0))
            self.world.kernel.after(patience, self.start)

    def kill_gateway(self) -> None:
        if self.gateway is not None:
            self.gateway.process.dies_in = self.random.randint(0, 60)

    def kill_keeper(self) -> None:
        kept = [path.keeper for path in self.disk.directories.values() if path.keeper is not None]
        if kept:
            self.killed_keepers += 1
            self.random.choice(kept).die("its keeper was killed")

    def reboot(self) -> None:
        """Power is lost, and comes back some time later."""
        if self.is_down:
            return
        self.world.trace(self.name, "loses power")
        self.is_down = True
        for path in list(self.disk.directories.values()):
            if path.keeper is not None:
                path.keeper.die("its host lost power")
            path.lose_power(self.random, self.world.kernel.now)
            if (truth := self.world.truths.get(path.name)) is not None:
                truth.is_cut = True
        if self.random.random() < 0.2:
            self.world.trace(self.name, "gets a new disk")
            self.disk.directories.clear()
            self.disk.files.clear()
        if self.gateway is not None:
            self.gateway.process.kill()
        self.machine.thaw()
        self.machine.forget_all()
        self.boots += 1
        self.world.kernel.after(0.5 if self.world.is_calm else self.random.uniform(2.0, 40.0), self._boot)

    def _boot(self) -> None:
        self.is_down = False
        self.world.trace(self.name, f"boots, {self.boots}")
        self.start()

    def freeze(self, seconds: float) -> None:
        if self.machine.is_frozen or self.is_down:
            return
        is_suspended = self.random.random() < 0.5
        self.world.trace(self.name, "is suspended" if is_suspended else "is frozen")
        self.machine.freeze(suspend=is_suspended)
        self.world.kernel.after(seconds, self.thaw)

    def thaw(self) -> None:
        if self.machine.is_frozen:
            self.world.trace(self.name, "goes on")
            self.machine.thaw()
            for path in list(self.disk.directories.values()):
                if path.keeper is not None:
                    path.keeper.look()
            self.world.look_for_doubles(f"after {self.name} went on")

    def cut(self, seconds: float) -> None:
        if not self.path.is_cut:
            self.world.trace(self.name, "is cut off")
            self.path.cut()
            self.world.kernel.after(seconds, self.heal)

    def heal(self) -> None:
        if self.path.is_cut:
            self.world.trace(self.name, "is within reach")
            self.path.heal()

    def truths_running(self) -> list[Truth]:
        return [truth for truth in self.world.truths.values() if truth.host == self.name and truth.is_running]


@dataclass(slots=True)
class Aim:
    """A fault at the moment when this happens for the `left`th time."""

    moment: str
    left: int
    fault: "Callable[[Host], object]"


class World:
    def __init__(self, seed: int, *, verbose: bool = False) -> None:
        self.seed = seed
        self.verbose = verbose
        self.digest = 0
        self.lines: list[str] = []
        self.violations: list[str] = []
        self.truths: dict[str, Truth] = {}
        self.is_calm = False
        self.random = Random(f"{seed}:world")
        self.kernel = Kernel(str(seed), self.report)
        house.enter(self, str(seed))
        wall = 1_800_000_000_000 + self.random.randint(-600_000, 600_000)
        self.machine = Machine(self.kernel, "manager", rate=1.0 + self.random.uniform(-RATE, RATE), wall_ms=wall)
        self.db = new_database()
        self.manager: Manager | None = None
        self.hosts = {name: Host(self, name) for name in ("a", "b", "c")[:HOSTS]}
        self.people = Lines(self.kernel, Random(f"{seed}:people"), self.report)
        self.connections = 0
        self.calm_at = self.random.uniform(20.0, 150.0)
        self.aims: list[Aim] = []
        self._orphans: dict[str, int] = {}  # attempts that their host does not know: looks in a row
        self.db.committed = lambda: self.happened("commits", self.random.choice(list(self.hosts.values())))
        self.authors = [
            Author(self.kernel, self.people, no, Random(f"{seed}:author{no}"), self.report) for no in range(TASKS)
        ]

    # --- telling ----------------------------------------------------------------------------------------

    def trace(self, who: str, what: str) -> None:
        line = f"{self.kernel.now:10.4f} {who:10} {what}"
        self.digest = zlib.crc32(line.encode(), self.digest)
        if self.verbose:
            self.lines.append(line)

    def report(self, what: str) -> None:
        self.trace("VIOLATION", what)
        self.violations.append(what)
        self.kernel.is_over = True

    # --- the manager ------------------------------------------------------------------------------------

    def start_manager(self) -> None:
        if self.manager is None:
            self.trace("manager", "starts")
            self.manager = self.people.manager = Manager(self.machine, self.db, self._manager_died)

    def _manager_died(self, process: Process) -> None:
        self.trace("manager", "is killed")
        self.manager = None
        self.people.hang_up()
        for host in self.hosts.values():
            for connection in list(host.path.connections):
                connection.process_died(process)
        patience = 0.2 if self.is_calm else self.random.choice((0.05, 0.5, 5.0, 15.0))
        self.kernel.after(patience, self.start_manager)

    def kill_manager(self) -> None:
        if self.manager is not None:
            self.manager.process.dies_in = self.random.randint(0, 150)

    def pause_manager(self, seconds: float) -> None:
        if not self.machine.is_frozen:
            self.trace("manager", "is frozen")
            self.machine.freeze(suspend=False)

            def go_on() -> None:
                self.trace("manager", "goes on")
                self.machine.thaw()

            self.kernel.after(seconds, go_on)

    def fill_store(self, seconds: float) -> None:
        self.trace("manager", "has a full disk")
        self.db.is_full = True

        def empty() -> None:
            self.trace("manager", "has room on its disk")
            self.db.is_full = False

        self.kernel.after(seconds, empty)

    # --- the network ------------------------------------------------------------------------------------

    async def dial(self, name: str) -> End:
        """websockets' connect. Raises OSError, TimeoutError."""
        host = self.hosts[name]
        gateway = host.gateway
        assert gateway is not None
        await anyio.sleep(host.path.latency())
        if host.path.is_cut or self.machine.is_frozen:
            await anyio.sleep(OPEN_S)
            raise TimeoutError
        manager = self.manager
        if manager is None or not manager.is_ready:
            raise ConnectionRefusedError("nobody listens")
        self.connections += 1
        connection = Connection(host.path, self.connections, gateway.process, manager.process)
        self.trace(name, f"connection {connection.no}")

        def notice(data: bytes) -> None:
            self.trace("manager", f"to {name} on {connection.no}: {data[:200]!r}")
            for kind in SAID:
                if data.startswith(b'{"type":"%b"' % kind.encode()):
                    self.happened(kind, host)

        manager.do(lambda: manager.serve(connection.server, notice))
        return connection.client

    # --- agents -----------------------------------------------------------------------------------------

    def keeper_wanted(self, disk: Disk, spec: keeper_module.Spec, tell: Callable[[int, dict[str, Any]], None]) -> None:
        """keeper.keep: from its spec on it is on its own."""
        path = disk.directory(spec.uid)
        disk.machine.after(self.random.uniform(0.002, 0.08), lambda: self._keep(disk, path, spec, tell))

    def _keep(
        self, disk: Disk, path: Directory, spec: keeper_module.Spec, tell: Callable[[int, dict[str, Any]], None]
    ) -> None:
        if not path.is_there or disk.directories.get(spec.uid) is not path:
            tell(keeper_module.BAD_SPEC, {"detail": "no directory"})
            return
        if path.keeper is not None:
            tell(keeper_module.BUSY, {})
            return
        if not self.claim(path):
            tell(keeper_module.SPENT, {})
            return
        path.state = real_attempt.State(pid=4242, start_time=1, boot_id=disk.boot_id())
        path.state_at = self.kernel.now
        kept = KEPT.read(path)
        assert isinstance(kept, Kept)
        assert kept.attempt is not None
        truth = self.truths.get(spec.uid)
        if truth is None:
            truth = self.truths[spec.uid] = Truth(spec.uid, kept.task_id, kept.attempt, disk.machine.name)
        keeper = path.keeper = Keeper(disk, path, spec, truth, self)
        why_not = keeper.start(Script(Random(f"{self.seed}:{kept.prompt}:{kept.attempt}")))
        if why_not is None:
            tell(keeper_module.STARTED, {"pid": 4242, "startTime": 1})
        else:
            tell(keeper_module.NOT_SPAWNED, {"reason": why_not, "detail": ""})

    def claim(self, path: Directory) -> bool:
        """keeper.claim: an attempt starts at most once, ever."""
        return path.state is None

    def spawned(self, keeper: Keeper) -> None:
        truth = keeper.truth
        self.trace(truth.host, f"SPAWNS {truth.task_id}/{truth.attempt}")
        if truth.spawns > 1:
            self.report(f"{truth.task_id}/{truth.attempt} was spawned {truth.spawns} times")
        host = self.hosts[truth.host]
        if len(host.truths_running()) > host.slots:
            self.report(f"host {host.name} runs {len(host.truths_running())} agents in {host.slots} slots")
        earlier = [t for t in self.truths.values() if t.task_id == truth.task_id and t is not truth]
        if earlier:
            self.report(f"{truth.task_id} was started again as {truth.attempt}, after {[t.attempt for t in earlier]}")
        self.look_for_doubles(f"when {truth.task_id}/{truth.attempt} was spawned")
        self.happened("spawns", host)

    def ended(self, keeper: Keeper, why: str) -> None:
        self.happened("ends", self.hosts[keeper.truth.host])
        self.trace(keeper.truth.host, f"ENDS {keeper.truth.task_id}/{keeper.truth.attempt}: {why}")

    def look_for_doubles(self, when: str) -> None:
        """A frozen agent does not run."""
        running: dict[str, Truth] = {}
        for truth in self.truths.values():
            if truth.is_running and not self.hosts[truth.host].machine.is_frozen:
                other = running.setdefault(truth.task_id, truth)
                if other is not truth:
                    self.report(f"{truth.task_id} runs as {other.attempt} and as {truth.attempt} {when}")

    def happened(self, moment: str, host: Host) -> None:
        if self.is_calm:
            return
        for aim in self.aims:
            if aim.moment == moment:
                aim.left -= 1
                if aim.left == 0:
                    self.kernel.after(self.random.choice((0.0, 0.001, 0.01, 0.05)), partial(aim.fault, host))

    # --- its course -------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Which faults, and when."""
        random = self.random
        hosts = list(self.hosts.values())
        kinds: list[Callable[[Host, float], object]] = [
            lambda host, s: host.cut(s),
            lambda host, s: host.cut(s),
            lambda host, s: host.path.make_hole(),
            lambda host, s: host.kill_gateway(),
            lambda host, s: host.kill_gateway(),
            lambda host, s: host.reboot(),
            lambda host, s: host.freeze(s),
            lambda host, s: host.kill_keeper(),
            lambda host, s: self.kill_manager(),
            lambda host, s: self.kill_manager(),
            lambda host, s: self.pause_manager(min(s, 60.0)),
            lambda host, s: self.fill_store(min(s, 20.0)),
        ]
        chosen = random.sample(kinds, random.randint(1, 4))
        for _ in range(random.randint(1, 8)):
            at = random.uniform(0.5, self.calm_at)
            seconds = min(random.choice((2.0, 8.0, 35.0, 70.0, 140.0)) * random.uniform(0.5, 1.0), self.calm_at - at)
            fault, host = random.choice(chosen), random.choice(hosts)
            self.kernel.after(at, partial(fault, host, seconds))
        for _ in range(random.choice((0, 1, 2, 4))):
            seconds = random.choice((2.0, 20.0, 70.0)) * random.uniform(0.5, 1.0)
            fault = random.choice(kinds)
            self.aims.append(Aim(random.choice(MOMENTS), random.randint(1, 12), partial(self._aimed, fault, seconds)))
        if random.random() < 0.3:
            for host in hosts:
                host.path.doubles = 0.1
        for author in self.authors:
            early = random.random() < 0.7
            self.kernel.after(random.uniform(0.0, 5.0 if early else self.calm_at), author.submit)

    def _aimed(self, fault: "Callable[[Host, float], object]", seconds: float, host: Host) -> None:
        """Not longer than until all is calm, and a process dies at once."""
        if self.is_calm:
            return
        fault(host, max(0.1, min(seconds, self.calm_at - self.kernel.now)))
        for life in (self.manager, host.gateway):
            if life is not None and life.process.dies_in is not None:
                life.process.dies_in = min(life.process.dies_in, self.random.choice((0, 1, 3, 10, 30)))

    def calm(self) -> None:
        """No faults from now on."""
        self.trace("world", "is calm")
        self.is_calm = self.people.is_calm = True
        self.db.is_full = False
        self.machine.thaw()
        if self.manager is not None:
            self.manager.process.dies_in = None
        for host in self.hosts.values():
            host.path.is_calm = True
            host.path.doubles = 0.0
            host.thaw()
            host.heal()
            if host.gateway is not None:
                host.gateway.process.dies_in = None

    def look(self) -> None:
        """What must hold at every moment."""
        found = checks.records(self.db)
        for what in checks.live_without_deadline(found.values()):
            self.report(what)
        self._look_for_orphans(found.values())
        for host in self.hosts.values():
            if host.gateway is not None:
                for what in self._bounds(host.gateway):
                    self.report(what)
        self.kernel.after(LOOK_EVERY_S, self.look)

    def _look_for_orphans(self, found: Iterable[Record]) -> None:
        """A live task has somebody who works on it: its host, which is here, knows it."""
        orphans = {}
        for record in found:
            host = self.hosts.get(record.host_id or "")
            gateway = None if host is None else host.gateway
            is_here = record.disconnected_since is None and gateway is not None and gateway.link.is_talking
            if is_here and record.started_at is not None and record.status in ON_A_HOST:
                assert gateway is not None
                if record.uid not in gateway.link._lines:
                    orphans[record.uid] = self._orphans.get(record.uid, 0) + 1
                    if orphans[record.uid] > 8:
                        self.report(f"{record.id} is {record.status}, and its host does not know it")
        self._orphans = orphans

    def _bounds(self, gateway: Gateway) -> list[str]:
        lines: list[Line] = list(gateway.link._lines.values())
        found = [
            f"{line.uid} keeps {line.outbox._bytes} bytes in {len(line.outbox._kept)} spans"
            for line in lines
            if len(line.outbox._kept) > line.outbox.window_spans + 1
        ]
        if gateway.link.backlog > 1_000:
            found.append(f"{gateway.host} keeps {gateway.link.backlog} answers")
        return found

    def run(self) -> None:
        self.start_manager()
        for host in self.hosts.values():
            self.kernel.after(self.random.uniform(0.0, 3.0), host.start)
        self.plan()
        self.kernel.after(LOOK_EVERY_S, self.look)
        self.kernel.run(self.calm_at)
        self.calm()
        self._run_until(self.calm_at + SETTLED_S, lambda: not self._unsettled(), self._unsettled)
        self._run_until(self.kernel.now + CLEAN_S, lambda: not self._unclean(), self._unclean)
        if not self.violations:
            self._judge()

    def _run_until(self, end: float, is_done: Callable[[], bool], what: Callable[[], list[str]]) -> None:
        while not self.violations and not is_done():
            if self.kernel.now >= end:
                self.report(f"long after the faults {'; '.join(what())}")
                return
            self.kernel.run(self.kernel.now + 2.0)

    def _unsettled(self) -> list[str]:
        left = [f"{author.key} is not taken" for author in self.authors if author.task_id is None]
        left += [f"{record.id} is {record.status}" for record in checks.unfinished(self.db)]
        left += [
            f"a reader of {reader.task_id} is at {reader.last}"
            for author in self.authors
            for reader in author.readers
            if not reader.has_ended
        ]
        return left

    def _unclean(self) -> list[str]:
        left = []
        for host in self.hosts.values():
            if there := ATTEMPTS.found(host.disk):
                left.append(f"host {host.name} still has {there}")
            crew = None if host.gateway is None else host.gateway.crew
            if crew is None or crew._offers or crew._prepared or crew._runners or crew._link._lines:
                left.append(f"host {host.name} has {crew!r}")
        return left

    def _judge(self) -> None:
        found = checks.records(self.db)
        truths = list(self.truths.values())
        for what in (
            *checks.slots(self.db, found.values()),
            *self._reasons(found.values()),
            *checks.logs(self.db, found, truths),
            *checks.inputs(self.db, truths),
            *checks.people(self.db, self.authors, found),
        ):
            self.report(what)

    def _reasons(self, found: Iterable[Record]) -> Iterable[str]:
        """An end is for the reason that it says."""
        for record in found:
            truth = self.truths.get(record.uid)
            host = self.hosts.get(record.host_id or "")
            match record.status:
                case TaskState.COMPLETED:
                    is_true = truth is not None and truth.has_finished and truth.code == 0
                case TaskState.FAILED:
                    is_true = record.reason == Reason.EXIT_NONZERO and truth is not None and truth.code not in (0, None)
                case TaskState.LOST if record.reason == Reason.HOST_RESTARTED:
                    is_true = host is not None and host.boots > 1
                case TaskState.LOST if record.reason == Reason.SUPERVISOR_DIED:
                    is_true = host is not None and host.killed_keepers > 0
                case _:
                    is_true = True
            if not is_true:
                yield f"{record.id} is {record.status}, {record.reason}: {record.detail}"


def run(seed: int, *, verbose: bool = False) -> World:
    """`house.doubles` must be open."""
    world = World(seed, verbose=verbose)
    world.run()
    world.db.shred()
    return world
