"""Malformed training, decoding and compression YAMLs: one row each, what is changed and what must be said."""

import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lrsms.compress.config import CompressConfig
from lrsms.errors import LrsmsError
from lrsms.espnet.config import check_training_config
from lrsms.espnet.inference.open import read_options
from lrsms.espnet.models.rank_preview import preview
from lrsms.espnet.training import preflight
from lrsms.espnet.training.task import ASRTask
from lrsms.training_yaml import changed, read_yaml

TRAINS = None  # the verdict of a change that is right

# A dotted key and its value as YAML -> what the error says, or TRAINS. Seen before any model is built.
READ = [
    ("max_epoch", "-1", "max_epoch: -1: expected a whole number of at least 1"),
    ("max_epoch", "0", "max_epoch: 0: expected a whole number of at least 1"),
    ("max_epoch", ".nan", "max_epoch: nan: expected a whole number"),
    ("max_epoch", "3.5", "max_epoch: 3.5: expected a whole number"),
    ("max_epoch", "true", "max_epoch: True: expected a whole number"),
    ("max_epoch", "'8'", "max_epoch: '8': expected a whole number of at least 1; YAML reads it as text: write 8"),
    ("max_epoch", "[3]", "max_epoch: [3]: expected a whole number"),
    ("keep_nbest_models", "0", "keep_nbest_models: 0: expected a whole number of at least 1, or a list"),
    ("keep_nbest_models", "[1, 0]", "keep_nbest_models: [1, 0]: expected"),
    ("keep_nbest_models", "[1, 3]", TRAINS),
    ("best_model_criterion", "[foo]", "best_model_criterion: ['foo']: expected a list of [train or valid"),
    ("best_model_criterion", "[[dev, acc, max]]", "best_model_criterion: [['dev', 'acc', 'max']]: expected"),
    ("best_model_criterion", "[[valid, acc, best]]", "expected a list of [train or valid, a statistic, min or max]"),
    ("best_model_criterion", "[]", "best_model_criterion: []: expected"),
    ("val_scheduler_criterion", "[a, b]", "val_scheduler_criterion: ['a', 'b']: expected [train or valid"),
    ("early_stopping_criterion", "[valid, loss]", "early_stopping_criterion: ['valid', 'loss']: expected"),
    ("patience", "-1", "patience: -1: expected a whole number of at least 0, or null"),
    ("patience", "0", TRAINS),
    ("grad_clip", "-5", "grad_clip: -5: expected a number above 0"),
    ("grad_clip", "0", "grad_clip: 0: expected a number above 0"),
    ("grad_clip", ".nan", "grad_clip: nan: expected a number above 0"),
    ("grad_clip", ".inf", TRAINS),
    ("accum_grad", "0", "accum_grad: 0: expected a whole number of at least 1"),
    ("log_interval", "0", "log_interval: 0: expected a whole number of at least 1, or null"),
    ("log_interval", "null", TRAINS),
    ("num_workers", "-1", "num_workers: -1: expected a whole number of at least 0"),
    ("seed", "abc", "seed: 'abc': expected a whole number"),
    ("train_dtype", "float7", "train_dtype: 'float7' is unknown; one of float16, float32, float64"),
    ("use_amp", "maybe", "use_amp: 'maybe': expected true or false"),
    ("use_amp", "1", "use_amp: 1: expected true or false"),
    ("use_amp", "'false'", TRAINS),
    ("token_type", "runes", "token_type: 'runes' is unknown; one of bpe, char"),
    ("init_param", "5", "init_param: 5: expected a list of files"),
    ("init_param", "a.pth", "init_param: 'a.pth': expected a list of files"),
    ("freeze_param", "encoder", "freeze_param: 'encoder': expected a list of module paths"),
    ("max_duration", "-1", "max_duration: -1: expected a number above 0"),
    ("max_duration", "0", "max_duration: 0: expected a number above 0"),
    ("max_duration", "abc", "max_duration: 'abc': expected a number above 0"),
    ("max_duration", ".inf", "max_duration: inf: expected a number above 0"),
    ("num_buckets", "0", "num_buckets: 0: expected a whole number of at least 1"),
    ("warmup_epochs", "-1", "warmup_epochs: -1: expected a whole number of at least 0"),
    ("warmup_epochs", "0.5", "warmup_epochs: 0.5: expected a whole number"),
    ("distill_weight", "2", "distill_weight: 2: expected a number above 0 and at most 1"),
    ("model_conf.ctc_weight", ".nan", "model_conf.ctc_weight: nan: expected a number from 0 to 1"),
    ("model_conf.ctc_weight", "1.5", "model_conf.ctc_weight: 1.5: expected a number from 0 to 1"),
    ("model_conf.lsm_weight", "5", "model_conf.lsm_weight: 5: expected a number from 0 to below 1"),
    ("model_conf.lsm_weight", "-0.1", "model_conf.lsm_weight: -0.1: expected"),
    ("model_conf", "7", "model_conf: 7 is not a mapping of options"),
    ("optim_conf.lr", "-1", "optim_conf.lr: -1: expected a number above 0"),
    ("optim_conf.lr", "2e-3", "optim_conf.lr: '2e-3': expected a number above 0; YAML reads it as text: write 0.002"),
    ("optim_conf.lr", "1e-9", "optim_conf.lr: '1e-9': expected a number above 0; YAML reads it as text: write 1.0e-09"),
    ("optim_conf.lr", "[0.1]", "optim_conf.lr: [0.1]: expected a number"),
    ("optim_conf.weight_decay", "-1", "optim_conf.weight_decay: -1: expected a number of at least 0"),
    ("optim_conf.betas", "0.9", "optim_conf.betas: 0.9: expected two numbers"),
    ("optim_conf.betas", "[0.9, 1.0]", "optim_conf.betas: [0.9, 1.0]: expected two numbers from 0 to below 1"),
    ("optim_conf.learning_rate", "0.1", "optim_conf: unknown key 'learning_rate'"),
    ("optim_conf.momentum", "0.1", "optim_conf: unknown key 'momentum'"),  # SGD's, but the optimizer is Adam
    ("scheduler_conf.warmup_steps", "0", "scheduler_conf.warmup_steps: 0: expected a number of at least 1"),
    ("scheduler_conf.warmup", "5", "scheduler_conf: unknown key 'warmup'; did you mean 'warmup_steps'?"),
    ("optim", "[adam]", "optim: ['adam'] is unknown; one of"),
    ("encoder", "[conformer]", "encoder: ['conformer'] is unknown; one of"),
    ("encoder_conf.attention_heads", "3", "3 attention heads of the encoder do not divide its width, 16; 1, 2, 4, 8"),
    ("encoder_conf.attention_heads", "0", "encoder_conf.attention_heads: 0: expected a whole number of at least 1"),
    ("decoder_conf.attention_heads", "5", "decoder_conf.attention_heads: 5 attention heads of the decoder do not"),
    ("encoder_conf.output_size", "15", "encoder_conf.attention_heads: 2 attention heads of the encoder do not divide"),
    ("encoder_conf.cnn_module_kernel", "8", "encoder_conf.cnn_module_kernel: 8: expected an odd number"),
    ("encoder_conf.dropout_rate", "1.0", "encoder_conf.dropout_rate: 1.0: expected a number from 0 to below 1"),
    ("encoder_conf.num_blocks", "2.0", "encoder_conf.num_blocks: 2.0: expected a whole number of at least 1"),
    ("encoder_conf.low_rank", "{semi_orthogonal: 1.0e+300}", "low_rank.semi_orthogonal: 1e+300 is not a number from 0"),
    ("encoder_conf.low_rank", "{frobenius_decay: 1e-3}", "frobenius_decay: '1e-3' is not a number of at least 0; YAML"),
    ("encoder_conf.low_rank", "{attention: .nan}", "encoder_conf.low_rank.attention: nan is not a rank ratio"),
    ("encoder_conf.low_rank", "[1]", "encoder_conf.low_rank: [1] is not a mapping"),
    ("frontend_conf.fs", "lots", "frontend_conf.fs: 'lots': expected 1000 to 1000000 Hz"),
    ("frontend_conf.fs", "1", "frontend_conf.fs: 1: expected 1000 to 1000000 Hz"),
    ("specaug", "foo", "specaug: 'foo' is unknown; one of specaug"),
    ("specaug_conf.mask", "1", "specaug_conf: unknown key 'mask'"),
    ("av_conf", "{snr: 3}", "av_conf"),
    ("5", "5", "unknown key"),
]

