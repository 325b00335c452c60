"""Broken rules, each of which must be noticed: by the simulation within some seeds, or by the test that it names.

A mutant is a change of the source of one or a few functions. When such a source is not there any more this fails: then
the rule has moved, and the mutant has to follow it.
"""

import importlib
import inspect
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, Final

from tests.sim import world

SEEDS: Final = 400  # none of those that a mutant is looked for with found anything in the product itself
FAST_SEEDS: Final = 12
ENV: Final = "SIM_MUTANT"


@dataclass(frozen=True, slots=True)
class Edit:
    """In the function `where` (module:qualified name), `old`, which is there once, becomes `new`."""

    where: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """`seed`: the first that finds it, as far as is known. `test`: what finds it instead, where other rules cover it
    so well that a whole world does not notice.
    """

    name: str
    edits: tuple[Edit, ...]
    seed: int | None = None
    test: str | None = None


def _find(where: str) -> FunctionType:
    module_name, _, path = where.partition(":")
    found: Any = importlib.import_module(module_name)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, property):
        found = found.fget
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    assert isinstance(found, FunctionType), where
    return found


def _edited(function: FunctionType, edits: list[Edit]) -> CodeType:
    source = textwrap.dedent(inspect.getsource(function))
    while source.startswith("@"):
        source = source.partition("\n")[2]
    for edit in edits:
        if source.count(edit.old) != 1:
            raise LookupError(f"{edit.where} has {source.count(edit.old)} times {edit.old!r}: the rule has moved")
        source = source.replace(edit.old, edit.new)
    names: dict[str, Any] = {}
    code = compile(source, f"<mutant of {function.__qualname__}>", "exec")
    exec(code, function.__globals__, names)
    (made,) = names.values()
    changed: CodeType = made.__code__
    return changed


Broken = list[tuple[FunctionType, CodeType]]


def broken(mutant: Mutant) -> Broken:
    """The functions and what becomes of them. Raises LookupError."""
    edits: dict[str, list[Edit]] = {}
    for edit in mutant.edits:
        edits.setdefault(edit.where, []).append(edit)
    return [(function := _find(where), _edited(function, some)) for where, some in edits.items()]


@contextmanager
def applied(changes: Broken) -> Iterator[None]:
    """While this is open, the rule is broken for everybody in this process."""
    sound = [(function, function.__code__) for function, _ in changes]
    try:
        for function, code in changes:
            function.__code__ = code
        yield
    finally:
        for function, code in sound:
            function.__code__ = code


