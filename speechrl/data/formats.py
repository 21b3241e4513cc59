"""What the readers of data set layouts share: clips, cuts of long recordings, and the manifest rows made of both."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import soundfile
import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from speechrl import audio
from speechrl.types import SAMPLE_RATE, generator, seed_of

T = TypeVar("T")
R = TypeVar("R")
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".aac", ".webm"})
THREADS = 8
# Encodings and bits per sample as torchaudio names them, which the published protocols use.
ENCODINGS = {
    "PCM_S8": ("PCM_S", 8),
    "PCM_U8": ("PCM_U", 8),
    "PCM_16": ("PCM_S", 16),
    "PCM_24": ("PCM_S", 24),
    "PCM_32": ("PCM_S", 32),
    "FLOAT": ("PCM_F", 32),
    "DOUBLE": ("PCM_F", 64),
    "ULAW": ("ULAW", 8),
    "ALAW": ("ALAW", 8),
    "MPEG_LAYER_III": ("MP3", 0),
}


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A recording of a data set and what its own files say of it."""

    id: str
    path: Path
    label: str | None = None
    """`real` or `fake`; None for a task that is answered in text."""
    attack: str = "-"
    speaker: str = "-"
    proportion: str = "-"
    language: str = "-"
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the manifest, e.g. Prompt, Answer and Choices."""


@dataclass(frozen=True)
class Fault:
    """Something that the data set promises and that is not in the manifest, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Count:
    """How many there are here, and how many there should be; `published` is None where no number is known."""

    what: str
    here: int
    published: int | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What became of a data set: the rows of each manifest by its file name, what is missing, and the counts."""

    manifests: Mapping[str, Sequence[Mapping[str, Any]]]
    faults: Sequence[Fault]
    counts: Sequence[Count]
    notes: Sequence[str] = ()


def locate(source: Path, *candidates: str) -> Path:
    """The first of `candidates` (relative paths) that is below `source`; ValueError listing where it looked."""
    for candidate in candidates:
        if (source / candidate).exists():
            return source / candidate
    places = ", ".join(str(source / candidate) for candidate in candidates)
    raise ValueError(f"{source}: not found in this folder: {places}; give the folder that the data set unpacks to")


def lines(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    """Line numbers (from 1) and the words of a protocol's lines; ValueError where there are not `columns` of them."""
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        words = line.split()
        if words and len(words) != columns:
            raise ValueError(f"{path}, line {number}: {len(words)} words, expected {columns}: {line!r}")
        if words:
            yield number, words


