"""Write cuts as a stock Kaldi or ESPnet data folder, or read one back.

Usage: lrsms export_kaldi --cuts data/test/cuts.jsonl.gz --output_dir kaldi/test
       lrsms export_kaldi --from kaldi/test --output_dir data/test

The first leaves wav.scp (sound files of their own, or with --audio_format ark one Kaldi archive), text, utt2spk,
spk2utt and utt2dur; the second recordings and supervisions, which lrsms.bin.cuts makes cuts of.
"""

import os
from pathlib import Path

from lrsms.bin import run_verb
from lrsms.command_line import CommandParser, count


def main() -> None:
    """Parse options and convert in the direction asked for."""
    parser = CommandParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--cuts", type=Path, help="manifest of cuts to write as a Kaldi folder")
    source.add_argument("--from", dest="kaldi_dir", type=Path, help="Kaldi folder to read into manifests")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--audio_format", choices=("flac", "wav", "ark"), default="flac", help="with --cuts: format of the 16-bit audio"
    )
    parser.add_argument(
        "--num_jobs", type=count, default=min(8, os.cpu_count() or 1), help="number of threads that read audio"
    )
    args = parser.parse_args()

    from lrsms.data.kaldi import export_kaldi, import_kaldi

    if args.cuts is not None:
        export_kaldi(args.cuts, args.output_dir, audio_format=args.audio_format, num_jobs=args.num_jobs)
    else:
        import_kaldi(args.kaldi_dir, args.output_dir, num_jobs=args.num_jobs)


if __name__ == "__main__":
    run_verb(main)
