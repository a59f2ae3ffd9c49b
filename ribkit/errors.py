"""What a user reads when the input is wrong."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LINES = 20  # a message has at most so many


class InputError(ValueError):
    """Bad input: a sentence for each problem, which names the file, the value and the remedy.

    One problem is told as it is; several are told one a line, 20 lines at most.
    """

    def __str__(self) -> str:
        if len(self.args) < 2:
            return "".join(self.args)
        lines = [f"{len(self.args)} problems; correct these first:", *self.args]
        if len(lines) > LINES:
            lines[LINES - 1 :] = [f"... and {len(lines) - LINES + 1} more."]
        return "\n".join(lines)


class Problems(list[str]):
    """What is wrong with some input, a sentence each, collected to be told at once."""

    def collect(self, function: Callable[..., T], *arguments) -> T | None:
        """The function's value; or None, and its InputError is added here."""
        try:
            return function(*arguments)
        except InputError as error:
            self.extend(error.args)
            return None

    def tell(self) -> None:
        """InputError with all of them, each once; nothing if there is none."""
        if self:
            raise InputError(*dict.fromkeys(self))