# The same; what is seen by building the model and taking one step.
TRIED = [
    ("encoder_conf.input_layer", "conv9", "encoder_conf.input_layer: 'conv9': ESPnet cannot build the model (ValueErr"),
    ("encoder_conf.macaron_style", "maybe", "encoder_conf"),
    ("frontend_conf.high_freq", "99999", "frontend_conf.high_freq: 99999: ESPnet cannot build the model (AssertionErr"),
    ("frontend_conf.fs", "8000", "has 16000 Hz, but frontend_conf.fs is 8000; run stage 1 with --fs 8000"),
    (
        "best_model_criterion",
        "[[valid, loss_ctx, min]]",
        "valid has no statistic 'loss_ctx'; this model's are acc",
    ),
    ("best_model_criterion", "[[train, cer, min]]", "train has no statistic 'cer'"),
    ("best_model_criterion", "[[train, train_time, min]]", TRAINS),
    ("early_stopping_criterion", "[valid, lost, min]", TRAINS),  # without patience, nothing asks for it
    ("distill_weight", "0.7", "distill_weight: 0.7: has no teacher; write distill_from: and its checkpoint"),
    ("distill_temperature", "2", "distill_temperature: 2: has no teacher"),
    ("distill_from", "nope.pth", "distill_from: 'nope.pth': nope.pth: no such file"),
    ("init_param", "['']", "init_param: ['']: an empty name: no such file"),
    ("init_param", "['x.pth:encoder:encoder']", "init_param: ['x.pth:encoder:encoder']: x.pth: no such file"),
    ("freeze_param", "[encodre]", "freeze_param: ['encodre']: the model has no parameter 'encodre'; its parts are"),
    ("freeze_param", "[encoder.embed]", TRAINS),
    (
        "freeze_param",
        "[encoder, decoder, ctc]",
        "['encoder', 'decoder', 'ctc']: nothing is left to train",
    ),
    ("use_wandb", "true", "use_wandb: True: needs the package wandb, which is not installed"),
    ("accum_grad", "9", "accum_grad: 9: an epoch has 4 batches; write at most 4"),
    ("accum_grad", "2", TRAINS),
    ("optim_conf.amsgrad", "7", TRAINS),
    ("specaug_conf.freq_mask_width_range", "[4, 0]", "specaug_conf"),
    ("normalize", "global_mvn", TRAINS),
]


