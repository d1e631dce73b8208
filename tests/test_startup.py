"""Commands load what they use: modules are counted, never time."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lrsms.startup import Later, checks_later, class_choices, load_later, names_for_later

QUICK = "from lrsms.startup import start_quickly\nstart_quickly()\n"


def said(code: str, *arguments: str) -> object:
    """What a Python of its own prints as JSON, last, when it runs ``code``, which must succeed."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


MODULE = """
from colorsys import rgb_to_hsv as called, yiq_to_rgb as annotated, hls_to_rgb as based, hsv_to_rgb as passed
from sndhdr_ import One, Two, Three, Four
from os import path

choices = ClassChoices("x", classes=dict(one=One, two=Two), type_check=Three)
alias = based

def work(x: annotated, y=None):
    task = Two if y else Four
    task.work()
    if isinstance(x, (One, Two)):
        called(x)
    x.__class__ = passed
"""


def test_what_can_wait_is_what_is_only_called_asked_for_or_registered(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)  # what is loaded cannot wait
    assert names_for_later(ast.parse(MODULE)) == {"called", "One", "Two", "Four"}


def test_later_stands_for_a_class():
    later = Later("fractions", "Fraction")
    from fractions import Fraction

    class Half(later):
        pass

    assert later(1, 2) == Fraction(1, 2) and later.from_float(0.5) == Fraction(1, 2)
    assert isinstance(Fraction(1), later) and not isinstance(1, later) and issubclass(Half, (int, later))
    assert Half.__bases__ == (Fraction,)


def test_nothing_is_loaded_to_say_that_nothing_is_an_instance_of_it():
    code = "import sys\nfrom lrsms.startup import Later\nassert not isinstance(1, Later('colorsys', 'Absent'))\n"
    assert said(code + "print('true' if 'colorsys' not in sys.modules else 'false')")


class Choices:
    """What ESPnet's ``ClassChoices`` does with its classes."""

    def __init__(self, name, classes, type_check=None, default=None, optional=False):
        self.classes = dict(classes)
        for cls in classes.values():
            if type_check is not None and not issubclass(cls, type_check):
                raise ValueError(f"must be {type_check.__name__}, but got {cls}")


def test_a_registry_gives_the_classes_themselves_and_refuses_those_of_another_base():
    from fractions import Fraction

    registry = class_choices(Choices)(
        "x", {"A": Later("fractions", "Fraction"), "b": int}, type_check=Fraction.__base__
    )
    assert list(registry.classes) == ["a", "b"] and registry.classes["a"] is Fraction
    assert dict(registry.classes) == {"a": Fraction, "b": int}
    registry.classes.update(c=float)
    assert registry.classes.get("c") is float and registry.classes.get("d") is None
    wrong = class_choices(Choices)("x", {"a": Later("decimal", "Context")}, type_check=Fraction)
    with pytest.raises(ValueError, match="must be Fraction, but got"):
        wrong.classes["a"]


def test_checks_are_prepared_at_the_first_call():
    prepared = []

    def typechecked(function):
        prepared.append(function)
        return lambda x: -function(x)

    def double(x):
        """Twice."""
        return 2 * x

    double.__module__, double.__qualname__ = "espnet2.made_up", "double"
    lazy = checks_later(typechecked)(double)
    assert not prepared and lazy.__doc__ == "Twice." and lazy.__qualname__ == "double"
    assert [lazy(1), lazy(2)] == [-2, -4] and prepared == [double]
    double.__module__ = "another.library"
    checks_later(typechecked)(double)
    assert prepared == [double, double]


def test_wrong_types_are_refused_as_before():
    code = (
        QUICK + "import lrsms.espnet, json, typeguard\n"
        "from espnet2.tasks.asr import encoder_choices\n"
        "try:\n    encoder_choices.get_class(3)\n"
        "except typeguard.TypeCheckError as error:\n    print(json.dumps(str(error)))\n"
    )
    assert said(code) == said(code.removeprefix(QUICK))


