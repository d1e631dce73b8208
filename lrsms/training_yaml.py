"""Training YAMLs: plain ESPnet configurations, or `base:` and what differs from it.

One rule merges, here and in a sweep's arms. Keys are dotted if they lead into a block (``encoder_conf.num_blocks``);
a value, be it a list or a mapping, replaces what the base has under its key; ``null`` under a dotted key removes that
key. So ``encoder_conf.low_rank: {attention: 0.12}`` replaces that block and leaves the rest of ``encoder_conf`` alone.
``base`` is a path from the folder of the YAML that has it, and a base may have a base.

Beside ``base:`` a whole block, such as ``encoder_conf: {num_blocks: 6}``, is refused if the base's has options that it
lacks: that is seldom meant to let the width fall back to ESPnet's default. Dotted keys say what is meant.

A YAML without ``base:`` is ESPnet's own. No file may have a key twice.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from lrsms.errors import LrsmsError

_BASE = "base"
_MERGE = "tag:yaml.org,2002:merge"  # of the key <<, which may stand several times
_WITHIN = -1  # of a node that is being counted
MOST_VALUES = 1_000_000  # of a document whose aliases are written out; a token list has some 100,000


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which on its own keeps the last of two equal keys and lets aliases grow without bound."""

    def compose_mapping_node(self, anchor):
        """Raise ComposerError if a key is written twice."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(None, None, f"{key.value!r} is written twice", key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def get_single_node(self):
        """Raise ComposerError if aliases lead back to themselves, or would become too many values written out."""
        node = super().get_single_node()
        if _values(node, {}) > MOST_VALUES:
            problem = f"its aliases stand for more than {MOST_VALUES:,} values"
            raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
        return node


def _values(node: yaml.Node | None, counted: dict[int, int]) -> int:
    """Nodes of the document once every alias is written out; each node is looked at once."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counted:
        counted[id(node)] = _WITHIN
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        counted[id(node)] = 1 + sum(_values(part, counted) for part in parts)
    if counted[id(node)] == _WITHIN:
        raise yaml.composer.ComposerError(None, None, "an alias leads back to itself", node.start_mark)
    return counted[id(node)]


def read_yaml(path: Path) -> dict:
    """A YAML file whose top level is a mapping.

    Raises:
        LrsmsError: missing file, a syntax error or a key that is written twice (with its line), aliases without end,
            or another top level.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), PlainLoader)
    except OSError as error:
        raise LrsmsError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise LrsmsError(f"{path}: not plain YAML: line {line}: {error.problem}; only plain values are read") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LrsmsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, Mapping):
        raise LrsmsError(f"{path}: the top level is not a mapping of options")
    return dict(content or {})


def read_training_yaml(path: Path) -> dict:
    """The plain ESPnet configuration that a training YAML stands for, without ``base:``.

    Raises:
        LrsmsError: a file that :func:`read_yaml` refuses, a base that is missing or leads back to this file, a dotted
            key that leads through something that is not a mapping, or a mapping that would take options of the base
            away.
    """
    config: dict = {}
    for file, content in reversed(_layers(path)):
        if _BASE in content:
            _refuse_losses(file, config, content)
            content = changed(config, content, str(file))
        config = {key: value for key, value in content.items() if key != _BASE}
    return config


def _refuse_losses(file: Path, base: Mapping, changes: Mapping) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            lost = [option for option in base[key] if option not in value]
            if lost:
                options = ", ".join(f"{key}.{option}" for option in value) or f"{key}.{lost[0]}"
                raise LrsmsError(
                    f"{file}: {key}: would take {', '.join(map(str, lost))} of {changes[_BASE]} away; write {options} "
                    f"to change single options, with null to remove one"
                )


def has_base(path: Path) -> bool:
    """True if ESPnet itself cannot read the training YAML."""
    return _BASE in read_yaml(path)


def _layers(path: Path) -> list[tuple[Path, dict]]:
    """The YAML, its base, the base of that, and so on, each with its content."""
    layers: list[tuple[Path, dict]] = []
    while True:
        content = read_yaml(path)
        if _BASE not in content:
            return [*layers, (path, content)]
        layers.append((path, content))
        base = content[_BASE]
        if not isinstance(base, str):
            raise LrsmsError(f"{path}: base: {base!r}: write the training YAML that this one differs from")
        following = path.parent / base
        if not following.is_file():
            raise LrsmsError(f"{path}: base: {base}: {following} was not found; the path is from this file's folder")
        if following.resolve() in (file.resolve() for file, _ in layers):
            chain = " -> ".join(map(str, [*(file for file, _ in layers), following]))
            raise LrsmsError(f"{path}: base: {base}: the bases lead back to themselves: {chain}")
        path = following


def changed(base: Mapping, changes: Mapping, where: str) -> dict:
    """A copy of ``base`` with dotted keys set, one after the other; ``null`` under a dotted key removes it.

    Raises:
        LrsmsError: a key leads through something that is not a mapping.
    """
    config = copy.deepcopy(dict(base))
    for dotted, value in changes.items():
        *parents, last = str(dotted).split(".")
        place = config
        for depth, key in enumerate(parents):
            if place.get(key) is None:
                place[key] = {}
            place = place[key]
            if not isinstance(place, dict):
                raise LrsmsError(f"{where}: {dotted}: {'.'.join(parents[: depth + 1])} is {place!r}, not a mapping")
        if value is None and parents:
            place.pop(last, None)
        else:
            place[last] = copy.deepcopy(value)
    return config


def locate(path: Path, *keys: str) -> str:
    """Which file has an option of the training YAML ``path``, and in which line.

    Args:
        keys: the option's way from the top level, such as ``"encoder_conf", "num_blocks"``.

    Returns:
        ``FILE: line N``; the path alone if no file writes the keys out, as with YAML's merge keys.
    """
    for file, content in _layers(path):
        node = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
        line = _line(node, list(map(str, keys)), dotted=_BASE in content)
        if line is not None:
            return f"{file}: line {line}"
    return str(path)


def _line(node: yaml.Node | None, keys: Sequence[str], dotted: bool = False) -> int | None:
    for key, value in reversed(node.value if isinstance(node, yaml.MappingNode) else []):
        parts = str(key.value).split(".") if dotted else [str(key.value)]
        if parts == keys:
            return key.start_mark.line + 1
        if parts == keys[: len(parts)]:
            line = _line(value, keys[len(parts) :])
            if line is not None:
                return line
    return None
