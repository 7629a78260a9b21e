"""Ctrl-C and SIGTERM, held back from code that would swallow what they raise."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Has Ctrl-C and SIGTERM wait for the end of the context, or of the function that it decorates.

    For libraries that catch every exception, as trimesh does where it writes a texture: what a signal's handler raises
    would be lost there, and a part of the file with it. In other threads than the main one, which signals do not reach,
    it does nothing.
    """
    waiting: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not None:  # one that is not of Python could not be restored
                handlers[number] = signal.signal(number, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(waiting):
            signal.raise_signal(number)
