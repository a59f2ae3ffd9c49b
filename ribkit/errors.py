"""What a user reads when the input is wrong."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LINES = 20  # a message has at most so many
START, END = 400, 300  # characters of a problem that are shown; a file may name what it likes


class InputError(ValueError):
    """Bad input: a sentence for each problem, which names the file, the value and the remedy.

    One problem is told as it is; several are told one a line, 20 lines at most.
    """

    def __str__(self) -> str:
        lines = [_shortened(problem) for problem in self.args]
        if len(lines) > 1:
            lines.insert(0, f"{len(lines)} problems; correct these first:")
        if len(lines) > LINES:
            lines[LINES - 1 :] = [f"... and {len(lines) - LINES + 1} more."]
        return "\n".join(lines)


def _shortened(problem: str) -> str:
    """The sentence without its middle if it is long: the file comes first, the remedy last."""
    if len(problem) <= START + END:
        return problem
    return f"{problem[:START]} ... {problem[-END:]}"


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
