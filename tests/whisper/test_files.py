"""The three layouts of a Whisper model, in and out."""

import json
import pickle
import struct

import pytest
import torch

from lrsms.errors import LrsmsError
from lrsms.whisper.files import find_tokenizer, open_whisper
from lrsms.whisper.write import write_openai, write_transformers

FUSED = {"attn": "self_attention", "cross_attn": "attention"}


def write_ctranslate2(path, file, *, version=6, spec="WhisperSpec", kind=4):
    """A ``model.bin`` as CTranslate2's converter writes it: queries, keys and values side by side."""
    variables = {f"{part}/num_heads": torch.tensor(2, dtype=torch.int16) for part in ("encoder", "decoder")}
    for part in ("encoder", "decoder"):
        state = file.part(part)
        norm = "ln_post" if part == "encoder" else "ln"
        variables |= {
            f"{part}/layer_norm/gamma": state[f"{norm}.weight"],
            f"{part}/layer_norm/beta": state[f"{norm}.bias"],
        }
        variables[f"{part}/position_encodings/encodings"] = state["positional_embedding"]
        for block in range(2):
            at, to = f"blocks.{block}.", f"{part}/layer_{block}/"
            for ours, theirs in FUSED.items():
                if f"{at}{ours}_ln.weight" not in state:
                    continue
                weights = {name: state[f"{at}{ours}.{name}.weight"] for name in ("query", "key", "value", "out")}
                biases = {name: state[f"{at}{ours}.{name}.bias"] for name in ("query", "value", "out")}
                biases["key"] = torch.zeros_like(biases["query"])
                groups = (
                    [("query", "key", "value"), ("out",)]
                    if ours == "attn"
                    else [("query",), ("key", "value"), ("out",)]
                )
                for number, names in enumerate(groups):
                    variables[f"{to}{theirs}/linear_{number}/weight"] = torch.cat([weights[name] for name in names])
                    variables[f"{to}{theirs}/linear_{number}/bias"] = torch.cat([biases[name] for name in names])
                variables[f"{to}{theirs}/layer_norm/gamma"] = state[f"{at}{ours}_ln.weight"]
                variables[f"{to}{theirs}/layer_norm/beta"] = state[f"{at}{ours}_ln.bias"]
            for number, layer in enumerate((0, 2)):
                for what in ("weight", "bias"):
                    variables[f"{to}ffn/linear_{number}/{what}"] = state[f"{at}mlp.{layer}.{what}"]
            variables[f"{to}ffn/layer_norm/gamma"] = state[f"{at}mlp_ln.weight"]
            variables[f"{to}ffn/layer_norm/beta"] = state[f"{at}mlp_ln.bias"]
    for name in ("conv1", "conv2"):
        for what in ("weight", "bias"):
            variables[f"encoder/{name}/{what}"] = file.state[f"encoder.{name}.{what}"]
    variables["decoder/embeddings/weight"] = file.state["decoder.token_embedding.weight"]

    def text(name):
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    content = struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        number = {torch.int16: 2}.get(value.dtype, kind)
        data = (value if number == 2 else value.half()).numpy().tobytes()
        content += text(name) + struct.pack(f"<B{value.dim()}I", value.dim(), *value.shape)
        content += struct.pack("<BI", number, len(data)) + data
    path.write_bytes(
        content + struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")
    )
    return path


@pytest.fixture
def file(tiny_whisper):
    return open_whisper(tiny_whisper)


def test_openai_and_transformers_layouts_hold_the_same_weights(file, tiny_whisper, tmp_path):
    write_openai(tmp_path / "tiny.pt", file.sizes, file.state)
    write_transformers(tmp_path / "again", file.sizes, file.state, tiny_whisper / "tokenizer.json")
    for path in (tmp_path / "tiny.pt", tmp_path, tmp_path / "again", tmp_path / "again" / "model.safetensors"):
        read = open_whisper(path)
        assert read.sizes == file.sizes and read.state.keys() == file.state.keys()
        assert all(read.state[name].equal(value) for name, value in file.state.items())
    assert find_tokenizer(tmp_path / "again").name == "tokenizer.json"
    with pytest.raises(
        LrsmsError, match=r"tokenizer.json: not found; transformers' and CTranslate2's models come with it"
    ):
        find_tokenizer(tmp_path / "tiny.pt")


