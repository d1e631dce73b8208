"""Stage 4: the same text whatever the number of processes, in ESPnet's layout."""

import dataclasses
import json
import shutil

import pytest
import torch
import yaml
from lhotse import CutSet

from lrsms.errors import LrsmsError
from lrsms.espnet.inference.decode_split import Decoding

OPTIONS = {"beam_size": 2, "ctc_weight": 0.5, "maxlenratio": -6}


@pytest.fixture(scope="module")
def decoding(experiment, corpus, tmp_path_factory) -> Decoding:
    """A finished decoding by one process; read only."""
    config = tmp_path_factory.mktemp("conf") / "decode_quick.yaml"
    config.write_text(yaml.safe_dump(OPTIONS))
    done = Decoding(experiment.output_dir, corpus / "test/cuts.jsonl.gz", config)
    done.run()
    return done


def table(folder, name) -> dict[str, list[str]]:
    lines = (folder / name).read_text().splitlines()
    return {words[0]: words[1:] for words in map(str.split, lines)}


def test_espnets_layout(decoding, experiment, corpus):
    folder = decoding.output_dir
    assert folder == experiment.output_dir / "decode_quick_valid.acc.ave" / "test"
    ids = sorted(CutSet.from_file(corpus / "test/cuts.jsonl.gz").ids)
    tables = {name: table(folder, name) for name in ("text", "token", "token_int", "score")}
    vocabulary = (corpus / "lang_char/tokens.txt").read_text().splitlines()
    for content in tables.values():
        assert list(content) == ids
    for name in ids:
        tokens = tables["token"][name]
        assert [vocabulary[int(number)] for number in tables["token_int"][name]] == tokens
        assert "".join(" " if token == "<space>" else token for token in tokens).split() == tables["text"][name]
        assert len(tables["score"][name]) == 1
    assert any(tables["token"].values())
    assert not list(folder.glob(".unfinished*"))


def test_an_utterance_too_short_for_the_encoder_has_an_empty_hypothesis(decoding):
    assert table(decoding.output_dir, "text")["short-test"] == []
    assert table(decoding.output_dir, "token_int")["short-test"] == []


def test_report(decoding, corpus):
    report = json.loads((decoding.output_dir / "decode.json").read_text())
    cuts = CutSet.from_file(corpus / "test/cuts.jsonl.gz")
    assert (report["split"], report["checkpoint"], report["nj"]) == ("test", "valid.acc.ave.pth", 1)
    assert (report["beam_size"], report["ctc_weight"], report["config"]) == (2, 0.5, str(decoding.config))
    assert report["utterances"] == len(cuts) == 5
    assert report["audio_seconds"] == pytest.approx(sum(cut.duration for cut in cuts))
    assert report["rtf"] == pytest.approx(report["decode_seconds"] / report["audio_seconds"])
    assert report["wall_seconds"] >= report["decode_seconds"] > 0
    assert {"command", "commit", "versions", "machine", "seed", "device"} <= report.keys()


def test_an_unchanged_decoding_is_skipped_and_force_is_not(decoding, monkeypatch, capsys):
    decoded = []
    monkeypatch.setattr(Decoding, "_decode", lambda self, options: decoded.append(options))
    decoding.run()
    assert "skipped" in capsys.readouterr().out and not decoded
    decoding.run(force=True)
    assert decoded == [OPTIONS]


def test_another_checkpoint_is_another_folder(decoding):
    assert dataclasses.replace(decoding, checkpoint="3epoch.pth").output_dir.parent.name == "decode_quick_3epoch"


def test_several_processes_give_the_same(decoding, tmp_path):
    before = {name: (decoding.output_dir / name).read_bytes() for name in ("text", "token", "token_int", "score")}
    asr_exp = tmp_path / "exp"
    shutil.copytree(decoding.asr_exp, asr_exp, symlinks=True, ignore=shutil.ignore_patterns("decode_*", "checkpoint*"))
    several = dataclasses.replace(decoding, asr_exp=asr_exp, nj=2)
    several.run()
    assert {name: (several.output_dir / name).read_bytes() for name in before} == before
    assert json.loads((several.output_dir / "decode.json").read_text())["nj"] == 2

    # A process that cannot load the model ends the decoding with its reason: no waiting, no stack trace.
    weights = several.asr_exp / "valid.acc.ave.pth"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:1000])
    with pytest.raises(LrsmsError, match="valid.acc.ave.pth: truncated"):
        several.run()


def test_unknown_option(decoding, tmp_path):
    (tmp_path / "decode.yaml").write_text("beamsize: 5\n")
    with pytest.raises(LrsmsError, match=r"decode.yaml: unknown key 'beamsize'; did you mean 'beam_size'\?"):
        dataclasses.replace(decoding, config=tmp_path / "decode.yaml").run()
    (tmp_path / "decode.yaml").write_text("device: cuda\n")
    with pytest.raises(LrsmsError, match="unknown key 'device'"):
        dataclasses.replace(decoding, config=tmp_path / "decode.yaml").run()


def test_a_missing_checkpoint_lists_what_is_there(decoding):
    with pytest.raises(LrsmsError, match=r"absent.pth: not found; run stage 3 to its end.* 3epoch.pth.*valid.acc.ave"):
        dataclasses.replace(decoding, checkpoint="absent.pth").run()


def test_missing_cuts(decoding, tmp_path):
    with pytest.raises(LrsmsError, match=r"cuts.jsonl.gz: not found; run stage 1 first"):
        dataclasses.replace(decoding, cuts=tmp_path / "test/cuts.jsonl.gz").run()


def test_a_beam_as_large_as_the_token_list_is_refused(decoding, corpus, tmp_path):
    tokens = len((corpus / "lang_char/tokens.txt").read_text().splitlines())
    config = tmp_path / "decode_wide.yaml"
    config.write_text(yaml.safe_dump(OPTIONS | {"beam_size": tokens}))
    with pytest.raises(LrsmsError, match=rf"decode_wide.yaml: beam_size: {tokens}: .*at most {tokens - 1}"):
        dataclasses.replace(decoding, config=config).run()
    assert not dataclasses.replace(decoding, config=config).output_dir.exists()


@pytest.mark.parametrize("ngpu", [0, 2])
def test_processes_that_decode_on_gpus_do_not_come_from_a_server_that_has_seen_them(decoding, monkeypatch, ngpu):
    class Asked(Exception):
        pass

    def start_context(module, on_gpu):
        raise Asked(on_gpu)

    monkeypatch.setattr("lrsms.espnet.inference.decode_split.start_context", start_context)
    with pytest.raises(Asked, match=str(bool(ngpu))):
        next(dataclasses.replace(decoding, nj=2, ngpu=ngpu).hypotheses({}, {}, []))


def test_decoding_in_this_process_leaves_its_threads(decoding, tmp_path):
    asr_exp = tmp_path / "tiny"
    shutil.copytree(decoding.asr_exp, asr_exp)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    dataclasses.replace(decoding, asr_exp=asr_exp).run(force=True)
    found = torch.get_num_threads()
    torch.set_num_threads(before)
    assert found == 2
