"""Reading a sweep's YAML."""

from pathlib import Path

import pytest
import yaml

from lrsms.errors import LrsmsError
from lrsms.sweep.points import Sweep, flat


def read(path: Path, text: str) -> Sweep:
    path.write_text(text)
    return Sweep.read(path)


def test_an_arm_is_base_then_set_then_its_own_keys(write_sweep):
    sweep = Sweep.read(
        write_sweep(
            set={"encoder_conf.low_rank.multiple": 4, "wrong": 1},
            arms={
                "dense": {"encoder_conf.low_rank": None},
                "small": {"wrong": 3, "encoder_conf.low_rank.attention": 0.1},
            },
        )
    )
    dense, small = (arm.config for arm in sweep.arms)
    assert dense == {"max_epoch": 3, "wrong": 1, "encoder_conf": {"blocks": 2}}
    assert small["encoder_conf"] == {"blocks": 2, "low_rank": {"attention": 0.1, "multiple": 4}} and small["wrong"] == 3
    assert (sweep.title, sweep.folder, sweep.reference, sweep.seeds) == ("sweep", "grid", "dense", (0, 1))


def test_an_arm_may_replace_what_set_wrote_below_it(write_sweep):
    arms = {"a": {"encoder_conf.low_rank": {"attention": 0.3}, "encoder_conf.low_rank.multiple": 8}}
    sweep = Sweep.read(write_sweep(set={"encoder_conf.low_rank.multiple": 4}, arms=arms))
    assert sweep.arms[0].config["encoder_conf"]["low_rank"] == {"attention": 0.3, "multiple": 8}


def test_a_grid_has_every_combination_and_one_value_for_several_keys(write_sweep):
    keys = "encoder_conf.low_rank.attention decoder_conf.low_rank.attention"
    sweep = Sweep.read(write_sweep(grid={keys: [0.5, 0.25], "wrong": [1, 2]}, arms={"dense": None}))
    assert [arm.name for arm in sweep.arms] == [
        *("dense", "attention=0.5,wrong=1", "attention=0.5,wrong=2", "attention=0.25,wrong=1", "attention=0.25,wrong=2")
    ]
    last = sweep.arms[-1]
    assert last.values == {"attention": 0.25, "wrong": 2} and sweep.arms[0].values == {}
    assert last.config["encoder_conf"]["low_rank"] == last.config["decoder_conf"]["low_rank"] == {"attention": 0.25}


def test_grid_keys_with_one_last_part_are_named_whole(write_sweep):
    sweep = Sweep.read(write_sweep(grid={"encoder_conf.blocks": [1], "decoder_conf.blocks": [2, 3]}, arms=None))
    assert [arm.name for arm in sweep.arms] == [f"encoder_conf.blocks=1,decoder_conf.blocks={n}" for n in (2, 3)]
    assert len(sweep.arms[0].values) == 2


def test_the_base_may_lie_beside_the_sweep_or_in_the_working_folder(write_sweep, recipe, monkeypatch):
    path = write_sweep()
    assert Sweep.read(path).arms[0].config["max_epoch"] == 3
    monkeypatch.chdir(recipe)
    (recipe / "other").mkdir()
    moved = path.rename(recipe / "other" / path.name)
    assert Sweep.read(moved).arms[0].config["max_epoch"] == 3


def test_the_base_may_have_a_base_and_no_key_twice(write_sweep, recipe):
    (recipe / "conf/small.yaml").write_text("base: base.yaml\nencoder_conf.blocks: 1\n")
    sweep = Sweep.read(write_sweep(base="conf/small.yaml"))
    assert sweep.arms[0].config["encoder_conf"] == {"blocks": 1, "low_rank": {"attention": 0.5}}
    (recipe / "conf/twice.yaml").write_text("wrong: 1\nwrong: 2\n")
    with pytest.raises(LrsmsError, match=r"twice.yaml: not valid YAML: 'wrong' is written twice"):
        Sweep.read(write_sweep(base="conf/twice.yaml"))


def test_differences_are_those_to_the_reference(write_sweep):
    arms = {"dense": {"encoder_conf.low_rank": None}, "a": {"wrong": 5}, "b": {"encoder_conf": {"blocks": 2}}}
    sweep = Sweep.read(write_sweep(reference="a", arms=arms))
    dense, a, b = map(sweep.differences, sweep.arms)
    assert dense == {"wrong": 2, "encoder_conf.low_rank.attention": None}
    assert a == {} and b == dense


