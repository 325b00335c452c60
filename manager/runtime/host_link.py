"""One connection of one host, from its first word to its last.

    _read      decodes, lets core/link judge, hands over to the recorder; the only reader of the wire
    _write     takes what is most urgent out of Outbound; the only writer of the wire; an errand
    recorder   (its own file) commits, announces, confirms; an errand
    look       notices silence and a peer that takes nothing, says `ping`; the watchdog calls it every second

All loops live in `serve`. Its end, whoever wants it (`end`), is always the same: nothing more is read, what was heard
is written down, the store learns that the host is gone, the socket is closed. A newer connection of the host makes
this one give way first, so that nothing this one heard is lost; what it still does after that is fenced by its
generation. It does not know HTTP, tokens or databases.

Invariant: nothing is taken from a host before `register`, and nothing from a host that is not the token's.
Cancelling `serve` is safe: the cleanup is shielded and bounded.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import anyio
import msgspec
import structlog

from manager.core.lifecycle import Cause
from manager.core.link import BASE, FULL, Link, Welcome, agreed_dialect, keeps_leases
from manager.core.registry import Member, member
from manager.core.tasks import DEFAULT_LIMITS, Change, Limits, Record
from manager.errors import StoreUnavailable
from manager.ports import Announcements, Claim, Clock, HostRow, Store, StoredInput
from manager.runtime.errand import Errand
from manager.runtime.fleet import GOING_DOWN, Fleet, in_our_words
from manager.runtime.outbound import Outbound
from manager.runtime.recorder import Recorder
from shared_types.api import InputState
from shared_types.codec import Malformed, decode_from_gateway, encode
from shared_types.events import MAX_INBOUND_BYTES
from shared_types.hosts import EffectiveConfig, Vitals
from shared_types.messages import (
    ConfigUpdate,
    FromGateway,
    FromManager,
    GatewayConfig,
    Heartbeat,
    LeaseTerms,
    Ping,
    Register,
    Registered,
    TaskAbort,
    Unknown,
)

log = structlog.get_logger(__name__)


class WireClosed(Exception):
    """The connection is gone."""


class Wire(Protocol):
    """Carries frames of text. One reader, one writer."""

    async def receive(self) -> bytes | str | None:
        """The next frame; None, or WireClosed, when the connection is gone."""
        ...

    async def send(self, data: bytes) -> None:
        """Returns when the frame is on its way. Raises WireClosed; then, and when cancelled, nothing of it
        is.
        """
        ...

    async def close(self, code: int, reason: str) -> None: ...


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long we wait for a host, in seconds."""

    register_s: float = 10.0
    silence_s: float = 90.0
    ping_s: float = 30.0
    stuck_s: float = 30.0  # one frame that the peer does not take
    drain_s: float = 5.0  # to write down what was heard, at the end
    close_s: float = 5.0
    heartbeat_interval_ms: int = 15_000  # what we ask full gateways for


DEFAULT_PATIENCE: Final = Patience()
MAX_SAID: Final = 1_000  # tasks with inputs that were said and not taken, remembered for each connection
MAX_REASON: Final = 120  # bytes; RFC 6455 allows 123 in a close frame


class _Inputs:
    """What a connection remembers of inputs, once there are any: which it said, and tasks whose inputs wait."""

    __slots__ = ("_said", "later", "lock")

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.later: dict[str, None] = {}
        self._said: dict[str, set[str]] = {}

    def said_of(self, task_id: str, waiting: Sequence[StoredInput]) -> set[str]:
        """Those of these inputs that were said; what the agent has taken is forgotten, and of tasks that ended too:
        an input that is said again changes nothing.
        """
        if len(self._said) > MAX_SAID:
            self._said.clear()
        said = self._said.pop(task_id, set()).intersection(one.input_id for one in waiting)
        if waiting:
            self._said[task_id] = said
        return said