def changed_config(write_config, tmp_path, key, text):
    path = write_config(tmp_path / "t.yaml")
    config = read_yaml(path)
    value = yaml.safe_load(text)
    if not key.isdigit():
        config = changed(config, {key: value}, "the row")
    else:
        config[int(key)] = value
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def judge(verdict, path, check):
    if verdict is TRAINS:
        check()
        return
    with pytest.raises(LrsmsError) as caught:
        check()
    assert verdict in str(caught.value)
    assert str(path) in str(caught.value) or "Hz" in verdict


def test_no_warmup_is_right_for_schedulers_that_need_none(write_config, tmp_path):
    options = {
        "scheduler": "cosineannealingwarmuprestarts",
        "scheduler_conf": {"first_cycle_steps": 9, "warmup_steps": 0},
    }
    check_training_config(write_config(tmp_path / "t.yaml", **options), ASRTask)


@pytest.mark.parametrize(("key", "text", "verdict"), READ)
def test_a_value_is_judged_as_it_is_read(key, text, verdict, write_config, tmp_path):
    path = changed_config(write_config, tmp_path, key, text)
    judge(verdict, path, lambda: check_training_config(path, ASRTask))


@pytest.mark.parametrize(("key", "text", "verdict"), TRIED)
def test_a_value_is_judged_by_one_step(key, text, verdict, write_config, tmp_path, make_training):
    path = changed_config(write_config, tmp_path, key, text)
    training = make_training(path, tmp_path / "exp" / "x")

    def check():
        check_training_config(path, ASRTask)
        args = ASRTask.get_parser().parse_args(training._espnet_command())
        preflight.prepare(args, ASRTask, path)

    judge(verdict, path, check)


