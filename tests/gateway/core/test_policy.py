from hypothesis import given
from hypothesis import strategies as st

from gateway.core.policy import DEFAULT_HEARTBEAT_MS, MAX_HEARTBEAT_MS, MIN_HEARTBEAT_MS, Limits, Policy
from shared_types.messages import GatewayConfig

LIMITS = Limits(max_concurrent=4, task_timeout_ms=3_600_000, labels={"gpu": "no"})


def test_without_wishes_the_owners_settings_hold():
    config = Policy(LIMITS).effective

    assert (config.max_concurrent, config.task_timeout, config.labels) == (4, 3_600_000, {"gpu": "no"})
    assert (config.heartbeat_interval, config.draining) == (DEFAULT_HEARTBEAT_MS, False)


_numbers = st.none() | st.integers(-10, 10**12)


@given(st.builds(GatewayConfig, heartbeat_interval=_numbers, task_timeout=_numbers, max_concurrent=_numbers))
def test_no_wish_goes_beyond_what_the_owner_allows(wish):
    config = Policy(LIMITS).wished(wish).effective

    assert 0 <= config.max_concurrent <= 4
    assert 1 <= config.task_timeout <= 3_600_000
    assert MIN_HEARTBEAT_MS <= config.heartbeat_interval <= MAX_HEARTBEAT_MS


def test_a_wish_within_the_limits_is_granted():
    wish = GatewayConfig(heartbeat_interval=2_000, task_timeout=5_000, max_concurrent=1, draining=True)
    config = Policy(LIMITS).wished(wish).effective

    assert (config.heartbeat_interval, config.task_timeout, config.max_concurrent) == (2_000, 5_000, 1)
    assert config.draining


def test_wishes_add_up():
    policy = Policy(LIMITS).wished(GatewayConfig(max_concurrent=1)).wished(GatewayConfig(draining=True))

    assert (policy.effective.max_concurrent, policy.effective.draining) == (1, True)
    assert not policy.wished(GatewayConfig(draining=False)).effective.draining


def test_the_owners_labels_win():
    config = Policy(LIMITS).wished(GatewayConfig(labels={"gpu": "yes", "zone": "a"})).effective

    assert config.labels == {"gpu": "no", "zone": "a"}


def test_a_gateway_that_is_stopping_takes_no_work_whatever_the_manager_wishes():
    assert Policy(LIMITS).stopping().wished(GatewayConfig(draining=False)).effective.draining
