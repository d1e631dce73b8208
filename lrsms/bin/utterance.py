"""Draw an utterance of an audio-visual experiment: mouth, spectrogram, and what is understood when, as a PNG.

Usage: lrsms utterance --asr_exp exp/train_lrsms --utterance ID --snr 0 --picture utterance.png
"""

from pathlib import Path

from lrsms.bin import run_verb
from lrsms.command_line import CommandParser, count, count_or_none
from lrsms.defaults import DEFAULT_CHECKPOINT


def main() -> None:
    """Parse options, decode the utterance under each modality, draw."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--picture", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--utterance", help="id of a cut of the split (default: its first)")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of the splits")
    parser.add_argument("--split", default="test", help="split of the utterance")
    parser.add_argument("--train_split", default="train", help="split whose utterances make the babble noise")
    parser.add_argument(
        "--config", type=Path, default=Path("conf/decode.yaml"), help="decoding YAML: options of ESPnet's Speech2Text"
    )
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="file name of the weights in asr_exp")
    parser.add_argument("--snr", default="clean", help="SNR of the babble in dB, or clean")
    parser.add_argument(
        "--modalities",
        help="any of audio, video, audiovisual, separated by spaces (default: all that the encoder takes)",
    )
    parser.add_argument("--voices", type=count, default=4, help="number of voices in the babble")
    parser.add_argument("--seed", type=count_or_none, default=0, help="seed of the babble")
    args = parser.parse_args()

    from lrsms.avsr.conditions import grid, parse_snrs
    from lrsms.espnet.checkpoints.experiment import Experiment
    from lrsms.espnet.inference.av_conditions import modalities_of
    from lrsms.espnet.inference.av_picture import UtterancePicture
    from lrsms.espnet.inference.decode_split import Decoding

    decoding = Decoding(args.asr_exp, args.data_dir / args.split / "cuts.jsonl.gz", args.config, args.checkpoint)
    train_cuts = args.data_dir / args.train_split / "cuts.jsonl.gz"
    modalities = modalities_of(Experiment(args.asr_exp)) if args.modalities is None else args.modalities.split()
    conditions = grid(modalities, parse_snrs(args.snr)[:1])
    UtterancePicture(decoding, train_cuts, args.voices, args.seed).draw(args.utterance, conditions, args.picture)
    print(args.picture)


if __name__ == "__main__":
    run_verb(main)
