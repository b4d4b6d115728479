"""What to say of a name that does not exist, or of a number that is no count."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral


def close(name: object, names: Iterable[str]) -> str:
    """A question that ends a message, or nothing where no name comes close.

    >>> close("hesma", ["cam", "hesam"])
    "; did you mean 'hesam'?"
    """
    found = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def listed(names: Iterable[str], *, at_most: int = 12) -> str:
    """The names, or the first of them and how many there are besides.

    >>> listed(["a", "b", "c", "d"], at_most=2)
    'a, b and 2 others'
    """
    every = list(names)
    if len(every) <= at_most + 1:  # "and 1 others" would be no shorter
        return ", ".join(every)
    return f"{', '.join(every[:at_most])} and {len(every) - at_most} others"


def one_of(argument: str, value: object, names: Iterable[str]) -> None:
    """Refuse a value that an argument does not take.

    Raises:
        ValueError: The message says what it takes, and which name comes close.

    >>> one_of("by", "patients", ["patient", "nodule"])
    Traceback (most recent call last):
    ValueError: by='patients': expected one of patient, nodule; did you mean 'patient'?
    """
    names = list(names)
    if value not in names:
        raise ValueError(
            f"{argument}={value!r}: expected one of {listed(names)}{close(value, names)}"
        )


def known(kind: str, name: str, names: Iterable[str], where: str = "") -> None:
    """Refuse a name that does not exist.

    Raises:
        ValueError: The message says which name comes close and which there are.

    >>> known("paper", "fu2012", ["fu2021", "lei2020"])
    Traceback (most recent call last):
    ValueError: unknown paper 'fu2012'; did you mean 'fu2021'?; there are fu2021, lei2020
    """
    names = list(names)
    if name not in names:
        there = f"there are {listed(sorted(names))}" if names else "there are none"
        where = f" {where}" if where else ""
        raise ValueError(f"unknown {kind} {name!r}{where}{close(name, names)}; {there}")


def whole(least: int, **values: object) -> None:
    """Refuse what is no whole number of at least `least`, a boolean among them.

    Raises:
        ValueError: The message says which argument it is.

    >>> whole(1, size=8, epochs=0)
    Traceback (most recent call last):
    ValueError: epochs=0: expected a whole number, 1 or more
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}={value!r}: expected a whole number, {least} or more")
