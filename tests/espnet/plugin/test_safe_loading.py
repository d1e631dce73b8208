"""Models of other people: what is not data is refused before ESPnet's own loader sees it."""

import copy
import os
import pickle
import re
import shutil
import types

import pytest
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs.pack_funcs import pack
from espnet2.tasks import abs_task
from espnet2.tasks.asr import ASRTask, encoder_choices
from espnet2.tasks.lm import LMTask
from espnet2.train.trainer import Trainer

import lrsms.espnet
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.checkpoint import read_checkpoint, read_weights
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.compress.model import Compressible
from lrsms.espnet.export.merge_to_dense import merge_experiment
from lrsms.espnet.inference.decode_split import Decoding
from lrsms.espnet.inference.recognizer import Recognizer
from lrsms.espnet.plugin import safe_loading
from lrsms.espnet.training.distillation import attach_teacher

CHECKPOINT = "valid.acc.ave.pth"


class Payload:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def trace(tmp_path):
    """A file that hostile models try to make; none may."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


@pytest.fixture
def spoiled(model, trace):
    """The copy with weights that execute a command on loading, otherwise whole."""
    weights = torch.load(model / CHECKPOINT, weights_only=True)
    torch.save(dict(weights) | {"extra": Payload(f"touch {trace}")}, model / CHECKPOINT)
    return model


@pytest.fixture
def changed(model):
    """``changed(**entries)``: the copy's config.yaml with entries replaced."""

    def change(**entries):
        path = model / "config.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | entries))
        return path

    return change


OPENERS = {
    "ESPnet's inference": lambda f, out: Speech2Text(f / "config.yaml", f / CHECKPOINT),
    "ESPnet's task": lambda f, out: ASRTask.build_model_from_file(None, f / CHECKPOINT),
    "another task of ESPnet": lambda f, out: LMTask.build_model_from_file(language_model(f), f / CHECKPOINT),
    "a language model in decoding": lambda f, out: Speech2Text(
        f / "config.yaml", whole(f), lm_train_config=language_model(f), lm_file=f / CHECKPOINT
    ),
    "init_param": lambda f, out: abs_task.load_pretrained_model(f"{f / CHECKPOINT}:encoder:encoder", None, False),
    "resuming": lambda f, out: Trainer.resume(f / CHECKPOINT, None, None, [], [], None),
    "the recognizer": lambda f, out: Recognizer(f),
    "export": lambda f, out: merge_experiment(Experiment(f, CHECKPOINT), out),
    "compression": lambda f, out: Compressible(Experiment(f, CHECKPOINT)),
    "distillation": lambda f, out: attach_teacher(torch.nn.Linear(1, 1), f / CHECKPOINT, 0.5),
}


def language_model(folder):
    path = folder / "lm.yaml"
    path.write_text(yaml.safe_dump(LMTask.get_default_config() | {"lm": "seq_rnn", "token_list": ["<blank>", "a"]}))
    return path


def whole(folder):
    weights = pickle.loads(b"\x80\x02}.")  # an empty dict: only the names that ESPnet needs follow
    model = ASRTask.build_model_from_file(folder / "config.yaml", None)[0]
    torch.save(weights | model.state_dict(), folder / "whole.pth")
    return folder / "whole.pth"


