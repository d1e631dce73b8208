"""What a command sets for its own process, first of all a quick start; ``import lrsms.espnet`` sets none of it.

ESPnet's task modules import every class that a config could name, and with them what these need, though a model is
made of a dozen; its ``@typechecked`` parses the file of a function once for each function, and that is half of all the
time its imports take. In the commands of :mod:`lrsms.bin`, and in the processes that they start,

* a task module holds a :class:`Later` in place of a class that it only names, calls or asks ``isinstance`` of; the
  class is imported when it is used, and the registries of names give the classes themselves;
* a function of ESPnet gets its type checks when it is first called;
* a command whose work is done leaves without taking apart what it has loaded.

What is built, checked and said stays the same. A command also keeps ESPnet's remarks from the terminal
(:mod:`lrsms.quiet`), and freed memory for its next use while it trains on a CPU
(:mod:`lrsms.espnet.models.fast.allocator`).
"""

from __future__ import annotations

import ast
import atexit
import functools
import importlib
import importlib.abc
import importlib.util
import inspect
import os
import sys
import threading
from collections import UserDict
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from lrsms.quiet import quiet_espnet

_TASKS = ("espnet2.tasks.", "espnet2.bin.")
_NOT_A_TASK = "espnet2.tasks.abs_task"  # what it imports is replaced there, by lrsms.espnet.plugin.safe_loading too
# Others of ESPnet that import much for a call or a question: speech synthesis, speech enhancement, setuptools.
_OTHERS = (*("espnet2.main_funcs.calculate_all_attentions", "espnet2.layers.create_adapter_fn", "espnet2.utils.types"),)
# English pronunciation and the text cleaner of speech synthesis, which ESPnet imports for every task: they take a fifth
# to a third of its imports' time, and the first asks the network for NLTK's data.
_SELDOM_USED = ("g2p_en", "tacotron_cleaner", "tacotron_cleaner.cleaners")
_OF_ITS_RECIPES = ("h5py", "scipy.signal")  # of data and augmentation that ESPnet's own recipes have

_is_command = False


def start_command() -> None:
    """Make this process one of our commands: quick to start and quiet. Calling it again changes nothing."""
    start_quickly()
    start_espnet_program()


def start_espnet_program() -> None:
    """Make this process an ESPnet program that our package runs: it loads all of ESPnet, and is quiet."""
    global _is_command
    _is_command = True
    quiet_espnet()
    if not any(isinstance(finder, _BeforeESPnet) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeESPnet())


def is_command() -> bool:
    """Whether this process is one of our commands, and settings for the whole process are ours to make."""
    return _is_command


def start_quickly() -> None:
    """Have ESPnet, if it is not imported yet, imported as described above. Calling it again changes nothing."""
    if not starts_quickly():
        sys.meta_path.insert(0, _Finder())


def starts_quickly() -> bool:
    """Whether this process imports ESPnet so."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def load_later(*names: str) -> None:
    """Have modules loaded when they are first used, if a later ``import`` names them.

    Args:
        names: of modules; a package before its modules. One that is loaded already or not installed is left alone.
    """
    for name in names:
        parent = sys.modules.get(name.partition(".")[0])
        if name not in sys.modules and (isinstance(parent, _LaterModule) or _is_installed(name)):
            sys.modules[name] = later = _LaterModule(name)
            later.__spec__ = ModuleSpec(name, None)  # transformers, for one, asks by it whether the package is there


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a package that is not
        return False


class _LaterModule(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str):
        if name.startswith("__") and name != "__path__":  # inspect asks every module for its __file__
            raise AttributeError(f"module {self.__name__!r} is not loaded yet, and so has no {name}")
        for other in [key for key, module in sys.modules.items() if isinstance(module, _LaterModule)]:
            if other.split(".")[0] == self.__name__.split(".")[0]:
                del sys.modules[other]
        return getattr(importlib.import_module(self.__name__), name)


class _BeforeESPnet(importlib.abc.MetaPathFinder):
    """Finds nothing: when ESPnet is first imported, it has what ESPnet seldom needs loaded later."""

    done = False

    def find_spec(self, name, path=None, target=None):
        if not self.done and name.partition(".")[0] in ("espnet", "espnet2"):
            self.done = True  # it stays in its place: Python goes through the finders just now
            load_later(*_SELDOM_USED)
            if starts_quickly():
                load_later(*_OF_ITS_RECIPES)
        return None


def leave(status: int = 0) -> None:
    """End this process as Python does, but for taking its modules apart: beside torch that takes 0.3 s and 130 MB."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, and ends pools
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


class Later:
    """Stands for ``module.name`` in a module that calls it or asks ``isinstance`` of it.

    Args:
        module: the one that defines it.
        name: of a class or function there.
    """

    def __init__(self, module: str, name: str):
        self._module, self._name, self._loaded = module, name, None

    def load(self) -> Any:
        """The thing itself."""
        if self._loaded is None:
            self._loaded = getattr(importlib.import_module(self._module), self._name)
        return self._loaded

    def __call__(self, *args, **kwargs):
        return self.load()(*args, **kwargs)

    def __getattr__(self, name: str):
        return getattr(self.load(), name)

    def __instancecheck__(self, instance: object) -> bool:
        return self._module in sys.modules and isinstance(instance, self.load())  # not loaded: nothing is made of it

    def __subclasscheck__(self, subclass: type) -> bool:
        return self._module in sys.modules and issubclass(subclass, self.load())

    def __mro_entries__(self, bases: tuple) -> tuple:
        return (self.load(),)

    def __repr__(self) -> str:
        return f"<{self._module}.{self._name}, loaded when it is used>"


