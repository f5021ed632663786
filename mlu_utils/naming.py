"""What is said of a wrong name, which names there are and the nearest, and of a number out of range."""

import difflib
import math
from collections.abc import Iterable

MOST_NAMES = 40  # as many as CelebA has labels; of more, a message shows the first few
REQUEST_KINDS = ("label", "class", "people", "images", "partial")  # see `requests`, whose import takes torch's time
LIKENESS = 0.5  # of a name worth proposing: a letter or two of a short name, a third of a long one


def choices(value: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the names accepted, in their order (a set's sorted), and the one meant.

    >>> choices("orrl", ["orl", "digits"])
    "choose one of orl, digits; did you mean 'orl'?"
    """
    names = sorted(known) if isinstance(known, set | frozenset) else list(known)
    shown = names if len(names) <= MOST_NAMES else [*names[:5], f"... ({len(names)} in all)"]
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=LIKENESS)
    return f"choose one of {', '.join(shown) or '(none)'}" + (f"; did you mean {near[0]!r}?" if near else "")


def require_choice(what: str, value: str, known: Iterable[str], *, where: str = "") -> None:
    """Raise ValueError, which begins with `where`, unless the value is among the known ones."""
    if value not in known:
        raise ValueError(f"{where}unknown {what} {value!r}: {choices(value, known)}")


def require_at_least(least: float, **values: float) -> None:
    """Raise ValueError unless each of the named numbers is finite and at least this."""
    for name, value in values.items():
        if not least <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least {least}, got {value}")


def require_share(**values: float) -> None:
    """Raise ValueError unless each of the named numbers is above 0 and at most 1."""
    for name, value in values.items():
        if not 0 < value <= 1:
            raise ValueError(f"{name} must be in (0, 1], got {value}")
