from random import Random

from gateway.core.backoff import UNWELCOME_S, delay, spread


def test_it_doubles_to_the_cap_and_stays_there():
    middle = [sum(delay(n, Random(seed)) for seed in range(200)) / 200 for n in range(12)]

    assert [round(wait) for wait in middle[:7]] == [1, 2, 4, 8, 16, 32, 60]
    assert all(45 <= delay(n, Random(n)) <= 75 for n in range(7, 2000))


def test_no_two_hosts_knock_in_step():
    waits = {delay(3, Random(seed)) for seed in range(50)}

    assert len(waits) == 50
    assert all(6 <= wait <= 10 for wait in waits)


def test_a_refused_host_waits_about_five_minutes():
    assert 225 <= spread(UNWELCOME_S, Random(1)) <= 375
