"""Write down what is said in recordings.

Usage: lrsms transcribe exp/train_lrsms speech.wav more.flac folder
       sox talk.mp3 -t wav - | lrsms transcribe exp/train_lrsms - --format srt > talk.srt

Text goes to standard output (with the file's name before it if there are several) or, with --output_dir, to one
file each. A recording that cannot be read is named, the others still come out, and the exit status is 1.
"""

from pathlib import Path

from lrsms.bin import run_verb
from lrsms.command_line import CommandParser, count_or_none
from lrsms.defaults import DEFAULT_CHECKPOINT


def main() -> None:
    """Parse options, open the model, transcribe."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of an experiment, or an archive of espnet2.bin.pack")
    parser.add_argument("audio", nargs="+", help="sound files, folders of them, or - for standard input")
    parser.add_argument(
        "--format",
        choices=("txt", "srt", "json"),
        default="txt",
        help="form of the output; json is one line for each recording",
    )
    parser.add_argument("--output_dir", type=Path, help="folder that receives one file for each recording")
    parser.add_argument(
        "--config", type=Path, help="decoding YAML: options of ESPnet's Speech2Text, such as conf/decode.yaml"
    )
    parser.add_argument("--checkpoint", help=f"file name in the experiment's folder (default: {DEFAULT_CHECKPOINT})")
    parser.add_argument(
        "--channel", type=count_or_none, help="channel of the recordings, counted from 0 (default: the mean of all)"
    )
    parser.add_argument(
        "--max_seconds",
        type=float,
        default=20.0,
        help="longest piece in seconds; longer recordings are cut at their pauses",
    )
    parser.add_argument(
        "--min_pause",
        type=float,
        default=0.5,
        help="length in seconds of the pauses at which a long recording is always cut",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32", help="precision of the weights")
    args = parser.parse_args()

    from lrsms import Recognizer
    from lrsms.espnet.inference.transcribe_files import Transcribing

    recognizer = Recognizer(
        args.model,
        checkpoint=args.checkpoint,
        decode=args.config,
        device=args.device,
        precision=args.precision,
        max_seconds=args.max_seconds,
        min_pause=args.min_pause,
    )
    Transcribing(recognizer, args.format, args.output_dir, args.channel).run(args.audio)


if __name__ == "__main__":
    run_verb(main)
