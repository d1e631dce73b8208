#!/usr/bin/env bash
# ESPnet 202511: where several averages of checkpoints are asked for (two entries in best_model_criterion, or
# keep_nbest_models: [2, 3]), only the first is one. The others begin with that first average in place of the best
# epoch: it is summed up in the dict that the epoch was read into, and that dict is kept for the next. 202611 copies it.
# Integers, in both versions, are added up and not divided, as the log says: a buffer of indices comes out multiplied by
# the number of epochs, and picks other rows or none.
#
# Source: espnet2/main_funcs/average_nbest_models.py: avg = states, with states out of _loaded. Python 3.12 or 3.13.
#
# Seen (epochs 1, 2, 3 hold the weights 1, 2, 3; accuracy is best in 3 and 2, loss in 3 and 1):
#   202511 two criteria: of accuracy 2.5, of loss 1.75 where the mean is 2.0
#   202511 keep_nbest_models [2, 3]: of two 2.5, of three 1.833 where the mean is 2.0
#   202511 the integers [0, 1, 2] of every epoch became [0, 2, 4]
#   202611 two criteria: of accuracy 2.5, of loss 2.0 where the mean is 2.0
#   202611 keep_nbest_models [2, 3]: of two 2.5, of three 2.0 where the mean is 2.0
#   202611 the integers [0, 1, 2] of every epoch became [0, 2, 4]
#
# Exits with 1 if one of these changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
for version in 202511 202611; do
  "${PYTHON:-python3.13}" -m venv "${folder}/${version}"
  "${folder}/${version}/bin/pip" install --quiet "espnet==${version}" torch==2.11.0 torchaudio==2.11.0
  "${folder}/${version}/bin/python" - "${version}" <<'PYTHON'
import sys
import tempfile
from pathlib import Path

import torch
from espnet2.main_funcs.average_nbest_models import average_nbest_models
from espnet2.train.reporter import Reporter


def averages(criteria, nbest):
    folder, reporter = Path(tempfile.mkdtemp()), Reporter()
    for epoch, (acc, loss) in enumerate([(0.1, 0.2), (0.2, 0.3), (0.3, 0.1)], 1):
        reporter.set_epoch(epoch)
        with reporter.observe("valid") as observed:
            observed.register({"acc": acc, "loss": loss}, 1)
            observed.next()
        torch.save({"w": torch.tensor(float(epoch)), "indices": torch.arange(3)}, folder / f"{epoch}epoch.pth")
    average_nbest_models(folder, reporter, criteria, nbest)
    return {path.name: torch.load(path, weights_only=True) for path in folder.glob("*best.pth") if ".ave_" in path.name}


acc, loss = ["valid", "acc", "max"], ["valid", "loss", "min"]
two = averages([acc, loss], 2)
first, second = (round(float(two[f"valid.{name}.ave_2best.pth"]["w"]), 3) for name in ("acc", "loss"))
print(f"{sys.argv[1]} two criteria: of accuracy {first}, of loss {second} where the mean is 2.0")
several = averages([acc], [2, 3])
of_two, of_three = (round(float(several[f"valid.acc.ave_{n}best.pth"]["w"]), 3) for n in (2, 3))
print(f"{sys.argv[1]} keep_nbest_models [2, 3]: of two {of_two}, of three {of_three} where the mean is 2.0")
indices = two["valid.acc.ave_2best.pth"]["indices"].tolist()
print(f"{sys.argv[1]} the integers [0, 1, 2] of every epoch became {indices}")
expected = {"202511": (2.5, 1.75, 2.5, 1.833), "202611": (2.5, 2.0, 2.5, 2.0)}[sys.argv[1]]
raise SystemExit((first, second, of_two, of_three) != expected or indices != [0, 2, 4])
PYTHON
  rm -rf "${folder:?}/${version}"
done
