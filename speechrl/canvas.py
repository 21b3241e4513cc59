"""What all pictures have in common: size, colours of the regimes, panels, legend, and how they are written."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
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


def styled() -> AbstractContextManager[None]:
    """The settings of every picture, which is drawn into memory."""
    import matplotlib

    matplotlib.use("Agg")
    return matplotlib.rc_context(
        {
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
    )


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
        names = list(reversed(first.values()))
    labels = {row["name"]: row["label"] for row in results.rows}
    return {name: labels.get(name, name) for name in names if name in results.runs}


def legend(figure: "Figure", entries: Mapping[str, str]) -> None:
    """Labels and their colours, below all panels."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linewidth=2.5, label=label) for label, colour in entries.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))


def annotate(axis: "Axes", labels: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Writes each label beside its point, on the first side where it covers no other point or label."""
    from matplotlib.transforms import Bbox

    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    points = axis.transData.transform([point for _, point in labels])
    taken = [Bbox.from_extents(*(point - 8), *(point + 8)) for point in points]
    for text, point in labels:
        note = axis.annotate(
            text, point, (0, 0), textcoords="offset points", fontsize=7, color="#303030", in_layout=False
        )
        choices: list[tuple[int, int, str, Bbox]] = []
        for side, offset in _SIDES.items():
            note.set(position=offset, ha=side.split()[1], va=side.split()[0])
            box = note.get_window_extent()
            inside = axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1
            choices.append((sum(box.overlaps(other) for other in taken) + 10 * (not inside), len(choices), side, box))
        _, _, side, box = min(choices, key=lambda choice: choice[:2])
        note.set(position=_SIDES[side], ha=side.split()[1], va=side.split()[0])
        taken.append(box)


_SIDES = {
    "center left": (7, 0),
    "center right": (-7, 0),
    "bottom center": (0, 7),
    "top center": (0, -7),
    "bottom left": (5, 5),
    "top left": (5, -5),
    "bottom right": (-5, 5),
    "top right": (-5, -5),
}
"""Where a label may stand: its own vertical and horizontal anchor, and the offset from the point."""
