"""`logs`: what a task did, on stdout."""

from collections import deque
from typing import TYPE_CHECKING

import rich_click as click

from client.desk import Desk, command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from client.sdk import AsyncFleetgate
    from shared_types.api import EventRecord


@command("logs")
@click.option("-f", "--follow", is_flag=True, help="Stay until the task has ended.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Only the last N lines (events with --json).")
@click.argument("task", metavar="ID")
async def logs(desk: Desk, follow: bool, tail: int | None, task: str) -> int:
    """What a task did."""
    from client.live import Live, shown
    from client.terminal.story import Story
    from client.terminal.tail import Tail

    console = desk.console
    async with desk.fleet() as fleet:
        found = await fleet.task(task)
        story = Story(cells=console.cells, live=False, ends=True)
        history = History(fleet, found.id)
        if console.as_json:
            lines: deque[EventRecord] = deque(maxlen=tail)
            async for event in history.events():
                if tail is None:
                    console.line(shown(event))
                else:
                    lines.append(event)
            for event in lines:
                console.line(shown(event))
        else:
            kept = Tail(tail)
            async for event in history.events():
                console.tell(kept.take(story.tell(event)), all_out=True)
            if not follow:
                console.tell(kept.take(story.close()), all_out=True)
            console.tell(kept.rest(), all_out=True)
        if history.is_cut_short:
            console.say("the beginning of this log is not kept any more", "warn")
        if not follow:
            return 0
        story.go_live(console.out_is_terminal)
        live = Live(
            fleet,
            console,
            found,
            after=history.after,
            epoch=history.epoch,
            all_out=True,
            story=story,
        )
        await live.run()
        return 130 if live.is_detached else 0


class History:
    """What is there already, page by page. `after` and `epoch` are where a stream can go on."""

    def __init__(self, fleet: "AsyncFleetgate", task_id: str) -> None:
        self._fleet = fleet
        self._task_id = task_id
        self.after = 0
        self.epoch: str | None = None
        self.is_cut_short = False

    async def events(self) -> "AsyncIterator[EventRecord]":
        while True:
            page = await self._fleet.events_page(self._task_id, self.after, epoch=self.epoch)
            self.is_cut_short |= page.verdict != "ok"
            self.epoch = page.epoch
            for event in page.items:
                self.after = event.id
                yield event
            if not page.has_more or not page.items:
                return