# Options of ESPnet's on the command line -> what is said.
GIVEN = [
    ("--max_epoch -1", "--max_epoch: -1: expected a whole number of at least 1"),
    ("--grad_clip nan", "--grad_clip: nan: expected a number above 0"),
    ("--model_conf lsm_weight=5", "--model_conf.lsm_weight: 5: expected a number from 0 to below 1"),
    ("--optim_conf lr=-1", "--optim_conf.lr: -1: expected a number above 0"),
    ("--accum_grad 0", "--accum_grad: 0: expected a whole number of at least 1"),
    ("--init_param nope.pth", "init_param: ['nope.pth']: nope.pth: no such file"),
    ("--init_param", TRAINS),  # an empty list, as ESPnet's parser has it
    ("--seed 1 --max_epoch 2", TRAINS),
]


@pytest.mark.parametrize(("options", "verdict"), GIVEN)
def test_an_option_of_the_command_line_is_judged_before_a_training(
    options, verdict, experiment, tmp_path, make_training
):
    training = make_training(experiment.config, tmp_path / "exp" / "x", espnet_options=options.split())
    args = ASRTask.get_parser().parse_args(training._espnet_command())
    judge(verdict, "", lambda: preflight.prepare(args, ASRTask, experiment.config))


# What a plan says of the same; it never imports ESPnet's task, and so knows fewer options.
PLANNED = [
    *(row for row in READ if row[0].startswith(("model_conf", "encoder_conf", "decoder_conf", "frontend_conf"))),
    ("max_duration", "0", "max_duration: 0: expected a number above 0"),
    ("encoder", "5", "encoder: 5 has no low-rank form; one of lowrank_conformer"),
    ("encoder", "[conformer]", "encoder: ['conformer'] has no low-rank form"),
    ("frontend", "s3prl", "frontend: the size of 's3prl' is not known here; write input_size:"),
    ("frontend_conf.num_filters", "0", "frontend_conf.num_filters: 0: expected a whole number of at least 1"),
    ("frontend_conf.num_filters", "many", "frontend_conf.num_filters: 'many': expected a whole number"),
    ("frontend_conf.frame_shift", "0", "the model cannot be built and run"),
    ("frontend_conf", "[16000]", "frontend_conf: [16000] is not a mapping of options"),
    ("input_size", "-3", "input_size: -3: expected a whole number of at least 1, or null"),
    ("encoder_conf.input_layer", "conv9", "encoder_conf.input_layer: 'conv9': the model cannot be built and run (Val"),
    ("encoder_conf.depth", "2", "encoder_conf: unknown key 'depth'"),
    ("encoder_conf.low_rank", "{target: {parameters: 1000x}}", "target"),
    ("encoder_conf.low_rank", "{ranks: {no.such: 3}}", "no.such"),
    ("encoder_conf.low_rank", "{layer_map: [1, 2, 3], attention: 0.5}", "layer_map"),
    ("encoder_conf.low_rank", "{layer_map: stable_rank, stable_rank_from: no.pth, attention: 0.5}", "no.pth"),
    ("decoder", "null", TRAINS),
]


