"""A provider's failure in our words: from its status, the agent's name for it, and what the sentence says.

The sentence goes first where a status has several meanings: a prompt that is too long is a 400 like any other,
and money that ran out comes as 400, 402, 403 or 429.
"""

import re
from typing import Final

from gateway.agents.loose import fields, parse, text
from shared_types.tasks import Reason

_SENTENCES: Final = (
    (
        Reason.CONTEXT_OVERFLOW,
        re.compile(
            r"prompt is too long|context[ _](length|window)|maximum context|too many (input )?tokens"
            r"|input token count.{0,40}exceeds|exceed_context_limit",
            re.IGNORECASE,
        ),
    ),
    (
        Reason.QUOTA,
        re.compile(
            r"insufficient_quota|credit balance|exceeded your current quota|billing|usage limit|payment required"
            r"|quota (was )?exhausted|exhausted your (daily|capacity)",
            re.IGNORECASE,
        ),
    ),
    (
        Reason.PROVIDER_AUTH,
        re.compile(
            r"not logged in|please run /login|(invalid|incorrect) (api[ _-]?key|x-api-key|authentication)"
            r"|unauthori[sz]ed|unauthenticated|authentication[ _](required|failed|error)|api key not valid"
            r"|oauth token has expired",
            re.IGNORECASE,
        ),
    ),
    (Reason.RATE_LIMIT, re.compile(r"rate.?limit|too many requests|resource.{0,10}exhausted", re.IGNORECASE)),
)
_STATUSES: Final = {
    401: Reason.PROVIDER_AUTH,
    402: Reason.QUOTA,
    403: Reason.PROVIDER_AUTH,
    408: Reason.PROVIDER_ERROR,
    413: Reason.CONTEXT_OVERFLOW,
    429: Reason.RATE_LIMIT,
}
_NAMES: Final = {
    "authentication_failed": Reason.PROVIDER_AUTH,
    "oauth_org_not_allowed": Reason.PROVIDER_AUTH,
    "billing_error": Reason.QUOTA,
    "rate_limit": Reason.RATE_LIMIT,
    "overloaded": Reason.PROVIDER_ERROR,
    "server_error": Reason.PROVIDER_ERROR,
    "ProviderAuthError": Reason.PROVIDER_AUTH,
    "ContextOverflowError": Reason.CONTEXT_OVERFLOW,
    "APIError": Reason.PROVIDER_ERROR,
}
_WORLD: Final = re.compile(
    r"ECONNRE|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|socket|connection (error|refused|reset|closed)|fetch failed"
    r"|unable to connect|overloaded|internal (server )?error|server had an error"
    r"|stream (ended|closed)|premature|incomplete json",
    re.IGNORECASE,
)
_SPELLED_STATUS: Final = re.compile(r"(?:status|code|error|http)\D{0,12}\b([45]\d\d)\b", re.IGNORECASE)
RETRYABLE: Final = frozenset({Reason.RATE_LIMIT, Reason.PROVIDER_ERROR})


def provider_words(sentence: str) -> str:
    """The provider's own sentence, when an agent quotes its whole answer.

    >>> provider_words('{"error":{"code":401,"message":"Who are you?","status":"UNAUTHENTICATED"}}')
    'Who are you?'
    """
    start = sentence.find("{")
    fault = fields(fields(parse(sentence[start:])).get("error")) if start >= 0 else {}
    return text(fault.get("message")) or sentence


def reason_of(sentence: str, status: int | None = None, name: str = "") -> Reason:
    """The stable code of a failure.

    >>> reason_of("API Error: 429 slow down", 429), reason_of("Your credit balance is too low", 400)
    (<Reason.RATE_LIMIT: 'agent_error.rate_limit'>, <Reason.QUOTA: 'agent_error.quota'>)
    >>> reason_of("the dog ate it")
    <Reason.AGENT_ERROR: 'agent_error'>
    """
    for reason, pattern in _SENTENCES:
        if pattern.search(sentence[:4000]):
            return reason
    if status is None and (spelled := _SPELLED_STATUS.search(sentence[:4000])):
        status = int(spelled.group(1))
    if status in _STATUSES:
        return _STATUSES[status]
    if name in _NAMES:
        return _NAMES[name]
    if (status is not None and 500 <= status < 600) or _WORLD.search(sentence[:4000]):
        return Reason.PROVIDER_ERROR
    return Reason.AGENT_ERROR
