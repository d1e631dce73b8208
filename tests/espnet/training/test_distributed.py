"""Two CPU processes train one model over gloo."""

import json

from lrsms.espnet.checkpoints.checkpoint import read_checkpoint

SCRIPT = '''
"""Train on two processes; each writes, after each epoch, a hash of its weights and the ids it has seen."""
import hashlib
import json
import os
import sys
from pathlib import Path

from lrsms.espnet.training import run
from lrsms.espnet.training.trainer import LowRankTrainer

OUT = Path(sys.argv[1])
cpu_process = run._cpu_process
train_one_epoch = LowRankTrainer.train_one_epoch.__func__


def watched(cls, *, model, iterator, reporter, **kwargs):
    seen = []

    def batches():
        for ids, batch in iterator:
            seen.append(list(ids))
            yield ids, batch

    result = train_one_epoch(cls, model=model, iterator=batches(), reporter=reporter, **kwargs)
    digest = hashlib.sha256()
    for name, value in sorted(model.module.named_parameters()):
        digest.update(value.detach().numpy().tobytes())
    found = {"weights": digest.hexdigest(), "batches": seen}
    path = OUT / f"epoch{reporter.get_epoch()}.rank{os.environ['RANK']}.json"
    path.write_text(json.dumps(found))
    return result


def process(*arguments):
    LowRankTrainer.train_one_epoch = classmethod(watched)
    cpu_process(*arguments)


if __name__ == "__main__":
    run._cpu_process = process
    data = Path(sys.argv[3])
    run.Training(
        config=Path(sys.argv[2]),
        output_dir=OUT / "exp",
        train_cuts=data / "train/cuts.jsonl.gz",
        valid_cuts=data / "dev/cuts.jsonl.gz",
        lang_dir=data / "lang_char",
        token_type="char",
        num_processes=2,
    ).run()
'''


def test_both_processes_hold_the_same_weights_and_share_the_data(run_python, write_config, corpus, tmp_path):
    (tmp_path / "two.py").write_text(SCRIPT)
    config = write_config(tmp_path / "train.yaml", max_epoch=2, max_duration=8.0)
    result = run_python("two.py", tmp_path, config, corpus, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    previous = None
    for epoch in (1, 2):
        first, second = (json.loads((tmp_path / f"epoch{epoch}.rank{rank}.json").read_text()) for rank in (0, 1))
        assert first["weights"] == second["weights"] != previous
        previous = first["weights"]
        assert len(first["batches"]) == len(second["batches"]) > 1
        shares = [{name for batch in share["batches"] for name in batch} for share in (first, second)]
        assert not shares[0] & shares[1]
        seen = {name.partition("_dup")[0] for share in shares for name in share}
        assert len(seen) == 20 and "short-train" not in seen
    folder = tmp_path / "exp"
    stats = read_checkpoint(folder / "checkpoint.pth")["reporter"]["stats"]
    assert stats[2]["train"]["loss"] < stats[1]["train"]["loss"]
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 2
    assert (folder / "valid.acc.ave.pth").exists()
