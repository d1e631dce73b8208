"""Every row of the tables of encoders and decoders, against ESPnet's own dense class."""

import copy
import pickle
import re
from dataclasses import dataclass

import pytest
import torch
from espnet2.asr.encoder.rnn_encoder import RNNEncoder
from espnet2.asr.encoder.vgg_rnn_encoder import VGGRNNEncoder
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
from torch import nn

import lrsms
from lrsms.avsr.frames import row_size
from lrsms.espnet.models.role_table import DECODERS, ENCODERS, LOW_RANK_DECODERS, LOW_RANK_ENCODERS
from lrsms.lowrank import LowRankConfig, LowRankLSTM, LowRankLSTMCell, RankPlan, Recurrent, low_rank_layers
from lrsms.lowrank.layers import matrix_shape
from lrsms.lowrank.recurrent import LSTMInput, input_matrix

BINS, TOKENS, SIZE = 20, 30, 16
BLOCKS = {"output_size": SIZE, "attention_heads": 2, "num_blocks": 2}
CHUNKS = BLOCKS | {"linear_units": 32, "block_size": 8, "hop_size": 4, "look_ahead": 2}
CGMLP = BLOCKS | {"cgmlp_linear_units": 32, "cgmlp_conv_kernel": 7}
CONFORMER = BLOCKS | {"linear_units": 32, "rel_pos_type": "latest", "macaron_style": True, "cnn_module_kernel": 7}
LSTM = {"output_size": 12, "hidden_size": 16, "num_layers": 2}
STACKED = {"use_projection": False}  # all layers in one nn.LSTM
WORDS = {"input_layer": "embed"}  # an encoder of tokens
ATTENTION = {"adim": 12, "aheads": 2, "aconv_chans": 3, "aconv_filts": 5}
RNN = {"hidden_size": 16, "num_layers": 2}
AUDIOVISUAL = BLOCKS | {
    **{"linear_units": 32, "cnn_module_kernel": 7, "fusion_units": 40, "region": 12},
    "audio_frontend": {"channels": (4, 8), "blocks": (1, 1)},
    "video_frontend": {"channels": (4, 8), "blocks": (1, 1)},
}
WHISPER = {
    "sizes": {
        **{"n_mels": 16, "n_audio_ctx": 60, "n_audio_state": SIZE, "n_audio_head": 2, "n_audio_layer": 2},
        **{"n_vocab": TOKENS, "n_text_ctx": 12, "n_text_state": SIZE, "n_text_head": 2, "n_text_layer": 2},
    }
}
ROWS = {
    "lowrank_conformer": [CONFORMER, CONFORMER | WORDS],
    "lowrank_transformer": [BLOCKS | {"linear_units": 32}, BLOCKS | {"linear_units": 32} | WORDS],
    "lowrank_branchformer": [CGMLP, CGMLP | WORDS],
    "lowrank_e_branchformer": [CGMLP | {"linear_units": 32, "use_ffn": True, "macaron_ffn": True}, CGMLP | WORDS],
    "lowrank_rnn": [LSTM, LSTM | {"bidirectional": False}, LSTM | STACKED, LSTM | STACKED | {"bidirectional": False}],
    "lowrank_vgg_rnn": [LSTM, LSTM | STACKED | {"bidirectional": False}],
    "lowrank_contextual_block_conformer": [CHUNKS | {"macaron_style": True, "cnn_module_kernel": 7}],
    "lowrank_contextual_block_transformer": [CHUNKS],
    "lowrank_whisper": [WHISPER | {"audio_context": "clip"}],
    "lowrank_av_conformer": [AUDIOVISUAL, AUDIOVISUAL | {"modality": "audio"}, AUDIOVISUAL | {"modality": "video"}],
}
DECODER_ROWS = {
    "lowrank_transformer": [{"attention_heads": 2, "linear_units": 32, "num_blocks": 2}],
    "lowrank_whisper": [WHISPER],
    "lowrank_rnn": [
        RNN | {"att_conf": ATTENTION | {"atype": "location"}},
        RNN | {"att_conf": ATTENTION | {"atype": "multi_head_add"}, "context_residual": True},
    ],
}
NO_EXPORT = (RNNEncoder, VGGRNNEncoder)


