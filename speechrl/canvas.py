"""What all pictures have in common: size, colours of the regimes, panels, legend, and how they are written."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from speechrl.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2
COLOURS = {"none": "#6e6e6e", "sft": "#d55e00", "grpo": "#0072b2", "hybrid": "#009e73", "ablation": "#cc79a7"}
"""One colour for each scheme in every picture (Okabe and Ito's, which the colour-blind tell apart)."""
_OTHER = ("#e69f00", "#56b4e9", "#000000")


def style() -> dict[str, object]:
    """The settings of every picture."""
    return {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e4e4e4",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }


def save(figure: "Figure", path: Path) -> None:
    """Writes a picture whole or not at all, and lets go of it."""
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None})
    temporary.replace(path)
    plt.close(figure)


def panels(count: int, columns: int, height: float) -> "tuple[Figure, list[Axes]]":
    """So many panels in rows; the places left over are empty."""
    import matplotlib.pyplot as plt

    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height * rows), squeeze=False)
    for spare in axes.flat[count:]:
        spare.axis("off")
    return figure, list(axes.flat[:count])


def colours(results: Results) -> dict[str, str]:
    """Each row's colour: its scheme's."""
    schemes = dict.fromkeys(row.get("scheme", row["name"]) for row in results.rows)
    spare = iter(_OTHER * len(schemes))
    found = {scheme: COLOURS.get(scheme) or next(spare) for scheme in schemes}
    return {row["name"]: found[row.get("scheme", row["name"])] for row in results.rows}


def shown(results: Results) -> dict[str, str]:
    """The rows that stand for the regimes, with their short labels: the sweep's `shown`, else one for each scheme."""
    names = results.described.get("shown")
    if names is None:
        first = {row.get("scheme", row["name"]): row["name"] for row in reversed(results.rows)}
        names = [name for name in reversed(first.values())]
    labels = {row["name"]: row["label"] for row in results.rows}
    return {name: labels.get(name, name) for name in names if name in results.runs}


def legend(figure: "Figure", entries: Mapping[str, str]) -> None:
    """Labels and their colours, below all panels."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linewidth=2.5, label=label) for label, colour in entries.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
