"""Where lines go when nobody takes them."""

import os

from gateway.runtime.logs import Outlet


def test_lines_that_nobody_takes_are_counted_and_told_later():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    outlet = Outlet(writer)
    for number in range(100):
        outlet.write(f"{number} {'x' * 4000}\n")
    taken = os.read(reader, 1024 * 1024).count(b"\n")
    outlet.write("at last\n")

    assert 0 < taken < 100
    assert os.read(reader, 65536) == b"event=log.lost level=warning lines=%d\nat last\n" % (100 - taken)
    os.close(reader)
    os.close(writer)


def test_a_reader_that_is_gone_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)

    Outlet(writer).write("x\n")

    os.close(writer)