def table(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a CSV file with a header; ValueError where a column is missing or a row is short."""
    with open(path, newline="", encoding="utf-8-sig", errors="strict") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{path}: no column {', '.join(missing)} in its header {reader.fieldnames}")
        try:
            for row in reader:
                short = [column for column in columns if row[column] is None]
                if short:
                    raise ValueError(f"{path}, line {reader.line_num}: the row ends before its column {short[0]}")
                yield reader.line_num, {column: row[column].strip() for column in columns}
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error


def text_of(path: Path) -> str:
    """The whole of a text file; ValueError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error


def label_of(word: str, names: Mapping[str, str], where: str) -> str:
    """`real` or `fake` for a data set's own word; ValueError naming the place where there is another word."""
    if word.lower() not in names:
        raise ValueError(f"{where}: label {word!r}, expected one of {', '.join(names)}; is this the original file?")
    return names[word.lower()]


def recordings(folder: Path) -> Iterator[Path]:
    """All files below a folder with the name of a recording, in the order of their names; links are followed."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in AUDIO_SUFFIXES and not name.startswith("."):
                yield Path(parent) / name


def distinct(clips: Iterable[Clip]) -> tuple[list[Clip], list[Fault]]:
    """Clips whose ids all differ: a repeated clip becomes a fault, another one of the same id gets `-2` and so on."""
    kept: dict[str, Clip] = {}
    seen: Counter[str] = Counter()
    faults = []
    for clip in clips:
        if kept.get(clip.id) == clip:
            faults.append(Fault(str(clip.path), f"listed twice, as {clip.id}"))
            continue
        seen[clip.id] += 1
        fresh = clip.id
        while fresh in kept:
            fresh = f"{clip.id}-{seen[clip.id]}"
            seen[clip.id] += fresh in kept
        kept[fresh] = replace(clip, id=fresh)
    return list(kept.values()), faults


def rows(clips: Sequence[Clip], title: str) -> tuple[list[dict[str, Any]], list[Fault]]:
    """One manifest row per clip, in their order, and a fault for each clip that is missing, empty or not readable."""

    def row_or_fault(clip: Clip) -> dict[str, Any] | Fault:
        try:
            return row(clip)
        except audio.AudioError as error:
            return Fault(str(clip.path), error.reason)

    found = in_threads(row_or_fault, clips, title)
    return [one for one in found if not isinstance(one, Fault)], [one for one in found if isinstance(one, Fault)]


def row(clip: Clip) -> dict[str, Any]:
    """A clip as a row of the manifest, its duration, rate and encoding read from the file's header.

    Raises audio.AudioError where the file is missing, empty or not readable.
    """
    seconds, rate, channels, encoding, bits = header(clip.path)
    known = {
        "ID": clip.id,
        "Label": clip.label,
        "Duration": f"{seconds:.2f}",
        "SampleRate": rate,
        "Path": clip.path,
        "Attack": clip.attack,
        "Speaker": clip.speaker,
        "Proportion": clip.proportion,
        "AudioChannel": channels,
        "AudioEncoding": encoding,
        "AudioBitSample": bits,
        "Language": clip.language,
    }
    if clip.label is None:
        known = {name: value for name, value in known.items() if name not in ("Label", "Attack", "Speaker")}
    return known | dict(clip.extra)


def header(path: Path) -> tuple[float, int, int, str, int]:
    """Seconds, rate in Hz, channels, encoding and bits per sample of a recording.

    From the header where libsndfile knows the format, else by decoding the file (which gives 16 kHz mono). Raises
    audio.AudioError where the file is missing, empty, cut short or not readable.
    """
    samples = audio.length(path)
    if samples == 0:
        raise audio.AudioError(path, "the file holds no sample")
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError:
        return samples / SAMPLE_RATE, SAMPLE_RATE, 1, path.suffix[1:].upper(), 0
    encoding, bits = ENCODINGS.get(info.subtype, (info.subtype, 0))
    encoding = "FLAC" if info.format == "FLAC" else encoding
    return info.frames / info.samplerate, info.samplerate, info.channels, encoding, bits


def in_threads(work: Callable[[T], R], items: Sequence[T], title: str) -> list[R]:
    """`work` of every item, in their order, with a progress bar; the first exception ends it."""
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(work, items)
        return list(track(results, description=title, total=len(items), disable=len(items) < 2))


def native(path: Path) -> tuple[Float[Tensor, " s"], int]:
    """A recording as mono at its own rate in Hz; raises audio.AudioError."""
    samples, rate = audio._decode(path)
    return audio._mono(path, samples, "mean"), rate


def equal_cuts(samples: int, rate: int, seconds: float) -> list[tuple[int, int]]:
    """Cuts [start, end) of `seconds` each that follow one another; the last one is as long as what is left."""
    step = int(seconds * rate)
    return [(start, min(start + step, samples)) for start in range(0, samples, step)]


def random_cuts(samples: int, rate: int, *keys: int | str) -> list[tuple[int, int]]:
    """Overlapping cuts [start, end) of 1.5 to 15 s: each begins 10 to 80 % of the last one's length before its end.

    The scheme with which DEEP-VOICE was cut for 2603.02914 (lengths and overlaps uniform), here seeded by `keys`.
    """
    draw = generator(*keys)
    cuts, start, end = [], 0, 0
    while end < samples:
        length, overlap = torch.rand(2, generator=draw, dtype=torch.float64).tolist()
        length = int((1.5 + 13.5 * length) * rate)
        end = min(start + length, samples)
        cuts.append((start, end))
        start = int(end - length * (0.1 + 0.7 * overlap))
    return cuts


def held_out(key: str, fraction: float, seed: int) -> bool:
    """Whether `key` falls into the held-out part: a pure function of key and seed, true for `fraction` of all keys."""
    return seed_of(seed, "held out", key) < fraction * 2**63


def write_faults(path: Path, faults: Sequence[Fault]) -> None:
    """What could not be used, as CSV, written atomically; an old list goes when there is nothing to say."""
    if not faults:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("What", "Why"), *((fault.what, fault.why) for fault in faults)])
    os.replace(temporary, path)
