"""What every command's exit status and last line are."""

import errno
import os

import pytest

from ribkit.runtime.command import command
from ribkit.runtime.errors import InputError, StudyError

NO_ROOM = OSError(errno.ENOSPC, "No space left on device", "/data/x")


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (None, 0, ""),
        (InputError("a is wrong; correct it."), 1, "a is wrong; correct it.\n"),
        (StudyError("Notebook 03 stopped."), 1, "Notebook 03 stopped.\n"),
        (NO_ROOM, 1, "counting: the disk has no room at /data/x"),
        (KeyboardInterrupt(), 130, "Stopped; the same command goes on from here.\n"),
    ],
)
def test_errors_that_a_user_reads_are_a_line_and_a_status(error, status, told, capsys):
    @command("counting")
    def main(argv):
        if error:
            raise error

    assert main(["x"]) == status
    shown = capsys.readouterr().err
    assert shown.startswith(told)
    assert shown.count("\n") == (status > 0)


@pytest.mark.parametrize(
    "error", [SystemExit(2), KeyError("a bug"), OSError("unknown"), RuntimeError("shapes differ")]
)
def test_other_errors_come_out(error):
    @command("counting")
    def main(argv):
        raise error

    with pytest.raises(type(error)) as raised:
        main()
    assert raised.value is error


@pytest.mark.parametrize(("before", "within"), [(None, True), ("", False)])
def test_progress_is_shown_unless_it_is_set_to_nothing(before, within, monkeypatch):
    monkeypatch.delenv("RIBKIT_PROGRESS", raising=False)
    if before is not None:
        monkeypatch.setenv("RIBKIT_PROGRESS", before)
    asked = []

    @command("counting")
    def main(argv):
        asked.append(os.environ["RIBKIT_PROGRESS"])

    main([])
    assert bool(asked[0]) == within
    assert os.environ.get("RIBKIT_PROGRESS") == before
