"""Audio-visual data on its way into ESPnet's trainer: batches, checks before training, video that fails during it."""

import argparse
import dataclasses
import shutil

import numpy as np
import pytest
import torch
from lhotse import CutSet

from lrsms.avsr.frames import SAMPLES
from lrsms.data.mouths import regions_path
from lrsms.errors import LrsmsError
from lrsms.espnet.data.av_batches import ProblemList, make_loader
from lrsms.espnet.data.cut_batches import CutsDataset, CutsIterFactory
from lrsms.espnet.models.av_region import encoder_region
from lrsms.espnet.training.task import ASRTask

ROW = SAMPLES + 24 * 24


@pytest.fixture
def args(av_corpus, av_changes, tmp_path) -> argparse.Namespace:
    return argparse.Namespace(
        encoder="av_conformer", encoder_conf=av_changes["encoder_conf"], av_conf=av_changes["av_conf"], seed=0,
        train_cuts=str(av_corpus / "train/cuts.jsonl.gz"), output_dir=str(tmp_path / "exp"),
    )  # fmt: skip


def test_the_encoders_region_and_its_default():
    assert encoder_region({"encoder": "conformer"}) is None
    assert encoder_region({"encoder": "av_conformer", "encoder_conf": {}}) == (88, 88)
    assert encoder_region({"encoder": "lowrank_av_conformer", "encoder_conf": {"region": [24, 32]}}) == (24, 32)


def test_options_of_video_without_an_audio_visual_encoder_are_a_mistake(args):
    args.encoder = "conformer"
    with pytest.raises(LrsmsError, match="av_conf: is for the audio-visual encoders; encoder: conformer reads audio"):
        make_loader(args, train=True)
    args.av_conf = {}
    assert make_loader(args, train=True) is None


@pytest.fixture
def batches(args, av_corpus):
    """``batches(epoch, num_workers)``: the training batches of an epoch, text replaced by a number."""

    def preprocess(_, data):
        return {"speech": data["speech"], "text": np.array([len(data["text"])])}

    def make(epoch, num_workers=0, train=True):
        from espnet2.train.collate_fn import CommonCollateFn

        dataset = CutsDataset(preprocess, CommonCollateFn(int_pad_value=-1), make_loader(args, train=train))
        cuts = CutSet.from_jsonl_lazy(av_corpus / "train/cuts.jsonl.gz")
        factory = CutsIterFactory(
            cuts, dataset, max_duration=12.0, num_buckets=2, shuffle=True, seed=0, num_workers=num_workers
        )
        return list(factory.build_iter(epoch))

    return make


def test_batches_have_one_row_per_video_frame_the_longest_first(batches):
    for names, batch in batches(1):
        lengths = batch["speech_lengths"].tolist()
        assert batch["speech"].shape == (len(names), max(lengths), ROW) and batch["speech"].dtype == torch.float32
        assert lengths == sorted(lengths, reverse=True)
        for speech, length in zip(batch["speech"], lengths):
            assert speech[:length, SAMPLES:].any() and not speech[length:].any()


def speech_of(found):
    return {name: speech for names, batch in found for name, speech in zip(names, batch["speech"])}


def same(one, other):
    return all(torch.equal(one[name][: len(other[name])], other[name][: len(one[name])]) for name in one)


def test_augmentation_changes_with_the_epoch_and_not_with_the_workers(batches):
    first, second = speech_of(batches(1)), speech_of(batches(2))
    assert same(first, speech_of(batches(1, num_workers=2)))
    assert not same(first, second) and first.keys() == second.keys()
    assert same(speech_of(batches(1, train=False)), speech_of(batches(2, train=False)))


