"""ESPnet's own loaders read what the Kaldi export writes."""

import numpy as np
import pytest
from espnet2.fileio.read_text import read_2columns_text
from espnet2.fileio.sound_scp import SoundScpReader
from espnet2.train.dataset import ESPnetDataset
from lhotse import CutSet

from lrsms.data.kaldi import export_kaldi


@pytest.mark.parametrize(("audio_format", "kind"), [("flac", "sound"), ("wav", "sound"), ("ark", "kaldi_ark")])
def test_espnets_dataset_gives_the_cuts(audio_format, kind, corpus, tmp_path):
    cuts = corpus / "dev/cuts.jsonl.gz"
    export_kaldi(cuts, tmp_path, audio_format=audio_format)
    files = [(str(tmp_path / "wav.scp"), "speech", kind), (str(tmp_path / "text"), "text", "text")]
    dataset = ESPnetDataset(files, preprocess=lambda _, data: data | {"text": np.array(list(data["text"].encode()))})
    names = read_2columns_text(tmp_path / "utt2cut") if (tmp_path / "utt2cut").exists() else {}
    by_cut = {names.get(name, name): name for name in read_2columns_text(tmp_path / "utt2spk")}
    found = CutSet.from_file(cuts)
    assert set(by_cut) == set(found.ids)
    for cut in found:
        _, data = dataset[by_cut[cut.id]]
        scale = 1 if kind == "sound" else 32768  # ESPnet leaves an archive's integers as they are
        np.testing.assert_allclose(data["speech"] / scale, cut.load_audio()[0], atol=1 / 32768)
        assert bytes(data["text"].astype(np.uint8)).decode() == cut.supervisions[0].text
    if kind == "sound":
        rate, _ = SoundScpReader(tmp_path / "wav.scp")[by_cut[cut.id]]
        assert rate == cut.sampling_rate
