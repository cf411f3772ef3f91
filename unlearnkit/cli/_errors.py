# SPDX-License-Identifier: BSD-3-Clause
"""How a command ends: its exit codes, and the errors that only a command line knows."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from unlearnkit.exceptions import UnlearnError

DONE, FAILED, WRONG_USE, DOUBTFUL, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES = """\
exit codes:
  0    done
  1    an error of the data, the model or a file's content; nothing was written
  2    wrong use: an argument makes no sense, or names what is not there; nothing was done
  3    done and written, but doubtful: the model collapsed, nothing was changed, or a
       --require was not met
  130  interrupted; nothing was written"""


class WrongUse(UnlearnError):  # noqa: N818 - it is what the user is told
    """The arguments make no sense, which is found out before any work."""


class UserCodeError(UnlearnError):
    """Code that the command line names, such as the function that builds the model, has failed."""


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Report an error inside as one of the user's own code, with the line where it arose.

    Raises
    ------
    UserCodeError
    """
    try:
        yield
    except UnlearnError:
        raise
    except SystemExit as end:
        raise UserCodeError(
            f"{what} ended the process (exit code {end.code}): a script that does something when it is imported "
            "keeps that under `if __name__ == '__main__':`."
        ) from end
    except Exception as error:
        raise UserCodeError(f"{what} failed: {described(error)}") from error


def described(error: BaseException) -> str:
    """Return an error in one line: its kind, what it says, and where it arose."""
    said = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):  # it names its place itself, and arose in the importer
        frames.clear()
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {said}{where}" if said else f"{type(error).__name__}{where}"


def near(name: str, names: Iterable[str]) -> str:
    """Return ``" (did you mean ...?)"`` where a name resembles a known one, else nothing."""
    known = {known.lower(): known for known in islice(names, 5000)}  # of a million keys, too, in no time
    close = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f" (did you mean {known[close[0]]!r}?)" if close else ""
