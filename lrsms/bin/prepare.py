"""Stage 0: turn a corpus into Lhotse manifests, ``<output_dir>/<split>/{recordings,supervisions}.jsonl.gz``.

Example: python -m lrsms.bin.prepare --corpus yesno --output_dir data --corpus_dir downloads/waves_yesno
"""

import argparse
import os
from pathlib import Path

from lrsms import stamp
from lrsms.bin import run_verb, str2bool
from lrsms.errors import LrsmsError

CORPORA = ("digits", "talking_digits", "yesno", "speechocean762", "librispeech", "grid", "lrs3", "own_data")
# Options that only some corpora read: giving one elsewhere is a mistake worth naming.
_READ_BY = {
    "corpus_dir": ("yesno", "speechocean762", "librispeech", "grid", "lrs3"),
    "download_dir": ("yesno", "librispeech"),
    "num_train": ("digits", "talking_digits"),
    "num_dev": ("digits", "talking_digits"),
    "num_test": ("digits", "talking_digits"),
    "mouth_size": ("talking_digits", "grid", "lrs3"),
    "mini": ("librispeech",),
    "train_parts": ("librispeech", "lrs3"),
    "lists_dir": ("grid",),
    "kaldi_dir": ("own_data",),
    "manifest_dir": ("own_data",),
}


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, choices=CORPORA)
    parser.add_argument("--output_dir", required=True, type=Path, help="receives one folder per split")
    parser.add_argument("--corpus_dir", type=_path,
                        help="the corpus as distributed; without it yesno and librispeech download")  # fmt: skip
    parser.add_argument("--download_dir", type=_path, help="where downloads go (default: downloads beside output_dir)")
    parser.add_argument("--num_train", type=int, help="digits, talking_digits: training utterances")
    parser.add_argument("--num_dev", type=int, help="the same: development utterances")
    parser.add_argument("--num_test", type=int, help="the same: test utterances")
    parser.add_argument("--seed", type=int, default=0, help="of a synthesised corpus")
    parser.add_argument("--mini", type=str2bool, default=False, help="librispeech: mini_librispeech (5 h) instead")
    parser.add_argument("--train_parts", help='such as "train-clean-100 train-clean-360"; lrs3: "trainval"')
    parser.add_argument("--mouth_size", type=int,
                        help="pixels of a mouth region's side (else 56, 96 of lrs3, none of grid)")  # fmt: skip
    parser.add_argument("--lists_dir", type=_path, help="grid: folder of test_s1.txt and dev_s1.txt")
    parser.add_argument("--kaldi_dir", type=_path, help="own_data: folder of Kaldi folders train, dev, test")
    parser.add_argument("--manifest_dir", type=_path, help="own_data: folder of Lhotse folders train, dev, test")
    parser.add_argument("--num_jobs", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--force", type=str2bool, default=False, help="run although nothing has changed")
    return parser.parse_args()


def _check(args: argparse.Namespace) -> None:
    for option, corpora in _READ_BY.items():
        if getattr(args, option) not in (None, "", False) and args.corpus not in corpora:
            raise LrsmsError(f"--{option} is for {', '.join(corpora)}; --corpus {args.corpus} does not read it")
    for option in ("num_train", "num_dev", "num_test", "mouth_size", "num_jobs"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise LrsmsError(f"--{option} {value}: must be at least 1")


def _prepare_digits(args: argparse.Namespace) -> None:
    if args.corpus == "digits":
        from lrsms.data.digits import prepare_digits as prepare
    else:
        from lrsms.data.talking_digits import prepare_talking_digits as prepare

    given = {"num_train": args.num_train, "num_dev": args.num_dev, "num_test": args.num_test, "size": args.mouth_size}
    sizes = {name: value for name, value in given.items() if value is not None}
    prepare(args.output_dir, **sizes, seed=args.seed, num_jobs=args.num_jobs)


def _prepare(args: argparse.Namespace) -> None:
    download_dir = args.download_dir or args.output_dir.parent / "downloads"
    if args.corpus in ("digits", "talking_digits"):
        _prepare_digits(args)
    elif args.corpus == "yesno":
        from lrsms.data.yesno import prepare_yesno

        prepare_yesno(args.corpus_dir, args.output_dir, download_dir=download_dir)
    elif args.corpus == "speechocean762":
        from lrsms.data.speechocean762 import prepare_speechocean762

        prepare_speechocean762(args.corpus_dir, args.output_dir, num_jobs=args.num_jobs)
    elif args.corpus == "librispeech":
        from lrsms.data.librispeech import prepare_librispeech

        prepare_librispeech(
            args.corpus_dir, args.output_dir, mini=args.mini, train_parts=(args.train_parts or "").split(),
            download_dir=download_dir, num_jobs=args.num_jobs,
        )  # fmt: skip
    elif args.corpus == "grid":
        from lrsms.data.grid import prepare_grid

        prepare_grid(args.corpus_dir, args.output_dir, num_jobs=args.num_jobs, lists_dir=args.lists_dir,
                     mouth_size=args.mouth_size)  # fmt: skip
    elif args.corpus == "lrs3":
        from lrsms.data.lrs3 import prepare_lrs3

        prepare_lrs3(args.corpus_dir, args.output_dir, train_parts=(args.train_parts or "").split(),
                     mouth_size=args.mouth_size or 96, num_jobs=args.num_jobs)  # fmt: skip
    else:
        from lrsms.data.own_data import prepare_own_data

        prepare_own_data(args.output_dir, kaldi_dir=args.kaldi_dir, manifest_dir=args.manifest_dir,
                         num_jobs=args.num_jobs)  # fmt: skip


def main() -> None:
    args = _parse()
    _check(args)

    def inputs() -> list[Path]:
        # Outputs count as inputs, so that a manifest deleted or edited by hand is made again.
        patterns = ("*/recordings.jsonl.gz", "*/supervisions.jsonl.gz", "*/mouths.jsonl.gz")
        manifests = [path for pattern in patterns for path in args.output_dir.glob(pattern)]
        return [path for path in (args.corpus_dir, args.kaldi_dir, args.manifest_dir) if path] + manifests

    arguments = {key: value for key, value in vars(args).items() if key not in ("num_jobs", "force", "output_dir")}
    mark = args.output_dir / ".stamps" / "prepare.json"
    if not args.force and stamp.is_current(mark, arguments, inputs()):
        print(f"prepare: {args.output_dir} is up to date, skipped (--force true runs it again)")
        return
    _prepare(args)
    stamp.write(mark, arguments, inputs())


if __name__ == "__main__":
    run_verb(main)
