"""Every attempt on this host and its runner; carries out what the link says the manager wants.

    offered    looked at: whether its directory is there and allowed, which a dead file system may take long to tell
    prepared   accepted, nothing spawned: forgotten when the line breaks or no word to start comes
    runner     started, or adopted from an earlier gateway: lives until the manager has its end

`obey` never waits: an order is carried out before the next message is read. What takes time has a task in the crew's
own group: the look at an offer, which ends with its connection, so that what is accepted is accepted on the connection
that offered it; and the life of a runner.

Invariant: at most `slots` attempts are offered, prepared or alive, whatever the manager believes.
"""

import errno
import os
import re
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import msgspec
import structlog
from anyio import CancelScope
from anyio.abc import TaskGroup, TaskStatus

from gateway.agents.base import AgentKind, Driver, Launch, RunSpec
from gateway.core import environment
from gateway.core.lease import KILL_BUDGET_MS
from gateway.core.link import Link
from gateway.core.orders import (
    Abort,
    Configure,
    Dismiss,
    Forget,
    Input,
    Lease,
    Order,
    Prepare,
    Room,
    Start,
    Stop,
)
from gateway.core.policy import Policy
from gateway.core.run import GRACE_MS, Act
from gateway.core.slots import Room as SlotRoom
from gateway.core.slots import admit
from gateway.errors import AlreadyStarted, CannotRun, KeeperLost, KeeperTooNew, NoAnswer
from gateway.runtime import attempt, crash, kept, workspace
from gateway.runtime.cgroups import Cgroups
from gateway.runtime.clock import Clock
from gateway.runtime.inventory import Inventory
from gateway.runtime.kept import Kept
from gateway.runtime.memory import Memory
from gateway.runtime.process import Keeper, KeeperSpec, Stranger
from gateway.runtime.runner import Runner
from gateway.runtime.scouts import Scouts
from gateway.runtime.spool import Spool
from gateway.runtime.vitals import VitalSigns
from gateway.runtime.warm import WarmKeepers
from shared_types.hosts import EffectiveConfig, HostCapabilities, canonical_agent
from shared_types.messages import PROTOCOL, Register
from shared_types.tasks import PermissionMode, Reason, TaskRequest

