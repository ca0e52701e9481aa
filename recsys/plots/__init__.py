"""Pictures of results: PNG files, and the same charts as text for a terminal.

::

    charts.py      charts to draw
    png.py         as PNG files, by matplotlib
    terminal.py    as text
    svg.py         as SVG, for a page
    styles.py      colours and markers
    scales.py      points that axes can show, ticks, labels
"""

from recsys.plots.charts import Bars, Chart, Dots, Heat, Series, SignedBars
from recsys.plots.png import write_png
from recsys.plots.svg import svg_chart
from recsys.plots.terminal import bar_text, encodable, fitted, print_chart

__all__ = [
    "Bars",
    "Chart",
    "Dots",
    "Heat",
    "Series",
    "SignedBars",
    "bar_text",
    "encodable",
    "fitted",
    "print_chart",
    "svg_chart",
    "write_png",
]
