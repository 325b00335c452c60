"""For all tests: repeatable random tests, and CI that cannot pass by leaving something out."""

import os

import pytest
from hypothesis import HealthCheck, settings

# A slow or busy machine is no failure; a failing example is printed and can be run again.
settings.register_profile("fleetgate", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("fleetgate")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """On CI a skipped test is a failed run: what cannot run there was not tested."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("CI: skipped tests are failures, see the list of them above", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
