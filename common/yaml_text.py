"""YAML that means what it seems to: every key once, and no anchors that blow up."""

import yaml

from common.errors import InputError

LARGEST = 100_000  # values of a text, with each alias counted as what it stands for


def require_plain(text: str, name: str = "configuration") -> None:
    """Checks a text that is to be read as YAML.

    Args:
        text: The text; one that is no YAML at all passes, for the reader to complain.
        name: What to call it in errors.

    Raises:
        InputError: A key is there twice, or the text stands for too many values or for itself.
    """
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        sizes: dict[int, int | None] = {}
        if root is not None and _size(root, sizes, name) > LARGEST:
            raise InputError(f"{name}: its aliases stand for more than {LARGEST} values; write them out")
    except yaml.YAMLError:
        return
    except RecursionError as error:
        raise InputError(f"{name}: it is nested too deeply") from error


def _size(node: yaml.Node, sizes: dict[int, int | None], name: str) -> int:
    """How many values a node stands for; sizes: of nodes seen before, None for those that are being counted."""
    if id(node) in sizes:
        known = sizes[id(node)]
        if known is None:
            raise InputError(f"{name}: an alias in line {node.start_mark.line + 1} stands for itself")
        return known
    sizes[id(node)] = None
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise InputError(f"{name}: the key '{key}' is there twice; leave one out")
        inner = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    sizes[id(node)] = total = 1 + sum(_size(one, sizes, name) for one in inner)
    return total