class HostLink:
    __slots__ = (
        "_announcer",
        "_clock",
        "_config",
        "_delivering",
        "_ending",
        "_fleet",
        "_heard_at",
        "_inputs",
        "_is_giving_way",
        "_is_hung_up",
        "_is_quiet",
        "_is_released",
        "_lease",
        "_news",
        "_out",
        "_patience",
        "_ping_at",
        "_reading",
        "_recorder",
        "_row",
        "_sending_since",
        "_store",
        "_talk",
        "_wire",
        "_writing",
        "host_id",
        "last_heard_at",
        "vitals",
    )

    def __init__(
        self,
        wire: Wire,
        host_id: str,
        *,
        store: Store,
        announcer: Announcements,
        fleet: Fleet,
        clock: Clock,
        patience: Patience = DEFAULT_PATIENCE,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.host_id = host_id
        self.vitals: Vitals | None = None
        self.last_heard_at = 0
        self._wire = wire
        self._store = store
        self._announcer = announcer
        self._fleet = fleet
        self._clock = clock
        self._patience = patience
        self._lease = LeaseTerms(ttl=limits.host_ttl, kill_budget=limits.kill_budget)
        self._writing = Errand(self._write)
        self._out = Outbound(self._writing.wake)
        self._talk = Link(host_id, 0, BASE)
        self._recorder = self._new_recorder()
        self._ending: tuple[int, str] | None = None
        self._reading = anyio.CancelScope()
        self._heard_at = clock.monotonic()
        self._sending_since: float | None = None
        self._ping_at = self._heard_at + patience.ping_s
        self._is_giving_way = False
        self._is_quiet = False  # everything heard is written down, or owed
        self._is_released = False
        self._is_hung_up = False
        self._news: anyio.Event | None = None  # for whoever waits for one of these
        self._delivering = Errand(self._deliver_later)
        self._inputs: _Inputs | None = None
        self._config: EffectiveConfig | None = None
        self._row: HostRow | None = None

    def __repr__(self) -> str:
        return f"<HostLink {self.host_id} generation={self.generation} {self._out!r} {self._recorder!r}>"

    @property
    def generation(self) -> int:
        return self._talk.generation

    @property
    def dialect(self) -> int:
        return self._talk.dialect

    # --- its life -------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Until the connection ends."""
        self._fleet.entered(self)
        try:
            register = await self._first_word()
            if register is not None:
                await self._converse(register)
        finally:
            with anyio.CancelScope(shield=True):
                await self._hang_up()
            self._fleet.left(self)

    async def _first_word(self) -> Register | None:
        """`register`, within its time; None when the connection ended or was refused instead."""
        if self._fleet.is_closing:
            self.end(GOING_DOWN, "the manager is going down")
            return None
        message: FromGateway | None = None
        is_late = True
        with self._reading, anyio.move_on_after(self._patience.register_s):
            message = await self._hear_first_word()
            is_late = False
        self._reading = anyio.CancelScope()
        match message:
            case Register() if message.host_id == self.host_id:
                return message
            case Register():
                detail = f"this token belongs to host {self.host_id}, not to {message.host_id[:128]}"
                await self._refuse("HOST_ID_MISMATCH", detail, 4403)
            case None if is_late:
                self.end(4408, f"no register within {self._patience.register_s:g} s")
            case None:
                pass  # the connection ended
            case _:
                await self._refuse("REGISTER_FIRST", "nothing is accepted before register", 4400)
        return None

    async def _hear_first_word(self) -> FromGateway | None:
        """The first message that says something; None when the connection ended."""
        while True:
            try:
                data = await self._wire.receive()
                if data is None:
                    return None
                message = decode_from_gateway(data if isinstance(data, str) else _text(data))
            except WireClosed:
                return None
            except Malformed as error:
                self._malformed(error)
                return None
            if isinstance(message, Unknown):
                self._fleet.heard_unknown(self.host_id, message.type)
            elif not isinstance(message, Heartbeat):  # harmless, and proves nothing yet
                return message

    async def _refuse(self, code: str, detail: str, close_code: int) -> None:
        log.warning("host refused", host=self.host_id, code=code, detail=detail)
        self._fleet.count("refused")
        self.end(close_code, detail)
        try:
            with anyio.move_on_after(self._patience.close_s):
                await self._wire.send(encode(Registered(ok=False, error=detail, code=code)))
        except WireClosed:
            return

    async def _converse(self, register: Register) -> None:
        """From `register` to the end. The host counts as connected while this runs."""
        try:
            row = await self._take_over(register)
        except StoreUnavailable as error:
            log.warning("host not registered", host=self.host_id, error=str(error))
            self.end(1013, "the store is not available")
            return
        try:
            welcome = await self._welcome(register, row)
            if self._fleet.join(self, self._member()):
                await self._live(welcome)
            else:
                self.end(4409, "a newer connection of this host took over")
        except StoreUnavailable as error:
            log.warning("host not welcomed", host=self.host_id, error=str(error))
            self.end(1013, "the store is not available")
        finally:
            with anyio.CancelScope(shield=True):
                await self._gone()

    async def _take_over(self, register: Register) -> HostRow:
        """Become the connection of this host; what the older one heard is written down before.

        Raises StoreUnavailable.
        """
        older = self._fleet.link(self.host_id)
        is_quiet = older is None or await older.give_way()
        capabilities, agents = in_our_words(register.capabilities, register.agents)
        try:
            await self._wait_written(is_quiet)
            row = await self._store.host_connected(
                self.host_id,
                capabilities,
                agents,
                protocol=agreed_dialect(register),
                version=register.version,
                boot_id=register.boot_id,
                keeps_leases=keeps_leases(register),
                now=self._clock.now(),
            )
        finally:
            if older is not None:
                older.release()
        self._config = register.config
        self._row = row
        self._talk = Link(self.host_id, row.generation, row.protocol)
        self._recorder = self._new_recorder()
        return row

    async def _wait_written(self, is_quiet: bool) -> None:
        """Nothing of what this host said before may be fenced by us. Raises StoreUnavailable."""
        with anyio.move_on_after(self._patience.drain_s):
            await self._fleet.arrears.wait_written(self.host_id)
            if is_quiet:
                return
        raise StoreUnavailable("what this host said before is not written down yet")

    async def _welcome(self, register: Register, row: HostRow) -> Welcome:
        """Compare books, change what does not agree, and say what came out of it."""
        now = self.last_heard_at = self._clock.now()
        welcome = self._talk.welcome(
            register,
            await self._store.on_host(self.host_id),
            now,
            is_same_instance=self._fleet.is_same_instance(self.host_id, register.instance),
            heartbeat_interval=self._patience.heartbeat_interval_ms,
            lease=self._lease,
        )
        self._say(welcome.registered)
        for message in welcome.say:
            self._say(message)
        if welcome.changes:
            taken = await self._store.change(welcome.changes)
            self._announcer.taken(taken)
            for message in self._talk.settle(welcome.changes, taken).say:
                self._say(message)
        self._fleet.saw_instance(self.host_id, register.instance)
        return welcome

    async def _live(self, welcome: Welcome) -> None:
        """The conversation itself. Ends when nobody reads any more and everything heard is written down."""
        log.info("host online", host=self.host_id, generation=self.generation, dialect=self._talk.dialect)
        await self._say_missed(welcome)
        await self._fleet.announce(self.host_id, "host.online")
        errands = (self._writing, self._recorder.errand, self._recorder.accepting, self._delivering)
        async with anyio.create_task_group() as group:
            for errand in errands:
                errand.live_in(group)
            try:
                with self._reading:
                    await self._read()
                with anyio.move_on_after(self._patience.drain_s):
                    await self._recorder.errand.wait_over()
            finally:
                for errand in errands:  # somebody may be about to say something still: an input, a stop
                    errand.leave()
            group.cancel_scope.cancel()

    async def _say_missed(self, welcome: Welcome) -> None:
        """What was wished for while the host was being welcomed, when nobody could tell it yet."""
        told = {message.task_id for message in welcome.say if isinstance(message, TaskAbort)}
        for record in await self._store.on_host(self.host_id):
            if record.stop_requested_at is not None and record.id not in told:
                self._say(self._talk.stop(record, reason=record.stop_reason))
        for task_id in welcome.running:
            self._deliver_soon(task_id)

    async def _gone(self) -> None:
        """Whatever happened: the store learns it, once, and a newer connection is not disturbed."""
        was_current = self._fleet.leave(self)
        self._leave_behind()  # before anybody waits: a newer connection asks what is owed
        self._is_quiet = True
        self._tell_news()
        if self._is_giving_way:
            await self._hang_up()
            await self._wait_until(lambda: self._is_released)
        try:
            with anyio.fail_after(self._patience.drain_s):
                await self._fleet.arrears.wait_written(self.host_id)
                taken = await self._store.host_gone(self.host_id, self.generation, self._clock.now())
                self._announcer.taken(taken)
                if was_current and self._fleet.link(self.host_id) is None:
                    await self._fleet.announce(self.host_id, "host.offline")
        except (StoreUnavailable, TimeoutError) as error:
            log.error("not written down yet that a host is gone", host=self.host_id, error=str(error))
            self._fleet.arrears.end(self.host_id, self.generation)
        code, reason = self._ending or (1000, "the host hung up")
        log.info("host offline", host=self.host_id, generation=self.generation, code=code, reason=reason)

    def _leave_behind(self) -> None:
        """What the host was not told goes to another one. What it said and the store did not take is owed too when it
        speaks the base dialect: one of the full dialect says it again.
        """
        left = self._recorder.left()
        if self._talk.dialect == FULL:
            left = [change for change in left if change.cause is Cause.NEVER_STARTED]
        now = self._clock.now()
        left += [self._talk.never_said(record, now) for record in self._out.take_back_all()]
        if left:
            self._fleet.arrears.words(self.host_id, left)

    async def _hang_up(self) -> None:
        if self._is_hung_up:
            return
        self._is_hung_up = True
        code, reason = self._ending or (1000, "")
        with anyio.move_on_after(self._patience.close_s):
            try:
                await self._wire.close(code, reason.encode()[:MAX_REASON].decode(errors="ignore"))
            except WireClosed:
                return

    def end(self, code: int, reason: str) -> None:
        """Stop listening, and leave when everything heard is written down. The first reason counts."""
        if self._ending is None:
            self._ending = (code, reason)
        self._reading.cancel()

    async def give_way(self) -> bool:
        self._is_giving_way = True
        self.end(4409, "a newer connection of this host took over")
        await self._wait_until(lambda: self._is_quiet)
        return self._is_quiet

    def release(self) -> None:
        self._is_released = True
        self._tell_news()

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Bounded: two connections of one host never wait for each other for long."""
        with anyio.move_on_after(self._patience.drain_s):
            while not condition():
                if self._news is None:
                    self._news = anyio.Event()
                await self._news.wait()

    def _tell_news(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    # --- its loops ------------------------------------------------------------------------------------

    async def _read(self) -> None:
        wire, recorder, clock = self._wire, self._recorder, self._clock
        while True:
            try:
                data = await wire.receive()
            except WireClosed:
                return
            if data is None:
                return
            self._heard_at = clock.monotonic()
            if len(data) > MAX_INBOUND_BYTES:
                self.end(1009, f"a frame of {len(data)} bytes; {MAX_INBOUND_BYTES} is the limit")
                return
            try:
                change = self._hear(data)
            except Malformed as error:
                self._malformed(error)
                return
            if change is not None:
                recorder.put(change, len(data))
                if not recorder.has_room:
                    await recorder.wait_room()

    def _hear(self, data: bytes | str) -> Change | None:
        message = decode_from_gateway(data if isinstance(data, str) else _text(data))
        self.last_heard_at = now = self._clock.now()
        match message:
            case Heartbeat():
                self._beat(message)
                return None
            case Unknown():
                self._fleet.heard_unknown(self.host_id, message.type)
                return None
            case Register():
                detail = "this connection is registered already; open a new one to change what was said"
                self._say(Registered(ok=False, error=detail, code="ALREADY_REGISTERED"))
                return None
        return self._judge(message, now)

    def _judge(self, message: FromGateway, now: int) -> Change | None:
        change = self._talk.hear(message, now)
        if change is None:
            self._fleet.count("stray")
            for retort in self._talk.retorts():
                self._say(retort)
        return change

    def _beat(self, beat: Heartbeat) -> None:
        if beat.vitals is not None:
            self.vitals = beat.vitals
        if beat.config is not None and beat.config != self._config:
            self._config = beat.config
            self._fleet.update(self, self._member())
            self._recorder.host_changed()
        self._recorder.beat(beat.sent)

    def _malformed(self, error: Malformed) -> None:
        log.warning("host sent what is no message", host=self.host_id, error=str(error)[:500])
        self._fleet.count("malformed")
        self.end(1007, f"malformed: {error}")

    async def _write(self) -> None:
        out, wire, clock = self._out, self._wire, self._clock
        while (frame := out.next()) is not None:
            self._sending_since = clock.monotonic()
            is_written = False
            try:
                await wire.send(frame)
                is_written = True
            except WireClosed:
                self._reading.cancel()
                return
            finally:
                if not is_written:
                    out.not_written(frame)
            self._sending_since = None
        if self._inputs is not None and self._inputs.later:
            self._delivering.wake()

    def look(self, now: float) -> None:
        """Whether the peer still lives; `now` is monotonic."""
        patience = self._patience
        if self._recorder.is_holding_up:
            self._heard_at = now  # it is we who do not listen
        if now - self._heard_at >= patience.silence_s:
            self.end(4408, f"nothing heard for {patience.silence_s:g} s")
        elif self._sending_since is not None and now - self._sending_since >= patience.stuck_s:
            self.end(4408, f"a frame was not taken for {patience.stuck_s:g} s")
        elif now >= self._ping_at:
            self._ping_at = now + patience.ping_s
            self._say(Ping())
        else:
            self._writing.may_rest()
            self._delivering.may_rest()
            self._recorder.errand.may_rest()
            self._recorder.accepting.may_rest()

    def _new_recorder(self) -> Recorder:
        return Recorder(
            self._talk,
            self._out,
            store=self._store,
            announcer=self._announcer,
            clock=self._clock,
            end=self.end,
            started=self._started,
            changed=self._announce_change,
            count=self._fleet.count,
        )

    # --- what others ask of it ------------------------------------------------------------------------

    def execute(self, claim: Claim) -> bool:
        if self._ending is not None:
            return False
        assert self._row is not None
        message = self._talk.execute(claim.spec, claim.record, self._row.capabilities.cwd)
        return self._out.give(message, claim.record)

    def call_off(self, record: Record) -> None:
        if self._ending is None and not self._out.take_back(record):
            self._say(self._talk.stop(record, reason="not_claimed", kill=True))

    def stop(self, record: Record, *, kill: bool, reason: str | None) -> None:
        if self._out.take_back(record):
            self._recorder.put(self._talk.never_said(record, self._clock.now()))
        else:
            self._say(self._talk.stop(record, reason=reason, kill=kill))

    def configure(self, config: GatewayConfig) -> None:
        if self._talk.dialect == FULL:
            self._say(ConfigUpdate(config=config))
            return
        base = GatewayConfig(
            heartbeat_interval=config.heartbeat_interval,
            task_timeout=config.task_timeout,
            max_retries=config.max_retries,
        )
        self._say(ConfigUpdate(config=base))

    def set_draining(self, draining: bool) -> None:
        assert self._row is not None
        self._row = msgspec.structs.replace(self._row, draining=draining)
        self._fleet.update(self, self._member())

    async def deliver(self, task_id: str) -> bool:
        """Say the inputs of a running task that the agent has not taken, each once on this connection. In the base
        dialect, which has no names for inputs, each once and never again. False: some wait for room.
        """
        if self._inputs is None:
            self._inputs = _Inputs()
        inputs = self._inputs
        async with inputs.lock:
            waiting = await self._store.open_inputs(task_id)
            said = inputs.said_of(task_id, waiting)
            for one in waiting:
                is_again = one.state is InputState.SENT
                if one.input_id in said or (is_again and self._talk.dialect == BASE):
                    continue
                if not self._out.has_room:
                    inputs.later[task_id] = None  # the writer says when there is
                    return False
                if not is_again:
                    await self._store.mark_input(task_id, one.input_id, InputState.SENT)
                said.add(one.input_id)
                self._say(self._talk.input(task_id, one.input_id, one.content))
        self._fleet.no_input_waits(task_id)
        return True

    def _deliver_soon(self, task_id: str) -> None:
        if self._inputs is None:
            self._inputs = _Inputs()
        self._inputs.later[task_id] = None
        self._delivering.wake()

    async def _deliver_later(self) -> None:
        """The tasks whose inputs wait, one after the other, as long as there is room."""
        inputs = self._inputs
        while inputs is not None and inputs.later and self._out.has_room:
            task_id = next(iter(inputs.later))
            del inputs.later[task_id]
            await self._try_deliver(task_id)

    async def _try_deliver(self, task_id: str) -> None:
        try:
            await self.deliver(task_id)
        except StoreUnavailable as error:
            log.warning("inputs wait for the store", task=task_id, error=str(error))
            self._fleet.arrears.inputs(task_id)

    async def _started(self, record: Record) -> None:
        if self._fleet.may_have_inputs(record):
            await self._try_deliver(record.id)

    async def _announce_change(self) -> None:
        await self._fleet.announce(self.host_id, "host.changed")

    def _say(self, message: FromManager) -> None:
        if not self._out.say(message):
            self.end(4429, "the host does not read what it is told")

    def _member(self) -> Member:
        assert self._row is not None
        return member(
            self.host_id,
            self.generation,
            self._row.capabilities,
            self._row.agents,
            labels=self._row.labels,
            is_draining=self._row.draining,
            config=self._config,
            last_assigned_at=self._row.last_assigned_at,
        )


def _text(data: bytes) -> str:
    """A frame as text. Raises Malformed."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8: {error}") from error
