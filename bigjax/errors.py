"""The one exception that means "the user can mend this", and the words that help to."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a config, a command or a file, told in one sentence that names the thing and the mend.

    The command line prints it without a traceback and exits with 2.
    """


class SaveError(UserError):
    """Something could not be written; what was saved before is as it was."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A closing hint for an unknown `name`: the nearest right name, else all of them if they are few."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(names) <= 30:
        return f"choose from {', '.join(names) or 'nothing: there are none'}."
    return f"there are {len(names)} to choose from."


def first_line(error: Exception) -> str:
    """The beginning of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
