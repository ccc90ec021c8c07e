"""Runs a module as the main program and lets an interrupt end it quietly until it has a handler.

    python -m utils.entry MODULE [arguments]

Python raises KeyboardInterrupt from its first moment on, and a program that imports torch has many
seconds in which nobody catches it: Ctrl-C would then print pages of a traceback.
"""

import runpy
import signal
import sys


def interrupts_end_quietly() -> None:
    """Lets SIGINT end this process as it ends any other, unless it is ignored or handled."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    interrupts_end_quietly()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
