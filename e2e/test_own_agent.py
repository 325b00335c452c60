"""The example of docs/agents.md: a program of the owner's own, declared and run as it stands there."""

import re
from pathlib import Path

from e2e.harness import Manager, start_gateway

PAGE = Path(__file__).parents[1] / "docs" / "agents.md"


def example(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return str(text)


async def test_the_example_of_an_own_agent_does_what_it_is_there_for(manager: Manager, tmp_path: Path) -> None:
    home, work, program = tmp_path / "h1", tmp_path / "work", tmp_path / "mentions.py"
    home.mkdir(mode=0o700)
    work.mkdir()
    program.write_text(example("python"))
    (home / "gateway.toml").write_text(example("toml").replace("/opt/mentions.py", str(program)))
    (home / "gateway.toml").chmod(0o600)
    (work / "hay.txt").write_text("hay, hay, a needle, hay")
    (work / "more.txt").write_text("only hay")

    async with start_gateway(manager, home, cwd=work):
        task = await manager.api.submit(prompt="needle", agentType="mentions", permissionMode="plan")
        ended = await manager.api.wait_final(task["id"])
        refused = await manager.api.submit(prompt="needle", agentType="mentions", permissionMode="acceptEdits")
        why = await manager.api.wait_final(refused["id"])

    assert (ended["status"], ended["result"]["output"]) == ("completed", "Files that mention needle: 1")
    assert why["status"] == "failed"
    said = [event for event in await manager.api.events(task["id"]) if event["type"].startswith("tool_")]
    assert [(event["type"], event.get("content")) for event in said] == [
        ("tool_call", None),
        ("tool_result", "hay.txt"),
    ]