@pytest.mark.parametrize(("key", "text", "verdict"), PLANNED)
def test_a_plan_names_the_file_and_the_key(key, text, verdict, write_config, tmp_path):
    path = changed_config(write_config, tmp_path, key, text)
    judge(verdict, path, lambda: preview(path, 30, 4.0))


def test_a_plan_of_next_to_nothing_is_that_of_espnets_defaults(tmp_path):
    (tmp_path / "t.yaml").write_text("max_epoch: 3\n")
    assert preview(tmp_path / "t.yaml", 30, 4.0).cost.parameters > 5_000_000  # four layers of bidirectional LSTM


DECODED = [
    ("ctc_weight: 1.5", "ctc_weight: 1.5: expected a number from 0 to 1"),
    ("ctc_weight: -0.1", "ctc_weight: -0.1: expected a number from 0 to 1"),
    ("ctc_weight: .nan", "ctc_weight: nan: expected a number from 0 to 1"),
    ("ctc_weight: half", "ctc_weight: 'half': expected a number from 0 to 1"),
    ("ctc_weight: 3e-1", "ctc_weight: '3e-1': expected a number from 0 to 1; YAML reads it as text: write 0.3"),
    ("ctc_weight: null", "ctc_weight: None: expected a number from 0 to 1"),
    ("ctc_weight: true", "ctc_weight: True: expected a number from 0 to 1"),
    ("beam_size: 0", "beam_size: 0: expected a whole number of at least 1"),
    ("beam_size: 2.5", "beam_size: 2.5: expected a whole number of at least 1"),
    ("nbest: 0", "nbest: 0: expected a whole number of at least 1"),
    ("batch_size: 4", "batch_size: 4: expected 1: utterances are decoded one by one"),
    ("lm_weight: -1", "lm_weight: -1: expected a number of at least 0"),
    ("penalty: .inf", "penalty: inf: expected a number"),
    ("penalty: -0.5", TRAINS),
    ("maxlenratio: -40", TRAINS),
    ("maxlenratio: .nan", "maxlenratio: nan: expected a number"),
    ("minlenratio: -1", "minlenratio: -1: expected a number of at least 0"),
    ("normalize_length: maybe", "normalize_length: 'maybe': expected true or false"),
    ("dtype: float8", "dtype: 'float8': expected float16, bfloat16, float32 or float64"),
    ("beam: 4", "unknown key 'beam'; did you mean 'beam_size'?"),
    ("beam_size: 3\nbeam_size: 4", "'beam_size' is written twice"),
    ("k2: {search_beam: 0}", "k2.search_beam: 0: expected a number above 0"),
    ("- 3", "the top level is not a mapping"),
]


@pytest.mark.parametrize(("text", "verdict"), DECODED)
def test_a_decoding_yaml(text, verdict, tmp_path):
    (tmp_path / "d.yaml").write_text(text + "\n")
    judge(verdict, tmp_path / "d.yaml", lambda: read_options(tmp_path / "d.yaml"))


COMPRESSED = [
    ("tolerance: .nan", "tolerance: nan: expected a number of at least 0"),
    ("tolerance: -1", "tolerance: -1: expected a number of at least 0"),
    ("tolerance: 5e-1", "tolerance: '5e-1': expected a number of at least 0; YAML reads it as text: write 0.5"),
    ("target: 1", "target: 1: expected how many times smaller, a number above 1"),
    ("target: .inf", "target: inf: expected"),
    ("trials: 0", "trials: 0: expected a whole number of at least 1"),
    ("controller: random_search", "controller: 'random_search' is unknown; one of"),
    ("ratios: [0.1, all]", "ratios"),
    ("ratios: [0]", "ratios"),
    ("ratios: [.nan]", "ratios"),
    ("ratios: []", "ratios"),
    ("roles: [attn]", "roles: 'attn' is unknown; any of"),
    ("finetune: {epochs: -1}", "finetune"),
    ("trials: 3\ntrials: 4", "'trials' is written twice"),
]


