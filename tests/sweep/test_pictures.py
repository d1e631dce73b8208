"""Which pictures are drawn, and that what they show lies within them."""

import itertools
from dataclasses import astuple

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from lrsms.sweep import pictures
from lrsms.sweep.intervals import mean_interval


def row(name: str, parameters: int, wer: list[float], **values) -> dict:
    wer_mean = astuple(mean_interval(wer))
    return {"arm": name, "split": "test", "parameters": parameters, "wer": wer, "wer_mean": wer_mean, "values": values}


def curve(acc: float) -> dict:
    return {"epoch": [1, 2, 3], "loss": [60.0, 8.0, None], "acc": [0.1, acc - 0.1, acc]}


GRID = [row("dense", 1_800_000, [2.0, 2.5, 2.2])] + [
    row(f"attention={a},ff={f}", int(4e5 + 1e6 * (a + f)), [5 - 4 * a - 2 * f, 6 - 5 * a, 5.5 - f], attention=a, ff=f)
    for a in (0.5, 0.25, 0.12, 0.06)
    for f in (0.5, 0.25, 0.12)
]
SIZES = [row("dense", 1_800_000, [2.0, 2.5]), row("small", 500_000, [4.0]), row("tiny", 450_000, [6.0, 7.0])]
MAPS = [row(name, 700_000, [4.0 + i, 4.5 + i]) for i, name in enumerate(("svd", "xavier", "kaiming"))]


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """``draw(rows)``: the names of the pictures, and the figures behind them by name."""

    def run(rows: list[dict], curves: dict | None = None, **more):
        figures = {}

        def keep(figure, path):
            figure.canvas.draw()
            figures[path.stem.removeprefix("x_")] = figure
            save(figure, path)

        save = pictures.save
        with monkeypatch.context() as patch:
            patch.setattr(pictures, "save", keep)
            if curves is None:
                curves = {row["arm"]: [curve(0.9 - i / 50)] * 2 for i, row in enumerate(rows)}
            content = {"title": "A sweep", "reference": rows[0]["arm"], "arms": rows, **more}
            return pictures.draw(content, curves, tmp_path, "x"), figures

    return run


def boxes(figure) -> list:
    """Of every text that is shown, in pixels."""
    texts = [figure._suptitle, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
            texts += [label for place, label in ticks if low <= place <= high]
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text and text.get_text()]


def drawn_colors(figure) -> set:
    return {line.get_color() for axis in figure.axes for line in axis.lines} - {"0.5", "0.15"}


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [(SIZES, ["parameters", "curves"]), (MAPS, ["arms", "curves"]), (GRID, ["parameters", "values", "curves"])],
)
def test_a_sweep_has_the_pictures_that_say_something(draw, tmp_path, rows, kinds):
    drawn, _ = draw(rows)
    assert list(drawn) == [f"x_{kind}.png" for kind in kinds]
    assert {path.name for path in tmp_path.iterdir()} == set(drawn)
    for name in drawn:
        picture = imread(tmp_path / name)
        assert picture.shape[1] == 1000 and picture[..., :3].std() > 0.05


def test_no_picture_of_an_earlier_state_is_left(draw, tmp_path):
    draw(GRID)
    (tmp_path / "y_values.png").touch()  # another sweep's
    drawn, _ = draw(MAPS, curves={})
    assert {path.name for path in tmp_path.iterdir()} == {"x_arms.png", "y_values.png"} == {*drawn, "y_values.png"}


@pytest.mark.parametrize("rows", [SIZES, MAPS, GRID])
def test_no_text_is_cut_or_lies_on_another(draw, rows):
    _, figures = draw(rows)
    for name, figure in figures.items():
        width, height = figure.canvas.get_width_height()
        shown = boxes(figure)
        for index, (text, box) in enumerate(shown):
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, (name, text)
            for other, another in shown[:index]:
                assert not box.shrunk(0.9, 0.9).overlaps(another), (name, text, other)


def test_every_arm_has_a_look_of_its_own_and_the_reference_is_marked(draw):
    looks = pictures._looks([row["arm"] for row in GRID], "dense")
    assert len(set(looks.values())) == len({color for color, _ in looks.values()}) == 13
    _, figures = draw(GRID)
    for figure in figures.values():
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert "dense (reference)" in labels
    assert len(drawn_colors(figures["parameters"])) == len(drawn_colors(figures["curves"])) == 12
    _, figures = draw(MAPS)
    assert [tick.get_text() for tick in figures["arms"].axes[0].get_yticklabels()] == [
        *("svd (reference)", "xavier", "kaiming")
    ]