LOOK_S: Final = 5.0  # for a task's directory: longer than a disk that sleeps, shorter than managers wait for an answer
EARLY: Final = 100  # inputs for an attempt that is only looked at
ACCEPTED_S: Final = 120.0  # no word to start for so long: the manager has forgotten what we accepted
KEEP_HOUSE_S: Final = 1.0
TMP: Final = "tmp"
_UID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MODEL: Final = re.compile(r"[A-Za-z0-9][\w./:@-]{0,127}")

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who we are. `instance` is new at each start of this process."""

    host_id: str
    name: str
    version: str
    boot_id: str | None  # of the machine
    instance: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What the host's owner lets tasks do."""

    cwd: Path
    roots: tuple[Path, ...]
    task_env: tuple[str, ...] | None
    modes: frozenset[PermissionMode]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Accepted and ready. `env` and the times are what a keeper needs and nobody keeps on disk."""

    kept: Kept
    kind: AgentKind
    task_env: Mapping[str, str]
    timeout_ms: int
    idle_ms: int | None
    at: float = field(compare=False)


@dataclass(frozen=True, slots=True)
class Offer:
    """What is looked at. `inputs` are for its agent, should there be one."""

    scope: CancelScope = field(default_factory=CancelScope)
    inputs: list[tuple[str | None, str]] = field(default_factory=list)


class Crew:
    """`home` holds the attempts. `nudge` tells the uplink that there may be something to say."""

    def __init__(
        self,
        link: Link,
        identity: Identity,
        rules: Rules,
        policy: Policy,
        *,
        home: Path,
        inventory: Inventory,
        vitals: VitalSigns,
        warm: WarmKeepers,
        cgroups: Cgroups,
        secrets: tuple[str, ...] = (),
        clock: Clock,
    ) -> None:
        self.nudge: Callable[[], None] = lambda: None
        self.policy = policy
        self._link = link
        self._identity = identity
        self._memory = Memory(home, identity.boot_id)
        self._rules = rules
        self._home = home
        self._inventory = inventory
        self._vitals = vitals
        self._warm = warm
        self._cgroups = cgroups
        self._secrets = secrets  # what no agent may show to anybody, should it have found them
        self._clock = clock
        self._scouts = Scouts()
        self._offers: dict[str, Offer] = {}
        self._prepared: dict[str, Prepared] = {}
        self._runners: dict[str, Runner] = {}
        self._group: TaskGroup | None = None
        self._quieter = anyio.Event()

    def __repr__(self) -> str:
        waiting = len(self._offers) + len(self._prepared)
        return f"<Crew waiting={waiting} runners={len(self._runners)} alive={self.alive}>"

    # --- what others ask ------------------------------------------------------------------------------

    @property
    def effective(self) -> EffectiveConfig:
        return self.policy.effective

    @property
    def alive(self) -> int:
        """Attempts whose process tree may be there."""
        return sum(runner.is_alive for runner in self._runners.values())

    def greeting(self) -> Register:
        config = self.effective
        return Register(
            host_id=self._identity.host_id,
            capabilities=HostCapabilities(
                name=self._identity.name,
                agents=self._inventory.offered,
                max_concurrent=config.max_concurrent,
                cwd=str(self._rules.cwd),
                labels=config.labels,
            ),
            protocol=PROTOCOL,
            version=self._identity.version,
            boot_id=self._memory.name,
            instance=self._identity.instance,
            agents=self._inventory.infos,
            running=self._link.running(),
            config=config,
            sent=self._clock.boot_ms(),
        )

    def drain(self) -> None:
        """Take no new work from now on."""
        self.policy = self.policy.stopping()

    def stop_all(self) -> None:
        """Bring every attempt to its end."""
        for runner in self._runners.values():
            runner.abort(None)

    async def wait_idle(self) -> None:
        """Until no attempt is left whose end the manager does not have."""
        while self._runners or self._prepared or self._offers:
            await self._quieter.wait()

    # --- its life -------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """For as long as the gateway lives; `started` when what an earlier gateway left is adopted. Cancelling
        leaves agents to their keepers.
        """
        async with anyio.create_task_group() as self._group:
            await self._adopt_all()
            task_status.started()
            try:
                while True:
                    await anyio.sleep(KEEP_HOUSE_S)
                    self._keep_house()
            finally:
                self._note_said()

    def _keep_house(self) -> None:
        late = self._clock.monotonic() - ACCEPTED_S
        for uid in [uid for uid, prepared in self._prepared.items() if prepared.at < late]:
            self._link.give_back(uid)
        self.obey(self._link.orders())
        self._note_said()

    def _note_said(self) -> None:
        for uid, runner in self._runners.items():
            if runner.is_of_base and (said := self._link.confirmed(uid)) != runner.noted_said:
                runner.noted_said = said
                try:
                    kept.note_said(attempt.directory(self._home, uid), said)
                except OSError as error:  # the disk is full: after a restart some of it is said twice
                    _log.warning("attempt.not_noted", uid=uid, error=str(error))

    # --- orders ---------------------------------------------------------------------------------------

    def obey(self, orders: Sequence[Order]) -> None:
        for order in orders:
            match order:
                case Prepare():
                    self._prepare(order)
                case Start(uid=uid, until=until):
                    self._start(uid, until)
                case Lease(uid=uid, until=until):
                    self._each(uid, partial(Runner.prolong, until=until))
                case Dismiss(uid=uid):
                    self._prepared.pop(uid, None)
                    self._withdraw(uid)
                case Abort(uid=uid, reason=reason, grace_ms=grace_ms):
                    _log.info("attempt.abort", uid=uid, reason=reason)
                    if self._withdraw(uid):
                        self._link.spawn_failed(uid, Reason.ABORTED_BY_USER, "stopped before it was started")
                    self._each(uid, partial(Runner.abort, grace_ms=grace_ms))
                case Input(uid=uid, input_id=input_id, text=text):
                    self._say(uid, input_id, text)
                case Room(uid=uid):
                    self._each(uid, Runner.look)
                case Stop(uid=uid) | Forget(uid=uid):
                    self._forget(uid)
                case Configure(config=config):
                    self.policy = self.policy.wished(config)
                    _log.info("config", effective=self.effective)
            self._note_quiet()

    def _note_quiet(self) -> None:
        self._quieter.set()
        self._quieter = anyio.Event()

    def _each(self, uid: str, do: Callable[[Runner], None]) -> None:
        """With the runner of this attempt, unless it is gone: orders and ends may cross."""
        if (runner := self._runners.get(uid)) is not None:
            do(runner)

    def _withdraw(self, uid: str) -> bool:
        """Nobody wants to know any more whether this offer can be taken. False: it is none."""
        if (offer := self._offers.pop(uid, None)) is not None:
            offer.scope.cancel()
        return offer is not None

    def _forget(self, uid: str) -> None:
        if uid in self._runners:
            self._runners[uid].forget()
        elif not self._withdraw(uid):
            self._spawn_soon(uid, self._let_go, uid)  # adopted, and never begun

    def _say(self, uid: str, input_id: str | None, text: str) -> None:
        if (runner := self._runners.get(uid)) is not None:
            runner.say(input_id or uuid.uuid4().hex, text)
        elif (offer := self._offers.get(uid)) is not None and len(offer.inputs) < EARLY:
            offer.inputs.append((input_id, text))
        else:  # not begun, or just let go: the manager keeps it for the next attempt, or has the end
            _log.warning("input.not_taken", uid=uid, input=input_id)

    def _prepare(self, order: Prepare) -> None:
        crash.here("execute_received")
        task = order.task
        try:
            prepared = self._ready(order)
        except CannotRun as error:
            _log.info("attempt.refused", task=task.task_id, reason=error.reason, detail=error.detail)
            self._link.refuse(task.task_id, order.attempt, error.reason, error.detail)
            return
        uid = prepared.kept.uid
        self._offers[uid] = Offer()
        self._link.consider(uid, task.task_id, order.attempt, at_once=order.at_once, grace=task.grace)
        self._spawn_soon(uid, self._consider, prepared, self._offers[uid], order.at_once)

    async def _consider(self, prepared: Prepared, offer: Offer, at_once: bool) -> None:
        """Accepts or refuses, unless the offer is withdrawn first."""
        this = prepared.kept
        try:
            with offer.scope:
                look = partial(workspace.working_directory, this.cwd, self._rules.cwd, self._rules.roots)
                this = msgspec.structs.replace(this, cwd=str(await self._look(this.cwd, look)))
        except CannotRun as error:
            if self._offers.pop(this.uid, None) is not None:
                _log.info("attempt.refused", task=this.task_id, reason=error.reason, detail=error.detail)
                self._link.spawn_failed(this.uid, error.reason, error.detail)
        else:
            if self._offers.pop(this.uid, None) is not None:
                self._prepared[this.uid] = replace(prepared, kept=this, at=self._clock.monotonic())
                self._link.accept(this.uid)
                if at_once:
                    self._start(this.uid, None)
                for input_id, text in offer.inputs:
                    self._say(this.uid, input_id, text)
        self._note_quiet()
        self.nudge()

    async def _look(self, cwd: str, look: Callable[[], T]) -> T:
        """Raises CannotRun, also when nothing answers."""
        try:
            return await self._scouts.look(look, LOOK_S)
        except NoAnswer as error:
            detail = f"the file system of {cwd or self._rules.cwd} does not answer on this host: {error}"
            raise CannotRun(Reason.CWD_MISSING, detail) from error

    def _ready(self, order: Prepare) -> Prepared:
        """Everything that can be known at once is checked here. Raises CannotRun."""
        task = order.task
        uid = order.uid or f"base-{uuid.uuid4().hex}"
        is_used = uid in self._offers or uid in self._prepared or uid in self._runners
        if not _UID.fullmatch(uid) or is_used or attempt.directory(self._home, uid).exists():
            raise CannotRun(Reason.SPAWN_FAILED, "the attempt's name is none, or was used before")
        agent = canonical_agent(task.agent_type)
        found, kind = self._inventory.found.get(agent), self._inventory.kinds.get(agent)
        room = SlotRoom(
            used=len(self._offers) + len(self._prepared) + self.alive,
            slots=self.effective.max_concurrent,
            draining=self.effective.draining,
            free_bytes=self._vitals.free_bytes,
            journal_bytes=self._vitals.journal_bytes,
            quota_bytes=self._vitals.quota_bytes,
        )
        admit(room, agent=agent, found=found, mode_problem=self._mode_problem(kind, task.permission_mode))
        assert kind is not None, "what was found is of a kind"
        assert found is not None, "what was admitted was found"
        assert found.path is not None, "what was admitted can be run"
        if task.model is not None and not _MODEL.fullmatch(task.model):
            raise CannotRun(Reason.SPAWN_FAILED, f"{task.model[:128]!r} is not a model's name")
        task_env = task.env or {}
        environment.check(task_env, self._rules.task_env)
        this = Kept(
            uid=uid,
            task_id=task.task_id,
            attempt=order.attempt,
            agent=agent,
            prompt=task.prompt,
            cwd=task.cwd,
            executable=found.path,
            session_uuid=str(uuid.uuid4()),
            model=task.model,
            mode=task.permission_mode,
            version=found.version,
            boot_id=self._identity.boot_id,
            grace=task.grace,
        )
        return Prepared(this, kind, task_env, self._timeout_ms(task), task.idle_timeout, self._clock.monotonic())

    def _timeout_ms(self, task: TaskRequest) -> int:
        longest = self.effective.task_timeout
        return longest if task.timeout is None else max(1, min(task.timeout, longest))

    def _mode_problem(self, kind: AgentKind | None, mode: PermissionMode) -> str | None:
        if mode not in self._rules.modes:
            return f"this host does not allow permission mode {mode}"
        if kind is None:
            return None
        return kind.supports(mode, is_root=os.geteuid() == 0, env=self._host_env(kind))

    def _host_env(self, kind: AgentKind) -> dict[str, str]:
        """Those of the kind's own names that are set on this host."""
        env = environment.of_host(self._inventory.environ, kind.env_names)
        return {name: value for name, value in env.items() if environment.matches(name, kind.env_names)}

    # --- starting -------------------------------------------------------------------------------------

    def _start(self, uid: str, until: int | None) -> None:
        prepared = self._prepared.pop(uid)
        runner = self._runner(prepared.kept, prepared.kind)
        runner.until = until
        self._spawn_soon(uid, self._begin, prepared, runner)

    def _runner(self, this: Kept, kind: AgentKind, *, is_adopted: bool = False) -> Runner:
        runner = self._runners[this.uid] = Runner(
            this.uid,
            this.task_id,
            partial(self._driver, this, kind),
            link=self._link,
            nudge=self._nudge,
            clock=self._clock,
            boot_id=self._identity.boot_id,
            begun_in=this.boot_id,
            is_of_base=this.attempt is None,
            is_adopted=is_adopted,
        )
        return runner

    def _nudge(self) -> None:
        self.nudge()

    def _driver(self, this: Kept, kind: AgentKind, instructions: str = "") -> Driver:
        """`instructions` are for its launch; what it makes of the journal does not depend on them."""
        return kind.driver(
            RunSpec(
                task_id=this.task_id,
                prompt=this.prompt,
                cwd=this.cwd,
                executable=this.executable,
                model=this.model,
                mode=this.mode,
                session_uuid=this.session_uuid,
                version=this.version,
                is_root=os.geteuid() == 0,
                host_env=self._host_env(kind),
                instructions=instructions,
            )
        )

    async def _begin(self, prepared: Prepared, runner: Runner) -> None:
        uid = runner.uid
        try:
            keeper = await self._spawn(prepared, runner)
        except CannotRun as error:
            _log.warning("attempt.not_started", uid=uid, reason=error.reason, detail=error.detail)
            self._link.spawn_failed(uid, error.reason, error.detail)
            self.nudge()
            await self._let_go(uid)
        except (KeeperLost, AlreadyStarted):
            _log.exception("attempt.unclear", uid=uid)
            await self._live(runner)  # it may run all the same: its directory knows
        else:
            _log.info("attempt.started", uid=uid, task=runner.task_id, agent=prepared.kept.agent)
            await self._live(runner, keeper)

    async def _spawn(self, prepared: Prepared, runner: Runner) -> Keeper:
        """Raises CannotRun: nothing runs. Raises KeeperLost or AlreadyStarted: it may."""
        try:
            spec = await self._keeper_spec(prepared, runner)
            keeper = await Keeper.start(self._home, prepared.kept.uid, spec, self._warm.take)
            crash.here("keeper_started")
            return keeper
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise CannotRun(Reason.DISK_FULL if is_full else Reason.SPAWN_FAILED, str(error)) from error
        finally:
            self._warm.refill()

    async def _keeper_spec(self, prepared: Prepared, runner: Runner) -> KeeperSpec:
        """With everything on disk that the agent begins with."""
        this, rules, names = prepared.kept, self._rules, prepared.kind.instruction_files
        cwd, instructions = await self._look(
            this.cwd, partial(workspace.enter, this.cwd, rules.cwd, rules.roots, names)
        )
        launch = self._driver(this, prepared.kind, instructions).launch()
        private = attempt.directory(self._home, this.uid) / attempt.PRIVATE
        await anyio.to_thread.run_sync(_lay_out, self._home, this, launch)
        crash.here("directory_written")
        env = environment.build(
            self._inventory.environment(prepared.kind),
            prepared.task_env,
            {name: _located(value, private) for name, value in launch.env.items()},
            str(private / TMP),
        )
        return KeeperSpec(
            argv=tuple(_located(word, private) for word in launch.argv),
            env=env,
            cwd=str(cwd),
            roots=tuple(map(str, workspace.nearest_first(rules.roots, cwd))),
            stdin_mode=launch.stdin_mode,
            stdin=launch.stdin,
            stdout_to_file=launch.stdout_to_file,
            run_s=prepared.timeout_ms / 1000,
            idle_s=launch.idle_s if prepared.idle_ms is None else prepared.idle_ms / 1000,
            first_output_s=launch.first_output_s,
            grace_s=GRACE_MS / 1000,
            budget_s=KILL_BUDGET_MS / 1000,
            until_ms=runner.until,
            cgroup=self._cgroups.path(this.uid),
            secrets=self._secrets,
        )

    # --- adopting -------------------------------------------------------------------------------------

    async def _adopt_all(self) -> None:
        await anyio.to_thread.run_sync(attempt.tidy, self._home)
        await anyio.to_thread.run_sync(self._cgroups.find)
        for uid in await anyio.to_thread.run_sync(attempt.found, self._home):
            await self._alone(uid, self._adopt, uid)

    async def _adopt(self, uid: str) -> None:
        """What an earlier gateway left: running, ended, or not even begun."""
        path = attempt.directory(self._home, uid)
        this = kept.read(path)
        kind = None if this is None else self._inventory.kinds.get(this.agent)
        if this is None or kind is None:
            # Nobody could say what it says: its directory was not written whole, or its agent is declared no more.
            _log.error("attempt.not_adopted", uid=uid, agent=None if this is None else this.agent)
            if kept.is_there(path):
                self._memory.lost()  # it may have run, and is not named
            self._spawn_soon(uid, self._end_stranger, uid)
            return
        # A power cut may have taken every trace of a start: the keeper does not wait for the disk.
        is_spawned = not attempt.void(path) or this.boot_id != self._identity.boot_id
        self._link.adopt(uid, this.task_id, this.attempt, said=kept.said(path), is_spawned=is_spawned, grace=this.grace)
        _log.info("attempt.adopted", uid=uid, task=this.task_id, agent=this.agent, is_spawned=is_spawned)
        if is_spawned:
            self._spawn_soon(uid, self._live, self._runner(this, kind, is_adopted=True))

    async def _end_stranger(self, uid: str) -> None:
        try:
            keeper = await Keeper.adopt(self._home, uid)
            await keeper.stop(Act.STOP_ABORT, GRACE_MS)
            await keeper.wait_gone()
        except KeeperLost as error:
            _log.warning("keeper.lost", uid=uid, error=str(error))
        except KeeperTooNew as error:
            _log.error("keeper.too_new", uid=uid, why=str(error))
            return  # of a newer release, as its agent may be: nobody here knows enough to end it
        await self._delete(uid)

    # --- living and going -----------------------------------------------------------------------------

    def _spawn_soon(self, uid: str, do: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        assert self._group is not None, "the crew runs"
        self._group.start_soon(self._alone, uid, do, *args)

    async def _alone(self, uid: str, do: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """What nobody foresaw, a fault of ours or a broken disk's, ends its attempt, loudly, and not the host with
        all others.
        """
        try:
            await do(*args)
        except Exception:
            _log.exception("attempt.broken", uid=uid)
            if self._withdraw(uid):
                self._link.spawn_failed(uid, Reason.SPAWN_FAILED, "The gateway failed at this attempt; see its log.")
            self._runners.pop(uid, None)
            await attempt.sweep(attempt.directory(self._home, uid))  # its keeper ends with it
            if self._link.told(uid) is None:
                await self._let_go(uid)
            else:
                self._link.broke(uid, Reason.PROTOCOL_ERROR, "The gateway failed at this attempt; see its log.")
                self.nudge()

    async def _live(self, runner: Runner, keeper: Keeper | None = None) -> None:
        """Until the manager has its end, or nobody wants it. Cancelling leaves it to its keeper."""
        if keeper is None:
            try:
                keeper = await Keeper.adopt(self._home, runner.uid)
            except KeeperLost as error:
                _log.warning("keeper.lost", uid=runner.uid, error=str(error))
            except KeeperTooNew as error:
                _log.error("keeper.too_new", uid=runner.uid, task=runner.task_id, why=str(error))
                await runner.outlast(Stranger.of(self._home, runner.uid), str(error))
                await self._let_go(runner.uid)
                return
        await runner.run(Spool(attempt.directory(self._home, runner.uid)), keeper)
        await self._let_go(runner.uid)

    async def _let_go(self, uid: str) -> None:
        crash.here("before_forget")
        self._runners.pop(uid, None)
        await self._delete(uid)
        self._note_quiet()

    async def _delete(self, uid: str) -> None:
        """What cannot be deleted is found by the next gateway, and told to nobody who still wants it."""
        try:
            await anyio.to_thread.run_sync(attempt.forget, self._home, uid)
        except OSError as error:  # TimeoutError, too
            _log.error("attempt.not_deleted", uid=uid, error=str(error))


def _located(text: str, private: Path) -> str:
    return text.replace("{private}", str(private))


def _lay_out(home: Path, this: Kept, launch: Launch) -> None:
    """Everything on disk that an attempt begins with."""
    path = attempt.make(home, this.uid)
    kept.write(path, this)
    private = path / attempt.PRIVATE
    (private / TMP).mkdir(mode=0o700, exist_ok=True)
    for name, data in launch.files.items():
        file = private / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_bytes(data)
