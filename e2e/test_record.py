"""The recorder still makes of each real CLI what is kept of it."""

from pathlib import Path

import pytest

from e2e import record
from tests.gateway.agents import recorded

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]


@pytest.mark.parametrize("driver", record.SCENARIOS)
async def test_a_scenario_recorded_again_tells_the_same(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = recorded.load(recorded.ROOT / driver / "text.jsonl")
    monkeypatch.setattr(recorded, "ROOT", tmp_path)

    await record.main([f"{driver}/text"])

    fresh = recorded.load(tmp_path / driver / "text.jsonl")
    assert (fresh.prompt, fresh.version) == (kept.prompt, kept.version)
    assert fresh.told().finals() == kept.told().finals()
    assert fresh.told().evidence.usage == kept.told().evidence.usage
    assert (tmp_path / driver / "text.events.jsonl").read_text() == fresh.told().as_text()
