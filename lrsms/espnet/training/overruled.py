"""Options of a training YAML that stage 3 does not follow, said once before a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from lrsms.errors import LrsmsError
from lrsms.training_yaml import locate

# Option of ESPnet's -> the option of `lrsms train` that decides it.
_DECIDED = {
    "seed": "--seed decides",
    "ngpu": "--ngpu decides",
    "output_dir": "--output_dir decides",
    "token_list": "the tokenizer of stage 2 decides (--token_type)",
    "token_type": "--token_type decides",
    "bpemodel": "the tokenizer of stage 2 decides (--token_type)",
    "train_cuts": "--data_dir and --train_split decide",
    "valid_cuts": "--data_dir and --valid_split decide",
    "resume": "a training goes on from its last checkpoint",
    "use_preprocessor": "transcripts are always made tokens",
    "multiprocessing_distributed": "--ngpu and --num_processes decide",
    "dist_backend": "--ngpu decides",
}
_BATCHES = "batches are of cuts, by max_duration and num_buckets"
# Of ESPnet's own data: batches of dumped features or wav.scp.
_UNUSED = dict.fromkeys(
    "iterator_type batch_type batch_size batch_bins min_batch_size max_batch_size fold_length sort_in_batch sort_batch "
    "valid_iterator_type valid_batch_type valid_batch_size valid_batch_bins shuffle_within_batch drop_last_iter "
    "train_shape_file valid_shape_file train_data_path_and_name_and_type valid_data_path_and_name_and_type "
    "multiple_iterator chunk_length chunk_shift_ratio num_cache_chunks max_cache_size max_cache_fd "
    "valid_max_cache_size allow_variable_data_keys multi_task_dataset".split(),
    _BATCHES,
)
_ELSEWHERE = ("dry_run", "no_forward_run", "collect_stats", "write_collected_feats")  # ESPnet runs that train nothing


def notes(path: Path, config: Mapping, given: Mapping) -> Iterator[str]:
    """A sentence for each option of a training YAML that has no effect.

    Args:
        path: the YAML file.
        config: its content.
        given: options that the command gives; one that says the same needs no word.

    Raises:
        LrsmsError: an option under which ESPnet would train nothing.
    """
    for key in _ELSEWHERE:
        if config.get(key):
            raise LrsmsError(f"{locate(path, key)}: {key}: {config[key]!r}: nothing would be trained; leave it out")
    for key, why in {**_DECIDED, **_UNUSED}.items():
        if key in config and config[key] != given.get(key, _DEFAULTS.get(key)):
            shown = f", {given[key]}" if key in given else ""
            yield f"{locate(path, key)}: {key}: {config[key]!r} has no effect: {why}{shown}"


_DEFAULTS = {"resume": True, "use_preprocessor": True, "iterator_type": "task"}
