"""Whatever is done in whatever order, with commits and faults between: memory, rows and news say the same."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.json import decode

from manager.core import tasks as core
from manager.core.lifecycle import ON_A_HOST, Cause
from manager.core.scheduling import Offer
from manager.core.tasks import DEFAULT_LIMITS, Change, Record
from manager.errors import TooMany
from manager.storage import claims, hosts, tasks
from manager.storage.ledger import Ledger
from manager.storage.opening import open_writer
from manager.storage.recent import Recent
from manager.storage.rows import LAST_ID
from shared_types.tasks import FINAL, TaskState
from tests.contracts.making import T0, a_task, bodies, can

HOSTS = ("h1", "h2", "h3")
host_ids = st.sampled_from(HOSTS)


class Truth(RuleBasedStateMachine):
    """Caches are as small as can be, so that everything is forgotten and read again all the time."""

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "x.db"
        self.now = T0
        self.names: list[str] = []
        self.committed_names: list[str] = []
        self.sessions = 0
        self.book = Ledger(open_writer(self.path), DEFAULT_LIMITS, hot_bytes=1)
        self.recent = Recent()
        self.recent.learn(self.book.first_news())

    def teardown(self) -> None:
        self.book.close()
        self.directory.cleanup()

    def any_task(self, pick: int) -> str | None:
        return self.names[pick % len(self.names)] if self.names else None

    # --- what may happen ------------------------------------------------------------------------------

    @rule(
        priority=st.integers(0, 2),
        pinned=st.none() | host_ids,
        session=st.none() | st.integers(0, 2),
        agent=st.sampled_from(["command", "other"]),
    )
    def add(self, priority: int, pinned: str | None, session: int | None, agent: str) -> None:
        self.now += 1
        # Names that sort backwards too, so that a new session is not always the newest.
        name = f"sess_{session}" if session is not None else f"sess_{(7 * len(self.names)) % 11}_{len(self.names)}"
        new = a_task(session=name, priority=priority, pinned_host=pinned, agent_type=agent, created_at=self.now)
        try:
            tasks.add(self.book, new, 8)
        except TooMany:
            assert self.book.count(TaskState.QUEUED) == 8
        else:
            self.names.append(new.task_id)

    @rule(host=host_ids, protocol=st.integers(1, 2), agents=st.sampled_from([("command",), ("command", "other")]))
    def connect(self, host: str, protocol: int, agents: tuple[str, ...]) -> None:
        self.now += 1
        before = self.book.hosts.get(host)
        row = hosts.connected(self.book, host, can(*agents, slots=2), (), protocol, None, None, self.now)
        assert row.generation == (before.generation + 1 if before else 1)

    @rule(host=host_ids, old=st.booleans())
    def go(self, host: str, old: bool) -> None:
        self.now += 1
        row = self.book.hosts.get(host)
        if row is not None:
            hosts.gone(self.book, host, row.generation - old, self.now)

    @rule(host=host_ids, draining=st.booleans())
    def drain(self, host: str, draining: bool) -> None:
        if host in self.book.hosts:
            hosts.set_draining(self.book, host, draining)

    @rule(later=st.integers(0, 10_000))
    def claim(self, later: int) -> None:
        self.now += later
        offers = [
            Offer(
                host_id=row.host_id,
                generation=row.generation,
                keys=frozenset(no for no in self.book.queued),
                used=0,
                slots=2,
                last_assigned_at=row.last_assigned_at,
                cwd="/",
            )
            for row in self.book.hosts.values()
        ]
        for claimed in claims.claim(self.book, offers, self.now + 10_000, self.now):
            assert self.book.hosts[claimed.host_id].is_connected
            assert claimed.record.status is TaskState.ASSIGNED

    @rule(
        pick=st.integers(0, 99),
        cause=st.sampled_from([None, *(set(Cause) - {Cause.CLAIM})]),
        count=st.integers(0, 3),
        reason=st.sampled_from([None, "cwd_missing", "no_free_slot"]),
    )
    def report(self, pick: int, cause: Cause | None, count: int, reason: str | None) -> None:
        name = self.any_task(pick)
        if name is None:
            return
        self.now += 1
        hot = self.book.find(name)
        assert hot is not None
        record = hot.record
        host = self.book.hosts.get(record.host_id or "")
        tasks.change_one(
            self.book,
            Change(
                task_id=name,
                now=self.now,
                cause=cause,
                attempt=record.attempt,
                host_id=record.host_id,
                generation=host.generation if host else 0,
                span=(record.heard + 1, record.heard + count) if count else None,
                events=bodies(1, count),
                reason=reason,
            ),
        )

    @rule(pick=st.integers(0, 99), cause=st.sampled_from([Cause.ABORT, Cause.RETRY]))
    def wish(self, pick: int, cause: Cause) -> None:
        name = self.any_task(pick)
        if name is not None:
            self.now += 1
            tasks.change(self.book, [Change(task_id=name, now=self.now, cause=cause)])

    @rule(later=st.integers(0, 2_000_000))
    def watch(self, later: int) -> None:
        self.now += later
        for record in tasks.due(self.book, self.now, 3):
            change = core.overdue(record, self.now)
            assert change is not None
            tasks.change(self.book, [change])

    @rule()
    def commit(self) -> None:
        news = self.book.commit()
        if news is not None:
            self.recent.learn(news)
        self.committed_names = list(self.names)
        self.check_rows()

    @rule()
    def fault(self) -> None:
        self.book.rollback()
        self.names = list(self.committed_names)

    @rule()
    def restart(self) -> None:
        self.commit()
        self.book.close()
        self.book = Ledger(open_writer(self.path), DEFAULT_LIMITS, hot_bytes=1)
        self.recent = Recent()
        self.recent.learn(self.book.first_news())
        self.check_rows()

    # --- what must hold -------------------------------------------------------------------------------

    @invariant()
    def nobody_has_too_much(self) -> None:
        if hasattr(self, "book"):
            assert all(len(claims.on_host(self.book, host)) <= 2 for host in HOSTS)

    def check_rows(self) -> None:
        db = self.book.db
        rows = db.execute("SELECT s.*, t.id FROM standing s JOIN task t ON t.no = s.task_no").fetchall()
        assert {row[-1] for row in rows} == set(self.names)
        held: dict[str, list[str]] = {host: [] for host in HOSTS}
        for _, status, _, key_no, host_id, deadline_at, text, name in rows:
            record = decode(text, type=Record)
            assert (record.id, record.status, record.host_id, record.deadline_at) == (
                name,
                status,
                host_id,
                deadline_at,
            )
            assert (key_no is None) is (record.status is not TaskState.QUEUED)
            assert (deadline_at is None) is (record.status in FINAL)
            hot = self.book.find(name)
            assert hot is not None
            assert hot.record == record
            known = self.recent.task(name)
            assert known is None or known[1] == record
            if record.status in ON_A_HOST:
                held[record.host_id or ""].append(name)
        for host, names in held.items():
            assert sorted(hot.record.id for hot in claims.on_host(self.book, host)) == sorted(names)

        counted = dict(db.execute("SELECT status, count(*) FROM standing GROUP BY status"))
        assert {state: count for state, count in self.recent.counts.items() if count} == counted
        queued = dict(db.execute("SELECT key_no, count(*) FROM standing WHERE key_no IS NOT NULL GROUP BY key_no"))
        assert self.book.queued == queued
        assert self.recent.requirements().keys() == queued.keys()
        assert self.recent.hosts == self.book.hosts
        self.check_logs()
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []

    def check_logs(self) -> None:
        latest: dict[int, int] = {}
        rows: list[Any] = self.book.db.execute("SELECT no, count, bodies FROM event ORDER BY no").fetchall()
        for no, count, lines in rows:
            session, last = no >> 32, no & LAST_ID
            assert last - count == latest.get(session, 0)
            assert len(lines.split(b"\n")) == count
            latest[session] = last


TestTruth = Truth.TestCase
TestTruth.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