REGISTRIES = """
import json, sys, inspect
import lrsms.espnet
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.lm import LMTask
heavy = [name for name in ("espnet2.asr.decoder.s4_decoder", "espnet2.asr.frontend.s3prl") if name in sys.modules]
lazy = len([name for name in sys.modules if name.startswith("espnet2")])
found = {
    f"{task.__name__}.{choices.name}.{name}": [f"{cls.__module__}.{cls.__qualname__}", str(inspect.signature(cls))]
    for task in (ASRTask, LMTask)
    for choices in task.class_choices_list
    for name, cls in choices.classes.items()
}
options = sorted(vars(ASRTask.get_parser().parse_args([])).items(), key=str)
print(json.dumps({"heavy": heavy, "lazy": lazy, "found": found, "options": str(options)}))
"""


@pytest.fixture(scope="module")
def registries():
    return said(QUICK + REGISTRIES), said(REGISTRIES)


def test_every_registry_holds_espnets_classes(registries):
    quick, plain = registries
    assert quick["found"] == plain["found"] and len(quick["found"]) > 40
    assert quick["options"] == plain["options"]


def test_a_program_that_imports_us_gets_espnet_as_it_is(registries):
    quick, plain = registries
    assert len(plain["heavy"]) == 2 and not quick["heavy"]
    assert quick["lazy"] < plain["lazy"]


def test_a_command_starts_quickly_and_leaves_with_what_it_said(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lrsms.bin.tokenize", "--data_dir", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert said("import lrsms.bin, json\nfrom lrsms.startup import starts_quickly\nprint(json.dumps(starts_quickly()))")
    assert not said("import lrsms, json\nfrom lrsms.startup import starts_quickly\nprint(json.dumps(starts_quickly()))")


def test_a_module_that_is_seldom_used_is_loaded_when_it_is_used(tmp_path, monkeypatch):
    """In place of g2p_en and TTS's text cleaner, which ESPnet imports for every task."""
    (tmp_path / "english.py").write_text("class Speaker: pass\n")
    (tmp_path / "cleaner").mkdir()
    (tmp_path / "cleaner" / "__init__.py").touch()
    (tmp_path / "cleaner" / "words.py").write_text("def clean(text): return text.upper()\n")
    code = (
        "import sys, inspect, json, importlib.util\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from lrsms.startup import load_later\n"
        "load_later('english', 'cleaner', 'cleaner.words')\n"
        "import cleaner.words, english\n"
        "inspect.stack()\n"  # looks at every module
        "later = [hasattr(sys.modules[name], '__file__') for name in ('english', 'cleaner.words')]\n"
        "later.append(all(map(importlib.util.find_spec, ('english', 'cleaner.words'))))\n"  # as transformers asks
        "from cleaner.words import clean\n"
        "print(json.dumps([later, clean('three cats'), english.Speaker.__name__]))\n"
    )
    assert said(code) == [[False, False, True], "THREE CATS", "Speaker"]


def test_later_leaves_alone_what_is_loaded_or_not_installed():
    load_later("json", "no_such_module_here", "no_such_package_here.module")
    assert type(sys.modules["json"]).__name__ == "module"
    assert not {"no_such_module_here", "no_such_package_here.module"} & sys.modules.keys()


@pytest.mark.parametrize("program", ["lrsms.bin", "lrsms.espnet.__main__"])
def test_a_command_has_espnet_load_what_it_seldom_uses_later(program, tmp_path):
    (tmp_path / "g2p_en.py").write_text("raise SystemExit('loaded')\n")
    code = (
        f"import json, sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport {program}\n"
        "import espnet2\nprint(json.dumps(type(sys.modules['g2p_en']).__name__ != 'module'))\n"
    )
    assert said(code)


def test_leaving_runs_what_was_to_be_run_at_the_end(tmp_path):
    code = (
        "import atexit, threading, time, sys\n"
        "from pathlib import Path\n"
        "from lrsms.startup import leave\n"
        "folder = Path(sys.argv[1])\n"
        "atexit.register((folder / 'exit').touch)\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), (folder / 'thread').touch())).start()\n"
        "sys.stdout.write('said')\n"
        "leave(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "said")
    assert {path.name for path in Path(tmp_path).iterdir()} == {"exit", "thread"}
