import signal
import threading

import pytest

from common.signals import uninterrupted


class Stopped(BaseException):
    pass


def stop(*_):
    raise Stopped


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request):
    """A signal whose handler raises Stopped."""
    before = signal.signal(request.param, stop)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_waits_for_the_end(number):
    done = []
    with pytest.raises(Stopped):
        with uninterrupted():
            try:
                signal.raise_signal(number)
                done.append("within")
            except BaseException:  # noqa: B036
                done.append("swallowed")
        done.append("after")
    assert done == ["within"]
    assert signal.getsignal(number) is stop


def test_a_decorated_function_ends_before_it_is_answered(number):
    done = []

    @uninterrupted()
    def work():
        signal.raise_signal(number)
        done.append(True)

    for _ in range(2):
        with pytest.raises(Stopped):
            work()
    assert done == [True, True]


def test_without_a_signal_nothing_changes(number):
    with uninterrupted():
        pass
    with pytest.raises(ValueError, match="of the code itself"), uninterrupted():
        raise ValueError("of the code itself")
    assert signal.getsignal(number) is stop


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_passes(number):
    done = []

    @uninterrupted()
    def work():
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True] and signal.getsignal(number) is stop
