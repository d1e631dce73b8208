"""Find what is wrong in a training or decoding YAML before anything is built from it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path

import humanfriendly
import yaml

from lrsms.avsr.config import AvConfig
from lrsms.defaults import CONFIG
from lrsms.errors import LrsmsError, refuse_unknown
from lrsms.lowrank import LowRankConfig


def read_yaml(path: Path) -> dict:
    """A YAML file whose top level is a mapping.

    Raises:
        LrsmsError: missing file, a syntax error (with its line), or another top level.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
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
        path: the YAML file.
        task: the task class whose options and registries count.

    Returns:
        The file's content.

    Raises:
        LrsmsError: an unknown option, class or class option, or a bad ``low_rank`` or ``av_conf`` block; names file,
            key and value.
    """
    from espnet2.tasks.abs_task import optim_classes, scheduler_classes  # seconds: the YAML reader does not need it

    config = read_yaml(path)
    check_keys(config, vars(task.get_parser().parse_args([])), str(path))
    for choices in task.class_choices_list:
        name = config.get(choices.name, choices.default)
        if name is None or str(name).lower() in ("none", "null", "nil"):  # ESPnet's spellings of "without"
            continue
        if name not in choices.classes:
            raise LrsmsError(f"{path}: {choices.name}: {name!r} is unknown; one of {', '.join(choices.classes)}")
        _check_class_options(path, config, choices.name, choices.classes[name])
    for kind, classes in (("optim", optim_classes), ("scheduler", scheduler_classes)):
        name = config.get(kind)
        if name is not None and name not in classes:
            raise LrsmsError(f"{path}: {kind}: {name!r} is unknown; one of {', '.join(sorted(classes))}")
    AvConfig.parse(config.get("av_conf"), where=f"{path}: av_conf")
    return config


def _check_class_options(path: Path, config: Mapping, name: str, cls: type) -> None:
    key = f"{name}_conf"
    options = config.get(key) or {}
    if not isinstance(options, Mapping):
        raise LrsmsError(f"{path}: {key}: {options!r} is not a mapping of options")
    parameters = inspect.signature(cls).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        check_keys(options, parameters, f"{path}: {key}")
    if "low_rank" in options:
        LowRankConfig.parse(options["low_rank"], where=f"{path}: {key}.low_rank")
