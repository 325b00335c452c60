"""Providers' failures in our words: what they really send."""

import pytest

from gateway.agents.reasons import reason_of
from shared_types.tasks import Reason


@pytest.mark.parametrize(
    ("sentence", "status", "name", "reason"),
    [
        ("API Error: 529 Overloaded", 529, "", Reason.PROVIDER_ERROR),
        ("API Error: Request rejected (429)", 429, "rate_limit", Reason.RATE_LIMIT),
        ("Invalid API key · Fix external API key", None, "authentication_failed", Reason.PROVIDER_AUTH),
        ("OAuth token has expired", 401, "", Reason.PROVIDER_AUTH),
        ("Your credit balance is too low to access the API", 400, "", Reason.QUOTA),
        ("You exceeded your current quota, please check your plan", 429, "", Reason.QUOTA),
        ("Resource has been exhausted (e.g. check quota).", 429, "", Reason.RATE_LIMIT),
        ("prompt is too long: 250000 tokens > 200000 maximum", 400, "", Reason.CONTEXT_OVERFLOW),
        ("This model's maximum context length is 8192 tokens", None, "APIError", Reason.CONTEXT_OVERFLOW),
        ("The input token count (9) exceeds the maximum", 400, "", Reason.CONTEXT_OVERFLOW),
        ("connect ECONNREFUSED 127.0.0.1:1", None, "", Reason.PROVIDER_ERROR),
        ("fetch failed", None, "", Reason.PROVIDER_ERROR),
        ("request failed with status code 503", None, "", Reason.PROVIDER_ERROR),
        ("something else", None, "", Reason.AGENT_ERROR),
        ("something else", 400, "", Reason.AGENT_ERROR),
        ("", None, "", Reason.AGENT_ERROR),
    ],
)
def test_a_failure_has_the_reason_that_tells_what_to_do(
    sentence: str, status: int | None, name: str, reason: Reason
) -> None:
    assert reason_of(sentence, status, name) is reason
