"""Whatever is done in whatever order, with commits and faults between: memory, rows and news say the same.

As in the store, changes are decided while up to two groups of earlier ones are still on their way to the disk.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.json import decode
from msgspec.structs import replace

from manager.core import tasks as core
from manager.core.lifecycle import ON_A_HOST, Cause
from manager.core.scheduling import Offer
from manager.core.tasks import DEFAULT_LIMITS, Change, Record
from manager.errors import TooMany
from manager.ports import HostRow
from manager.storage import claims, hosts, reading, tasks
from manager.storage.entries import Entries
from manager.storage.ledger import FORGET_AFTER, Hot, Lack, Ledger, look_up
from manager.storage.news import News
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
        self.in_flight: list[tuple[Entries, News, list[str]]] = []
        self.read()
        self.recent = Recent()
        self.recent.learn(self.book.first_news())

    def read(self) -> None:
        self.db = open_writer(self.path)
        self.book = Ledger.read(self.db, DEFAULT_LIMITS, hot_bytes=1)
        self.given_out: set[str] = set()  # by this ledger: it knows whether they may have started

    def teardown(self) -> None:
        self.db.close()
        self.directory.cleanup()

    def bring(self, lack: Lack) -> list[object]:
        return self.book.bring(look_up(self.db, lack))

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
        kept = self.bring(self.book.lacks_session(new))
        try:
            tasks.add(self.book, new, 8)
        except TooMany:
            assert self.book.count(TaskState.QUEUED) == 8
        else:
            self.names.append(new.task_id)
        del kept

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
            self.bring(self.book.lacks(self.book.on_host(host)))
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
                keys=frozenset(self.book.queues),
                used=0,
                slots=2,
                last_assigned_at=row.last_assigned_at,
                cwd="/",
            )
            for row in self.book.hosts.values()
        ]
        _, heads = claims.heads(self.book, offers, self.now)
        self.bring(self.book.lacks([task_id for _, _, task_id, _ in heads]))
        for claimed in claims.claim(self.book, offers, self.now + 10_000, self.now):
            assert self.book.hosts[claimed.host_id].is_connected
            assert claimed.record.status is TaskState.ASSIGNED
            self.given_out.add(claimed.record.id)

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
        hot = self.hot(name)
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
            self.hot(name)
            tasks.change(self.book, [Change(task_id=name, now=self.now, cause=cause)])

    def hot(self, name: str) -> Hot:
        self.bring(self.book.lacks([name]))
        hot = self.book.find(name)
        assert hot is not None
        return hot

    @rule(later=st.integers(0, 2_000_000))
    def watch(self, later: int) -> None:
        self.now += later
        late = reading.due(self.db, self.now, 3)
        self.bring(self.book.lacks(late))
        for record in tasks.still_due(self.book, late, self.now):
            change = core.overdue(record, self.now)
            assert change is not None
            tasks.change(self.book, [change])

    @rule()
    def hand_over(self) -> None:
        if len(self.in_flight) == 2:
            self.write_one()
        self.in_flight.append((*self.book.close(), list(self.names)))

    @rule()
    def write_one(self) -> None:
        if self.in_flight:
            entries, news, self.committed_names = self.in_flight.pop(0)
            self.db.execute("BEGIN IMMEDIATE")
            entries.write(self.db)
            self.db.execute("COMMIT")
            self.recent.learn(news)
            self.book.settled(len(self.in_flight))

    @rule()
    def commit(self) -> None:
        self.hand_over()
        while self.in_flight:
            self.write_one()
        self.check_rows()

    @rule()
    def fault(self) -> None:
        """What was not written never came to be."""
        older = self.book
        self.in_flight.clear()
        self.names = list(self.committed_names)
        self.book = Ledger.read(self.db, DEFAULT_LIMITS, hot_bytes=1)
        self.book.take_over_from(older)
        rows = self.db.execute("SELECT record FROM standing").fetchall()
        kept = {record.id: record for (text,) in rows for record in [decode(text, type=Record)]}
        self.given_out = {name for name in self.given_out if name in kept and knows(older.find(name), kept[name])}

    @rule()
    def restart(self) -> None:
        self.commit()
        self.db.close()
        self.read()
        self.recent = Recent()
        self.recent.learn(self.book.first_news())
        self.check_rows()

    # --- what must hold -------------------------------------------------------------------------------

    @invariant()
    def nobody_has_too_much(self) -> None:
        if hasattr(self, "book"):
            assert all(len(self.book.on_host(host)) <= 2 for host in HOSTS)

    def check_rows(self) -> None:
        db = self.db
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
            hot = self.hot(name)
            assert hot.record == (record if name in self.given_out else core.doubted(record))
            assert (hot.queue.no if hot.queue else None) == key_no
            known = self.recent.task(name)
            assert known is None or known[1] == record
            if record.status in ON_A_HOST:
                held[record.host_id or ""].append(name)
        for host, names in held.items():
            assert sorted(self.book.on_host(host)) == sorted(names)

        counted = dict(db.execute("SELECT status, count(*) FROM standing GROUP BY status"))
        assert {state: count for state, count in self.recent.counts.items() if count} == counted
        queued = dict(db.execute("SELECT key_no, count(*) FROM standing WHERE key_no IS NOT NULL GROUP BY key_no"))
        assert {no: len(queue) for no, queue in self.book.queues.items()} == queued
        assert self.book.wishes.keys() == queued.keys()
        assert len(self.book.line) == sum(queued.values())
        assert {state: self.book.count(state) for state in counted} == counted
        assert _without_ties(self.recent.hosts) == _without_ties(self.book.hosts)
        self.check_logs()
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []

    def check_logs(self) -> None:
        latest: dict[int, int] = {}
        rows: list[Any] = self.db.execute("SELECT no, count, bodies FROM event ORDER BY no").fetchall()
        for no, count, lines in rows:
            session, last = no >> 32, no & LAST_ID
            assert last - count == latest.get(session, 0)
            assert len(lines.split(b"\n")) == count
            latest[session] = last


def knows(hot: Hot | None, kept: Record) -> bool:
    """Whether a ledger that was thrown away could say that this attempt was not started."""
    if hot is None:
        return True  # forgotten, so all of it was durable
    return hot.record.status is TaskState.ASSIGNED and not hot.record.accepted and hot.record.uid == kept.uid


def _without_ties(rows: Mapping[str, HostRow]) -> dict[str, HostRow]:
    """When a host was last assigned to only breaks ties, and until its next heartbeat it is in memory alone: what a
    fault makes the ledger forget of it, readers may still know.
    """
    return {host_id: replace(row, last_assigned_at=0) for host_id, row in rows.items()}


TestTruth = Truth.TestCase
TestTruth.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("settled_before", range(FORGET_AFTER))
def test_what_is_not_durable_yet_is_not_forgotten(tmp_path: Path, settled_before: int) -> None:
    db = open_writer(tmp_path / "x.db")
    book = Ledger.read(db, DEFAULT_LIMITS, hot_bytes=1)
    for _ in range(settled_before):
        book.close()
        book.settled(0)
    on_their_way = []
    for _ in range(settled_before + 7):
        on_their_way.append(a_task())
        tasks.add(book, on_their_way[-1], 100)
        book.close()
    tasks.add(book, late := a_task(), 100)

    for left in reversed(range(len(on_their_way))):
        book.settled(left)

    assert book.find(late.task_id) is not None
    db.close()


def test_an_attempt_that_came_to_nothing_is_not_counted_again(tmp_path: Path) -> None:
    db = open_writer(tmp_path / "x.db")
    book = Ledger.read(db, DEFAULT_LIMITS)
    host = hosts.connected(book, "h1", can("command"), (), 2, None, None, T0)
    tasks.add(book, a_task(), 100)
    entries, _ = book.close()
    entries.write(db)
    book.settled(0)

    def claimed_by(book: Ledger) -> int:
        (key,) = book.queues
        offer = Offer(
            host_id="h1",
            generation=host.generation,
            keys=frozenset({key}),
            used=0,
            slots=1,
            last_assigned_at=0,
            cwd="/",
        )
        _, heads = claims.heads(book, [offer], T0)
        book.bring(look_up(db, book.lacks([task_id for _, _, task_id, _ in heads])))
        (claim,) = claims.claim(book, [offer], T0 + 9, T0)
        return claim.record.attempt

    for attempt in (1, 2, 3):
        assert claimed_by(book) == attempt
        if attempt == 2:
            book.close()  # on its way to the disk, or not even that
        older, book = book, Ledger.read(db, DEFAULT_LIMITS)
        book.take_over_from(older)
    db.close()


def test_a_queues_number_that_was_told_in_vain_keeps_its_meaning(tmp_path: Path) -> None:
    db = open_writer(tmp_path / "x.db")
    older, book = Ledger.read(db, DEFAULT_LIMITS), Ledger.read(db, DEFAULT_LIMITS)
    tasks.add(older, a_task(agent_type="one"), 100)
    book.take_over_from(older)

    tasks.add(book, a_task(agent_type="other"), 100)

    assert older.queues.keys().isdisjoint(book.queues)
    db.close()
