"""`/api/metrics`: what can be measured from outside, as Prometheus text. Gathered when somebody asks."""

from collections.abc import Iterator
from typing import Any, Final

from litestar import Request, get
from litestar.response import Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from manager.routes.access import Action
from manager.routes.replies import RawReply
from manager.routes.services import services
from shared_types import __version__
from shared_types.hosts import HostState
from shared_types.tasks import TaskState

STREAM_KINDS: Final = ("sse", "ws")


class Snapshot:
    """Gauges gathered for one answer."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


@get(
    "/api/metrics",
    action=Action.METRICS,
    operation_id="metrics",
    media_type="text/plain",
    summary="Prometheus metrics",
    tags=["health"],
)
async def metrics(request: Request[Any, Any, Any]) -> Response[str]:
    """Hosts, queue, tasks by state, events, sockets and HTTP, in Prometheus' text format."""
    s = services(request)
    hosts = GaugeMetricFamily("fleetgate_hosts", "Hosts by status.", labels=["status"])
    statuses = await s.hosts.statuses()
    for state in HostState:
        hosts.add_metric([state.value], sum(host.status is state for host in statuses))
    slots = GaugeMetricFamily("fleetgate_slots", "Slots of connected hosts.", labels=["use"])
    connected = [host for host in statuses if host.status is not HostState.OFFLINE]
    used = sum(host.slots_used for host in connected)
    slots.add_metric(["used"], used)
    slots.add_metric(["free"], max(0, sum(host.slots for host in connected) - used))
    counts = await s.store.counts()
    tasks = GaugeMetricFamily("fleetgate_tasks", "Tasks by status.", labels=["status"])
    for status in TaskState:
        tasks.add_metric([status.value], counts.get(status, 0))
    queue = GaugeMetricFamily("fleetgate_queue", "Tasks that wait for a host.", value=counts.get(TaskState.QUEUED, 0))
    streams = GaugeMetricFamily("fleetgate_streams", "Open streams and sockets.", labels=["kind"])
    for kind in STREAM_KINDS:
        streams.add_metric([kind], s.doors.inside(kind))
    degraded = GaugeMetricFamily(
        "fleetgate_degraded", "Parts that do not work as they should.", value=len(s.degraded())
    )
    info = GaugeMetricFamily("fleetgate_info", "What runs here.", labels=["version"])
    info.add_metric([__version__], 1)
    events = CounterMetricFamily("fleetgate_events", "Events committed.", value=s.follower.events_total)
    cut = CounterMetricFamily(
        "fleetgate_slow_readers", "Streams cut because their reader took nothing.", value=s.doors.cut_total
    )
    links = CounterMetricFamily("fleetgate_link", "What happened on the links of hosts.", labels=["what"])
    for what, times in s.counters().items():
        links.add_metric([what], times)
    gathered = CollectorRegistry()
    gathered.register(Snapshot([info, hosts, slots, tasks, queue, streams, events, cut, links, degraded]))
    text = generate_latest(gathered) + generate_latest(s.meters.registry)
    return RawReply(text, media_type="text/plain; version=0.0.4; charset=utf-8")


ROUTES: Final = [metrics]
