"""Each guard of a reader of files that could come from elsewhere, triggered once; test_list_of_readers.py is the list.

The payloads are harmless: they would make a folder.
"""

import gzip
import io
import json
import os
import pickle
import tarfile
import types
import zipfile
from pathlib import Path

import kaldiio
import numpy as np
import optuna
import pytest
import soundfile
import torch
import yaml
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.tasks import abs_task
from espnet2.tasks.asr import ASRTask
from espnet2.train import trainer
from lhotse import MonoCut, Recording, SupervisionSegment

from lrsms import stamp
from lrsms.compress.calibration import load_moments
from lrsms.compress.controllers import Context, make
from lrsms.compress.factors import FactorCache
from lrsms.data.cut_files import read_cuts
from lrsms.data.kaldi import import_kaldi
from lrsms.data.kaldi_folders import read_wav_scp
from lrsms.data.manifest_files import read_mono_cuts, read_recordings
from lrsms.data.manifests import open_recordings
from lrsms.data.mouths import MANIFEST, probe, read_manifest, save_regions
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.checkpoint import read_checkpoint
from lrsms.espnet.checkpoints.unpack import unpack
from lrsms.espnet.plugin import safe_loading
from lrsms.fsa.graph import Graph
from lrsms.storage import open_study
from lrsms.training_yaml import read_yaml

ROOT = Path(__file__).resolve().parents[2]


class Payload:
    def __init__(self, trace: Path):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@pytest.fixture
