import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_types.hosts import AGENT_ALIASES, HostCapabilities, canonical_agent


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("claude", "claude-code"),
        ("claudecode", "claude-code"),
        ("claude-code", "claude-code"),
        ("gemini-cli", "gemini"),
        ("opencode", "opencode"),
    ],
)
def test_agents_have_one_name(said, meant):
    assert canonical_agent(said) == meant


@given(st.text() | st.sampled_from(sorted(AGENT_ALIASES)))
def test_a_name_is_settled_after_one_look(name):
    assert canonical_agent(canonical_agent(name)) == canonical_agent(name)


@pytest.mark.parametrize("slots", [-1, 10_001, 1.5, "2"])
def test_a_host_cannot_offer_a_senseless_number_of_slots(slots):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "n", "agents": [], "maxConcurrent": slots, "cwd": "/"}, HostCapabilities)
