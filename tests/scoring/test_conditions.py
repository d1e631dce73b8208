"""WER over noise and missing streams: tables, differences, picture, and what a change in them does."""

import json
import random
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from lrsms.errors import LrsmsError
from lrsms.scoring.condition_pictures import wer_over_snr
from lrsms.scoring.conditions import conditions_folder, group_of, rows, score_conditions, section, snr_order
from lrsms.scoring.results import write_results

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SNRS = (None, 10.0, 0.0, -5.0)
# Share of wrong words, by modality: at each of the ratios above.
RATES = {"audio": (0.02, 0.1, 0.4, 0.8), "video": (0.3,), "audiovisual": (0.02, 0.06, 0.15, 0.28)}


def write_condition(folder: Path, modality: str, snr: float | None, hypotheses: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    (folder / "text").write_text("".join(f"{name} {text}\n" for name, text in hypotheses.items()))
    (folder / "decode.json").write_text(
        json.dumps({"modality": modality, "snr_db": snr, "babble_voices": 3, "seed": 7, "command": "x y"})
    )


@pytest.fixture
def references(recipe, write_cuts) -> dict[str, str]:
    """Forty utterances of five words, in place of the recipe's four."""
    generator = random.Random(0)
    found = {f"u{number:02d}": " ".join(generator.choices(WORDS, k=5)) for number in range(40)}
    write_cuts(recipe / "data/many/cuts.jsonl.gz", {name: ("spk", text) for name, text in found.items()})
    return found


@pytest.fixture
def add(recipe, references):
    """``add(experiment, factor)``: decodings under every condition, with ``factor`` times as many errors."""

    def made(experiment: str, factor: float = 1.0) -> None:
        folder = conditions_folder(recipe / "exp" / experiment, Path("conf/decode.yaml"), "valid.acc.ave.pth", "many")
        for modality, rates in RATES.items():
            for snr, rate in zip(SNRS, rates):
                generator = random.Random(f"{experiment} {modality} {snr}")
                hypotheses = {
                    name: " ".join("wrong" if generator.random() < rate * factor else word for word in text.split())
                    for name, text in references.items()
                }
                name = "video" if modality == "video" else f"{modality}_{'clean' if snr is None else f'{snr:g}dB'}"
                write_condition(folder / name, modality, snr, hypotheses)

    return made


def test_names():
    folder = conditions_folder(Path("exp/a"), Path("conf/decode_fast.yaml"), "valid.acc.ave.pth", "test")
    assert folder == Path("exp/a/conditions_fast_valid.acc.ave/test")
    assert group_of("train_lrsms_seed12") == group_of("train_lrsms") == "train_lrsms"
    assert snr_order([0.0, None, 20.0, -5.0]) == [None, 20.0, 0.0, -5.0]


def test_tables(recipe, add):
    for experiment, factor in (("dense", 1.0), ("dense_seed1", 1.0), ("lowrank", 1.1)):
        add(experiment, factor)
    found = score_conditions(recipe / "exp", recipe / "data")
    assert len(found) == 3 * 9
    table = {(row["experiment"], row["modality"], row["snr_db"]): row for row in rows(found)}
    assert table["dense", "audio", -5.0]["wer"] > 60 and table["dense", "audio", -5.0]["words"] == 200
    text = section(found)
    line = next(line for line in text.splitlines() if line.startswith("| dense  ") and "| audio  " in line)
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    assert cells[2:] == [f"{table['dense', 'audio', snr]['wer']:.2f}" for snr in SNRS]
    lips = next(line for line in text.splitlines() if line.startswith("| dense  ") and "| video  " in line)
    assert [cell.strip() for cell in lips.strip("| ").split("|")][3:] == ["same"] * 3
    mean = next(line for line in text.splitlines() if line.startswith("| mean of 2 dense") and "audiovisual" in line)
    both = [table[name, "audiovisual", 0.0]["wer"] for name in ("dense", "dense_seed1")]
    assert f"{sum(both) / 2:.2f}" in mean
    assert "| mean of 2 lowrank" not in text
    assert text.count("- dense: `x y`; babble of 3 voices, seed 7") == 1


def test_what_video_adds_is_audiovisual_minus_audio(recipe, add):
    add("dense")
    found = score_conditions(recipe / "exp", recipe / "data")
    rates = {one.key: one.scores.wer.rate for one in found}
    gains = section(found).partition("What video adds")[2].splitlines()
    cells = next(line for line in gains if line.startswith("| dense")).strip("| ").split("|")[1:]
    for snr, cell in zip(SNRS, cells):
        assert float(cell.split()[0]) == pytest.approx(rates["audiovisual", snr] - rates["audio", snr], abs=0.006)
    worst = cells[-1].replace(",", " ").replace("[", " ").replace("]", " ").split()
    assert float(worst[2]) < 0  # clear of zero where noise is loud


def test_configurations_are_compared_over_all_seeds_that_both_have(recipe, add):
    for experiment, factor in (("dense", 1.0), ("dense_seed1", 1.0), ("lowrank", 1.0), ("lowrank_seed1", 1.5)):
        add(experiment, factor)
    found = score_conditions(recipe / "exp", recipe / "data")
    wers = {(one.experiment, one.modality): one.scores.wer.rate for one in found if one.modality == "video"}
    table = section(found).partition("Against the first configuration")[2].splitlines()
    line = next(line for line in table if line.startswith("| lowrank") and "| video" in line)
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    assert cells[:5] == ["lowrank", "dense", "video", "2", "1"]
    means = [sum(wers[name, "video"] for name in (group, f"{group}_seed1")) / 2 for group in ("dense", "lowrank")]
    assert float(cells[5].split()[0]) == pytest.approx(means[1] - means[0], abs=0.006)


def test_a_single_modality_has_no_gain_and_one_experiment_no_rival(recipe, add):
    add("dense")
    found = [one for one in score_conditions(recipe / "exp", recipe / "data") if one.modality == "audio"]
    text = section(found)
    assert "What video adds" not in text and "Against the first" not in text


def test_results_follow_when_conditions_change(recipe, add):
    plain = write_results(recipe / "data", recipe / "exp")
    assert "WER over noise" not in (recipe / "exp/RESULTS.md").read_text()
    assert not (recipe / "exp/wer_over_snr.png").exists()
    add("dense")
    assert write_results(recipe / "data", recipe / "exp", recipe / "copy") == plain  # rows of their own
    page = (recipe / "copy/RESULTS.md").read_text()
    assert "## WER over noise and modality" in page and page.index("WER over noise") < page.index("Provenance")
    assert len(json.loads((recipe / "copy/conditions.json").read_text())) == 9
    assert (recipe / "copy/wer_over_snr.png").exists()


def test_the_picture_has_a_line_for_each_modality(recipe, add, tmp_path):
    picture = tmp_path / "wer.png"
    assert not wer_over_snr([], picture)
    for experiment, factor in (("dense", 1.0), ("dense_seed1", 1.3), ("lowrank", 1.1), ("lowrank_seed1", 1.2)):
        add(experiment, factor)
    assert wer_over_snr(score_conditions(recipe / "exp", recipe / "data"), picture)
    pixels = plt.imread(picture)[:, :, :3].reshape(-1, 3)
    for color in ("C0", "C2", "C3"):
        rgb = plt.matplotlib.colors.to_rgb(color)
        assert (abs(pixels - rgb).max(1) < 0.02).sum() > 200


def test_a_decoding_that_says_no_condition_is_refused(recipe, add):
    add("dense")
    broken = next((recipe / "exp").glob("**/audio_0dB/decode.json"))
    broken.write_text("{}")
    with pytest.raises(LrsmsError, match="audio_0dB/decode.json says no condition"):
        score_conditions(recipe / "exp", recipe / "data")