def test_the_sweeps_of_the_recipes_are_read(root, monkeypatch):
    files = sorted(root.glob("egs/*/*/conf/sweep_*.yaml"))
    sweeps = [path for path in files if "base" in yaml.safe_load(path.read_text())]
    assert sweeps
    for path in sweeps:
        monkeypatch.chdir(path.parents[1])
        sweep = Sweep.read(path)
        assert len(sweep.arms) > 1 and all(arm.config["encoder"] for arm in sweep.arms)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"seed": [0]}, r"sweep.yaml: unknown key 'seed'; did you mean 'seeds'\?"),
        ({"color": 1}, "sweep.yaml: unknown key 'color'; it takes: title, base"),
        ({"base": None}, "sweep.yaml: base: None: write the training YAML"),
        ({"base": "conf/absent.yaml"}, "sweep.yaml: base: conf/absent.yaml: no such file"),
        ({"seeds": [0, 0]}, r"sweep.yaml: seeds: \[0, 0\] has a seed twice"),
        ({"seeds": ["one"]}, r"sweep.yaml: seeds: \['one'\]: expected a whole number of at least 0, or a list of them"),
        ({"seeds": []}, r"sweep.yaml: seeds: \[\]: expected a whole number of at least 0, or a list"),
        ({"reference": "big"}, "sweep.yaml: reference: 'big' is no arm; one of dense, small"),
        ({"arms": None}, "sweep.yaml: no experiment; write arms: or grid:"),
        ({"arms": ["dense"]}, r"sweep.yaml: arms: \['dense'\] is not a mapping"),
        ({"arms": {"dense": 3}}, "sweep.yaml: arms.dense: 3 is not a mapping"),
        ({"arms": {"a/b": None}}, "sweep.yaml: arms.a/b: an arm's name takes letters"),
        ({"arms": {"a b": None, "ab": None}}, "sweep.yaml: two arms are called 'ab'"),
        ({"arms": {"dense": {"max_epoch.x": 1}}}, "sweep.yaml: arms.dense: max_epoch.x: max_epoch is 3, not a mapping"),
        ({"set": {"max_epoch.x": 1}}, "sweep.yaml: set: max_epoch.x: max_epoch is 3, not a mapping"),
        ({"grid": {"wrong": 1}}, "sweep.yaml: grid.wrong: 1 is not a list of values"),
        ({"grid": {"wrong": []}}, r"sweep.yaml: grid.wrong: \[\] is not a list"),
        (
            {"grid": {"low_rank": [{"a": 1}]}},
            r"sweep.yaml: grid.low_rank: \{'a': 1\} cannot be part of a folder's name",
        ),
        ({"tune": {"wrong": 1}}, "sweep.yaml: tune.wrong: 1 is not a list of values"),
        ({"tune": {"wrong": ["a/b"]}}, "sweep.yaml: tune.wrong: 'a/b' cannot be part of a folder's name"),
        ({"tune": {"max_epoch.x": [1]}}, "sweep.yaml: tune: max_epoch.x: max_epoch is 3, not a mapping"),
        ({"until": "flat"}, "sweep.yaml: until: 'flat'"),
        ({"margin": 0}, "sweep.yaml: margin: 0: expected points of WER, above 0"),
        ({"folder": "../grid"}, "sweep.yaml: folder: '../grid': expected the name of a folder"),
        ({"token_type": "phone"}, "sweep.yaml: token_type: 'phone' is unknown; one of char, word, unigram, bpe"),
        ({"vocab_size": "many"}, "sweep.yaml: vocab_size: 'many': expected a whole number"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_value(write_sweep, content, message):
    with pytest.raises(LrsmsError, match=message):
        Sweep.read(write_sweep(**content))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "arms: {dense: {}, dense: {wrong: 1}}",
            "sweep.yaml: not valid YAML: 'dense' is written twice .* line 1, column 19",
        ),
        ("arms: {", "not valid YAML"),
        ("- dense", "the top level is not a mapping"),
    ],
)
def test_bad_yaml_is_an_error(recipe, text, message):
    with pytest.raises(LrsmsError, match=message):
        read(recipe / "sweep.yaml", text)


def test_an_overridden_merge_key_is_not_written_twice(recipe, monkeypatch):
    monkeypatch.chdir(recipe)
    arms = "arms:\n  a: &a {wrong: 1, seconds: 1}\n  b: &b {<<: *a, wrong: 2}\n  c: {<<: *b, wrong: 3}\n"
    text = f"base: conf/base.yaml\n{arms}"
    assert [arm.config["wrong"] for arm in read(recipe / "sweep.yaml", text).arms] == [1, 2, 3]


def test_an_absent_sweep_is_an_error(tmp_path):
    with pytest.raises(LrsmsError, match="absent.yaml: cannot be read: No such file"):
        Sweep.read(tmp_path / "absent.yaml")


def test_flat_lists_dotted_keys():
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": {}}) == {"a.b": 1, "a.c.d": 2, "e": {}}