@dataclass(frozen=True)
class Case:
    """One configuration of a row of a table."""

    part: str
    name: str
    options: dict

    @property
    def base(self) -> type[nn.Module]:
        return (ENCODERS if self.part == "encoder" else DECODERS)[self.name][0]

    @property
    def roles(self) -> dict:
        return (ENCODERS if self.part == "encoder" else DECODERS)[self.name][1]

    def build(self, cls: type[nn.Module], seed: int = 0, **options) -> nn.Module:
        torch.manual_seed(seed)
        words = self.options.get("input_layer") == "embed"
        features = row_size(12, 12) if "region" in self.options else 1 if "sizes" in self.options else BINS
        sizes = (TOKENS if words else features,) if self.part == "encoder" else (TOKENS, SIZE)
        return cls(*sizes, **copy.deepcopy(self.options), **options).eval()

    def dense(self, seed: int = 0) -> nn.Module:
        """ESPnet's own class."""
        return self.build(self.base, seed)

    def low_rank(self, ratio: float = 0.25, seed: int = 0, **block) -> nn.Module:
        """Ours, with every role that it has with these options."""
        cls = (LOW_RANK_ENCODERS if self.part == "encoder" else LOW_RANK_DECODERS)[self.name]
        present = {entry.role for entry in RankPlan.make(self.dense(), self.roles, LowRankConfig()).entries}
        return self.build(cls, seed, low_rank={**dict.fromkeys(present, ratio), "multiple": 1, **block})

    def batch(self) -> tuple:
        """Two utterances, the second padded: inputs and lengths, in turn."""
        torch.manual_seed(1)
        if self.part == "decoder":
            memory, tokens = torch.randn(2, 11, SIZE), torch.randint(TOKENS, (2, 5))
            return memory, torch.tensor([11, 8]), tokens, torch.tensor([5, 3])
        if "region" in self.options:
            return torch.rand(2, 20, row_size(12, 12)), torch.tensor([20, 14])
        if "sizes" in self.options:
            return torch.randn(2, 9600), torch.tensor([9600, 7000])
        words = self.options.get("input_layer") == "embed"
        x = torch.randint(TOKENS, (2, 60)) if words else torch.randn(2, 60, BINS)
        return x, torch.tensor([60, 44])


def cases() -> list:
    rows = [("encoder", name, row) for name, rows in ROWS.items() for row in rows]
    rows += [("decoder", name, row) for name, rows in DECODER_ROWS.items() for row in rows]
    return [pytest.param(Case(*row), id=f"{row[0]}-{row[1]}-{index}") for index, row in enumerate(rows)]


every_case = pytest.mark.parametrize("case", cases())


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_no_row_is_left_out():
    assert ROWS.keys() == ENCODERS.keys() == LOW_RANK_ENCODERS.keys()
    assert DECODER_ROWS.keys() == DECODERS.keys() == LOW_RANK_DECODERS.keys()


@pytest.mark.parametrize(
    ("part", "name"), [("encoder", name) for name in ENCODERS] + [("decoder", name) for name in DECODERS]
)
def test_every_line_of_a_rows_roles_is_found_in_some_configuration(part, name):
    options = (ROWS if part == "encoder" else DECODER_ROWS)[name]
    plans = [Case(part, name, option).low_rank().rank_plan for option in options]
    found = {(entry.module, entry.role) for plan in plans for entry in plan.entries}
    for pattern, role in Case(part, name, {}).roles.items():
        role = "recurrent" if isinstance(role, Recurrent) else role
        assert any(re.fullmatch(pattern, module) and role == its for module, its in found), pattern


