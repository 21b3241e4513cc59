"""The one manifest of the project: a CSV with a row per recording, read, written, and checked before hours are spent.

The header is that of the AntiDeepfake protocols (2603.02914): ID, Label, Duration, SampleRate, Path, Attack, Speaker,
Proportion, ... with `$ROOT` in paths. Tasks answered in words have Prompt, Answer and perhaps Choices (a JSON list) in
place of Label. A user's own file needs a path and a label, or a path, a prompt and an answer; case does not matter.
"""

import csv
import difflib
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from speechrl.data.verified import measure_all, stamp
from speechrl.types import SAMPLE_RATE

PROTOCOL = (
    *("ID", "Label", "Prompt", "Answer", "Choices", "Duration", "SampleRate", "Path", "Attack", "Speaker"),
    *("Proportion", "AudioChannel", "AudioEncoding", "AudioBitSample", "Language"),
)
NAMES = {name.lower(): name for name in PROTOCOL}


@dataclass(frozen=True)
class Item:
    """One recording of a manifest: where it is, what is asked about it and what the right answer is."""

    id: str
    path: Path
    target: str
    prompt: str = ""
    seconds: float = 0.0
    """0 where the manifest does not say; `check` measures it."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Every other column, by its lower-cased name."""
    manifest: Path | None = field(default=None, compare=False, repr=False)
    row: int = field(default=0, compare=False, repr=False)
    """As a spreadsheet counts: the header is row 1."""

    @property
    def where(self) -> str:
        """Where a reader finds it, for messages."""
        return f"{self.manifest} row {self.row}" if self.manifest else f"item {self.id}"


@dataclass(frozen=True)
class Fault:
    """A recording that cannot be used, and why."""

    item: Item
    reason: str

    def __str__(self) -> str:
        return f"{self.item.where}: {self.item.path}: {self.reason}"


def read(
    path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None, labels: Sequence[str] | None = None
) -> list[Item]:
    """The items of a manifest; `root` (default: the CSV's folder) replaces `$ROOT` and is where relative paths start.

    Raises one ValueError with all that is wrong: no such file, no row, a missing column, and by row a label that is
    not among `labels`, a repeated ID, an unreadable Duration or Choices. The recordings themselves are left to `check`.
    """
    path = Path(path)
    header, rows = _table(path)
    columns = _Columns(
        path=_column(path, header, ("path", "audio")),
        target=_column(path, header, ("answer", "label")),
        manifest=path,
        root=os.path.abspath(path.parent if root is None else root),
        labels=labels,
    )
    stems = Counter(_stem(cells[columns.path]) for cells in rows.values())
    items, faults = [], []
    first: dict[str, int] = {}
    for row, cells in rows.items():
        try:
            item = _item(cells, columns, stems, row)
            if first.setdefault(item.id, row) != row:
                raise ValueError(f"the ID {item.id!r} is already that of row {first[item.id]}")
            items.append(item)
        except ValueError as error:
            faults.append(f"{path} row {row}: {error}")
    if faults:
        raise ValueError(f"{path}: repair or remove {len(faults)} of its rows:\n" + "\n".join(faults))
    return items