@pytest.mark.parametrize("opener", OPENERS)
def test_a_pickle_that_executes_is_refused_at_every_entrance(opener, spoiled, tmp_path):
    with pytest.raises(LrsmsError, match=rf"{CHECKPOINT}: refused, it holds more than weights and would execute code"):
        OPENERS[opener](spoiled, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_a_packed_pickle_is_refused_by_the_archives_name(suffix, spoiled, tmp_path, monkeypatch):
    monkeypatch.chdir(spoiled)
    pack({"asr_model_file": CHECKPOINT}, {"asr_train_config": "config.yaml"}, tmp_path / f"model.{suffix}")
    with pytest.raises(LrsmsError, match=rf"^{tmp_path}/model.{suffix}/model.pth: refused, it holds more than weights"):
        Recognizer(tmp_path / f"model.{suffix}")


def test_decoding_a_hostile_model_leaves_no_folder(spoiled, corpus, tmp_path):
    config = tmp_path / "decode.yaml"
    config.write_text("beam_size: 2\n")
    decoding = Decoding(spoiled, corpus / "test/cuts.jsonl.gz", config)
    with pytest.raises(LrsmsError, match="refused"):
        decoding.run()
    assert not decoding.output_dir.exists()


def test_even_where_the_file_changes_after_the_check_nothing_is_executed(spoiled, experiment, monkeypatch):
    weights = read_weights(experiment.output_dir / CHECKPOINT)
    monkeypatch.setattr(safe_loading, "read_weights", lambda path: weights)
    monkeypatch.setattr("lrsms.espnet.plugin.register.check_fits", lambda *_: None)
    with pytest.raises(Exception, match="(?i)weights.only"):
        ASRTask.build_model_from_file(spoiled / "config.yaml", spoiled / CHECKPOINT)


def test_within_the_switch_torch_loads_weights_alone_and_outside_as_asked(spoiled, tmp_path):
    torch.save({"a": torch.ones(1), "b": types.SimpleNamespace(c=1)}, tmp_path / "object.pth")
    with safe_loading.weights_only(), pytest.raises(pickle.UnpicklingError):
        torch.load(spoiled / CHECKPOINT, weights_only=False)
    with safe_loading.weights_only(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "object.pth", weights_only=False)
    assert torch.load(tmp_path / "object.pth", weights_only=False)["b"].c == 1
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_training_resumes_through_the_door(experiment):
    """Its checkpoint holds the reporter's times and numpy scalars beside weights."""
    resumed = []
    reporter = types.SimpleNamespace(stats={}, load_state_dict=lambda state: resumed.append(max(state["stats"])))
    network = types.SimpleNamespace(load_state_dict=lambda state, strict: resumed.append(len(state)))
    Trainer.resume(experiment.output_dir / "checkpoint.pth", network, reporter, [], [], None)
    assert resumed[0] > 50 and resumed[1] == 3


def test_the_door_is_built_in_once():
    before = (abs_task.AbsTask.__dict__["build_model_from_file"], abs_task.load_pretrained_model, Trainer.resume)
    lrsms.espnet.guard()
    after = (abs_task.AbsTask.__dict__["build_model_from_file"], abs_task.load_pretrained_model, Trainer.resume)
    assert before == after


@pytest.mark.parametrize(
    "line",
    [
        "boom: !!python/object/apply:os.system ['touch {trace}']",
        "boom: !!python/object/new:os.system ['touch {trace}']",
        "boom: !!python/name:os.system",
    ],
)
def test_yaml_that_names_python_is_refused(line, model, trace):
    with (model / "config.yaml").open("a") as file:
        file.write(line.format(trace=trace) + "\n")
    for open_it in (Recognizer, lambda folder: Speech2Text(folder / "config.yaml", folder / CHECKPOINT)):
        with pytest.raises(LrsmsError, match=r"config.yaml: not plain YAML: .*python/.*only plain values"):
            open_it(model)


@pytest.mark.parametrize("content", ["[" * 5000, "a: \xff", "a: 2026-13-45", "a: " + "9" * 5000, "- a\n", "", "a: ["])
def test_yaml_that_is_broken_in_other_ways_is_one_sentence(content, model):
    (model / "config.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(LrsmsError, match="config.yaml: "):
        Recognizer(model)


REACHING_OUT = {
    "frontend: s3prl": {"frontend": "s3prl", "frontend_conf": {"frontend_conf": {"upstream": "local", "path": "x"}}},
    "frontend: huggingface": {"frontend": "huggingface", "frontend_conf": {"model": "someone/theirs"}},
    "frontend: espnet_ssl": {"frontend": "espnet_ssl"},
    "frontend: FUSED": {"frontend": "FUSED"},
    "encoder: whisper": {"encoder": "whisper"},
    "encoder: beats": {"encoder": "beats", "encoder_conf": {"beats_ckpt_path": "evil.pt"}},
    "encoder: hubert": {"encoder": "hubert"},
    "postencoder: hugging_face_transformers": {"postencoder": "hugging_face_transformers"},
    "decoder: hugging_face_transformers": {"decoder": "hugging_face_transformers"},
    "token_type: hugging_face": {"token_type": "hugging_face", "bpemodel": "someone/theirs"},
    "token_type: whisper_en": {"token_type": "whisper_en"},
    "token_type: ['char']": {"token_type": ["char"]},
    "token_list: ../../etc/passwd": {"token_list": "../../etc/passwd"},
    "token_list: /etc/passwd": {"token_list": "/etc/passwd"},
}


@pytest.mark.parametrize("what", REACHING_OUT)
def test_configs_that_reach_out_of_their_folder_are_refused_unless_trusted(what, changed, monkeypatch):
    path = changed(**REACHING_OUT[what])
    monkeypatch.chdir("/usr/bin")  # from where the relative one is a file
    with pytest.raises(LrsmsError, match=rf"config.yaml: {re.escape(what)}: refused, .*LRSMS_TRUST_CONFIG=1"):
        ASRTask.build_model_from_file(path, path.parent / CHECKPOINT)
    monkeypatch.setenv("LRSMS_TRUST_CONFIG", "1")
    assert safe_loading.check_config(path, ASRTask)["optim"] == "adam"


def test_a_language_model_of_hugging_face_is_refused(model):
    path = language_model(model)
    path.write_text(path.read_text().replace("lm: seq_rnn", "lm: transformer_opt"))
    with pytest.raises(LrsmsError, match="lm: transformer_opt: refused"):
        LMTask.build_model_from_file(path, model / CHECKPOINT)


def test_a_class_that_the_user_has_registered_is_the_users(changed, monkeypatch):
    mine = type("Mine", (encoder_choices.classes["conformer"],), {"__module__": "my_recipe"})
    monkeypatch.setitem(encoder_choices.classes, "mine", mine)
    assert safe_loading.check_config(changed(encoder="mine"), ASRTask)["encoder"] == "mine"


def test_every_class_of_espnet_that_is_let_through_is_there():
    for choices in [*ASRTask.class_choices_list, *LMTask.class_choices_list]:
        for name in safe_loading._SELF_CONTAINED.get(choices.name, ()):
            assert name in choices.classes, f"{choices.name}: {name}"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"encoder": "resnet"}, r"encoder: 'resnet' is unknown; one of .*conformer"),
        ({"encoder": 7}, "encoder: 7 is unknown"),
        ({"encoder_conf": {"output_size": "wide"}}, "ESPnet cannot build the model"),
        ({"encoder_conf": {"depth": 3}}, "depth"),
        ({"token_list": None}, "ESPnet cannot build the model .*token_list must be"),
        ({"decoder_conf": {"attention_heads": 3}}, "ESPnet cannot build the model"),
    ],
)
def test_a_config_that_builds_nothing_is_one_sentence(entries, message, changed):
    path = changed(**entries)
    with pytest.raises(LrsmsError, match=message):
        ASRTask.build_model_from_file(path, path.parent / CHECKPOINT)


