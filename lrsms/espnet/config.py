"""Find what is wrong in a training or decoding YAML before anything is built from it."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import humanfriendly

from lrsms.avsr.config import AvConfig
from lrsms.defaults import CONFIG, SAMPLING_RATES
from lrsms.errors import LrsmsError, refuse_unknown
from lrsms.espnet.explain import option_of, part_of, reason
from lrsms.espnet.option_values import TYPES, wrong_heads, wrong_value, wrong_values
from lrsms.lowrank import LowRankConfig
from lrsms.training_yaml import has_base, locate, read_training_yaml, read_yaml

__all__ = [
    "accept_base",
    "check_heads",
    "check_keys",
    "check_training_config",
    "check_values",
    "explained",
    "mapping_of",
    "named_file",
    "named_places",
    "read_training_yaml",
    "read_yaml",
    "sampling_rate",
]


def sampling_rate(frontend_conf: Mapping | None) -> int:
    """Sampling rate in Hz that the configured front-end expects; ESPnet also writes it as ``16k``.

    Raises:
        LrsmsError: it is none.
    """
    written = (frontend_conf or {}).get("fs", 16000)
    try:
        rate = humanfriendly.parse_size(str(written))
    except humanfriendly.InvalidSize:
        rate = 0
    if not SAMPLING_RATES[0] <= rate <= SAMPLING_RATES[1]:
        raise LrsmsError(
            f"frontend_conf.fs: {written!r}: expected {SAMPLING_RATES[0]} to {SAMPLING_RATES[1]} Hz, such as 16000"
        )
    return rate


def named_file(key: str, name: str, folder: Path) -> Path:
    """A file that an experiment's config names.

    Configs name files from the recipe's folder, which need not be the working directory: they are also looked for two
    folders above the experiment, where it was trained, and in the experiment itself.

    Args:
        key: where the config has the name, for the message.
        name: as the config has it.
        folder: the experiment's.

    Raises:
        LrsmsError: it is in none of these places.
    """
    candidates = named_places(name, folder)
    for path in candidates:
        if path.is_file():
            return path
    raise LrsmsError(f"{folder / CONFIG}: {key}: none of {', '.join(map(str, candidates))} is found")


def named_places(name: str, folder: Path) -> list[Path]:
    """Where a file that an experiment's config names may lie; arguments as of :func:`named_file`."""
    return [Path(name), folder.absolute().parent.parent / name, folder / Path(name).name]


