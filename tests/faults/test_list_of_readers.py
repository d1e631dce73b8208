"""Every place of the package that reads a file into objects, and what guards it; test_readers.py triggers each."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Module and call -> what guards it. JSON, text and numbers are data whatever they hold, and are not listed.
READERS = {
    ("lrsms/espnet/checkpoints/checkpoint.py", "torch.load"): "weights_only; checksums and finite numbers before",
    ("lrsms/espnet/checkpoints/checkpoint.py", "zipfile.ZipFile"): "checksums are read, nothing is extracted",
    ("lrsms/espnet/checkpoints/unpack.py", "tarfile.open"): "members are copied under names of ours; links are refused",
    ("lrsms/espnet/checkpoints/unpack.py", "zipfile.ZipFile"): "as tarfile.open",
    ("lrsms/fsa/graph.py", "torch.load"): "weights_only",
    ("lrsms/compress/factors.py", "torch.load"): "weights_only; made again if it cannot be read so",
    ("lrsms/compress/calibration.py", "torch.load"): "weights_only",
    ("lrsms/storage.py", "JournalFileBackend"): "JSON lines; no sampler that unpickles a study's attributes is used",
    ("lrsms/storage.py", "optuna.create_study"): "as JournalFileBackend; a database holds JSON as well",
    ("lrsms/training_yaml.py", "yaml.load"): "PlainLoader: a safe loader without Python's tags, aliases within bounds",
    ("lrsms/training_yaml.py", "yaml.compose"): "makes no object; only of files that yaml.load has taken",
    ("lrsms/data/cut_files.py", "load_jsonl"): "check_sources: no commands, no pickles, no shell",
    ("lrsms/data/cut_files.py", "deserialize_item"): "check_sources before",
    ("lrsms/data/manifest_files.py", "json.loads"): "check_sources, and every field's type",
    ("lrsms/data/mouths.py", "load_jsonl"): "check_sources",
    ("lrsms/data/mouths.py", "TemporalArray.from_dict"): "check_sources before",
    ("lrsms/data/mouths.py", "np.load"): "allow_pickle=False",
    ("lrsms/avsr/loading.py", "np.load"): "allow_pickle=False",
    ("lrsms/avsr/loading.py", "mouth.load"): "check_sources on its manifest: no array is a pickle",
    ("lrsms/avsr/extract.py", "np.load"): "allow_pickle is False by default",
    ("lrsms/data/manifests.py", "Recording.from_file"): "danger_of: no name of an .sph file that a shell would act on",
    ("lrsms/bench/start.py", "Recording.from_file"): "of a file that it has just written",
    ("lrsms/data/kaldi.py", "kaldiio.load_mat"): "the entry begins as sound does; a pickle would begin with PKL",
    ("lrsms/data/audio.py", "soundfile.SoundFile"): "libsndfile decodes",
    ("lrsms/data/audio.py", "soundfile.info"): "libsndfile decodes",
    ("lrsms/data/audio.py", "av.open"): "FFmpeg decodes a file that exists",
    ("lrsms/data/containers.py", "av.open"): "FFmpeg decodes a file that exists",
    ("lrsms/data/cuts.py", "soundfile.SoundFile"): "libsndfile decodes",
    ("lrsms/data/videos.py", "av.open"): "FFmpeg decodes a file that exists",
    ("lrsms/avsr/video.py", "av.open"): "FFmpeg decodes a file that exists",
    ("lrsms/data/tokens.py", "sentencepiece.SentencePieceProcessor"): "a protocol buffer",
    ("lrsms/onnx/files.py", "onnx.load"): "a protocol buffer",
    ("lrsms/onnx/files.py", "optional('onnx').load"): "a protocol buffer",
    ("lrsms/onnx/files.py", "runtime.InferenceSession"): "no library of custom operators is registered",
    ("lrsms/espnet/plugin/safe_loading.py", "load_pretrained_model"): "read_weights, then torch's own switch",
    ("lrsms/stamp.py", "ast.literal_eval"): "literals alone",
    ("lrsms/espnet/__main__.py", "runpy.run_module"): "what the user names on the command line",
    ("lrsms/espnet/__main__.py", "runpy.run_path"): "what the user names on the command line",
    ("lrsms/__main__.py", "runpy.run_module"): "a verb of ours",
    ("lrsms/whisper/files.py", "torch.load"): "weights_only",
    ("lrsms/whisper/tokens.py", "Tokenizer.from_file"): "JSON, which the tokenizers package parses",
}
_CALLS = (
    "load safe_load load_all compose ZipFile SoundFile info load_jsonl from_file from_jsonl_lazy load_mat read_mat "
    "SentencePieceProcessor InferenceSession deserialize_item from_dict create_study load_study JournalFileBackend "
    "literal_eval imread VideoCapture load_pretrained_model run_module run_path eval exec system Unpickler"
).split()
_OURS = {
    "Graph.load",
    "Tokens.load",
    "experiment.load",
    "Experiment.of(checkpoint).load",
    "cls.load",
    "self.load",
    "k2.compose",
}
_MODULES_OF_OPEN = ("tarfile.open", "av.open")


def reading_calls():
    """Calls in the package that turn a file into objects."""
    for path in sorted((ROOT / "lrsms").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            last = name.rpartition(".")[2]
            if (last in _CALLS and name not in _OURS) or name in _MODULES_OF_OPEN:
                yield path.relative_to(ROOT).as_posix(), name


def test_the_list_of_readers_is_complete():
    not_files = {(path, name) for path, name in reading_calls() if name.endswith(".eval") or name == "exec"}
    assert "eval" not in {name for _, name in not_files}
    assert {path for path, name in not_files if name == "exec"} <= {"lrsms/startup.py"}  # on ESPnet's own source
    found = set(reading_calls()) - not_files
    listed = {reader for reader in READERS if reader[1] != "json.loads"}
    assert found - listed == set(), "readers without a guard in the list"
    assert listed - found == set(), "guards of readers that there are no more"