class _Classes(UserDict):
    """Name -> class, as ESPnet's registries have it; a class is loaded when it is asked for."""

    def __init__(self, classes: dict, base: type | None):
        self._base = base
        super().__init__(classes)

    def __getitem__(self, name: str) -> type:
        cls = self.data[name]
        if isinstance(cls, Later):
            cls = self.data[name] = cls.load()
            if self._base is not None and not issubclass(cls, self._base):  # ESPnet's words
                raise ValueError(f"must be {self._base.__name__}, but got {cls}")
        return cls


def class_choices(original: type) -> type:
    """ESPnet's ``ClassChoices``, for registries in which classes are :class:`Later`."""

    class ClassChoices(original):
        def __init__(self, name, classes, type_check=None, default=None, optional=False):
            here = {key: value for key, value in classes.items() if not isinstance(value, Later)}
            super().__init__(name, here, type_check, default, optional)
            self.classes = _Classes({key.lower(): value for key, value in classes.items()}, type_check)

    ClassChoices.__module__, ClassChoices.__qualname__ = original.__module__, original.__qualname__
    return ClassChoices


def names_for_later(tree: ast.Module) -> set[str]:
    """Names that a module imports at its top, of modules not loaded yet, and uses only as a :class:`Later` allows.

    These uses are the values of a registry's ``classes``, and in functions calls, attributes and ``isinstance``.
    """
    imports = [node for node in _imports(tree) if node.module not in sys.modules]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    allowed = {id(name) for function in _functions(tree) for name in _harmless(function)}
    allowed |= {id(name) for name in _registered(tree)}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in allowed}
    return names - used


def _imports(tree: ast.Module) -> Iterator[ast.ImportFrom]:
    """Of absolute modules, which have a name."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__":
            yield node


def _functions(tree: ast.Module) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _registered(tree: ast.Module) -> Iterator[ast.Name]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ClassChoices":
            for classes in (keyword.value for keyword in node.keywords if keyword.arg == "classes"):
                entries = getattr(classes, "keywords", ())
                yield from (entry.value for entry in entries if isinstance(entry.value, ast.Name))


def _harmless(function: ast.AST) -> list[ast.Name]:
    harmless = list(_called_or_asked(function))
    ids = {id(name) for name in harmless}
    loads = [node for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    for node in ast.walk(function):  # task = OneTask if ... else Another
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            uses = [name for name in loads if name.id == node.targets[0].id]
            if all(id(name) in ids for name in uses):
                values = (node.value.body, node.value.orelse) if isinstance(node.value, ast.IfExp) else (node.value,)
                harmless += [value for value in values if isinstance(value, ast.Name)]
    return harmless


def _called_or_asked(function: ast.AST) -> Iterator[ast.Name]:
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute):
            yield from _names(node.value)
        elif isinstance(node, ast.Call):
            yield from _names(node.func)
            if isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass"):
                asked = node.args[1]
                for cls in asked.elts if isinstance(asked, ast.Tuple) else (asked,):
                    yield from _names(cls)


def _names(node: ast.AST) -> Iterator[ast.Name]:
    if isinstance(node, ast.Name):
        yield node


def checks_later(typechecked: Callable) -> Callable:
    """Of typeguard's decorator, one that prepares the checks of ESPnet's functions when they are first called."""

    @functools.wraps(typechecked)
    def decorate(target=None, **options):
        if options or not inspect.isfunction(target) or not target.__module__.startswith("espnet"):
            return typechecked(target, **options)
        if "<locals>" in target.__qualname__:  # their variables are still there
            return typechecked(target)
        checked = None

        @functools.wraps(target)
        def function(*args, **kwargs):
            nonlocal checked
            if checked is None:
                checked = typechecked(target)
            return checked(*args, **kwargs)

        return function

    return decorate


class _Finder(importlib.abc.MetaPathFinder):
    """Finds ESPnet's task modules, and typeguard, as Python itself would, and changes what is said above."""

    def find_spec(self, name, path=None, target=None):
        loader = _loader(name)
        if loader is None:
            return None
        rest = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in rest)), None)
        if spec is not None and hasattr(spec.loader, "get_source"):
            spec.loader = loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def __getattr__(self, name: str):  # get_source and the like
        return getattr(self.loader, name)


class _TypeguardLoader(_Loader):
    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        vars(module)["typechecked"] = checks_later(vars(module)["typechecked"])


class _TaskLoader(_Loader):
    def exec_module(self, module: ModuleType) -> None:
        tree = ast.parse(self.loader.get_source(module.__name__))
        later = names_for_later(tree)
        for node in _imports(tree):
            for alias in node.names:
                name = alias.asname or alias.name
                if name in later:
                    setattr(module, name, Later(str(node.module), alias.name))
                elif alias.name == "ClassChoices":
                    original = importlib.import_module(str(node.module)).ClassChoices
                    setattr(module, name, class_choices(original))
            node.names = [alias for alias in node.names if (alias.asname or alias.name) not in vars(module)]
        tree.body = [node for node in tree.body if getattr(node, "names", True)]
        exec(compile(tree, str(module.__file__), "exec", dont_inherit=True), vars(module))


def _loader(name: str) -> type[_Loader] | None:
    if name == "typeguard":
        return _TypeguardLoader
    return _TaskLoader if name in _OTHERS or (name.startswith(_TASKS) and name != _NOT_A_TASK) else None