def test_ctranslate2_layout_is_split_into_the_same_weights(file, tmp_path):
    read = open_whisper(write_ctranslate2(tmp_path / "model.bin", file))
    assert read.sizes == file.sizes and read.state.keys() == file.state.keys()
    assert all(read.state[name].equal(value.half().float()) for name, value in file.state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 5}, "version 5 of CTranslate2's format; 6 can be read"),
        ({"spec": "TransformerSpec"}, "a model of CTranslate2's TransformerSpec"),
        ({"kind": 1}, "is quantized; give a model converted with --quantization float16"),
    ],
)
def test_ctranslate2_models_that_cannot_be_read(file, tmp_path, change, message):
    with pytest.raises(LrsmsError, match=message):
        open_whisper(write_ctranslate2(tmp_path / "model.bin", file, **change))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_ctranslate2_model_cut_short(file, tmp_path, share):
    path = write_ctranslate2(tmp_path / "model.bin", file)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(LrsmsError, match="cut short"):
        open_whisper(path)


def test_files_that_are_no_whisper_model(file, tmp_path):
    with pytest.raises(LrsmsError, match="not found; give a local Whisper model, nothing is downloaded"):
        open_whisper(tmp_path / "tiny.pt")
    with pytest.raises(LrsmsError, match=r"holds nothing; a Whisper model is one \*.pt"):
        open_whisper(tmp_path)
    (tmp_path / "tiny.pt").write_bytes(b"no archive")
    with pytest.raises(LrsmsError, match=r"tiny.pt: (damaged|refused)"):
        open_whisper(tmp_path / "tiny.pt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "tiny.pt")
    with pytest.raises(LrsmsError, match="it has no dims and model_state_dict"):
        open_whisper(tmp_path / "tiny.pt")
    short = dict(list(file.state.items())[1:])
    torch.save({"dims": file.sizes.as_dict(), "model_state_dict": short}, tmp_path / "tiny.pt")
    with pytest.raises(LrsmsError, match=f"holds no {next(iter(file.state))}"):
        open_whisper(tmp_path / "tiny.pt")
    wrong = dict(file.state) | {"encoder.conv1.bias": torch.zeros(3)}
    torch.save({"dims": file.sizes.as_dict(), "model_state_dict": wrong}, tmp_path / "tiny.pt")
    with pytest.raises(LrsmsError, match=r"encoder.conv1.bias is \(3,\), but its sizes ask for \(16,\)"):
        open_whisper(tmp_path / "tiny.pt")


class Harmful:
    """Would run a command if it were unpickled."""

    def __reduce__(self):
        return (eval, ("print('executed')",))


def test_a_file_that_would_execute_code_is_refused(tmp_path, capsys):
    with (tmp_path / "tiny.pt").open("wb") as stream:
        pickle.dump(Harmful(), stream)
    with pytest.raises(LrsmsError, match="would execute code on loading"):
        open_whisper(tmp_path / "tiny.pt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bart"}, "model_type is not whisper"),
        ({"d_model": "wide"}, "n_audio_state: 'wide' is not a whole number of at least 1"),
        ({"encoder_attention_heads": 3}, "n_audio_state: 16 is not a multiple of n_audio_head: 3"),
        ({"encoder_layers": 3}, r"holds no encoder.blocks.2.attn.query.weight"),
    ],
)
def test_transformers_config_that_does_not_fit(file, tiny_whisper, tmp_path, change, message):
    write_transformers(tmp_path, file.sizes, file.state, tiny_whisper / "tokenizer.json")
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(LrsmsError, match=message):
        open_whisper(tmp_path)


def test_transformers_output_must_be_tied(file, tiny_whisper, tmp_path):
    from safetensors.torch import load_file, save_file

    write_transformers(tmp_path, file.sizes, file.state, tiny_whisper / "tokenizer.json")
    weights = load_file(tmp_path / "model.safetensors")
    embedding = weights["model.decoder.embed_tokens.weight"]
    save_file(weights | {"proj_out.weight": embedding.clone()}, tmp_path / "model.safetensors")
    assert open_whisper(tmp_path).state.keys() == file.state.keys()
    save_file(weights | {"proj_out.weight": embedding + 1}, tmp_path / "model.safetensors")
    with pytest.raises(LrsmsError, match=r"proj_out.weight is not the embedding's weight"):
        open_whisper(tmp_path)