@every_case
def test_every_matrix_has_a_role(case):
    plan, dense = case.low_rank().rank_plan, case.dense()
    known = {entry.module for entry in plan.entries if entry.role != "recurrent_input"}
    known |= {f"{entry.module.rpartition('.')[0]}.{entry.reader}" for entry in plan.entries if entry.reader}
    wide = "sizes" in case.options  # of Whisper, convolutions with a kernel have a role as well
    matrices = {
        path for path, module in dense.named_modules() if matrix_shape(module, wide=wide) or isinstance(module, nn.LSTM)
    }
    left = {
        path
        for path in matrices - known
        if not re.fullmatch(r"att_list\.0\.(gvec|mlp_att|loc_conv)(\.\d)?|audio.frontend.stem", path)
    }
    assert known <= matrices and left == set()  # few channels or one row: nothing to gain


@every_case
def test_it_is_the_dense_class_with_the_parameters_of_its_plan(case):
    model, dense = case.low_rank(), case.dense()
    assert isinstance(model, case.base) and type(model).__name__ == f"LowRank{case.base.__name__}"
    assert all(entry.rank is not None for entry in model.rank_plan.entries)
    cells = sum(module.biases_saved for module in model.modules() if isinstance(module, LowRankLSTMCell))
    plan = model.rank_plan
    assert parameters(dense) - parameters(model) == plan.dense_parameters - plan.parameters + cells > 0
    ranks = {path.removesuffix(".gates"): layer.rank for path, layer in low_rank_layers(model)}
    assert ranks == {entry.module: entry.rank for entry in plan.entries}


@every_case
def test_a_padded_batch(case):
    model, dense, batch = case.low_rank(), case.dense(), case.batch()
    with torch.no_grad():
        output, lengths = model(*batch)[:2]
        expected, expected_lengths = dense(*batch)[:2]
    assert output.shape == expected.shape and torch.as_tensor(lengths).equal(torch.as_tensor(expected_lengths))
    assert output.isfinite().all() and (output - expected).abs().max() > 1e-3  # low rank it is


@every_case
def test_gradients_reach_every_factor(case):
    model = case.low_rank().train()
    model(*case.batch())[0].square().sum().backward()
    layers = dict(low_rank_layers(model))
    assert layers
    for path, layer in layers.items():
        for name, factor in layer.named_parameters():
            if "weight" in name:
                assert factor.grad is not None and factor.grad.abs().sum() > 0, f"{path}.{name}"


def dense_for_full_rank(case: Case) -> nn.Module:
    """A dense model; an LSTM in it has projections of 8, for torch takes none of the hidden units' number."""
    dense, low = case.dense(seed=2), case.low_rank(seed=3)
    lstms = {entry.module: 8 for entry in low.rank_plan.entries if entry.reader or entry.role == "recurrent_input"}
    if lstms:
        low = case.low_rank(seed=3, ranks=lstms)
        lrsms.merge_(low)
        dense.load_state_dict(low.state_dict())  # strict
    return dense


@every_case
def test_dense_weights_of_a_checkpoint_at_full_rank_give_the_dense_output(case, tmp_path):
    dense = dense_for_full_rank(case)
    torch.save(dense.state_dict(), tmp_path / "dense.pth")
    full = {
        entry.module: entry.full_rank - (bool(entry.reader) or entry.role == "recurrent_input")
        for entry in case.low_rank().rank_plan.entries
    }
    model = case.low_rank(ranks=full)
    load_pretrained_model(str(tmp_path / "dense.pth"), model, ignore_init_mismatch=False)  # what --init_param does
    assert len(dict(low_rank_layers(model))) == len(full)
    with torch.no_grad():
        torch.testing.assert_close(model(*case.batch())[0], dense(*case.batch())[0], rtol=1e-5, atol=1e-5)


