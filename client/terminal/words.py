"""Phrases that several commands use."""

from shared_types.hosts import AgentInfo


def agent_words(info: AgentInfo) -> str:
    """
    >>> agent_words(AgentInfo(agent="gemini", version="0.61.0", auth_ok=False))
    'gemini 0.61.0 (not logged in)'
    """
    version = f" {info.version}" if info.version else ""
    return f"{info.agent}{version}{' (not logged in)' if info.auth_ok is False else ''}"


def join_line(url: str, code: str) -> str:
    return f"fleetgate join {url} {code}"
