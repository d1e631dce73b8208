#!/usr/bin/env bash
# matplotlib 3.11.2, backend Agg: plt.savefig(path) draws the whole figure twice, Figure.savefig(path) once.
#
# pyplot.savefig ends with fig.canvas.draw_idle(), "need this if 'transparent=True', to reset colors"; without an event
# loop FigureCanvasBase.draw_idle draws at once, and what it draws is thrown away. Who saves many figures through
# pyplot, as ESPnet's Reporter.matplotlib_plot does (espnet2/train/reporter.py: a figure for every statistic, all of
# them anew after every epoch), pays double: there the curves took three quarters of the time of a small training.
# Source: lib/matplotlib/pyplot.py (savefig) and lib/matplotlib/backend_bases.py (draw_idle).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"
"${folder}/venv/bin/python" -m pip install --quiet --disable-pip-version-check "matplotlib==3.11.2"
cd "${folder}"
MPLBACKEND=Agg MPLCONFIGDIR=${folder} "${folder}/venv/bin/python" - <<'PYTHON'
import sys

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D


class Counted(Line2D):
    times = 0

    def draw(self, renderer):
        Counted.times += 1
        super().draw(renderer)


def draws(save):
    """How often a line is drawn while its figure is saved."""
    figure, axes = plt.subplots()
    axes.add_line(Counted([0, 1], [0, 1]))
    Counted.times = 0
    save(figure)
    plt.close(figure)
    return Counted.times


found = draws(lambda figure: plt.savefig("a.png")), draws(lambda figure: figure.savefig("b.png"))
print("pyplot.savefig: %d draws, Figure.savefig: %d" % found)
print("the files are", "equal" if open("a.png", "rb").read() == open("b.png", "rb").read() else "different")
sys.exit(found != (2, 1))
PYTHON

# Output seen:
# pyplot.savefig: 2 draws, Figure.savefig: 1
# the files are equal