def test_a_config_of_something_else(model):
    (model / "config.yaml").write_text("vocoder: hifigan\n")
    with pytest.raises(LrsmsError, match="not a config that ESPnet saved with such a model: it has no encoder"):
        ASRTask.build_model_from_file(model / "config.yaml", model / CHECKPOINT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds no weights by name but list"),
        ({1: torch.ones(2)}, "holds no weights by name"),
        ({"a": 1.0}, "holds no weights"),
        ({"vocoder.weight": torch.ones(2)}, "lacks .* weights that .* needs, such as"),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
def test_weights_of_something_else(content, message, dense, model, changed, dense_parts):
    if dense:
        changed(**dense_parts)
    torch.save(content, model / CHECKPOINT)
    with pytest.raises(LrsmsError, match=message):
        ASRTask.build_model_from_file(model / "config.yaml", model / CHECKPOINT)


def test_weights_of_another_shape(model):
    weights = copy.deepcopy(dict(read_checkpoint(model / CHECKPOINT)))
    name = next(name for name in weights if name.endswith("norm_mha.weight"))
    torch.save(weights | {name: torch.ones(3)}, model / CHECKPOINT)
    with pytest.raises(LrsmsError, match=rf"{CHECKPOINT}: ESPnet cannot build .*size mismatch for {re.escape(name)}"):
        ASRTask.build_model_from_file(model / "config.yaml", model / CHECKPOINT)


def test_the_state_of_a_training_is_told_from_weights(experiment, model):
    shutil.copy(experiment.output_dir / "checkpoint.pth", model / CHECKPOINT)
    with pytest.raises(LrsmsError, match="is the state of a training; give the weights beside it"):
        Recognizer(model)


def test_torchscript_is_refused(model):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(model / CHECKPOINT))
    with pytest.raises(LrsmsError, match="refused, it holds more than weights"):
        Recognizer(model)
