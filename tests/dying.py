"""A process that kills itself at a chosen moment of its writing.

An audit hook sees every opening and renaming of a file in the interpreter, so nothing of `ribkit`
need know. ``DIE=moment,number`` in the environment of a Python that imports this does the same.
"""

import os
import resource
import signal
import sys

MOMENTS = ("before a write", "in a write", "before a rename", "after a rename")
FEW = 60  # bytes of a file, before its process dies in the middle of writing it


def die_at(moment, number):
    """From now on: SIGKILL at the ``number``-th time that the moment comes."""
    seen = {"count": 0, "renamed": False}

    def hook(event, arguments):
        if event == "os.kill":
            return
        if seen["renamed"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if (event == "os.rename") != ("rename" in moment) or not _partial(event, arguments):
            return
        seen["count"] += 1
        if seen["count"] < number:
            return
        if moment == "in a write":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills, at this very byte
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (FEW, FEW))
        elif moment == "after a rename":
            seen["renamed"] = True
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _partial(event, arguments):
    """Whether a file that is being made is opened to be written, or a finished one moved."""
    if event == "os.rename":
        return os.fspath(arguments[0]).endswith(".partial")
    if event != "open" or not isinstance(arguments[0], str):
        return False
    flags = arguments[2] or 0
    return ".partial" in arguments[0] and bool(flags & (os.O_WRONLY | os.O_RDWR))


if os.environ.get("DIE"):
    asked, _, times = os.environ["DIE"].partition(",")
    die_at(asked, int(times))
