"""`python -m speechrl.prepare <data set> <source> <output>`: a data set's own layout as this project's manifests."""

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from speechrl.data import formats, formats_aqa, formats_deepfake, manifest

SHOWN = 20
"""Faults that are printed; the list beside the manifests holds all."""

_OPTIONS: dict[str, dict[str, Any]] = {
    "log": {"type": Path, "help": "the published DeepVoice_seg_log.txt, for the paper's own cuts"},
    "audio": {"type": Path, "help": "folder of the clips (default: anywhere below the questions)"},
    "valid": {"type": float, "default": 0.025, "help": "share of the videos held out for validation (%(default)s)"},
    "seed": {"type": int, "default": 0, "help": "seed of random cuts and of the held-out part (%(default)s)"},
}


@dataclass(frozen=True)
class _DataSet:
    """A subcommand: the reader of a layout, what the user has, and the options the reader takes."""

    read: Callable[..., formats.Prepared]
    has: str
    options: tuple[str, ...] = ()


DATA_SETS = {
    "asvspoof2019-la": _DataSet(
        formats_deepfake.asvspoof2019_la, "LA.zip unpacked; its dev part is the validation set"
    ),
    "add2023": _DataSet(formats_deepfake.add2023, "ADD2023 Track 1.2 testR2: label.txt and wav/"),
    "fake-or-real": _DataSet(formats_deepfake.fake_or_real, "for-original/testing/{real,fake}"),
    "deep-voice": _DataSet(
        formats_deepfake.deep_voice, "DEEP-VOICE's AUDIO/{REAL,FAKE}; cut on the way", ("log", "seed")
    ),
    "in-the-wild": _DataSet(formats_deepfake.in_the_wild, "release_in_the_wild: meta.csv and the wavs"),
    "deepfake-eval-2024": _DataSet(
        formats_deepfake.deepfake_eval_2024,
        "audio-metadata-publish.csv and audio-data/; cut on the way (m4a and mp4 need ffmpeg)",
        ("seed",),
    ),
    "avqa": _DataSet(
        formats_aqa.avqa, "train_qa.json (or R1-AQA's train_qa.data) and its clips as audio", ("audio", "valid", "seed")
    ),
    "mmau": _DataSet(formats_aqa.mmau, "mmau-test-mini.json and the folder test-mini-audios", ("audio",)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status is 0, or 1 after one sentence that says what is wrong with the input."""
    given = vars(_parser().parse_args(arguments))
    console = Console()
    chosen, source, output = DATA_SETS[given.pop("data_set")], given.pop("source"), given.pop("output")
    root = given.pop("root")
    try:
        prepare(chosen.read, source, output, root=root, console=console, **given)
    except (ValueError, OSError) as error:
        print(f"speechrl.prepare: {error}", file=sys.stderr)
        return 1
    return 0


def prepare(
    read: Callable[..., formats.Prepared],
    source: Path,
    output: Path,
    *,
    root: Path | None = None,
    console: Console | None = None,
    **options: object,
) -> list[Path]:
    """Reads a layout, writes its manifests and what it lacks into `output`, prints counts; the manifests' paths.

    `root` is the folder that $ROOT stands for in the manifests; by default the innermost one that holds the folder
    `source` is in, `output` and all recordings. Raises ValueError where the layout is not the expected one or nothing
    is left.
    """
    source, output = Path(os.path.abspath(source)), Path(os.path.abspath(output))
    if not source.exists():
        raise ValueError(f"{source}: there is no such file or folder; give where the data set was unpacked")
    prepared = read(source, output, **options)
    faults = output / f"{read.__name__}_missing.csv"
    output.mkdir(parents=True, exist_ok=True)
    formats.write_faults(faults, prepared.faults)
    console = console or Console()
    show(prepared, faults, console)
    empty = [name for name, rows in prepared.manifests.items() if not rows]
    if empty:
        why = f"{faults} says why" if prepared.faults else "it lists no recording"
        raise ValueError(f"{source}: nothing is left for {', '.join(empty)}; {why}")
    root = _root(root, {source.parent, output}, prepared)
    for name, rows in prepared.manifests.items():
        manifest.write(output / name, rows, root=root)
    written = [output / name for name in prepared.manifests]
    said = f"Wrote {', '.join(map(str, written))}.\n$ROOT in them is {root}: give that folder as the data root."
    console.print(said, soft_wrap=True, markup=False, highlight=False)
    return written


def show(prepared: formats.Prepared, list_of_faults: Path, console: Console) -> None:
    """Prints the counts beside the published ones, what is missing, and the notes."""
    table = Table("", "here", "published", "missing", "note", title="Counts (-: no published number)")
    for count in prepared.counts:
        published = "-" if count.published is None else f"{count.published:,}"
        missing = "" if count.published is None else f"{count.published - count.here:,}"
        style = "yellow" if missing not in ("", "0") else None
        table.add_row(count.what, f"{count.here:,}", published, missing, count.note, style=style)
    console.print(table)
    for note in prepared.notes:
        console.print(f"Note: {note}", soft_wrap=True, markup=False, highlight=False)
    if prepared.faults:
        said = f"{len(prepared.faults)} not used, all listed in {list_of_faults}:"
        console.print(said, soft_wrap=True, markup=False, highlight=False)
    for fault in prepared.faults[:SHOWN]:
        console.print(f"  {fault.what}: {fault.why}", soft_wrap=True, markup=False, highlight=False)
    if len(prepared.faults) > SHOWN:
        console.print(f"  ... and {len(prepared.faults) - SHOWN} more")


def _root(given: Path | None, folders: set[Path], prepared: formats.Prepared) -> Path:
    """The folder of `$ROOT`; ValueError where a given one does not hold every recording."""
    paths = [row["Path"] for rows in prepared.manifests.values() for row in rows]
    if given is None:
        return Path(os.path.commonpath(folders | {path.parent for path in paths}))
    root = Path(os.path.abspath(given))
    outside = next((path for path in paths if not path.is_relative_to(root)), None)
    if outside is not None:
        raise ValueError(f"{outside}: not below --root {root}; give a folder that holds all recordings")
    return root


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m speechrl.prepare",
        description="Turns a data set's own layout into manifests (CSV) that tasks read. Prints counts beside the "
        "published ones; what is missing or cannot be read is listed, never silently dropped.",
    )
    commands = parser.add_subparsers(dest="data_set", required=True, metavar="data set")
    for name, data_set in DATA_SETS.items():
        command = commands.add_parser(
            name,
            help=data_set.has,
            description=inspect.getdoc(data_set.read),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("source", type=Path, help=f"where the data set is: {data_set.has}")
        command.add_argument("output", type=Path, help="folder for the manifests, and for clips that are cut")
        command.add_argument("--root", type=Path, help="folder that $ROOT stands for (default: holds both of them)")
        for option in data_set.options:
            command.add_argument(f"--{option}", **_OPTIONS[option])
    return parser


if __name__ == "__main__":
    sys.exit(main())