def trace(tmp_path):
    """A folder that hostile files try to make; none may."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def hostile_pth(path: Path, trace: Path) -> Path:
    torch.save({"a": torch.ones(2), "extra": Payload(trace)}, path)
    return path


def lines(path: Path, *rows: dict) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def recording(kind: str = "file", source: str = "a.wav") -> dict:
    return {
        **{"id": "r", "sampling_rate": 16000, "num_samples": 16000, "duration": 1.0, "channel_ids": [0]},
        "sources": [{"type": kind, "channels": [0], "source": source}],
    }


def cut(**changes) -> dict:
    made = MonoCut("c", 0.0, 1.0, 0, supervisions=[SupervisionSegment("c", "r", 0.0, 1.0, text="a")])
    return {**made.to_dict(), "recording": recording(), **changes}


def pickled_array(trace: Path, kind: str = "memory_raw") -> dict:
    array = {"storage_type": kind, "storage_path": "", "storage_key": "x", "shape": [1, 2, 2]}
    return {"array": array, "temporal_dim": 0, "frame_shift": 0.04, "start": 0.0}


def kaldi_folder(folder: Path, entry: str) -> Path:
    folder.mkdir()
    for name, value in {"wav.scp": entry, "text": "a", "utt2spk": "s"}.items():
        (folder / name).write_text(f"u {value}\n")
    return folder


def archive(path: Path, member: str, link: str | None = None) -> Path:
    with tarfile.open(path, "w") as file:
        entry = tarfile.TarInfo(member)
        if link is not None:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
        file.addfile(entry, io.BytesIO())
    return path


def experiment_copy(experiment, folder: Path, **changes) -> Path:
    folder.mkdir()
    config = yaml.safe_load((experiment.output_dir / "config.yaml").read_text()) | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def reporter():
    return types.SimpleNamespace(has=lambda *_: True, sort_epochs_and_values=lambda *_: [(1, 0.5), (2, 0.4)])


def averaged(folder, trace):
    for epoch in (1, 2):
        hostile_pth(folder / f"{epoch}epoch.pth", trace)
    trainer.average_nbest_models.__wrapped__  # noqa: B018  (it is ours)
    trainer.average_nbest_models(
        output_dir=folder, reporter=reporter(), best_model_criterion=[("valid", "acc", "max")], nbest=2
    )


def image_of_pickle(folder, trace):
    path = folder / "m.npy"
    np.save(path, np.array([Payload(trace)], dtype=object), allow_pickle=True)
    array = save_regions(folder / "ok.npy", np.zeros((25, 4, 4), np.uint8))
    array.array.storage_key = "m.npy"
    fault = probe("r", array, 1.0)
    raise LrsmsError(f"{fault.reason}: {fault.detail}")


def statistics_of_pickle(folder, trace):
    np.savez(folder / "s.npz", count=np.array([Payload(trace)], dtype=object), sum=1, sum_square=1)
    GlobalMVN(folder / "s.npz")


def ark_of_pickle(folder, trace):
    (folder / "a.ark").write_bytes(b"u PKL" + pickle.dumps(Payload(trace)))
    import_kaldi(kaldi_folder(folder / "k", f"{folder}/a.ark:2"), folder / "out" / "test")


def opened(path: Path, name: str):
    _, (fault,) = open_recordings({"r": path / name}, num_jobs=1, title="x")
    raise LrsmsError(f"{fault.reason}: {fault.detail}")


def sph(folder, trace):
    name = f"a; mkdir {trace.name}; .sph"
    soundfile.write(folder / name, np.zeros(8000), 8000, format="WAV")
    opened(folder, name)


REFUSED = "refused"
COMMAND = "refused, it is a command, which is not executed"
# What a reader is given -> how the guard refuses it; each payload would make the folder `trace`.
TRIGGERS = {
    "a checkpoint": (lambda d, t: read_checkpoint(hostile_pth(d / "a.pth", t)), "would execute code on loading"),
    "weights to start from": (
        lambda d, t: abs_task.load_pretrained_model(str(hostile_pth(d / "a.pth", t)), None, False),
        "would execute code on loading",
    ),
    "a training to resume": (
        lambda d, t: trainer.Trainer.resume(hostile_pth(d / "a.pth", t), None, None, [], [], None),
        "would execute code on loading",
    ),
    "the epochs of a training to average": (averaged, "1epoch.pth: refused, it holds more than weights"),
    "a decoding graph": (
        lambda d, t: Graph.load(hostile_pth(d / "g.pt", t), ["a"], d),
        "truncated or not a decoding graph",
    ),
    "moments of a calibration": (lambda d, t: load_moments(hostile_pth(d / "m.pt", t)), "(?i)weights.only"),
    "recordings that are commands": (
        lambda d, t: read_recordings(lines(d / "r.jsonl.gz", recording("command", f"mkdir {t}"))),
        "type: 'command'",
    ),
    "recordings whose URL is a command": (
        lambda d, t: read_recordings(lines(d / "r.jsonl.gz", recording("url", f"pipe:mkdir {t}"))),
        "refused, it is not the URL of a file",
    ),
    "recordings whose name is a command": (
        lambda d, t: read_recordings(lines(d / "r.jsonl.gz", recording("file", f"a; mkdir {t}; .sph"))),
        "refused, it is an .sph file, whose name goes through a shell",
    ),
    "a sound file whose name is a command": (sph, "refused: .*an .sph file, whose name goes through a shell"),
    "cuts that are commands, prepared": (
        lambda d, t: read_mono_cuts(lines(d / "c.jsonl.gz", cut(recording=recording("command", f"mkdir {t}")))),
        "type: 'command'",
    ),
    "cuts that are commands": (
        lambda d, t: list(read_cuts(lines(d / "c.jsonl.gz", cut(recording=recording("command", f"mkdir {t}"))))),
        f"line 1: source 'mkdir .*{COMMAND}",
    ),
    "cuts with a room whose response is a command": (
        lambda d, t: list(
            read_cuts(
                lines(
                    d / "c.jsonl.gz",
                    cut(),
                    cut(
                        recording=recording()
                        | {
                            "transforms": [
                                {
                                    "name": "ReverbWithImpulseResponse",
                                    "kwargs": {"rir": recording("command", f"mkdir {t}")},
                                }
                            ]
                        }
                    ),
                )
            )
        ),
        f"line 2: source 'mkdir .*{COMMAND}",
    ),
    "cuts with a custom recording that is a command": (
        lambda d, t: list(read_cuts(lines(d / "c.jsonl.gz", cut(custom={"noise": recording("command", "x")})))),
        COMMAND,
    ),
    "cuts with a pickle for an array": (
        lambda d, t: list(read_cuts(lines(d / "c.jsonl.gz", cut(custom={"mouth": pickled_array(t)})))),
        "storage_type 'memory_raw': refused",
    ),
    "mouth regions with a pickle for an array": (
        lambda d, t: read_manifest(lines(d / MANIFEST, {"id": "r", "mouth": pickled_array(t, "pillow_memory")}).parent),
        "line 1: storage_type 'pillow_memory': refused",
    ),
    "mouth regions in a pickle": (image_of_pickle, "unreadable_video: .*Python objects in dtype"),
    "statistics in a pickle": (statistics_of_pickle, "allow_pickle=False"),
    "a table of commands": (
        lambda d, t: read_wav_scp(kaldi_folder(d / "k", f"mkdir {t} |") / "wav.scp"),
        "1 entries are commands",
    ),
    "an archive of Kaldi's that holds a pickle": (ark_of_pickle, "holds no sound at 2; only WAV and FLAC"),
    "a pack that leads out": (
        lambda d, t: unpack(archive(d / "m.tar", f"../{t.name}"), d),
        "refused, its member '../executed' leads out",
    ),
    "a pack with a link": (
        lambda d, t: unpack(archive(d / "m.tar", "config.yaml", "/etc/passwd"), d),
        "is a link or a device",
    ),
    "a configuration with Python in it": (
        lambda d, t: read_yaml(write(d / "a.yaml", f"a: !!python/object/apply:os.mkdir ['{t}']")),
        "only plain values are read",
    ),
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("what", TRIGGERS)
def test_what_would_be_executed_is_refused(what, tmp_path, trace, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trigger, message = TRIGGERS[what]
    (tmp_path / "given").mkdir()
    with pytest.raises(Exception, match=message):  # of torch or NumPy where no message of ours is needed
        trigger(tmp_path / "given", trace)


CONFIGS = {
    "frontend: s3prl": ({"frontend": "s3prl"}, "it opens a further model"),
    "frontend: fused": ({"frontend": "fused", "frontend_conf": {"frontends": [{"frontend_type": "s3prl"}]}}, "opens"),
    "encoder: whisper": ({"encoder": "whisper"}, "it opens a further model"),
    "decoder: s4": ({"decoder": "s4"}, "it opens a further model"),
    "token_type: hugging_face": ({"token_type": "hugging_face"}, "its tokenizer is fetched from elsewhere"),
    "token_list: /etc/passwd": ({"token_list": "/etc/passwd"}, "it is a file outside the model's recipe"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_that_opens_something_else_is_refused(what, experiment, tmp_path):
    changes, why = CONFIGS[what]
    path = experiment_copy(experiment, tmp_path / "m", **changes)
    with pytest.raises(LrsmsError, match=f"{what}: refused, .*{why}|{what}: refused, {why}"):
        safe_loading.check_config(path, ASRTask)


HARMLESS = {
    "features fused of two default front-ends": {
        "frontend": "fused",
        "frontend_conf": {"frontends": [{"frontend_type": "default"}, {"frontend_type": "default"}]},
    },
    "a token list in the experiment": {"token_list": "tokens.txt"},
    "a token list beside the experiment": {"token_list": "../lang/tokens.txt"},
    "a token list of the recipe": {"token_list": "data/lang/tokens.txt"},
}


@pytest.mark.parametrize("what", HARMLESS)
def test_a_config_that_is_harmless_is_taken(what, experiment, tmp_path, monkeypatch):
    (tmp_path / "recipe/exp").mkdir(parents=True)
    path = experiment_copy(experiment, tmp_path / "recipe/exp/m", **HARMLESS[what])
    tokens = "\n".join(yaml.safe_load((experiment.output_dir / "config.yaml").read_text())["token_list"]) + "\n"
    for folder in ("exp/m", "exp/lang", "data/lang"):
        (tmp_path / "recipe" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "recipe" / folder / "tokens.txt").write_text(tokens)
    monkeypatch.chdir(tmp_path)
    safe_loading.check_config(path, ASRTask)
    if "token_list" in HARMLESS[what]:
        weights = (experiment.output_dir / "valid.acc.ave.pth").resolve()
        (path.parent / "model.pth").write_bytes(weights.read_bytes())
        model, _ = ASRTask.build_model_from_file(path, path.parent / "model.pth")
        assert model.token_list == tokens.splitlines()


def test_another_file_is_no_token_list(experiment, tmp_path):
    path = experiment_copy(experiment, tmp_path / "m", token_list="notes.txt")
    (tmp_path / "m/notes.txt").write_text("secret\n")
    with pytest.raises(LrsmsError, match="token_list: notes.txt: refused, .* is no list of tokens"):
        safe_loading.check_config(path, ASRTask)


def test_factors_that_would_execute_are_made_again(tmp_path, trace):
    cache, weight = FactorCache(tmp_path / "factors"), torch.eye(4)
    cache.get(weight, "plain", None, False)
    (path,) = (tmp_path / "factors").glob("*.pt")
    hostile_pth(path, trace)
    factors = cache.get(weight, "plain", None, False)
    assert torch.load(path, weights_only=True).keys() == vars(factors).keys()


def test_a_study_that_holds_a_pickle_is_searched_and_nothing_executed(tmp_path, trace):
    import sys

    sys.path.insert(0, str(ROOT / "tests" / "compress"))
    try:
        import toy
    finally:
        sys.path.pop(0)
    space = toy.space(3)
    controller = make("cmaes", Context(space, 0.9 * space.cost(space.largest), 0, 40, {}))
    study = open_study(tmp_path / "optuna.journal", "x", sampler=controller.sampler)
    hostile = pickle.dumps(Payload(trace)).hex()
    for number in range(8):
        trial = study.ask()
        for prefix in ("cma:", "sepcma:", "cmawm:"):
            study._storage.set_trial_system_attr(trial._trial_id, f"{prefix}optimizer:0", hostile)
        study.tell(trial, float(number))
    study = open_study(tmp_path / "optuna.journal", "x", sampler=controller.sampler)
    assert len(controller.propose(study.ask(), []).levels) == 3
    assert not isinstance(study.sampler, optuna.samplers.CmaEsSampler)


def test_a_stamp_is_read_as_literals(tmp_path, trace):
    marker = tmp_path / "inputs.json"
    marker.write_text(json.dumps({"arguments": {"a": f"__import__('os').mkdir('{trace}')"}, "inputs": {}}))
    assert not stamp.is_current(marker, {"a": 1}, [])


HARMLESS_SOURCES = [
    ("file", "a b's (1).wav"),
    ("file", "/data/a-b_c.1.sph"),
    ("url", "https://host/a.wav"),
    ("url", "s3://bucket/a.wav"),
]


@pytest.mark.parametrize(("kind", "source"), HARMLESS_SOURCES)
def test_a_source_that_is_harmless_is_taken(kind, source, tmp_path):
    path = lines(tmp_path / "c.jsonl.gz", cut(recording=recording(kind, source)))
    (only,) = read_cuts(path)
    assert only.recording.sources[0].source == source
    assert read_recordings(lines(tmp_path / "r.jsonl.gz", recording(kind, source)))[0].id == "r"


def test_the_payload_would_be_seen(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "executed")))
    assert (tmp_path / "executed").is_dir()
    assert isinstance(Recording.from_dict(recording("command", "true")), Recording)  # which Lhotse takes
    with zipfile.ZipFile(hostile_pth(tmp_path / "a.pth", tmp_path / "x")) as file:
        assert file.testzip() is None
    assert kaldiio is not None
