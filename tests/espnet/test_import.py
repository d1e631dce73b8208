"""``import lrsms.espnet`` registers: the process, and ESPnet's other tasks, stay as they were."""

import json

import pytest

STATE = """
import ctypes, json, logging, os, sys, warnings

class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", *"abcdef")]

def mapped_blocks():
    # Of 8 MiB, large enough to be mapped unless malloc has been told otherwise.
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return None
    library.mallinfo2.restype, library.malloc.restype = Heap, ctypes.c_void_p
    before = library.mallinfo2().hblks
    library.malloc(8 * 2**20)
    return library.mallinfo2().hblks - before

def state():
    root = logging.getLogger()
    return {
        "modules": sorted(sys.modules),
        "log": [str(root.filters), str(root.handlers), root.level, sys.stdout.name, sys.stderr.name],
        "warnings": [str(entry) for entry in warnings.filters],
        "files": [list(os.fstat(number))[:3] for number in (1, 2)],
        "environment": dict(os.environ),
        "mapped": mapped_blocks(),
    }
"""
IMPORT = (
    STATE
    + """
state()  # logging's own modules
found = {"before": state()}
import lrsms.espnet
found["after"] = state()
print(json.dumps(found))
"""
)


def test_the_import_alone_leaves_the_process_as_it_was(run_python, tmp_path):
    done = run_python("-c", IMPORT, cwd=tmp_path)
    assert done.stderr == ""
    states = json.loads(done.stdout)
    before, after = states["before"], states["after"]
    loaded = set(after.pop("modules")) - set(before.pop("modules"))
    assert "lrsms.espnet" in loaded and not {name for name in loaded if name.startswith(("espnet", "torch"))}
    assert before == after and before["mapped"] in (1, None)


TASKS = {
    "asr": ("ASRTask", ["--token_list", "tokens.txt", "--input_size", "8", "--decoder", "transformer"]),
    "lm": ("LMTask", ["--token_list", "tokens.txt"]),
    "st": ("STTask", ["--token_list", "tokens.txt", "--src_token_list", "tokens.txt", "--input_size", "8"]),
    "slu": (
        "SLUTask",
        [
            "--token_list",
            "tokens.txt",
            "--transcript_token_list",
            "tokens.txt",
            "--input_size",
            "8",
            "--decoder",
            "rnn",
        ],
    ),
    "s2t": ("S2TTask", ["--token_list", "tokens.txt", "--input_size", "8", "--decoder", "rnn"]),
    "tts": ("TTSTask", ["--token_list", "tokens.txt", "--normalize", "none"]),
    "enh": ("EnhancementTask", []),
    "diar": ("DiarizationTask", ["--num_spk", "2", "--input_size", "8"]),
    "spk": ("SpeakerTask", ["--frontend", "asteroid_frontend", "--spk_num", "2"]),
    "enh_s2t": ("EnhS2TTask", ["--token_list", "tokens.txt", "--asr_decoder", "rnn"]),
}
OTHERS = (
    STATE
    + """
tasks, ours = json.loads(sys.argv[1]), sys.argv[2] == "with"
if ours:
    import lrsms.espnet
import contextlib, hashlib, importlib, io
from pathlib import Path
import torch, yaml
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
from espnet2.train.class_choices import ClassChoices

Path("tokens.txt").write_text("\\n".join("<blank> a b <unk> <na> <sop> <sos> <eos> <sos/eos>".split()) + "\\n")

def refusal(parser):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        parser.parse_args(["--max_duration", "3"])
    return said.getvalue().splitlines()[-1]  # before it stands the usage, with our names

def digest(model):
    return {name: float(value.double().sum()) for name, value in model.state_dict().items()}

def look_at(module, name, options):
    module = importlib.import_module(f"espnet2.tasks.{module}")
    task = getattr(module, name)
    parser = task.get_parser()
    config = vars(parser.parse_args(options))
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump(config, default_flow_style=False))
    found = {
        "options": str(sorted(vars(parser.parse_args([])).items(), key=str)), "refusal": refusal(parser),
        "print_config": yaml.safe_dump(task.get_default_config()),
        "registries": {
            key: {name: f"{cls.__module__}.{cls.__qualname__}" for name, cls in choices.classes.items()}
            for key, choices in vars(module).items() if isinstance(choices, ClassChoices)
        },
    }
    return found | build(task, path)

def build(task, path):
    torch.manual_seed(0)
    try:
        model, args = task.build_model_from_file(path, None)
    except Exception as error:  # of a part that is not installed
        return dict.fromkeys(("arguments", "optimizers", "built", "loaded"), f"{type(error).__name__}: {error}")
    torch.save(model.state_dict(), "model.pth")
    torch.manual_seed(1)
    loaded, _ = task.build_model_from_file(str(path), "model.pth")
    optimizers = [str(optimizer) for optimizer in task.build_optimizers(args, model)]
    return {"arguments": str(args), "optimizers": optimizers, "built": digest(model), "loaded": digest(loaded)}

found = {module: look_at(module, *rest) for module, rest in tasks.items()}
end = state()
stubs = [key for key, module in list(sys.modules.items()) if "Later" in type(module).__name__]
end["stubs"] = stubs + [name for name in ("editdistance",) if getattr(sys.modules.get(name), "__file__", "") is None]
print(json.dumps({"tasks": found, "end": end}))
"""
)


