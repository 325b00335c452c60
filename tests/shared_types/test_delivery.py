"""Two books and a bad wire between them."""

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_types.delivery import Heard, Inbox, Outbox, Span


@dataclass
class Sender:
    """A gateway: what is written stays in its journal; a restart loses the outbox and groups otherwise."""

    random: Random
    outbox: Outbox[tuple[int, ...]] = field(default_factory=lambda: Outbox(window_bytes=40, window_spans=4))
    written: int = 0

    def write(self) -> None:
        self.written += self.random.randint(1, 5)

    def say(self) -> list[Span[tuple[int, ...]]]:
        fresh = []
        while self.outbox.said < self.written and self.outbox.has_room:
            first = self.outbox.said + 1
            last = min(self.written, first + self.random.randint(0, 6))
            span = Span(first, last, tuple(range(first, last + 1)), size=10)
            self.outbox.put(span)
            fresh.append(span)
        return fresh

    def restart(self, confirmed: int) -> None:
        """The manager's answer to `register` says how far it is."""
        self.outbox = Outbox(window_bytes=40, window_spans=4, confirmed=confirmed, said=confirmed)


@dataclass
class Receiver:
    """A manager: takes a span and its position in one transaction."""

    inbox: Inbox = field(default_factory=Inbox)
    log: list[int] = field(default_factory=list)

    def hear(self, span: Span[tuple[int, ...]]) -> Heard:
        heard = self.inbox.judge(span.first, span.last)
        if heard is Heard.NEXT:
            self.log.extend(span.body)
            self.inbox.take(span.last)
        return heard


@pytest.mark.parametrize("seed", range(300))
def test_over_a_bad_wire_the_log_has_each_record_once_and_in_order(seed):
    random = Random(seed)
    sender, receiver = Sender(random), Receiver()
    wire: list[Span[tuple[int, ...]]] = []
    confirms: list[int] = []
    for _ in range(200):
        match random.choice(["write", "say", "say", "hear", "hear", "confirm", "cut", "restart", "double", "swap"]):
            case "write":
                sender.write()
            case "say":
                wire += sender.say()
            case "hear" if wire:
                if receiver.hear(wire.pop(0)) is Heard.GAP:
                    wire = list(sender.outbox.unconfirmed())  # the receiver said what it expects
                confirms.append(receiver.inbox.heard)
            case "confirm" if confirms:
                sender.outbox.confirm(confirms.pop(0))
            case "cut":
                wire, confirms = list(sender.outbox.unconfirmed()), []
            case "restart":
                wire, confirms = [], []
                sender.restart(receiver.inbox.heard)
            case "double" if wire:
                wire.insert(0, wire[0])
            case "swap" if len(wire) > 1:
                wire[0], wire[1] = wire[1], wire[0]
        assert receiver.log == list(range(1, receiver.inbox.heard + 1))
        assert len(sender.outbox.unconfirmed()) <= 4

    while receiver.inbox.heard < sender.written or sender.outbox.unconfirmed():  # the wire is good from here on
        for span in [*sender.outbox.unconfirmed(), *sender.say()]:
            receiver.hear(span)
        sender.outbox.confirm(receiver.inbox.heard)

    assert receiver.log == list(range(1, sender.written + 1))
    assert sender.outbox.unconfirmed() == ()


def test_spans_must_follow_each_other():
    outbox: Outbox[str] = Outbox()
    outbox.put(Span(1, 3, "a", 1))

    for first, last in [(3, 4), (5, 6), (4, 3), (1, 3)]:
        with pytest.raises(ValueError, match=f"span {first}..{last} does not follow 3"):
            outbox.put(Span(first, last, "b", 1))


def test_a_confirm_within_a_span_keeps_the_span():
    outbox: Outbox[str] = Outbox()
    outbox.put(Span(1, 3, "a", 1))

    outbox.confirm(2)

    assert [span.body for span in outbox.unconfirmed()] == ["a"]


@given(st.lists(st.integers(-1, 30), max_size=20))
def test_late_repeated_and_wild_confirms_do_no_harm(confirms):
    outbox: Outbox[int] = Outbox()
    for seq in range(1, 11):
        outbox.put(Span(seq, seq, seq, 1))

    for seq in confirms:
        outbox.confirm(seq)

    reached = min(10, max([0, *confirms]))
    assert outbox.confirmed == reached
    assert [span.first for span in outbox.unconfirmed()] == list(range(reached + 1, 11))


@pytest.mark.parametrize(("window_bytes", "window_spans", "room_for"), [(100, 50, 10), (1000, 3, 3), (1, 50, 1)])
def test_the_window_is_bounded_in_bytes_and_in_spans_and_one_span_always_fits(window_bytes, window_spans, room_for):
    outbox: Outbox[None] = Outbox(window_bytes=window_bytes, window_spans=window_spans)

    while outbox.has_room:
        outbox.put(Span(outbox.said + 1, outbox.said + 1, None, 10))

    assert len(outbox.unconfirmed()) == room_for
    outbox.confirm(outbox.said)
    assert outbox.has_room


@pytest.mark.parametrize(
    ("first", "last", "heard"),
    [
        (4, 4, Heard.NEXT),
        (4, 9, Heard.NEXT),
        (1, 3, Heard.AGAIN),
        (3, 3, Heard.AGAIN),
        (5, 6, Heard.GAP),
        (3, 4, Heard.GAP),  # regrouped across what we have
        (4, 3, Heard.AGAIN),  # an empty span behind us
    ],
)
def test_a_span_is_next_again_or_a_gap(first, last, heard):
    assert Inbox(heard=3).judge(first, last) is heard
