"""Raises an error in the main thread from another thread.

`PyThreadState_SetAsyncExc` would do nearly that. But a call into TensorFlow that
fails builds its Python error inside C++ (pybind11), by running Python code, and an
exception that appears there turns into an unreadable RuntimeError. A pending call
runs at the same moments, and can look where it is before it raises.
"""

from __future__ import annotations

import ctypes
import sys
from types import FrameType

# Where TensorFlow builds its errors.
_BUILDS_ERRORS = "tensorflow/python/framework/errors_impl.py"

_add_pending_call = ctypes.pythonapi.Py_AddPendingCall
_add_pending_call.argtypes = (ctypes.c_void_p, ctypes.py_object)
_is_true = ctypes.cast(ctypes.pythonapi.PyObject_IsTrue, ctypes.c_void_p)


def raise_in_main_thread(error: BaseException) -> None:
    """Makes `error` appear in the main thread as soon as that runs Python code.

    Args:
        error: What to raise there.
    """
    _Delivery(error).schedule()


class _Delivery:
    """An object whose truth value is asked in the main thread, and raises."""

    def __init__(self, error: BaseException):
        self._error = error

    def schedule(self) -> None:
        _scheduled.add(self)  # the pending call itself holds no reference
        if _add_pending_call(_is_true, self) != 0:  # the queue is full
            _scheduled.discard(self)

    def __bool__(self) -> bool:
        _scheduled.discard(self)
        if _is_inside(sys._getframe(), _BUILDS_ERRORS):
            self.schedule()
            return False
        raise self._error


_scheduled: set[_Delivery] = set()


def _is_inside(frame: FrameType | None, file: str) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.endswith(file):
            return True
        frame = frame.f_back
    return False
