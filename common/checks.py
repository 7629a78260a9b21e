"""Checks of options, whose errors name the key. A value of nan fails every one of them."""

import math

from common.errors import InputError


def require_range(key: str, value: float | None, low: float, high: float = math.inf) -> None:
    """Checks that an option is finite and in [low, high].

    Args:
        key: Of the option.
        value: Its value; None, where an option may be left out, passes.
        low: The smallest value allowed.
        high: The largest value allowed.

    Raises:
        InputError: It is not.
    """
    if value is None or (low <= value <= high and math.isfinite(value)):
        return
    if math.isfinite(high):
        raise InputError(f"{key}: {_word(value)} is not in [{low}, {high}]")
    raise InputError(f"{key}: {_word(value)}; a finite number of at least {low} is needed")


def require_positive(key: str, value: float | None) -> None:
    """Checks that an option is finite and above 0.

    Args:
        key: Of the option.
        value: Its value; None, where an option may be left out, passes.

    Raises:
        InputError: It is not.
    """
    if value is not None and not 0 < value < math.inf:
        raise InputError(f"{key}: {_word(value)}; a finite number above 0 is needed")


def _word(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