@pytest.mark.parametrize("rows", [SIZES, MAPS, GRID])
def test_every_seed_is_a_dot_within_the_axes(draw, rows):
    _, figures = draw(rows)
    name = "arms" if rows is MAPS else "parameters"
    axis = figures[name].axes[0]
    along = 0 if name == "arms" else 1
    dots = [line.get_data()[along] for line in axis.lines if line.get_linestyle() == "None" and line.get_alpha() == 0.6]
    assert [list(dot) for dot in dots] == [row["wer"] for row in rows]
    low, high = axis.get_xlim() if along == 0 else axis.get_ylim()
    assert low == 0 and all(value < high for dot in dots for value in dot)


def test_arms_of_one_size_stand_beside_each_other(draw):
    _, figures = draw([*SIZES, row("twin", 500_000, [5.0]), row("third", 500_100, [5.0])])
    axis = figures["parameters"].axes[0]
    places = sorted(line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "None" and line.get_alpha())
    assert all(b - a > 0.01 for a, b in itertools.pairwise(places))
    assert sum(places) == pytest.approx(1.8 + 0.5 + 0.45 + 0.5 + 0.5001)  # those that are moved, about where they are
    assert axis.get_xlabel() == "parameters, million; arms of about one size stand beside each other"
    assert draw(SIZES)[1]["parameters"].axes[0].get_xlabel() == "parameters, million"


def test_only_what_would_hide_another_is_moved():
    assert pictures._beside_each_other([1.0, 3.0, 2.0], 0.5) == [1.0, 3.0, 2.0]
    assert pictures._beside_each_other([5.0, 1.0, 1.0, 1.1], 0.5) == pytest.approx([5.0, 8 / 15, 31 / 30, 46 / 30])
    assert pictures._beside_each_other([1.0, 1.0, 1.6], 0.5) == pytest.approx([0.7, 1.2, 1.7])


def test_values_are_in_order_and_the_other_keys_are_lines(draw):
    _, figures = draw(GRID)
    axis = figures["values"].axes[0]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0.06", "0.12", "0.25", "0.5"]
    assert axis.get_xlabel() == "attention"
    labels = [text.get_text() for text in figures["values"].legends[0].get_texts()]
    assert labels == ["ff 0.5", "ff 0.25", "ff 0.12", "dense (reference)"]
    means = next(line for line in axis.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 4).get_ydata()
    assert list(means) == pytest.approx([r["wer_mean"][0] for r in reversed(GRID) if r["values"].get("ff") == 0.5])


@pytest.mark.parametrize("values", [["svd", "xavier"], [[1, 2], [2, 2]], [True, False]])
def test_values_that_are_no_numbers_keep_the_order_of_the_file(draw, values):
    _, figures = draw([row(f"a{i}", 1000, [5.0], init=value) for i, value in enumerate(values)])
    assert [tick.get_text() for tick in figures["values"].axes[0].get_xticklabels()] == list(map(str, values))


def test_curves_are_means_over_seeds_as_far_as_all_have_come(draw):
    short = {"epoch": [1], "loss": [50.0], "acc": [0.3]}
    _, figures = draw(SIZES, {"dense": [curve(0.9), curve(0.7)], "small": [curve(0.8), short]})
    loss, accuracy = figures["curves"].axes
    dense, small = accuracy.lines
    assert list(dense.get_ydata()) == pytest.approx([10.0, 70.0, 80.0]) and list(dense.get_xdata()) == [1, 2, 3]
    assert list(small.get_ydata()) == pytest.approx([20.0])
    assert list(loss.lines[0].get_ydata()) == [60.0, 8.0] and loss.get_yscale() == "log"  # a lost value is left out
    assert accuracy.get_ylim()[0] > 10  # the first epochs would squeeze the others


def test_without_a_decoder_the_error_of_ctc_stands_where_accuracy_would(draw):
    errors = {"epoch": [1, 2, 3], "loss": [60.0, 8.0, 7.0], "cer_ctc": [1.0, 0.3, 0.1]}
    _, figures = draw(SIZES, {"dense": [errors | {"acc": [None] * 3}], "small": [errors]})
    loss, error = figures["curves"].axes
    assert list(error.lines[0].get_ydata()) == pytest.approx([100.0, 30.0, 10.0]) and "error" in error.get_ylabel()
    assert error.get_ylim()[1] == pytest.approx(60.0)
    _, figures = draw(SIZES, {"dense": [{"epoch": [1, 2], "loss": [9.0, 8.0]}]})
    assert [axis.get_ylabel() for axis in figures["curves"].axes] == ["dev loss"]  # no empty panel


def test_values_that_tuning_has_chosen_are_no_grid(draw):
    assert "x_values.png" in draw(GRID)[0]
    assert "x_values.png" not in draw(GRID, tuning=[{"arm": "dense", "wer": 1.0, "chosen": True}])[0]
