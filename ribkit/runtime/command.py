"""How every command begins and ends: progress is shown, errors become a line and an exit status."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from ribkit.runtime import distributed
from ribkit.runtime.errors import InputError, StudyError, resource_errors, say
from ribkit.runtime.progress import shown

Main = Callable[[list[str] | None], Any]


def command(name: str) -> Callable[[Main], Callable[..., int]]:
    """Decorate what does a command line's work; what comes out returns the exit status.

    0; 1 after an error that a user reads, 130 after an interrupt, both told at standard error. What
    the machine lacks is told as lacking while ``name``. Progress is shown, unless
    ``RIBKIT_PROGRESS`` is set to nothing.
    """

    def decorate(main: Main) -> Callable[..., int]:
        @wraps(main)
        def status(argv: list[str] | None = None) -> int:
            try:
                with resource_errors(name), shown():
                    main(argv)
            except (InputError, StudyError) as error:
                if not distributed.is_main_process():
                    time.sleep(10)  # torchrun ends this process first if rank 0 has one to tell
                say(error)
                return 1
            except KeyboardInterrupt:
                say("Stopped; the same command goes on from here.")
                return 130
            return 0

        return status

    return decorate
