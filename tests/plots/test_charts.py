"""Charts as PNG files and as text."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from recsys.errors import ConfigError, InvalidInputError
from recsys.plots import Bars, Chart, Dots, Series, SignedBars, print_chart, write_png

CHART = Chart(
    "Memory and quality",
    "bytes",
    "AUC",
    [
        Series("hash", [1e3, 1e4, 1e5], [0.70, 0.72, 0.75], error=[0.01, 0.0, 0.01]),
        Series("unified", [2e3, 2e4], [0.71, 0.73]),
        Series("front", [1e3, 1e4, 1e5], [0.70, 0.72, 0.75], line=True),
        Series("chosen", [2e4], [0.73], ring=True),
    ],
    log_x=True,
)
BARS = Bars("rows", ["movie", "user"], [1200, 300.5], unit="rows")


def drawn(chart: Chart | Bars | SignedBars, *, width: int = 80, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    print_chart(chart, Console(file=file, width=width, color_system=None))
    return file.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]


def places(lines: list[str], sign: str) -> list[tuple[int, int]]:
    """Column and line of each sign in the picture, left to right; the legend is the last line."""
    return sorted((column, row) for row, line in enumerate(lines[:-1]) for column, c in enumerate(line) if c == sign)


def test_every_panel_is_in_the_picture_side_by_side(tmp_path: Path) -> None:
    write_png([CHART], tmp_path / "one.png")
    write_png([CHART, BARS], tmp_path / "made" / "two.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "made" / "two.png") as two:
        assert (one.format, two.format) == ("PNG", "PNG")
        assert two.size == (2 * one.width, one.height)


def test_a_picture_replaces_the_old_one_whole_and_is_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    path.write_bytes(b"old")
    write_png([CHART], path)
    first = path.read_bytes()
    write_png([CHART], path)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["chart.png"]


def test_a_picture_in_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(ConfigError, match="/proc/nowhere"):
        write_png([CHART], Path("/proc/nowhere/chart.png"))


def test_drawing_on_a_terminal_does_not_import_matplotlib() -> None:
    code = (
        "import sys; from rich.console import Console; from recsys.plots import Bars, print_chart;"
        "print_chart(Bars('t', ['a'], [1.0]), Console()); sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_logarithmic_axis_gives_each_tenfold_the_same_length() -> None:
    columns = [column for column, _ in places(drawn(CHART), "●")]
    assert len(columns) == 3
    assert abs((columns[1] - columns[0]) - (columns[2] - columns[1])) <= 1


def test_higher_values_are_drawn_higher() -> None:
    rows = [row for _, row in places(drawn(CHART), "●")]
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) == 3


def test_an_error_bar_reaches_one_error_above_and_below() -> None:
    chart = Chart("t", "x", "y", [Series("a", [1.0, 2.0], [0.0, 10.0], error=[0.0, 5.0])])
    lines = drawn(chart)
    (_, zero), (column, ten) = places(lines, "●")
    rows = [row for at, row in places(lines, "│") if at == column]
    per_unit = (zero - ten) / 10
    assert min(rows) - ten == pytest.approx(-5 * per_unit, abs=1)
    assert max(rows) - ten == pytest.approx(5 * per_unit, abs=1)


@pytest.mark.parametrize("width", [40, 80, 300])
def test_text_fits_the_terminal_and_100_columns(width: int) -> None:
    for chart in (CHART, BARS):
        assert max(len(line.rstrip()) for line in drawn(chart, width=width)) <= min(width, 100)


def test_every_series_is_in_the_legend_with_its_sign() -> None:
    legend = drawn(CHART)[-1]
    for entry in ("● hash", "■ unified", "─── front", "◎ chosen"):
        assert entry in legend


def test_a_terminal_without_unicode_gets_ascii() -> None:
    for chart in (CHART, BARS):
        text = "\n".join(drawn(chart, encoding="ascii"))
        assert "?" not in text
    assert "o hash" in "\n".join(drawn(CHART, encoding="ascii"))


def test_bars_are_as_long_as_their_values() -> None:
    long, short = (line.count("█") for line in drawn(Bars("t", ["a", "b"], [40.0, 10.0]))[1:])
    assert long == pytest.approx(4 * short, abs=4)


def test_points_that_an_axis_cannot_show_are_left_out(tmp_path: Path) -> None:
    chart = Chart("t", "x", "y", [Series("a", [0.0, 1.0, 10.0, 20.0], [1.0, 1.0, math.nan, 3.0])], log_x=True)
    assert len(places(drawn(chart), "●")) == 2
    write_png([chart], tmp_path / "chart.png")


@pytest.mark.parametrize("chart", [Chart("t", "x", "y", []), Chart("t", "x", "y", [Series("a", [], [])])])
def test_a_chart_of_nothing_says_so(chart: Chart, tmp_path: Path) -> None:
    assert drawn(chart) == ["t", "no points to draw"]
    write_png([chart], tmp_path / "chart.png")


def test_one_point_is_drawn() -> None:
    for log in (False, True):
        assert len(places(drawn(Chart("t", "x", "y", [Series("a", [5.0], [5.0])], log, log)), "●")) == 1


def test_bars_of_nothing_say_so() -> None:
    assert drawn(Bars("t", [], [])) == ["t", "no bars to draw"]


def test_input_that_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"series 'a'.*\[1, 2\]"):
        Series("a", [1.0], [1.0, 2.0])
    with pytest.raises(InvalidInputError, match=r"series 'a'.*\[1, 1, 0\]"):
        Series("a", [1.0], [1.0], error=[])
    with pytest.raises(InvalidInputError, match="bars 't': 1 labels for 2 values"):
        Bars("t", ["a"], [1.0, 2.0])
    with pytest.raises(InvalidInputError, match="at least one"):
        write_png([], tmp_path / "none.png")


def test_dots_have_a_line_per_label_and_leave_out_what_has_no_value(tmp_path: Path) -> None:
    ours = Series("ours", [0.98, math.nan], [0, 1], error=[0.001, 0.0])
    write_png([Dots("AUC", ["AutoInt", "FM"], [ours, Series("published", [0.97, 0.96], [0, 1])])], tmp_path / "d.png")
    with Image.open(tmp_path / "d.png") as picture:
        assert picture.format == "PNG" and picture.width > 400
    with pytest.raises(InvalidInputError, match="dots 'AUC': line 1; allowed: 0 to 0"):
        Dots("AUC", ["AutoInt"], [ours])


SIGNED = SignedBars("why", ["price: 12 €", "history", "nothing", "age"], [-2.0, 4.0, 0.0, 0.001], error=[0, 0.25, 0, 0])


def test_signed_bars_go_to_the_side_of_their_sign_by_their_size() -> None:
    price, history, nothing, age = drawn(SIGNED)[1:]
    assert len({line.index("│") for line in (price, history, nothing, age)}) == 1, "one axis"
    axis = price.index("│")
    assert price[:axis].endswith("█") and price[axis + 1 :].split() == ["-2.0000"]
    assert history[:axis].split() == ["history"] and history.split()[-3:] == ["+4.0000", "±", "0.2500"]
    assert history.count("█") == pytest.approx(2 * price.count("█"), abs=2)
    assert nothing.split() == ["nothing", "│", "+0.0000"] and "│▏" in age


def test_signed_bars_fit_any_terminal_cut_long_labels_and_need_no_unicode(tmp_path: Path) -> None:
    long = SignedBars("why", ["七人の侍 " * 20, "b"], [1.0, -1.0])
    for width in (40, 80, 300):
        for chart in (SIGNED, long):
            lines = drawn(chart, width=width)
            assert max(cell_len(line.rstrip()) for line in lines) <= min(width, 100)
    assert "…" in drawn(long)[1]
    text = "\n".join(drawn(SignedBars("why", ["a" * 90, "é"], [1.0, -1.0], error=[0.5, 0.0]), encoding="ascii"))
    assert text.count("?") == 1 and "|#" in text and "#|" in text and "+/-" in text and "~" in text
    one_sided = SignedBars("why", ["a", "b"], [3.0, 1.0])
    assert all(line.index("│") < 4 for line in drawn(one_sided)[1:])
    assert drawn(SignedBars("why", [], [])) == ["why", "no bars to draw"]
    write_png([SIGNED, long, SignedBars("why", [], [])], tmp_path / "why.png")
    with pytest.raises(InvalidInputError, match=r"bars 'why': \[1, 2\] labels, values, errors; allowed: as many"):
        SignedBars("why", ["a"], [1.0, 2.0])
