"""The parser of the command `vsd`: errors in one line that name the option, and YAML that means what it seems to."""

import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import set_loader
from jsonargparse._loaders_dumpers import get_yaml_default_loader
from jsonargparse._optionals import get_omegaconf_loader
from pytorch_lightning.cli import LightningArgumentParser
from typing_extensions import override

from common.errors import InputError
from common.yaml_text import require_plain

MODE = "omegaconf+"  # of jsonargparse: ${key} refers to another option, in another file too


class OneLineParser(LightningArgumentParser):
    """Prints in one line what is wrong with the arguments, without the usage and the list of tried types."""

    given: list[str] = []  # the arguments of the command

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        key, words = fault_in(message)
        files = [value for name, value in zip(self.given, self.given[1:], strict=False) if name in ("-c", "--config")]
        if "arguments are required" in message and files and not (key and is_given(key, self.given)):
            words += f" (not in {', '.join(files)} either; is one of them cut short?)"
        elif key and files and not is_given(key, self.given):
            words = f"{words[:300]} (in {', '.join(files)}; is one of them cut short?)"
        print(f"vsd: {key and key + ': '}{words}"[:500], file=sys.stderr)
        sys.exit(2)


def is_given(key: str, args: list[str]) -> bool:
    """Whether an option, or one of the same part such as another of the trainer's callbacks, is on the command line.

    Args:
        key: The option, without dashes.
        args: Of the command.
    """
    names = [arg.partition("=")[0].removeprefix("--").split(".")[:2] for arg in args if arg.startswith("--")]
    return key.split(".")[:2] in names


# Of the types that were tried and the values that they were tried with.
NOISE = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value type",
    "Problem with",
)


def fault_in(message: str) -> tuple[str, str]:
    """Which option jsonargparse complains of, and why.

    It indents what is wrong with a part below the part, and repeats that for each type that it has tried, the one that
    was meant first.

    Args:
        message: In its words.

    Returns:
        The whole key, "" where the message names none, and the first complaint of the innermost part.
    """
    keys: list[str] = []
    words: list[str] = []
    depth = at = -1
    for line in message.splitlines():
        text, indent = line.strip(" -"), len(line) - len(line.lstrip(" -"))
        if named := re.match('Parser key "([^"]+)"', text):
            if words or indent <= depth:
                break
            keys, depth = [*keys, named[1]], indent
        elif text and not text.startswith(NOISE) and (not words or indent == at):
            words, at = [*words, text], indent
        elif words and text.startswith("Given value:"):
            words.append(text)
            break
    first = words[0] if words else " ".join(message.split())
    if unknown := re.match("(Option|.* option) '(?P<a>[^']+)'|unrecognized arguments: --(?P<b>[^ =]+)", first):
        return ".".join(
            [*keys, unknown["a"] or unknown["b"]]
        ), "there is no such option; --help names those that there are"
    if keys and (missing := re.match(r"the following arguments are required: ([\w.]+)", first)):
        key = ".".join([*keys, missing[1]])
        return key, f"it is needed, and not given; add --{key}=..."
    if not keys:
        return "", " ".join(words)
    alternatives = [word for word in words if word.startswith("Expected")] or [first]
    value = [word for word in words if word.startswith("Given value:") and "Got value" not in first]
    return ".".join(keys), " ".join([" or ".join(alternatives), *value])


def require_readable(args: list[str]) -> None:
    """Checks the configuration files that a command names.

    Args:
        args: Of the command.

    Raises:
        InputError: One is no text, or YAML that does not mean what it seems to.
    """
    for option, following in zip(args, [*args, ""][1:], strict=True):
        name, equals, value = option.partition("=")
        path = Path(value if equals else following)
        if name in ("-c", "--config"):
            try:
                text = path.read_text(encoding="utf-8")
                require_plain(text, f"{name}: {path}")
                if not isinstance(yaml.load(text, get_yaml_default_loader()), dict):
                    raise InputError(f"{name}: {path} holds no options; name a configuration file")
            except UnicodeDecodeError as error:
                raise InputError(f"{name}: {path} is no text; name a configuration file") from error
            except yaml.YAMLError as error:
                raise InputError(f"{name}: {path} is damaged: {' '.join(str(error).split())[:200]}") from error
            except (OSError, ValueError):
                continue  # of which jsonargparse tells


def read_plainly() -> None:
    """Has jsonargparse refuse YAML with a key twice or with aliases that blow up; otherwise reads as it always does."""
    load = get_omegaconf_loader(MODE)

    def checked(text: str) -> Any:
        if ":" in text:
            require_plain(text)
        return load(text)

    set_loader(MODE, checked, (yaml.YAMLError,))
