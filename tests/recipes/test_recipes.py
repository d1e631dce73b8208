"""The recipes, run by their shell in a copy of the repository, from corpus to table."""

import json
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from lrsms.training_yaml import read_training_yaml

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 1200  # seconds, for one command on a busy machine
DIGITS = ["./run.sh", "--num-train", "60", "--num-dev", "12", "--num-test", "12", "--nj", "1"]
RESULT_KEYS = (
    *("experiment", "config", "split", "parameters", "macs_per_second", "wer", "wer_low", "wer_high", "cer", "rtf"),
    *("train_step_seconds", "seed", "command", "commit"),
)
# A Python for the shell that writes down which verbs it is asked to run, and where, and does the rest itself.
NOTING_PYTHON = f"""#!/usr/bin/env bash
[ "$1" = -m ] || exec {shlex.quote(sys.executable)} "$@"
printf '%q ' "$PWD" "${{@:2}}" >>"${{0%/*}}/verbs"
echo >>"${{0%/*}}/verbs"
"""
CONFIGS = sorted(ROOT.glob("egs/*/*/conf/train_*.yaml")) + sorted(ROOT.glob("conf/train_*.yaml"))


class Tree:
    """A copy of the repository's files, without what runs have left in it; ``output`` is what fixtures printed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.output: dict[str, str] = {}
        folder.mkdir(parents=True)
        for name in ("run.sh", "path.sh"):
            shutil.copy2(ROOT / name, folder / name)
        for name in ("utils", "conf", "local", "lrsms"):
            shutil.copytree(ROOT / name, folder / name)
        left_by_runs = shutil.ignore_patterns("data", "exp", "downloads", "RESULTS.md", "results.json", "*.png")
        shutil.copytree(ROOT / "egs", folder / "egs", ignore=left_by_runs)
        (folder / "conf/decode.yaml").write_text("beam_size: 2\nctc_weight: 0.5\nmaxlenratio: -12\n")

    def start(self, *command: str, python: str = sys.executable) -> subprocess.Popen:
        environment = {**os.environ, "LRSMS_PYTHON": python, "OMP_NUM_THREADS": "1"}
        environment.pop("LRSMS_COMMAND", None)
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *command: str, **how) -> subprocess.CompletedProcess:
        process = self.start(*command, **how)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def run_here(self, run_module: Callable, *command: str) -> subprocess.CompletedProcess:
        """Like ``run``, but the verbs that the shell starts run in this process, which has imported what they import.

        For commands that train nothing: what they skip, or refuse. The shell itself runs to its end first.
        """
        with tempfile.TemporaryDirectory() as folder:
            python, verbs = Path(folder, "python"), Path(folder, "verbs")
            python.write_text(NOTING_PYTHON)
            python.chmod(0o755)
            done = self.run(*command, python=str(python))
            lines = verbs.read_text().splitlines() if verbs.exists() else []
        for line in lines if done.returncode == 0 else []:
            cwd, name, *options = shlex.split(line)
            verb = run_module(name, *options, cwd=Path(cwd))
            printed = done.stdout + verb.stdout, done.stderr + verb.stderr
            done = subprocess.CompletedProcess(command, verb.returncode, *printed)
            if verb.returncode:
                break
        return done

    def succeed(self, *command: str, here: Callable | None = None) -> str:
        """What a command prints; with the fixture ``run_module`` as ``here``, of :meth:`run_here`."""
        done = self.run_here(here, *command) if here else self.run(*command)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def fail(self, *command: str, here: Callable | None = None) -> str:
        """The one line that a command which must fail says why in."""
        done = self.run_here(here, *command) if here else self.run(*command)
        assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, done.stderr
        return errors[0]

    def config(self, name: str, source: str = "train_lrsms", **changes) -> str:
        """Write a tiny form of a training YAML of ``conf/`` and return its path, for ``--train-config``."""
        content = read_training_yaml(self.folder / f"conf/{source}.yaml")
        content["encoder_conf"].update(output_size=32, attention_heads=2, linear_units=64, num_blocks=1)
        content["decoder_conf"].update(attention_heads=2, linear_units=64)
        content.update(max_epoch=2, num_workers=0, use_matplotlib=False, **changes)
        (self.folder / f"conf/{name}.yaml").write_text(yaml.safe_dump(content))
        return f"conf/{name}.yaml"

    def json(self, name: str):
        return json.loads((self.folder / name).read_text())

    def log(self, tag: str) -> str:
        return (self.folder / f"exp/{tag}/train.log").read_text()


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Tree:
    """The embedded corpus, run once through stages 0 to 5."""
    tree = Tree(tmp_path_factory.mktemp("digits") / "lr sms")
    tree.output["first"] = tree.succeed(*DIGITS, "--train-config", tree.config("train_tiny"))
    return tree


def test_digits_print_the_table_and_leave_results(digits):
    (row,), output = digits.json("exp/results.json"), digits.output["first"]
    assert set(RESULT_KEYS) <= row.keys()
    assert (row["experiment"], row["split"], row["utterances"]) == ("train_tiny", "test", 12)
    assert row["wer_low"] <= row["wer"] <= row["wer_high"] and row["parameters"] < row["dense_parameters"]
    assert row["command"].startswith("./run.sh --num-train 60")
    assert f"| train_tiny | decode_valid.acc.ave/test | {row['parameters']:,}" in " ".join(output.split())
    assert "attention" in output and "feed_forward" in output  # the rank plan
    report = (digits.folder / "exp/RESULTS.md").read_text()
    for picture in ("learning_curves.png", "rank_per_layer.png"):
        assert f"({picture})" in report
        assert (digits.folder / "exp" / picture).read_bytes().startswith(b"\x89PNG")


def test_a_second_run_skips_every_stage(digits, run_module):
    before = (digits.folder / "exp/train_tiny/valid.acc.ave.pth").stat().st_mtime_ns
    lines = digits.succeed(*DIGITS, "--train-config", "conf/train_tiny.yaml", here=run_module).splitlines()
    for stage in ("prepare: ", "cuts: ", "tokenize: ", "stage 3: ", "stage 4: "):
        assert any(line.startswith(stage) and "skipped" in line for line in lines), lines
    assert any("RESULTS.md is up to date" in line for line in lines)
    assert (digits.folder / "exp/train_tiny/valid.acc.ave.pth").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def resumed(digits) -> Tree:
    """A dense training beside the first, killed after two epochs and started again."""
    command = [*DIGITS, "--stage", "3", "--train-config", digits.config("train_killed", "train_dense"),
               "--train-args", "--max_epoch 6"]  # fmt: skip
    process = digits.start(*command)
    checkpoint = digits.folder / "exp/train_killed/2epoch.pth"
    deadline = time.monotonic() + TIMEOUT
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert checkpoint.exists() and not (digits.folder / "exp/train_killed/summary.json").exists()
    digits.output["resumed"] = digits.succeed(*command)
    return digits


def test_a_killed_training_goes_on(resumed):
    assert "exp/train_killed goes on from its last checkpoint" in resumed.output["resumed"]
    assert resumed.json("exp/train_killed/curves.json")["valid"]["epoch"] == list(range(1, 7))
    log = resumed.log("train_killed")
    assert "The training was resumed using" in log and log.count("INFO: 1epoch results") == 1


def test_a_second_configuration_makes_a_second_row(resumed):
    rows = {row["experiment"]: row for row in resumed.json("exp/results.json")}
    assert rows.keys() == {"train_tiny", "train_killed"}
    assert rows["train_killed"]["parameters"] == rows["train_tiny"]["dense_parameters"]
    for name in rows:
        assert f"| {name}" in resumed.output["resumed"]


def snapshot(tree: Tree) -> dict[str, int]:
    files = [path for name in ("data", "exp") for path in (tree.folder / name).rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--corpus", "yesno", "--corpus-dir", "nowhere"], ["--corpus_dir", "nowhere", "no such folder"]),
        (["--corpus-dir", "conf"], ["--corpus_dir", "digits does not read it"]),
        (["--trian-config", "x"], ["unknown option --trian-config", "--train_config"]),
        (["--decode-method", "k2_ctc k2_hgl"], ["--decode-method k2_hgl", "k2_attention_rescoring"]),
        (["--stage", "4", "--tag", "untrained"], ["exp/untrained/valid.acc.ave.pth", "run stage 3"]),
        (["--stage", "3", "--token-type", "char", "--tag", "x"], ["data/lang_char/tokens.txt", "run stage 2"]),
    ],
)
def test_wrong_commands_are_named(digits, run_module, arguments, messages):
    before = snapshot(digits)
    error = digits.fail("./run.sh", "--nj", "2", *arguments, here=run_module)
    assert all(message in error for message in messages), error
    assert snapshot(digits) == before


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"max_epcoh": 3}, ["max_epcoh", "max_epoch"]),
        ({"encoder_conf": {"low_rank": {"attention": 1.5}}}, ["encoder_conf.low_rank.attention", "1.5", "(0, 1]"]),
    ],
)
def test_wrong_training_configs_are_named(digits, run_module, change, messages):
    before = snapshot(digits)
    content = {**yaml.safe_load((digits.folder / "conf/train_tiny.yaml").read_text()), **change}
    (digits.folder / "conf/train_wrong.yaml").write_text(yaml.safe_dump(content))
    command = ["./run.sh", "--stage", "3", "--nj", "2", "--train-config", "conf/train_wrong.yaml"]
    error = digits.fail(*command, here=run_module)
    assert "conf/train_wrong.yaml" in error and all(message in error for message in messages), error
    assert snapshot(digits) == before


def test_yesno(tmp_path, real_data):
    tree = Tree(tmp_path / "repo")
    recipe = tree.folder / "egs/yesno/asr1"
    output = tree.succeed("egs/yesno/asr1/run.sh", "--corpus-dir", str(real_data / "waves_yesno"), "--nj", "2",
                          "--train-args", "--max_epoch 1")  # fmt: skip
    (row,) = json.loads((recipe / "results.json").read_text())
    assert (row["split"], row["utterances"], row["words"], row["epochs"]) == ("test", 30, 240, 1)
    assert row["command"].startswith("egs/yesno/asr1/run.sh --corpus-dir")
    assert (recipe / "data/lang_word/tokens.txt").read_text().split() == ["<blank>", "<unk>", "NO", "YES", "<sos/eos>"]
    assert (recipe / "RESULTS.md").exists() and "| train_lrsms" in output
    assert not (tree.folder / "data").exists()


def write_kaldi(folder: Path, split: str, count: int) -> None:
    (folder / split).mkdir(parents=True)
    rng = np.random.default_rng(count)
    tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
    for index in range(count):
        name = f"{split}-{index}"
        wav = folder / split / f"{name}.wav"
        soundfile.write(wav, rng.normal(0, 0.05, 8000 + 800 * index), 8000)
        tables["wav.scp"].append(f"{name} {wav}")
        tables["text"].append(f"{name} {'' if index == 0 and split == 'train' else 'HELLO WORLD'}")
        tables["utt2spk"].append(f"{name} {split}-speaker")
    for table, rows in tables.items():
        (folder / split / table).write_text("".join(f"{row}\n" for row in rows))


def test_own_data_from_kaldi_folders(tmp_path):
    from lhotse import CutSet

    tree = Tree(tmp_path / "repo")
    for split, count in (("train", 6), ("dev", 2), ("test", 3)):
        write_kaldi(tmp_path / "kaldi", split, count)
    output = tree.succeed("egs/own_data/asr1/run.sh", "--kaldi-dir", str(tmp_path / "kaldi"), "--stop-stage", "2")
    data = tree.folder / "egs/own_data/asr1/data"
    cuts = {split: list(CutSet.from_file(data / split / "cuts.jsonl.gz")) for split in ("train", "dev", "test")}
    assert {split: len(found) for split, found in cuts.items()} == {"train": 5, "dev": 2, "test": 3}
    assert cuts["dev"][0].sampling_rate == 16000 and cuts["dev"][0].load_audio().shape == (1, 16000)
    assert "train-0" in (data / "train/excluded.tsv").read_text() and "1 excluded" in output
    tokens = (data / "lang_char/tokens.txt").read_text().split()
    assert set(tokens) == {"<blank>", "<unk>", "<space>", "<sos/eos>", *"HELOWRD"}


@pytest.mark.parametrize("missing", ["none given", "no dev"])
def test_own_data_that_is_incomplete_is_named(tmp_path, missing):
    tree = Tree(tmp_path / "repo")
    arguments = []
    if missing == "no dev":
        write_kaldi(tmp_path / "kaldi", "train", 2)
        arguments = ["--kaldi-dir", str(tmp_path / "kaldi")]
    error = tree.fail("egs/own_data/asr1/run.sh", *arguments)
    assert "--kaldi_dir" in error and ("dev" in error if arguments else "--manifest_dir" in error)


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--mini"], "train-clean-5, dev-clean-2"),
    (["--train-parts", "train-clean-100 train-clean-360"], "train-clean-100, train-clean-360, dev-clean"),
])  # fmt: skip
def test_librispeech_says_which_parts_it_needs(tmp_path, run_module, arguments, expected):
    tree = Tree(tmp_path / "repo")
    (tmp_path / "corpus").mkdir()
    error = tree.fail("egs/librispeech/asr1/run.sh", "--corpus-dir", str(tmp_path / "corpus"), *arguments,
                      here=run_module)  # fmt: skip
    assert f"expected {expected}" in error and "the folder holds nothing" in error


def test_talking_digits_to_the_tokenizer(tmp_path, run_module):
    from lhotse import CutSet

    tree = Tree(tmp_path / "repo")
    command = ["egs/talking_digits/avsr1/run.sh", "--num-train", "6", "--num-dev", "2", "--num-test", "2", "--nj", "1",
               "--stop-stage", "2"]  # fmt: skip
    output = tree.succeed(*command)
    data = tree.folder / "egs/talking_digits/avsr1/data"
    assert "train: 6 of 6 utterances with video" in output and (data / "mouths.png").exists()
    for split, count in (("train", 6), ("dev", 2), ("test", 2)):
        cuts = list(CutSet.from_file(data / split / "cuts.jsonl.gz"))
        assert len(cuts) == count and all(cut.mouth.shape[1:] == [56, 56] for cut in cuts)
    assert len((data / "lang_word/tokens.txt").read_text().split()) >= 8
    lines = tree.succeed(*command, here=run_module).splitlines()
    for stage in ("prepare: ", "cuts: ", "tokenize: "):
        assert any(line.startswith(stage) and "skipped" in line for line in lines), lines
    (data / "mouth/56/digits-train-000000.npy").unlink()
    output = tree.succeed(*command, "--stage", "1", "--force", "true")
    assert "train: 5 of 6 utterances with video" in output and "train: 1 without video: missing_video" in output


def test_common_voice_beside_speechocean762_to_the_tokenizer(tmp_path):
    from lhotse import CutSet

    tree, clips, ocean = Tree(tmp_path / "repo"), tmp_path / "voice", tmp_path / "ocean"
    (clips / "clips").mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.05, 32000)
    texts = ["It\u2019s \u201ccaf\u00e9\u201d, she said", "Room 12", "Good-bye; all the men are here."]
    rows = [(f"c{number}", "train", text) for number, text in enumerate(texts)]
    rows += [("c3", "dev", "are you here"), ("c4", "test", "Say it!")]
    (clips / "clips.tsv").write_text("id\tsplit\ttext\n" + "".join("\t".join(row) + "\n" for row in rows))
    for name, *_ in rows:
        soundfile.write(clips / f"clips/{name}.wav", noise, 16000)
    for part, speakers in (("train", "123456789"), ("test", "s")):
        (ocean / part).mkdir(parents=True)
        for table, value in (("wav.scp", "WAVE/{}.wav"), ("text", "THE WORDS OF {}"), ("utt2spk", "speaker{}")):
            lines = [f"c{speaker} {value.format(speaker if table != 'text' else part.upper())}" for speaker in speakers]
            (ocean / part / table).write_text("\n".join(lines) + "\n")
        for speaker in speakers:
            (ocean / "WAVE").mkdir(exist_ok=True)
            soundfile.write(ocean / f"WAVE/{speaker}.wav", noise, 16000)
    command = ["egs/commonvoice/asr1/run.sh", "--corpus-dir", str(clips), "--nj", "1", "--stop-stage", "2",
               "--token-type", "char"]  # fmt: skip
    both = [*command, "--speechocean-dir", str(ocean), "--test-splits", "test test_speechocean762"]

    def read(split):
        cuts = CutSet.from_file(tree.folder / f"egs/commonvoice/asr1/data/{split}/cuts.jsonl.gz")
        return {cut.supervisions[0].id: cut.supervisions[0].text for cut in cuts}

    tree.succeed(*command)
    assert read("train") == {
        "commonvoice-c0": "IT'S CAF\u00c9 SHE SAID",
        "commonvoice-c2": "GOOD BYE ALL THE MEN ARE HERE",
    }
    assert "Room 12" in (tree.folder / "egs/commonvoice/asr1/data/train/excluded.tsv").read_text()
    assert "voices heard in training" not in tree.succeed(*both)  # of speakers whom Common Voice does not name
    train, dev = read("train"), read("dev")
    assert len(train) + len(dev) == 2 + 1 + 9 and sum("speechocean762" in name for name in dev) == 1
    assert read("test") == {"commonvoice-c4": "SAY IT"}
    assert read("test_speechocean762") == {"speechocean762-cs": "THE WORDS OF TEST"}


def test_whisper_to_the_tokenizer_with_cased_texts(tmp_path, whisper_of_words):
    from lhotse import CutSet

    tree, corpus = Tree(tmp_path / "repo"), tmp_path / "corpus"
    (corpus / "clips").mkdir(parents=True)
    rows = [f"{split}{number}" for split in ("train", "dev", "test") for number in range(2)]
    for number, name in enumerate(rows):
        noise = np.random.default_rng(number).normal(0, 0.05, 12000)
        soundfile.write(corpus / f"clips/{name}.wav", noise, 16000)
    lines = [
        "id\tsplit\ttext",
        *(f"{name}\t{name[:-1]}\ti think {'so ' * (1 + number)}" for number, name in enumerate(rows)),
    ]
    (corpus / "clips.tsv").write_text("\n".join(lines) + "\n")
    command = ["egs/commonvoice/whisper1/run.sh", "--corpus-dir", str(corpus), "--whisper-model", str(whisper_of_words),
               "--token-type", "whisper_multilingual", "--stop-stage", "2", "--whisper-vocabulary", "260"]  # fmt: skip
    output = tree.succeed(*command)
    recipe = tree.folder / "egs/commonvoice/whisper1"
    assert "data/train: 2 texts cased" in output and (recipe / "data/whisper/model.safetensors").exists()
    texts = {
        split: [cut.supervisions[0].text for cut in CutSet.from_file(recipe / f"data/{split}/cuts.jsonl.gz")]
        for split in ("train", "dev", "test")
    }
    assert texts["train"] == ["I think so.", "I think so so."] and texts["test"][0].startswith("i think")
    assert len((recipe / "data/lang_whisper_multilingual/tokens.txt").read_text().splitlines()) == 260 + 10 + 1501
    table = tree.succeed(*command[:1], "--tag", "original_condensed", "--stage", "4", "--stop-stage", "5")
    rows = {row["split"]: row for row in json.loads((recipe / "exp/results.json").read_text())}
    row = rows["test"]  # beside that of train, which stage 0 has heard
    assert (row["experiment"], row["epochs"], row["seed"]) == ("original_condensed", 0, None)
    assert f"| original_condensed | decode_valid.acc.ave/test | {row['parameters']:,}" in " ".join(table.split())
    report = (recipe / "exp/RESULTS.md").read_text()
    assert "not trained here, made by: `egs/commonvoice/whisper1/run.sh --corpus-dir" in report
    assert "training has not finished" not in report
    again = tree.succeed(*command)
    assert "2 texts cased" in again and again.count("is decoded and its inputs have not changed; skipped") == 2
    assert "cuts: " in again and "skipped" in again[again.index("cuts: ") :].splitlines()[0]


def test_texts_take_whispers_case_where_it_heard_the_word():
    cased = runpy.run_path(str(ROOT / "egs/commonvoice/whisper1/local/cased.py"))["cased"]
    assert cased("and then she said hello", "And then he said, Hello!") == "And then she said, Hello!"
    assert cased("i don't even know", "You know, Brian") == "I don't even know."
    assert cased("the two hours", "") == "The two hours."
    assert cased("it cost a lot", "It cost... $5, a lot") == "It cost... a lot."
    assert cased("", "Thank you.") == ""


def test_pieces_of_utterances_are_joined_and_get_the_texts_that_were_heard(tmp_path):
    from lhotse import CutSet, Recording

    module = runpy.run_path(str(ROOT / "egs/commonvoice/whisper1/local/pieces.py"))
    cuts = []
    for number in range(12):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.zeros(16000 + 1600 * number), 16000)
        cuts.append(Recording.from_file(path).to_cut())
    pairs = module["pairs"](cuts, seed=0)
    assert [pair.duration for pair in pairs] == [pair.duration for pair in module["pairs"](cuts, seed=0)]
    assert len(pairs) == len(cuts) and len({round(pair.duration, 2) for pair in pairs}) > len(cuts) // 2
    longest = max(cut.duration for cut in cuts)
    assert all(0.35 * cut.duration < pair.duration <= 1.6 * longest + 0.01 for cut, pair in zip(cuts, pairs))
    first = pairs[0]
    assert first.load_audio().shape[1] == first.num_samples and len(first.supervisions) == 1
    texts = {first.id: " seven ", pairs[1].id: "", pairs[2].id: "la " * 200}
    heard = module["with_texts"](CutSet.from_cuts(pairs[:4]), texts)
    assert [(cut.id, cut.supervisions[0].text) for cut in heard] == [(first.id, "seven")]


@pytest.mark.parametrize(
    ("command", "messages"),
    [
        (["egs/grid/avsr1/run.sh"], ["--corpus_dir is not given", "alignments/*/*.align"]),
        (["egs/lrs3/avsr1/run.sh", "--corpus-dir", "conf"], ["expected pretrain/*/*.mp4", "test/*/*.txt"]),
        (["./run.sh", "--mouth-size", "48"], ["--mouth_size is for grid, lrs3, talking_digits"]),
        (["egs/talking_digits/avsr1/run.sh", "--mouth-size", "9"], ["--mouth_size 9: must be at least 24 pixels"]),
    ],
)
def test_wrong_audio_visual_commands_are_named(tmp_path, run_module, command, messages):
    error = Tree(tmp_path / "repo").fail(*command, here=run_module)
    assert all(message in error for message in messages), error


@pytest.fixture(scope="module")
def task():
    from lrsms.espnet.training.task import ASRTask

    return ASRTask


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_configs_pass_the_check_and_build(path, task, tmp_path, request):
    from lrsms.espnet.config import check_training_config
    from lrsms.lowrank import low_rank_layers

    content = check_training_config(path, task)
    if "960h" in path.name or "lrs3" in path.parts:
        return  # a billion bytes of weights: the check of every option has to do
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\nA\n<sos/eos>\n")
    options = ["--config", str(path), "--output_dir", str(tmp_path), "--token_list", str(tmp_path / "tokens.txt")]
    options += ["--normalize", "none"]  # global_mvn opens statistics that a training takes first
    if "whisper" in str(path.parent):
        options += _small_whisper(request.getfixturevalue("tiny_whisper"), tmp_path / "tokens.txt")
    model = task.build_model(task.get_parser().parse_args(options))
    factored = list(low_rank_layers(model))
    assert bool(factored) == ("low_rank" in content["encoder_conf"]) == ("lrsms" in path.name)


def _small_whisper(folder: Path, tokens: Path) -> list[str]:
    """Options of a small model in place of that which stage 0 makes."""
    from lrsms.whisper.files import open_whisper
    from lrsms.whisper.tokens import WhisperTokens, token_lines

    names = WhisperTokens(folder / "tokenizer.json", open_whisper(folder).sizes.n_vocab).token_list
    tokens.write_text(token_lines(names))
    options = ["--token_type", "whisper_multilingual", "--bpemodel", str(folder / "tokenizer.json")]
    return [*options, *(f"--{part}_conf=whisper_model={folder}" for part in ("encoder", "decoder"))]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_configs_say_how_to_run_them(path):
    lines = path.read_text().splitlines()[:3]
    assert lines[1].startswith("# ./run.sh") and all(len(line) <= 160 for line in lines)


def test_dense_configs_are_the_low_rank_ones_without_low_rank():
    for path in CONFIGS:
        other = path.with_name(path.name.replace("train_dense", "train_lrsms"))
        if other == path or not other.exists():
            continue
        dense, low_rank = map(read_training_yaml, (path, other))
        options = {}
        for part in ("encoder", "decoder") if dense["decoder"] else ("encoder",):
            assert low_rank[part] == f"lowrank_{dense[part]}"
            options |= low_rank[f"{part}_conf"].pop("low_rank")
            del low_rank[part], dense[part]
        if "muon" in options or options.keys() == {"target"}:  # which brings it: longer steps, and fewer
            for config in (dense, low_rank):
                for key in ("max_epoch", "scheduler", "scheduler_conf"):
                    del config[key]
                del config["optim_conf"]["lr"]
        assert dense == low_rank, path