@pytest.fixture(scope="module")
def processes(run_python, tmp_path_factory):
    """What a process finds that works with every task of ESPnet: ``with`` the import and ``without``."""

    def look(which: str) -> dict:
        folder = tmp_path_factory.mktemp(which)
        (folder / "g2p_en.py").touch()  # the package asks the network for data
        (folder / "pyworld.py").touch()  # some Pythons have no wheel of it; the TTS task only imports it
        done = run_python("-c", OTHERS, json.dumps(TASKS), which, cwd=folder, path=folder)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stdout.splitlines()[:-1]}

    return {which: look(which) for which in ("without", "with")}


@pytest.mark.parametrize("task", [name for name in TASKS if name != "asr"])
@pytest.mark.parametrize("what", ["options", "refusal", "print_config", "arguments", "optimizers", "built", "loaded"])
def test_espnets_other_tasks_do_what_they_do_without_the_import(what, task, processes):
    assert processes["with"]["tasks"][task][what] == processes["without"]["tasks"][task][what]


@pytest.mark.parametrize("task", TASKS)
def test_registries_have_our_names_more_and_nothing_else(task, processes):
    stock, ours = (processes[which]["tasks"][task]["registries"] for which in ("without", "with"))
    assert ours.keys() == stock.keys()
    for key, classes in ours.items():
        added = {name: cls for name, cls in classes.items() if name not in stock[key]}
        assert {name: classes[name] for name in stock[key]} == stock[key]
        assert all(cls.startswith("lrsms.") for cls in added.values()), added
        assert not added or task in ("asr", "enh_s2t"), f"{key}: {added}"


def test_espnet_prints_what_it_prints_without_the_import(processes):
    assert processes["with"]["said"] == processes["without"]["said"]


@pytest.mark.parametrize("what", ["log", "environment", "mapped", "stubs"])
def test_the_process_is_left_alone_when_the_classes_are_registered_too(what, processes):
    stock, ours = (processes[which]["end"][what] for which in ("without", "with"))
    if what == "environment":
        stock, ours = (
            {name: value for name, value in variables.items() if name not in ("PWD", "PYTHONPATH")}
            for variables in (stock, ours)
        )
    assert ours == stock


def test_no_warning_is_hidden_when_the_classes_are_registered_too(processes):
    stock, ours = (processes[which]["end"]["warnings"] for which in ("without", "with"))
    hidden = [entry for entry in ours if entry not in stock]
    assert not [entry for entry in hidden if "autocast" in entry or "empty slice" in entry or "instrumentor" in entry]
