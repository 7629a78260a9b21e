"""The one error that means "the input is at fault, not the program"."""


class InputError(Exception):
    """A wrong input; the message is one line that names the key or file and the fix. Commands exit with code 2."""
