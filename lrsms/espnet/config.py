"""Find what is wrong in a training or decoding YAML before anything is built from it."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import humanfriendly

from lrsms.avsr.config import AvConfig
from lrsms.defaults import CONFIG
from lrsms.errors import LrsmsError, refuse_unknown
from lrsms.lowrank import LowRankConfig
from lrsms.training_yaml import has_base, locate, read_training_yaml, read_yaml

__all__ = ["accept_base", "check_keys", "check_training_config", "named_file", "read_training_yaml", "read_yaml"]


def sampling_rate(frontend_conf: Mapping | None) -> int:
    """Sampling rate in Hz that the configured front-end expects; ESPnet also writes it as ``16k``."""
    return humanfriendly.parse_size(str((frontend_conf or {}).get("fs", 16000)))


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
    candidates = [Path(name), folder.absolute().parent.parent / name, folder / Path(name).name]
    for path in candidates:
        if path.is_file():
            return path
    raise LrsmsError(f"{folder / CONFIG}: {key}: none of {', '.join(map(str, candidates))} is found")


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
    known_options = vars(task.get_parser().parse_args([]))
    for key in config:
        if key not in known_options:
            check_keys([key], known_options, locate(path, key))
    for choices in task.class_choices_list:
        name = config.get(choices.name, choices.default)
        if name is None or str(name).lower() in ("none", "null", "nil"):  # ESPnet's spellings of "without"
            continue
        if name not in choices.classes:
            where = locate(path, choices.name)
            raise LrsmsError(f"{where}: {choices.name}: {name!r} is unknown; one of {', '.join(choices.classes)}")
        _check_class_options(path, config, choices.name, choices.classes[name])
    for kind, classes in (("optim", optim_classes), ("scheduler", scheduler_classes)):
        name = config.get(kind)
        if name is not None and name not in classes:
            where = locate(path, kind)
            raise LrsmsError(f"{where}: {kind}: {name!r} is unknown; one of {', '.join(sorted(classes))}")
    _located(path, ["av_conf"], lambda where: AvConfig.parse(config.get("av_conf"), where=where))
    return config


def _check_class_options(path: Path, config: Mapping, name: str, cls: type) -> None:
    key = f"{name}_conf"
    options = config.get(key) or {}
    if not isinstance(options, Mapping):
        raise LrsmsError(f"{locate(path, key)}: {key}: {options!r} is not a mapping of options")
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