@every_case
def test_dense_weights_of_a_checkpoint_become_their_truncated_svd(case, tmp_path):
    dense = case.dense(seed=2)
    torch.save({f"{case.part}.{name}": value for name, value in dense.state_dict().items()}, tmp_path / "dense.pth")
    whole = nn.Module()
    setattr(whole, case.part, case.low_rank())
    load_pretrained_model(f"{tmp_path}/dense.pth:{case.part}:{case.part}", whole, ignore_init_mismatch=False)
    for path, layer in low_rank_layers(getattr(whole, case.part)):
        if isinstance(layer, LowRankLSTM):
            readers = [dense.get_submodule(path).weight_hh_l0.detach()]
            ours = layer.weight_hh_l0 @ layer.weight_hr_l0  # best together with its readers: no better by itself
            error = (ours - readers[0]).norm()
            assert torch.linalg.svdvals(readers[0])[layer.rank :].norm() <= error * 1.0001 < readers[0].norm()
            continue
        if isinstance(layer, LSTMInput):
            lstm = getattr(whole, case.part).get_submodule(path.removesuffix(".input"))
            weight = input_matrix(dense.get_submodule(path.removesuffix(".input")).state_dict())
            product = input_matrix(lstm.state_dict()) @ layer.weight
        else:
            path = path.removesuffix(".gates")
            origin = dense.get_submodule(path)
            weight = (
                torch.cat([origin.weight_ih, origin.weight_hh], 1) if isinstance(origin, nn.LSTMCell) else origin.weight
            )
            product = layer.product()
        left, values, right = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
        best = left[:, : layer.rank] * values[: layer.rank] @ right[: layer.rank]
        torch.testing.assert_close(product.flatten(1), best, rtol=1e-4, atol=1e-5, msg=path)


@every_case
def test_merged_it_is_the_dense_class_with_the_same_output(case):
    model, dense, batch = case.low_rank(), case.dense(seed=2), case.batch()
    with torch.no_grad():
        expected = model(*batch)[0]
        lrsms.merge_(model)
        dense.load_state_dict(model.state_dict())  # strict
        torch.testing.assert_close(dense(*batch)[0], expected, rtol=1e-5, atol=1e-5)


@every_case
def test_pickling_and_copying_keep_every_output(case):
    model, batch = case.low_rank(), case.batch()
    with torch.no_grad():
        expected = model(*batch)[0]
        for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert type(other) is type(model) and other.rank_plan == model.rank_plan
            assert torch.equal(other(*batch)[0], expected)
            other.load_state_dict(case.dense(seed=2).state_dict())  # its hooks came along
            assert not torch.equal(other(*batch)[0], expected)


@every_case
def test_dynamic_quantization_takes_every_linear_layer(case):
    model, batch = case.low_rank(), case.batch()
    with torch.no_grad():
        expected = model(*batch)[0]
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        output = quantized(*batch)[0]
    linear = [path for path, module in model.named_modules() if type(module) is nn.Linear]
    assert linear
    kinds = {type(quantized.get_submodule(path)) for path in linear}
    assert kinds == {torch.ao.nn.quantized.dynamic.Linear}
    assert 0 < (output - expected).norm() < 0.2 * expected.norm()


class OneUtterance(nn.Module):
    """Encoder or decoder on an utterance without padding; lengths are numbers, which tracing can follow."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, *inputs):
        return self.part(*[x for given in inputs for x in (given, [given.size(1)])])[0]


@every_case
def test_torch_export_takes_it_where_it_takes_the_dense_class(case):
    if "sizes" in case.options:
        pytest.skip("Whisper's lengths decide about masks; its own export takes the parts inside")
    inputs = tuple(x[:1] for x in case.batch()[::2])
    dense, model = OneUtterance(case.dense()), OneUtterance(case.low_rank())
    with torch.no_grad():
        if case.base in NO_EXPORT:  # it packs sequences
            with pytest.raises(TypeError, match="FakeTensor"):
                torch.export.export(dense, inputs, strict=False)
            return
        exported = torch.export.export(model, inputs, strict=False)
        torch.testing.assert_close(exported.module()(*inputs), model(*inputs), rtol=1e-5, atol=1e-5)
    for path, layer in low_rank_layers(model):
        factors = [f"{path}.{name}" for name, _ in layer.named_parameters()]
        assert factors and set(factors) <= exported.state_dict.keys()