def write(
    path: str | os.PathLike[str],
    items: Iterable[Item | Mapping[str, Any]],
    *,
    root: str | os.PathLike[str] | None = None,
) -> None:
    """Writes a manifest atomically, from items or from rows by column name; paths under `root` become `$ROOT/...`."""
    path = Path(path)
    folder = os.path.join(os.path.abspath(path.parent if root is None else root), "")
    rows = [_row(item) if isinstance(item, Item) else dict(item) for item in items]
    present = {name for row in rows for name in row}
    others = list(dict.fromkeys(name for row in rows for name in row if name not in NAMES.values()))
    columns = [name for name in PROTOCOL if name in present] + others
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(columns)
            table.writerows([_cell(name, row.get(name, ""), folder) for name in columns] for row in rows)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def check(
    items: Sequence[Item],
    *,
    on_bad_audio: Literal["stop", "skip"] = "stop",
    min_seconds: float = 0.0,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> tuple[list[Item], list[Fault]]:
    """Decodes every recording once; the good items with their true duration, and the faults.

    "stop" raises a ValueError listing every fault, "skip" raises only if nothing is left. Good files are remembered (by
    path, size and time of change) in the folder `cache`, by default beside their manifest: a second call is instant.
    """
    homes = {item.path: Path(cache) if cache else item.manifest and item.manifest.parent for item in items}
    lengths = measure_all(homes, progress=progress)
    good, faults = [], []
    for item in items:
        found = lengths[item.path]
        if isinstance(found, str):
            faults.append(Fault(item, found))
        elif found < min_seconds * SAMPLE_RATE:
            faults.append(Fault(item, f"its {found / SAMPLE_RATE:.3f} s are less than the {min_seconds} s needed"))
        else:
            good.append(replace(item, seconds=found / SAMPLE_RATE))
    if faults and (on_bad_audio == "stop" or not good):
        advice = "repair or remove them" + (", or set on_bad_audio=skip" if good else "")
        lines = "\n".join(map(str, faults))
        raise ValueError(f"{len(faults)} of {len(items)} recordings cannot be used; {advice}:\n{lines}")
    return good, faults


def check_two_classes(
    items: Sequence[Item], name: str | os.PathLike[str] = "the test set", labels: Sequence[str] = ("real", "fake")
) -> None:
    """Raises ValueError unless every label occurs: an error rate of one class alone means nothing."""
    counts = Counter(item.target for item in items)
    missing = [label for label in labels if not counts[label]]
    if missing:
        have = ", ".join(f"{count} {label}" for label, count in sorted(counts.items())) or "nothing"
        raise ValueError(f"{name}: it has {have} but no {' and no '.join(missing)}; add some, or score another set")


def fingerprint(items: Iterable[Item]) -> str:
    """Sixteen hexadecimal digits that change with the IDs, prompts, targets or file sizes, not with order or folder."""
    rows = sorted([item.id, item.prompt, item.target, (stamp(item.path) or [-1])[0]] for item in items)
    return hashlib.blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class _Columns:
    """Which columns hold the path and the target, and what their cells start from."""

    path: str
    target: str
    manifest: Path
    root: str
    labels: Sequence[str] | None


def _table(path: Path) -> tuple[list[str], dict[int, dict[str, str]]]:
    """The lower-cased header, and by row number the cells by column."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such manifest")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text; save it as CSV UTF-8 ({error})") from error
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    header = [name.strip().lower() for name in lines[0]] if lines else []
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise ValueError(f"{path}: the column {repeated[0]!r} occurs twice; rename one")
    rows = {number: cells for number, cells in enumerate(lines[1:], 2) if any(cells)}
    if not rows:
        raise ValueError(f"{path}: no row below the header; a manifest needs at least one recording")
    uneven = next((number for number, cells in rows.items() if len(cells) != len(header)), None)
    if uneven is not None:
        count = len(rows[uneven])
        raise ValueError(f"{path} row {uneven}: {count} cells under {len(header)} columns; quote cells with commas")
    return header, {number: dict(zip(header, cells, strict=True)) for number, cells in rows.items()}


def _column(path: Path, header: Sequence[str], choices: Sequence[str]) -> str:
    found = next((name for name in choices if name in header), None)
    if found is None:
        wanted = " or ".join(name.title() for name in choices)
        raise ValueError(f"{path}: add a column {wanted}; it has {', '.join(header)}")
    return found


def _item(cells: Mapping[str, str], columns: _Columns, stems: Mapping[str, int], row: int) -> Item:
    """One row as an item, whose ID is by default the file's stem. Raises ValueError with what is wrong."""
    written, target = cells[columns.path].strip(), cells[columns.target]
    if not written:
        raise ValueError("the path is empty")
    stem = _stem(written)
    key = cells["id"].strip() if "id" in cells else (stem if stems[stem] == 1 else written)
    if not key:
        raise ValueError("the ID is empty")
    if columns.labels is not None and target not in columns.labels:
        close = difflib.get_close_matches(target.lower(), columns.labels, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"the label {target!r} is not one of {', '.join(columns.labels)}{hint}")
    known = {"id", "prompt", "duration", columns.path, columns.target}
    meta: dict[str, Any] = {name: cell for name, cell in cells.items() if name not in known}
    if meta.get("choices"):
        meta["choices"] = _choices(meta["choices"])
    place = columns.root + written[5:] if written.startswith("$ROOT/") else os.path.join(columns.root, written)
    seconds = _seconds(cells.get("duration", ""))
    return Item(key, Path(place), target, cells.get("prompt", ""), seconds, meta, columns.manifest, row)


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path.strip()))[0]


def _choices(text: str) -> list[str]:
    try:
        choices = json.loads(text)
    except json.JSONDecodeError:
        choices = None
    if not isinstance(choices, list):
        raise ValueError(f'Choices is not a JSON list such as ["dog", "cat"]: {text!r}')
    return choices


def _seconds(text: str) -> float:
    if text.strip() in ("", "-"):
        return 0.0
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"the Duration {text!r} is not a number of seconds") from None


def _row(item: Item) -> dict[str, Any]:
    answer = {"Prompt": item.prompt, "Answer": item.target} if item.prompt else {"Label": item.target}
    seconds = f"{item.seconds:.7f}".rstrip("0").rstrip(".") if item.seconds else ""
    others = {NAMES.get(name, name): value for name, value in item.meta.items()}
    return {"ID": item.id, **answer, "Duration": seconds, "Path": item.path, **others}


def _cell(name: str, value: Any, folder: str) -> str:
    if name == "Path":
        place = os.path.abspath(value)
        return f"$ROOT/{place.removeprefix(folder)}" if place.startswith(folder) else str(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else str(value)