@pytest.mark.parametrize(("text", "verdict"), COMPRESSED)
def test_a_compression_yaml(text, verdict, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text + "\n")
    judge(verdict, path, lambda: CompressConfig.parse(read_yaml(path), str(path)))


def bomb(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


UNREADABLE = [
    (bomb(30), "its aliases stand for more than 1,000,000 values"),
    (bomb(5), TRAINS),
    ("a: &a [*a]", "an alias leads back to itself"),
    ("a: &a {b: *a}", "an alias leads back to itself"),
    ("a: 1\na: 2", "'a' is written twice"),
    ("a: {b: 1, c: 2, b: 3}", "'b' is written twice"),
    ("x: [{b: 1, b: 1}]", "'b' is written twice"),
    ("1: a\n'1': b", TRAINS),
    ("d: &d {x: 1}\ne: &e {y: 2}\nf:\n  <<: *d\n  <<: *e\n  x: 3", TRAINS),
    ("a: !!python/name:os.system", "only plain values are read"),
    ("a: !!python/object/apply:os.getcwd []", "only plain values are read"),
    ("a: 2026-13-45", "not valid YAML"),
    ("a: " + "9" * 5000, "not valid YAML"),
    ("[" * 5000, "not valid YAML"),
    ("a: [", "not valid YAML"),
    ("? [1, 2]\n: 3", "only plain values are read"),
    ("? {a: 1}\n: 3", "only plain values are read"),
    ("a: 1\n---\nb: 2", "not valid YAML"),
    ("just words", "the top level is not a mapping"),
    ("a: \x07", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "verdict"), UNREADABLE, ids=range(len(UNREADABLE)))
def test_yaml_of_any_kind(text, verdict, tmp_path):
    (tmp_path / "y.yaml").write_text(text)
    judge(verdict, tmp_path / "y.yaml", lambda: read_yaml(tmp_path / "y.yaml"))


SCALARS = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats() | st.text(string.printable, max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                      max_size=3), max_leaves=6)  # fmt: skip
OPTIONS = sorted({row[0] for row in READ if not row[0].isdigit()})


def said_by(check, *arguments):
    """The error's sentence, empty if there is none; any other exception fails the test."""
    try:
        check(*arguments)
    except LrsmsError as error:
        return str(error)
    return ""


@given(option=st.sampled_from(OPTIONS), value=VALUES)
def test_any_value_of_any_option_is_taken_or_named(option, value, write_config, tmp_path):
    path = write_config(tmp_path / "t.yaml")
    path.write_text(yaml.safe_dump(changed(read_yaml(path), {option: value}, "x"), sort_keys=False))
    said = said_by(check_training_config, path, ASRTask)
    assert not said or (str(path) in said and len(said) < 3000)


DECODING = ("beam_size", "ctc_weight", "penalty", "maxlenratio", "nbest", "dtype", "k2")


@given(option=st.sampled_from(DECODING), value=VALUES)
def test_any_value_of_a_decoding_option_is_taken_or_named(option, value, tmp_path):
    path = tmp_path / "d.yaml"
    path.write_text(yaml.safe_dump({option: value}))
    said = said_by(read_options, path)
    assert not said or (str(path) in said and option in said)


@given(text=st.text(st.characters(codec="utf-8"), max_size=60) | st.text("[]{}:,-&*!<> \n'\"|>?#%@ab1", max_size=40))
def test_any_text_is_yaml_or_not(text, tmp_path):
    path = tmp_path / "y.yaml"
    path.write_text(text, encoding="utf-8")
    said = said_by(read_yaml, path)
    assert not said or str(path) in said
