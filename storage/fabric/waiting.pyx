# cython: language_level=3
"""Waiting: functions that may wait for a memory node, each on a stack of its own.

The store is written as if every round of the fabric took no time. Over RDMA it takes some, and one event loop serves
everybody: so a function that uses a remote pool runs on a stack of its own (a greenlet), and where the fabric would wait it goes back to
the loop instead, which resumes it when its operations are done. On the main stack nothing is ever suspended: there the
fabric waits in place, which suits start, stop and tests.

What runs between two doorbells is as undisturbed as in any asyncio program; what is read before one must not be taken for granted
after it.
"""

import sys
from collections import deque

from greenlet import GreenletExit, getcurrent, greenlet

cdef object _ready = deque()        # stacks whose turn has come
cdef object _call_soon = None       # of the event loop


def set_call_soon(call_soon) -> None:
    """Say how the event loop is asked to call a function soon; None outside of one."""
    global _call_soon
    _call_soon = call_soon


def run(function, *arguments) -> bool:
    """Call ``function`` on a stack of its own. True when it has returned, False when it waits and will be resumed.

    Its result is dropped, and an exception is reported as one that nobody can catch: the function sees to both. Where the running stack may
    wait already, the function is simply called.
    """
    if current() is not None:
        _guarded(function, arguments)
        return True
    stack = greenlet(_guarded)
    stack.switch(function, arguments)
    return stack.dead


def _guarded(function, arguments) -> None:
    try:
        function(*arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())


def resume(stack) -> None:
    """Let a suspended stack go on, until it waits again or ends."""
    stack.switch(True)


def resume_soon(stack) -> None:
    """The same in the loop's next turn, from whatever stack this is called."""
    _ready.append(stack)
    if _call_soon is not None and len(_ready) == 1:
        _call_soon(resume_ready)


def resume_ready() -> None:
    """Resume what ``resume_soon`` was told of; for the main stack."""
    for _ in range(len(_ready)):
        resume(_ready.popleft())
    if _ready and _call_soon is not None:
        _call_soon(resume_ready)


def current():
    """The running stack, to be resumed later; None on the main one, which never waits this way."""
    stack = getcurrent()
    return None if stack.parent is None else stack


cdef bint may_wait() noexcept nogil:
    """Whether the running stack can be suspended."""
    with gil:
        return current() is not None


cdef bint suspend() noexcept nogil:
    """Go back to the loop until somebody resumes this stack. False when it is being ended instead (the process stops)."""
    with gil:
        try:
            getcurrent().parent.switch()
        except GreenletExit:
            return False
        return True


cdef bint take_turns() noexcept nogil:
    """Let others run, until the loop's next turn. False where that cannot be."""
    with gil:
        stack = current()
        if stack is None:
            return False
        resume_soon(stack)
    return suspend()


cdef class Turnstile:
    """Lets one stack through at a time, in the order of their coming."""

    def __cinit__(self):
        self.waiting = deque()

    cdef bint enter(self) noexcept nogil:
        """Wait for the turn. False when it is taken and this stack cannot wait (the main one)."""
        if not self.is_taken:
            self.is_taken = True
            return True
        with gil:
            stack = current()
            if stack is None:
                return False
            self.waiting.append(stack)
            self.waiting_count += 1
        # Whoever leaves hands the turn over: it is never free in between.
        return suspend()

    cdef void leave(self) noexcept nogil:
        """Give the turn to the next that waits, or to nobody."""
        if self.waiting_count == 0:
            self.is_taken = False
            return
        with gil:
            self.waiting_count -= 1
            resume_soon(self.waiting.popleft())
