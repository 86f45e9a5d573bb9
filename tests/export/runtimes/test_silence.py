"""What compiled programs print is kept off the terminal, also where two threads do so at once."""

from __future__ import annotations

import os
import threading

from bitfalcon_plugin.export.runtimes.silence import silenced


def test_the_streams_come_back_after_two_threads(capfd):
    one_is_inside, other_is_inside, one_has_left = (threading.Event() for _ in range(3))

    def one() -> None:
        with silenced() as written:
            one_is_inside.set()
            other_is_inside.wait(0.1)  # it waits outside
            os.write(1, b"of a library")
            assert written() == "of a library"
        one_has_left.set()

    def other() -> None:
        one_is_inside.wait(10)
        with silenced(), silenced():
            other_is_inside.set()
            one_has_left.wait(10)
            os.write(1, b"of another one")

    threads = [threading.Thread(target=each) for each in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(1, b"seen")
    assert capfd.readouterr().out == "seen"
