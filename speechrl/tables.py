"""A paper's table beside ours: results.md, .csv and .tex of a folder of experiments/, from the runs there are."""

import argparse
import csv
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console
from rich.table import Table

from speechrl import runs
from speechrl.markdown import markdown, number, ours, summary_columns, with_seeds
from speechrl.results import Results

if TYPE_CHECKING:
    from speechrl.sweep import Sweep


HEADER = (
    *("table", "row", "label", "metric", "scale", "published", "source"),
    *("ours", "std", "seeds", "items", "ci_low", "ci_high", "difference"),
)
"""The columns of results.csv."""


def comma_separated(results: Results) -> str:
    """results.csv: one line for each cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for row in results.rows:
        for column in results.columns:
            cell = results.cell(row["name"], column)
            bounds = cell.interval or (None, None)
            difference = cell.difference if results.scale == "paper" else None
            numbers = [cell.mean, cell.std, len(cell.values), cell.items, *bounds, difference]
            shown = ["" if v is None else f"{v:.6g}" for v in numbers]
            known = ["" if cell.published is None else f"{cell.published:g}", cell.source or ""]
            label = results.label(row["name"])
            writer.writerow(
                [results.described["table"], row["name"], label, column.metric, results.scale, *known, *shown]
            )
    return text.getvalue()


def latex(results: Results) -> str:
    """results.tex: the first table, for booktabs."""
    columns = summary_columns(results)
    heads = " & ".join(rf"\multicolumn{{2}}{{c}}{{{_escaped(column.label)}}}" for column in columns)
    lines = [
        rf"% {results.described['paper']}; {results.scale} scale",
        rf"\begin{{tabular}}{{l{'rr' * len(columns)}}}",
        r"\toprule",
        rf" & {heads} \\",
        " & " + " & ".join(["paper & ours"] * len(columns)) + r" \\",
        r"\midrule",
    ]
    for row in results.rows:
        cells = []
        for column in columns:
            cell = results.cell(row["name"], column)
            cells += [number(cell.published, column.digits), ours(cell, column)]
        lines.append(" & ".join(map(_escaped, [results.label(row["name"]), *cells])) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


_LATEX = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "−": "$-$", "±": r"$\pm$", "→": r"$\rightarrow$", "β": r"$\beta$", "–": "--", "\\": r"\textbackslash{}",
}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def printed(results: Results) -> Table:
    """The first table for a terminal."""
    table = Table(title=f"{results.described['title']} ({results.scale} scale)")
    table.add_column("row")
    columns = summary_columns(results)
    for column in columns:
        table.add_column(f"{column.label}\npublished", justify="right", style="dim")
        table.add_column("\nours", justify="right")
    for row in results.rows:
        cells = [results.cell(row["name"], column) for column in columns]
        shown = [(number(c.published, k.digits), with_seeds(c, k)) for c, k in zip(cells, columns, strict=True)]
        table.add_row(results.label(row["name"]), *[text for pair in shown for text in pair])
    return table


FILES: dict[str, Callable[[Results], str]] = {
    "results.md": markdown,
    "results.csv": comma_separated,
    "results.tex": latex,
}


def write(sweep: "Sweep", console: Console) -> None:
    """Writes the table and the figures of a sweep from all of its finished runs, and prints the table."""
    from speechrl import figures

    results = gathered(sweep)
    for name, text in FILES.items():
        runs.write_text(sweep.table / name, text(results))
    drawn = figures.draw(results, sweep.table / "figures")
    console.print(printed(results))
    console.print(f"{sweep.table / 'results.md'}, .csv, .tex and {len(drawn)} figures")


def gathered(sweep: "Sweep") -> Results:
    """The results of every finished run of a sweep: of all rows and all seeds there are, not only those asked for."""
    cells = sweep.cells()
    root = cells[0].folder.parent.parent
    there = {int(path.parent.name[len("seed=") :].split("-")[0]) for path in root.glob(f"*/seed=*/{runs.DONE}")}
    whole = replace(sweep, seeds=max([sweep.seeds, *(seed + 1 for seed in there)]), quick=False)
    if (whole.seeds, whole.quick) != (sweep.seeds, sweep.quick):
        cells = whole.cells()
    done = [cell for cell in cells if runs.finished(cell.folder)]
    path = sweep.table / "published.yaml"
    published = yaml.safe_load(path.read_text()) if path.is_file() else {}
    folders = {cell.row: [other.folder for other in done if other.row == cell.row] for cell in done}
    return Results(sweep.described, published, folders)


def main() -> int:
    """Writes the table of a folder of experiments/ and prints it."""
    from speechrl.sweep import Sweep

    parser = argparse.ArgumentParser(prog="python -m speechrl.tables", description=__doc__)
    parser.add_argument("table", type=Path, help="a folder of experiments/, such as experiments/deepfake_table1")
    parser.add_argument("overrides", nargs="*", help="the Hydra overrides of its runs, such as scale=paper")
    given = parser.parse_args()
    try:
        write(Sweep(given.table, given.overrides), Console())
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
