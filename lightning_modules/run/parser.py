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
from lightning_modules.run.options import options

MODE = "omegaconf+"  # of jsonargparse: ${key} refers to another option, in another file too


class OneLineParser(LightningArgumentParser):
    """Prints in one line what is wrong with the arguments, without the usage and the list of tried types."""

    NOISE = ("Does not validate", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value", "Parser key")
    given: list[str] = []  # the arguments of the command

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        key = [line.strip() for line in message.splitlines() if line.startswith("Parser key")]
        rest = [line.strip(" -") for line in message.splitlines() if not line.strip(" -").startswith(self.NOISE)]
        outer, value = (
            re.search(r'Parser key "([^"]+)"', message),
            re.search(r"Got value: (.*)|Expected a path but (\S+)", message),
        )
        if outer and value:
            key = [inner_key(outer[1], (value[1] or value[2]).strip(), self.given) + ":"]
        files = [value for name, value in zip(self.given, self.given[1:], strict=False) if name in ("-c", "--config")]
        if "arguments are required" in message and files:
            rest.append(f"(not in {', '.join(files)}; is one of them cut short?)")
        print(f"vsd: {' '.join([*key, *filter(None, rest)])[:500]}", file=sys.stderr)
        sys.exit(2)


def inner_key(outer: str, value: str, args: list[str]) -> str:
    """The option that has a value of a wrong type, of which jsonargparse names only what it is a part of.

    Args:
        outer: The key that it names.
        value: The value.
        args: Of the command.

    Returns:
        The last option below `outer` that has the value, `outer` where there is none.
    """
    found = outer
    for option, following in zip(args, [*args[1:], ""], strict=True):
        name, equals, text = option.partition("=")
        text = text if equals else following
        if name in ("-c", "--config"):
            try:
                given = yaml.load(Path(text).read_text(encoding="utf-8"), get_yaml_default_loader())
            except (OSError, ValueError, yaml.YAMLError):
                continue
            pairs = [(key, str(leaf)) for key, leaf in options(given)]
        else:
            pairs = [(name[2:], leaf) for leaf in (text, *re.split(r"[][{}:, ]+", text)) if name.startswith("--")]
        for key, leaf in pairs:
            if key.startswith(outer) and _plain(leaf) == _plain(value):
                found = key
    return found


def _plain(value: str) -> str:
    """A value without what YAML and Python write differently."""
    return re.sub(r"[\s'\"]|(?<![0-9])\.(?=nan|inf)", "", value.lower())


def require_readable(args: list[str]) -> None:
    """Checks the configuration files that a command names.

    Args:
        args: Of the command.

    Raises:
        InputError: One is no text, or YAML that does not mean what it seems to.
    """
    for option, following in zip(args, [*args[1:], ""], strict=True):
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
