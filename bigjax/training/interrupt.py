"""What ends a run early: signals, which are obeyed between steps, and steps that never end."""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType

from bigjax.parallel.processes import Agreement


class Stopped(KeyboardInterrupt):
    """A signal ended the run after a step; a checkpoint of that step is saved.

    The exit code is 128 and the signal's number, as shells have it: 143 for SIGTERM, 130 for SIGINT (Ctrl-C).
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.exit_code = 128 + number


class Interrupts:
    """Notes SIGTERM and SIGINT while it is entered; a second SIGINT ends the process at once.

    Args:
      stall_seconds: where `goes_on` is not called for so long, the stacks of all threads are written to standard error
        and the process ends with exit code 1; 0 waits for ever.
    """

    def __init__(self, stall_seconds: float) -> None:
        self.stall_seconds = stall_seconds
        self.number: int | None = None  # of the signal
        self.stopped = False  # all processes know
        self.agreed = Agreement()
        self.armed = 0.0

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():  # others may not have handlers
            self.before = {number: signal.signal(number, self.note) for number in (signal.SIGTERM, signal.SIGINT)}
        else:
            self.before = {}
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if number == signal.SIGINT and self.number is not None:
            os._exit(128 + number)
        self.number = number
        with contextlib.suppress(OSError, RuntimeError):  # nobody reads it any more, or it interrupted another print
            print(f"{signal.Signals(number).name}: saving and stopping", file=sys.stderr, flush=True)

    def goes_on(self) -> bool:
        """Whether no signal has come, to any process; that it is called, once a step, tells that the run is alive."""
        now = time.monotonic()
        if self.stall_seconds and now - self.armed > min(1.0, self.stall_seconds / 4):  # a watchdog takes a thread
            self.armed = now
            faulthandler.dump_traceback_later(self.stall_seconds, exit=True, file=2)
        self.stopped = self.stopped or self.agreed(self.number is not None)
        return not self.stopped

    def obey(self, step: int) -> None:
        """Raises Stopped where a signal has come."""
        if not self.goes_on():
            raise Stopped(self.number or signal.SIGTERM, step)  # it may have come to another process

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()
        for number, handler in self.before.items():
            signal.signal(number, handler)