def check_keys(keys: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """As :func:`lrsms.errors.refuse_unknown`, with what is allowed in alphabetical order: ESPnet's options are many."""
    refuse_unknown(keys, sorted(allowed), where)


def check_training_config(path: Path, task) -> dict:
    """Check a training YAML against ESPnet's options and the classes it names.

    Args:
        path: the YAML file, ESPnet's own or one with ``base:`` (:mod:`lrsms.training_yaml`).
        task: the task class whose options and registries count.

    Returns:
        The plain configuration that the file stands for.

    Raises:
        LrsmsError: an unknown option, class or class option, or a bad ``low_rank`` or ``av_conf`` block; names the file
            that has it (of several, if there is a ``base:``), its line, key and value.
    """
    from espnet2.tasks.abs_task import optim_classes, scheduler_classes  # seconds: the YAML reader does not need it

    config = read_training_yaml(path)
    actions = {action.dest: action for action in task.get_parser()._actions if action.dest != "help"}
    for key, value in config.items():
        if key not in actions:
            check_keys([key], actions, locate(path, key))
        wrong = None if key in TYPES or key in _CLASSES else wrong_value(actions[key], value)
        if wrong is not None:
            raise LrsmsError(f"{locate(path, key)}: {key}: {wrong}")
    check_values(path, config)
    classes: dict[str, type] = {}
    for choices in task.class_choices_list:
        name = config.get(choices.name, choices.default)
        _check_class(path, config, choices.name, name, choices.classes)
        classes |= {choices.name: choices.classes[name]} if name in choices.classes else {}
    check_heads(path, config, classes)
    for kind, classes in (("optim", optim_classes), ("scheduler", scheduler_classes)):
        _check_class(path, config, kind, config.get(kind, actions[kind].default), classes)
    _located(path, ["av_conf"], lambda where: AvConfig.parse(config.get("av_conf"), where=where))
    return config


# Classes, which are looked up with their options.
_CLASSES = frozenset("encoder decoder frontend specaug normalize model preencoder postencoder".split())
_CLASSES |= {"optim", "scheduler", "preprocessor"} | {f"{kind}_conf" for kind in _CLASSES}


def check_values(path: Path, config: Mapping) -> None:
    """Refuse values that no training can do with (:mod:`lrsms.espnet.option_values`).

    Args:
        path: the training YAML, for the message.
        config: its content.

    Raises:
        LrsmsError: names file, line, key, value and what would be right.
    """
    for keys, wrong in wrong_values(config):
        raise LrsmsError(f"{locate(path, *keys)}: {'.'.join(keys)}: {wrong}")
    frontend_conf = mapping_of(path, config, "frontend_conf")
    if "fs" in frontend_conf:
        try:
            sampling_rate(frontend_conf)
        except LrsmsError as error:
            raise LrsmsError(f"{locate(path, 'frontend_conf', 'fs')}: {error}") from error


def check_heads(path: Path, config: Mapping, classes: Mapping[str, type]) -> None:
    """Refuse attention heads that do not divide the width.

    Args:
        path: the training YAML, for the message.
        config: its content.
        classes: of ``encoder`` and ``decoder``.

    Raises:
        LrsmsError: names file, line, number of heads, width, and what would be right.
    """
    for keys, wrong in wrong_heads(config, classes):
        raise LrsmsError(f"{locate(path, *keys)}: {'.'.join(keys)}: {wrong}")


def explained(path: Path, config: Mapping, parts: Mapping[str, type] | str, error: Exception, what: str) -> LrsmsError:
    """What to raise if ESPnet refuses a configuration with an exception of its own.

    Args:
        path: the training YAML.
        config: its content.
        parts: which option's class it was, such as ``encoder`` with its own options under ``encoder_conf``; or several,
            each with its class, to find it among.
        error: that ESPnet or torch raised.
        what: was tried, such as "ESPnet cannot build the model".
    """
    part = parts if isinstance(parts, str) else part_of(error, parts)
    keys = [] if part is None else [f"{part}_conf"]
    options = config.get(keys[0]) if keys else None
    option = option_of(error, options) if isinstance(options, Mapping) else None
    if option is not None:
        keys.append(option)
    where = str(path) if not keys else f"{locate(path, *keys)}: {'.'.join(keys)}"
    value = f"{options[option]!r}: " if option is not None and isinstance(options, Mapping) else ""
    return LrsmsError(f"{where}: {value}{what} ({reason(error)})")


def _check_class(path: Path, config: Mapping, kind: str, name: object, classes: Mapping[str, type]) -> None:
    if name is None or str(name).lower() in ("none", "null", "nil"):  # ESPnet's spellings of "without"
        return
    if not isinstance(name, str) or name not in classes:
        known = sorted(classes) if kind in ("optim", "scheduler") else classes
        raise LrsmsError(f"{locate(path, kind)}: {kind}: {name!r} is unknown; one of {', '.join(known)}")
    _check_class_options(path, config, kind, classes[name])


def mapping_of(path: Path, config: Mapping, key: str) -> Mapping:
    """A block of the training YAML ``path``; empty if it has none.

    Raises:
        LrsmsError: it is something else than options by name.
    """
    options = config.get(key) or {}
    if not isinstance(options, Mapping):
        raise LrsmsError(f"{locate(path, key)}: {key}: {options!r} is not a mapping of options")
    return options


def _check_class_options(path: Path, config: Mapping, name: str, cls: type) -> None:
    key = f"{name}_conf"
    options = mapping_of(path, config, key)
    parameters = inspect.signature(cls).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in parameters:
                check_keys([option], parameters, f"{locate(path, key, option)}: {key}")
    if "low_rank" in options:
        _located(path, [key, "low_rank"], lambda where: LowRankConfig.parse(options["low_rank"], where=where))


def _located(path: Path, keys: list[str], check: Callable[[str], object]) -> None:
    """Run ``check`` with the text that its message begins with; looking up the line takes time and is left for last."""
    try:
        check("")
    except LrsmsError:
        check(f"{locate(path, *keys)}: {'.'.join(keys)}")


def accept_base(parser: argparse.ArgumentParser) -> None:
    """Have the parser of an ESPnet task take a ``--config`` with ``base:``; other files are left to ESPnet."""
    parse_plain = parser.parse_known_args

    def parse(args=None, namespace=None):
        options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        options.add_argument("--config", type=Path)
        path = options.parse_known_args(args)[0].config
        if path is None or not path.is_file() or not has_base(path):
            return parse_plain(args, namespace)
        config = read_training_yaml(path)
        known_options = {action.dest for action in parser._actions}
        for key in config:
            if key not in known_options:
                parser.error(f"unrecognized arguments: {key} (from {locate(path, key)})")
        parser.set_defaults(**config)
        return argparse.ArgumentParser.parse_known_args(parser, args, namespace)

    parser.parse_known_args = parse  # type: ignore[method-assign]
