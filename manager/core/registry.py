"""The hosts that are connected, as far as choosing among them matters: what each may be offered.

Which queues a host satisfies is computed once per host and queue and remembered until the host changes; numbers of
queues never change their meaning. Slots in use are not known here: the store counts them from rows when it claims.

Invariant: a member is here exactly while its connection is the newest of its host; the generation tells which.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec

from manager.core.scheduling import Offer, Requirement, satisfies
from shared_types.hosts import AgentInfo, EffectiveConfig, HostCapabilities, canonical_agent

SPARE_KEYS: Final = 256  # queues that are empty now and remembered still, beside as many as are in use


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A connected host. `labels` are its own with the manager's on top, `agents` those it can run now."""

    host_id: str
    generation: int
    agents: frozenset[str]
    labels: Mapping[str, str]
    slots: int
    cwd: str
    is_draining: bool = False
    last_assigned_at: int = 0


def usable_agents(capabilities: HostCapabilities, found: tuple[AgentInfo, ...]) -> frozenset[str]:
    """The agents a host offers, by their canonical names, without those that it knows to be logged out.

    >>> caps = HostCapabilities(name="h", agents=("claude", "gemini"), max_concurrent=1, cwd="/")
    >>> sorted(usable_agents(caps, (AgentInfo(agent="gemini", auth_ok=False),)))
    ['claude-code']
    """
    logged_out = {canonical_agent(info.agent) for info in found if info.auth_ok is False}
    return frozenset(canonical_agent(agent) for agent in capabilities.agents) - logged_out


def member(
    host_id: str,
    generation: int,
    capabilities: HostCapabilities,
    agents: tuple[AgentInfo, ...],
    *,
    labels: Mapping[str, str],
    is_draining: bool,
    config: EffectiveConfig | None = None,
    last_assigned_at: int = 0,
) -> Member:
    """`labels` and `is_draining` are the manager's; `config` is what the gateway says it really does."""
    return Member(
        host_id=host_id,
        generation=generation,
        agents=usable_agents(capabilities, agents),
        labels={**capabilities.labels, **(config.labels if config else {}), **labels},
        slots=config.max_concurrent if config else capabilities.max_concurrent,
        cwd=capabilities.cwd,
        is_draining=is_draining or (config is not None and config.draining),
        last_assigned_at=last_assigned_at,
    )


class _Seat:
    """A member with what was found out about it."""

    __slots__ = ("asked", "last_assigned_at", "member", "offer", "verdicts")

    def __init__(self, member: Member, last_assigned_at: int) -> None:
        self.member = member
        self.last_assigned_at = last_assigned_at
        self.verdicts: dict[int, bool] = {}
        self.asked: frozenset[int] | None = None
        self.offer: Offer | None = None

    def offered(self, requirements: Mapping[int, Requirement], asked: frozenset[int]) -> Offer | None:
        """None when it has nothing to offer to any of these queues."""
        if asked is not self.asked:
            self.asked = asked
            keys = self._satisfied(requirements, asked)
            if self.offer is None or self.offer.keys != keys:
                self.offer = self._made(keys)
        return self.offer

    def assigned(self, now: int) -> None:
        self.last_assigned_at = now
        if self.offer is not None:
            self.offer = self._made(self.offer.keys)

    def _satisfied(self, requirements: Mapping[int, Requirement], asked: frozenset[int]) -> frozenset[int]:
        verdicts = self.verdicts
        if len(verdicts) > 2 * len(asked) + SPARE_KEYS:
            self.verdicts = verdicts = {key: verdicts[key] for key in asked & verdicts.keys()}
        who = self.member
        for key in asked - verdicts.keys():
            wish = requirements[key]
            verdicts[key] = satisfies(wish, host_id=who.host_id, agents=who.agents, labels=who.labels)
        return frozenset(key for key in asked if verdicts[key])

    def _made(self, keys: frozenset[int]) -> Offer | None:
        who = self.member
        if not keys or who.is_draining or not who.slots:
            return None
        return Offer(
            host_id=who.host_id,
            generation=who.generation,
            keys=keys,
            used=0,  # counted from rows inside the claim
            slots=who.slots,
            last_assigned_at=self.last_assigned_at,
            cwd=who.cwd,
            labels=who.labels,
        )


class Registry:
    """The members by host id."""

    def __init__(self) -> None:
        self._seats: dict[str, _Seat] = {}
        self._agents: Counter[str] = Counter()  # how many of them have it
        self._asked: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"<Registry hosts={len(self._seats)}>"

    def __contains__(self, host_id: object) -> bool:
        return host_id in self._seats

    def join(self, member: Member) -> bool:
        """Take the place of an older connection, or change what is known of this one. False: a newer one is here."""
        seat = self._seats.get(member.host_id)
        last = member.last_assigned_at
        if seat is not None:
            if seat.member.generation > member.generation:
                return False
            last = max(last, seat.last_assigned_at)
            self._forget_agents(seat.member)
        self._seats[member.host_id] = _Seat(member, last)
        self._agents.update(member.agents)
        return True

    def leave(self, host_id: str, generation: int) -> bool:
        """False when this connection has been replaced: then nothing changes."""
        seat = self._seats.get(host_id)
        if seat is None or seat.member.generation != generation:
            return False
        del self._seats[host_id]
        self._forget_agents(seat.member)
        return True

    def _forget_agents(self, member: Member) -> None:
        self._agents.subtract(member.agents)
        self._agents = +self._agents  # names are the hosts' own: none stays for ever

    def get(self, host_id: str) -> Member | None:
        seat = self._seats.get(host_id)
        return None if seat is None else seat.member

    def knows_agent(self, agent: str) -> bool:
        return self._agents[agent] > 0

    def assigned(self, host_id: str, now: int) -> None:
        """It was given something: of equal hosts another one is next."""
        seat = self._seats.get(host_id)
        if seat is not None:
            seat.assigned(now)

    def offers(self, requirements: Mapping[int, Requirement]) -> list[Offer]:
        """Every host that may be given something of these queues now, room aside."""
        if requirements.keys() != self._asked:
            self._asked = frozenset(requirements)
        offered = (seat.offered(requirements, self._asked) for seat in self._seats.values())
        return [offer for offer in offered if offer is not None]
