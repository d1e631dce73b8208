"""``python3 -m lrsms.espnet``: ESPnet's own programs with our classes, also in the processes they spawn."""

import numpy
import pytest
import soundfile
import yaml

CHILD = """
def child(rank):
    from espnet2.tasks.asr import encoder_choices

    print("child:", "lowrank_conformer" in encoder_choices.classes, flush=True)
"""
SPAWNER = """
import sys
import child_module
import torch.multiprocessing

if __name__ == "__main__":
    assert sys.argv[1:] == ["--some", "option"], sys.argv
    torch.multiprocessing.spawn(child_module.child, nprocs=1)
"""
SCRIPT = """
import sys
from espnet2.tasks.asr import encoder_choices

assert __name__ == "__main__"
print("script:", "lowrank_conformer" in encoder_choices.classes, sys.argv)
"""


def test_spawned_processes_register_too(run_python, tmp_path):
    """As ESPnet's multi-GPU training spawns: a function of an importable module that knows nothing of ours."""
    (tmp_path / "child_module.py").write_text(CHILD)
    (tmp_path / "spawner.py").write_text(SPAWNER)
    result = run_python("-m", "lrsms.espnet", "-m", "spawner", "--some", "option", cwd=tmp_path, path=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "child: True" in result.stdout


def test_a_file_runs_as_python_would_run_it(run_python, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    result = run_python("-m", "lrsms.espnet", "script.py", "--x", cwd=tmp_path)
    assert "script: True ['script.py', '--x']" in result.stdout, result.stderr[-3000:]


def test_print_config_shows_low_rank_and_the_dense_options(run_python, tmp_path):
    arguments = ["--print_config", "--encoder", "lowrank_conformer", "--decoder", "lowrank_transformer"]
    arguments += ["--frontend", "kaldi_fbank", "--encoder_conf", "output_size=32"]
    result = run_python("-m", "lrsms.espnet", "-m", "espnet2.bin.asr_train", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    shown = yaml.safe_load(result.stdout)
    assert shown["encoder"] == "lowrank_conformer" and shown["encoder_conf"]["output_size"] == 32
    assert {"low_rank", "attention_heads", "input_layer", "macaron_style"} <= shown["encoder_conf"].keys()
    assert shown["encoder_conf"]["low_rank"] is None
    assert {"low_rank", "attention_heads", "num_blocks"} <= shown["decoder_conf"].keys()
    assert shown["frontend_conf"]["num_filters"] == 80


@pytest.fixture
def stock_data(tmp_path):
    """ESPnet's own data: ``dump/{wav.scp,text,speech_shape,text_shape.char}`` and a token list."""
    dump = tmp_path / "dump"
    dump.mkdir()
    lines = {name: [] for name in ("wav.scp", "text", "speech_shape", "text_shape.char")}
    rng = numpy.random.default_rng(0)
    for index, text in enumerate(("AB A", "BA", "ABBA B", "A B A")):
        samples = 16000 + 800 * index
        soundfile.write(dump / f"utt{index}.wav", 0.1 * rng.standard_normal(samples), 16000)
        shape = f"{len(text)},6"
        for name, value in zip(lines, (dump / f"utt{index}.wav", text, samples, shape)):
            lines[name].append(f"utt{index} {value}\n")
    for name, content in lines.items():
        (dump / name).write_text("".join(content))
    (dump / "tokens.txt").write_text("<blank>\n<unk>\n<space>\nA\nB\n<sos/eos>\n")
    return dump


def test_stock_data_through_stock_programs(run_python, write_config, stock_data, tmp_path):
    ours = dict.fromkeys(("max_duration", "num_buckets"))
    config = write_config(tmp_path / "train.yaml", max_epoch=1, batch_type="unsorted", batch_size=2, **ours)
    config.with_name("changed.yaml").write_text(f"base: {config.name}\nbatch_size: 3\n")
    arguments = ["--config", "changed.yaml", "--output_dir", "exp", "--token_list", stock_data / "tokens.txt"]
    arguments += ["--token_type", "char", "--use_preprocessor", "true", "--ngpu", "0"]
    for split in ("train", "valid"):
        for name, key, kind in (("wav.scp", "speech", "sound"), ("text", "text", "text")):
            arguments += [f"--{split}_data_path_and_name_and_type", f"{stock_data / name},{key},{kind}"]
        for name in ("speech_shape", "text_shape.char"):
            arguments += [f"--{split}_shape_file", stock_data / name]
    result = run_python("-m", "lrsms.espnet", "-m", "espnet2.bin.asr_train", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    trained = yaml.safe_load((tmp_path / "exp/config.yaml").read_text())
    assert trained["encoder"] == "lowrank_conformer" and trained["iterator_type"] == "sequence"
    assert trained["batch_size"] == 3 and "base" not in trained

    arguments = ["--asr_train_config", "exp/config.yaml", "--asr_model_file", "exp/valid.acc.best.pth"]
    arguments += ["--data_path_and_name_and_type", f"{stock_data / 'wav.scp'},speech,sound", "--output_dir", "decode"]
    arguments += ["--beam_size", "2", "--maxlenratio", "-3", "--ngpu", "0", "--num_workers", "0"]
    result = run_python("-m", "lrsms.espnet", "-m", "espnet2.bin.asr_inference", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    decoded = (tmp_path / "decode/1best_recog/token_int").read_text().splitlines()
    assert [line.split()[0] for line in decoded] == [f"utt{index}" for index in range(4)]


def test_importing_prints_nothing_and_hides_nothing(run_python, tmp_path):
    code = "print('before'); import lrsms.espnet, sys; print('after'); print('error', file=sys.stderr)"
    result = run_python("-c", code, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "before\nafter\n", "error\n")
