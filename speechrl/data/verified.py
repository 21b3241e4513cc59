"""Which recordings were decoded once and found good, remembered so that nobody waits for it twice."""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.progress import Progress

from speechrl import audio
from speechrl.audio import AudioError

MEMORY = ".speechrl_verified.json"


def measure_all(homes: Mapping[Path, Path | None], *, progress: bool) -> dict[Path, int | str]:
    """Of each recording its length in 16 kHz samples, or in words what is wrong with it.

    `homes` says in which folder's memory a recording is looked up and kept, by path, size and time of change.
    """
    memories = {home: _remembered(home) for home in homes.values() if home}
    lengths: dict[Path, int | str] = {}
    for path, home in homes.items():
        known = memories[home].get(os.path.abspath(path)) if home else None
        if known and known[:2] == stamp(path):
            lengths[path] = known[2]
    todo = [path for path in homes if path not in lengths]
    fresh: dict[Path, dict[str, list[int]]] = {home: {} for home in memories}
    try:
        with Progress(disable=not progress or not todo, transient=True) as bar, ThreadPoolExecutor() as pool:
            work = zip(todo, pool.map(_measure, todo), strict=True)
            for path, (mark, found) in bar.track(work, len(todo), description="checking recordings"):
                lengths[path], home = found, homes[path]
                if home and mark and isinstance(found, int):
                    fresh[home][os.path.abspath(path)] = [*mark, found]
    finally:
        for home, new in fresh.items():
            _remember(home, new)
    return lengths


def stamp(path: Path) -> list[int] | None:
    """Size in bytes and time of change in nanoseconds; None where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _measure(path: Path) -> tuple[list[int] | None, int | str]:
    """The stamp is taken first: a file that changes while it is decoded is decoded again next time."""
    mark = stamp(path)
    try:
        return mark, audio.measure(path)
    except AudioError as error:
        return mark, error.reason


def _remembered(folder: Path) -> dict[str, list[int]]:
    try:
        return json.loads((folder / MEMORY).read_text())
    except (OSError, ValueError):
        return {}


def _remember(folder: Path, new: Mapping[str, list[int]]) -> None:
    """Adds to what is remembered, also by others meanwhile; a folder that may not be written to stays as it is."""
    if not new:
        return
    temporary = folder / f"{MEMORY}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**_remembered(folder), **new}))
        os.replace(temporary, folder / MEMORY)
    except OSError:
        temporary.unlink(missing_ok=True)