MUTANTS: Final = (
    # --- an attempt starts once
    Mutant(
        "task:start is said before the claim is durable",
        (
            Edit(
                "manager.storage.tasks:group_of_claims",
                "max([0, *(_group_of_claim(ledger, one) for one in taken)])",
                "0",
            ),
        ),
    ),
    Mutant(
        "a manager that starts believes that what was not accepted was not started",
        (
            Edit(
                "manager.core.tasks:doubted",
                "if record.status is not TaskState.ASSIGNED or record.accepted:",
                "if True:",
            ),
        ),
    ),
    Mutant(
        "an attempt that may run is given to another host when its own goes away",
        (
            Edit("manager.core.tasks:host_gone", "if record.accepted:", "if False:"),
            Edit(
                "manager.core.tasks:judge",
                "if change.cause is Cause.NEVER_STARTED and change.attempt is None and record.accepted:",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "a host that comes back without an attempt is taken for one that never started it",
        (
            Edit(
                "manager.core.link:Link._missing",
                "if not record.accepted or (remembers and never_heard_of):",
                "if True:",
            ),
        ),
    ),
    Mutant(
        "a new gateway does not adopt what an earlier one left",
        (Edit("gateway.runtime.crew:Crew._adopt_all", "await self._alone(uid, self._adopt, uid)", "pass"),),
    ),
    Mutant(
        "a start said twice starts twice",
        (Edit("gateway.core.link:Link._start", "elif not line.begun and line.accepted:", "else:"),),
    ),
    Mutant(
        "an offer said twice is prepared twice",
        (Edit("gateway.core.link:Link._execute", "line = self._find(task.task_id, None)", "line = None"),),
        test="tests/gateway/core/test_link.py::test_an_offer_said_twice_is_accepted_again_and_prepared_once",
    ),
    Mutant(
        "a number of a claim that was undone is given again",
        (Edit("manager.storage.ledger:Ledger.spent_attempts", "self._spent.get(task_id, 0)", "0"),),
    ),
    # --- nothing that was said is lost
    Mutant(
        "a task is answered 201 before it is durable",
        (
            Edit(
                "manager.storage.writer:Writer._decide",
                "    return self._put(operation)\n",
                "    _answer(operation)\n    return self._put(operation)\n",
            ),
        ),
    ),
    Mutant(
        "records are confirmed before they are committed",
        (
            Edit(
                "manager.runtime.recorder:Recorder._commit",
                "    self._taking = batch\n",
                "    self._taking = batch\n"
                "    for one in batch:\n"
                "        if one.span is not None and one.attempt is not None:\n"
                "            self._out.ack(one.task_id, one.attempt, one.span[1])\n",
            ),
        ),
    ),
    Mutant(
        "an attempt is forgotten when its end is said, not when it is confirmed",
        (Edit("gateway.core.link:Link._say_ending", "    line.ending_said = True\n", "    self._forget(line)\n"),),
    ),
    Mutant(
        "that a host was restarted is said once",
        (
            Edit(
                "gateway.core.link:Link._say_ending",
                "    line.ending_said = True\n",
                "    line.ending_said = True\n    if line.state == 'dead':\n        self._forget(line)\n",
            ),
        ),
    ),
    Mutant(
        "what was accepted and not started is not given back when the line breaks",
        (Edit("gateway.core.link:Link.closed", "if not line.begun:", "if False:"),),
    ),
    Mutant(
        "the manager says to go on one record too late",
        (Edit("manager.core.link:Link.welcome", "acked_seq=record.heard,", "acked_seq=record.heard + 1,"),),
    ),
    Mutant(
        "the gateway goes on one record too late",
        (
            Edit(
                "gateway.core.link:Link._judged",
                "line.begin_after(verdict.acked_seq)",
                "line.begin_after(verdict.acked_seq + 1)",
            ),
        ),
    ),
    Mutant(
        "records with a gap before them are taken",
        (Edit("shared_types.delivery:Inbox.judge", "return Heard.GAP", "return Heard.NEXT"),),
        test="tests/manager/core/test_tasks.py",
    ),
    Mutant(
        "records that were taken are taken again",
        (Edit("shared_types.delivery:Inbox.judge", "return Heard.AGAIN", "return Heard.NEXT"),),
    ),
    Mutant(
        "a reader that is behind the tail goes on with what the tail has",
        (
            Edit("manager.runtime.tail:Ring.after", "if id + 1 < self.first or id > self.last:", "if id > self.last:"),
            Edit(
                "manager.runtime.tail:Ring.after", "start = id + 1 - self.first", "start = max(0, id + 1 - self.first)"
            ),
        ),
    ),
    # --- stale words
    Mutant(
        "reports of an older attempt are taken",
        (
            Edit(
                "manager.core.tasks:judge",
                "if change.attempt is not None and change.attempt != record.attempt:",
                "if False:",
            ),
        ),
        test="tests/manager/core/test_tasks.py::test_a_report_of_another_attempt_or_host_is_stale",
    ),
    Mutant(
        "neither the generation of a connection nor doubles of records are looked at",
        (
            Edit("manager.storage.tasks:change_one", "host.generation != change.generation", "False"),
            Edit("shared_types.delivery:Inbox.judge", "return Heard.AGAIN", "return Heard.NEXT"),
        ),
    ),
    Mutant(
        "the generation of a connection is not looked at",
        (Edit("manager.storage.tasks:change_one", "host.generation != change.generation", "False"),),
        test="tests/contracts/test_store_hosts.py",
    ),
    # --- somebody acts
    Mutant(
        "nobody looks after deadlines",
        (Edit("manager.runtime.watchdog:Watchdog.look", "now = self._clock.now()", "return 0"),),
    ),
    Mutant(
        "a wish to stop is forgotten when its host comes back, and nobody looks after deadlines",
        (
            Edit("manager.core.link:Link.welcome", "if record.stop_requested_at is not None:", "if False:"),
            Edit(
                "manager.runtime.host_link:HostLink._say_missed",
                "record.stop_requested_at is not None and",
                "False and",
            ),
            Edit("manager.runtime.watchdog:Watchdog.look", "now = self._clock.now()", "return 0"),
        ),
    ),
    Mutant(
        "a wish to stop is forgotten when its host comes back",
        (
            Edit("manager.core.link:Link.welcome", "if record.stop_requested_at is not None:", "if False:"),
            Edit(
                "manager.runtime.host_link:HostLink._say_missed",
                "record.stop_requested_at is not None and",
                "False and",
            ),
        ),
        test="tests/manager/core/test_link.py::test_a_wish_to_stop_is_said_again",
    ),
    Mutant(
        "a silent host is not given up",
        (Edit("manager.runtime.host_link:HostLink.look", "now - self._heard_at >= patience.silence_s", "False"),),
    ),
    Mutant(
        "a slot is kept by a task that has ended",
        (Edit("manager.storage.ledger:Ledger.take", "elif was_held and not is_held:", "elif False:"),),
    ),
    Mutant(
        "a host takes more than it has slots for",
        (
            Edit("gateway.core.slots:admit", "if room.used >= room.slots:", "if False:"),
            Edit("manager.core.scheduling:_Hosts._has_room", "self._used[offer.host_id] < offer.slots", "True"),
        ),
    ),
    # --- input
    Mutant(
        "an input that is said again is written again",
        (
            Edit(
                "gateway.agents.fold:Fold.say",
                'if f"{SAY}{input_id}" in self._written or input_id in self._says or input_id in self._refused:',
                "if False:",
            ),
            Edit(
                "gateway.agents.fold:Fold.write",
                "if key not in self._written and key not in self._pending:",
                "if True:",
            ),
            Edit("gateway.runtime.runner:Runner._unwritten", "if write.key not in self._handed", "if True"),
            Edit("tests.sim.machines:Keeper.write", "if key in self.keys:", "if False:"),
        ),
    ),
    Mutant(
        "an idempotency key is not looked at",
        (Edit("manager.storage.sqlite:SqliteStore.add", "if known is None else None", "if True else None"),),
    ),
)


def _by_simulation(changes: Broken, seeds: list[int]) -> str | None:
    """What it found, and with which seed."""
    with applied(changes):
        for seed in seeds:
            done = world.run(seed)
            if done.violations:
                return f"seed {seed}: {done.violations[0]}"
    return None


def _by_test(mutant: Mutant) -> str | None:
    assert mutant.test is not None
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "tests.sim.mutating", mutant.test],
        env={**os.environ, ENV: mutant.name},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 1:
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
        return failed[0][:200] if failed else "a test failed"
    if done.returncode != 0:
        return None if "passed" in done.stdout else f"pytest itself: {done.stdout[-300:]}{done.stderr[-300:]}"
    return None


def run(names: list[str], *, is_fast: bool, part: str, say: Callable[[str], None] = print) -> int:
    """How many were not noticed, as an exit code."""
    index, parts = (int(number) for number in part.split("/"))
    chosen = [m for m in MUTANTS if not names or any(name in m.name for name in names)]
    if is_fast:
        chosen = [m for m in chosen if m.test is None and m.seed is not None]
    chosen = chosen[index::parts]
    changes = [broken(mutant) for mutant in chosen]  # before anything else: the sources may be edited meanwhile
    survivors = 0
    for mutant, change in zip(chosen, changes, strict=True):
        began = time.monotonic()
        if mutant.test is not None:
            found = _by_test(mutant)
        else:
            first = [] if mutant.seed is None else [mutant.seed]
            found = _by_simulation(change, first if is_fast else [*first, *range(SEEDS)])
        survivors += found is None
        say(
            f"{'caught  ' if found else 'SURVIVED'} {time.monotonic() - began:6.1f} s  {mutant.name}\n"
            f"             {(found or '')[:220]}"
        )
        sys.stdout.flush()
    say(f"{survivors} broken rules were not noticed")
    return 1 if survivors else 0