def copy_of(av_corpus, tmp_path, change):
    """The corpus with regions of its own, ``change(cut, path)`` done to those of each training cut."""
    data = tmp_path / "data"
    shutil.copytree(av_corpus, data)
    for split in ("train", "dev"):
        cuts = []
        for cut in CutSet.from_file(av_corpus / split / "cuts.jsonl.gz"):
            path = data / regions_path(cut.mouth).relative_to(av_corpus)
            array = dataclasses.replace(cut.mouth.array, storage_path=str(path.parent))
            cut.mouth = dataclasses.replace(cut.mouth, array=array)
            cuts.append(change(cut, path) if split == "train" else cut)
        CutSet.from_cuts(cuts).to_file(data / split / "cuts.jsonl.gz")
    return data


@pytest.fixture
def train(tmp_path, write_config, av_changes):
    from lrsms.espnet.training.run import Training

    def run(data, **changes):
        config = write_config(tmp_path / "train.yaml", **(av_changes | {"max_epoch": 1} | changes))
        config.write_text(config.read_text() + "normalize: null\n")  # left out, ESPnet would normalize
        training = Training(
            config=config,
            output_dir=tmp_path / "exp" / "tiny",
            train_cuts=data / "train/cuts.jsonl.gz",
            valid_cuts=data / "dev/cuts.jsonl.gz",
            lang_dir=data / "lang_char",
            token_type="char",
        )
        training.run()
        return training.output_dir

    return run


def test_video_that_fails_in_the_middle_of_training_is_listed_and_not_fatal(av_corpus, tmp_path, train, capsys):
    names = []

    def spoil(cut, path):
        names.append(cut.id)
        if len(names) == 1:
            path.unlink()
        elif len(names) == 2:
            path.write_bytes(b"broken")  # the file is there, and so the check before training passes
        elif len(names) == 3:
            cut = cut.drop_custom("mouth") if hasattr(cut, "drop_custom") else dataclasses.replace(cut, custom={})
        return cut

    folder = train(copy_of(av_corpus, tmp_path, spoil))
    out = capsys.readouterr().out
    assert "train: 10 of 12 utterances with video" in out
    assert f"train: 1 whose mouth regions are gone, such as {names[0]}" in out
    listed = dict(line.split("\t") for line in (folder / "without_video.tsv").read_text().splitlines())
    assert listed.keys() == set(names[:2]) and "cannot be read" in listed[names[1]]
    assert (folder / "valid.acc.ave.pth").exists()


def test_a_window_larger_than_the_regions_stops_before_training(av_corpus, train, av_changes):
    conf = av_changes["encoder_conf"] | {"region": 32}
    with pytest.raises(
        LrsmsError, match="region: 32 x 32 pixels do not fit into the 28 x 28 of .* larger --mouth-size"
    ):
        train(av_corpus, encoder_conf=conf, input_size=SAMPLES + 32 * 32)
    with pytest.raises(
        LrsmsError, match="do not fit into the 20 x 20 .* after av_conf.resize; .* larger av_conf.resize"
    ):
        train(av_corpus, av_conf={"resize": 20})


def test_a_corpus_of_sound_stops_before_training(corpus, train):
    with pytest.raises(
        LrsmsError, match="no utterance has mouth regions; run stages 0 and 1 of an audio-visual recipe"
    ):
        train(corpus)


def test_mistakes_in_av_conf_name_the_file(av_corpus, train):
    with pytest.raises(LrsmsError, match=r"train.yaml: line \d+: av_conf: unknown key 'snr'; did you mean 'snrs'"):
        train(av_corpus, av_conf={"snr": [0]})


def test_a_problem_is_listed_once(tmp_path):
    problems = ProblemList(tmp_path / "new" / "list.tsv")
    for name in ("a", "b", "a"):
        problems(name, "the\nreason")
    assert problems.path.read_text() == "a\tthe reason\nb\tthe reason\n"


def test_av_conf_is_an_option_of_the_task():
    args = ASRTask.get_parser().parse_args(["--av_conf", "flip=0.25", "--output_dir", "x"])
    assert args.av_conf == {"flip": 0.25}
