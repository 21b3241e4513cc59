"""Where a corpus's bona fide speech comes from: espeak-ng speakers, or any folder of recordings."""

import itertools
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from speechrl.data.espeak import speak
from speechrl.data.rooms import Range, at_level, loudness, pick, uniform
from speechrl.data.sentences import sentence
from speechrl.types import SAMPLE_RATE, generator, seed_of

Wave = Float[Tensor, " s"]
Part = Float[Tensor, " p"]

VARIANTS = (
    *(f"m{k}" for k in range(1, 9)),
    *(f"f{k}" for k in range(1, 6)),
    *("Andy", "Annie", "Alicia", "Michael", "linda", "steph", "belinda", "john", "rob", "pablo"),
)
"""espeak-ng's more natural speakers."""
ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
FEWEST_FILES, FEWEST_SECONDS, LONGEST_SECONDS = 20, 60.0, 120.0
"""A folder of recordings needs this much; of one recording no more than the last is used."""
SILENCE_DECIBELS = -60.0
"""A recording whose level is lower, relative to full scale, holds no speech."""


@dataclass(frozen=True, eq=False)
class Speech:
    """A dry bona fide clip and who speaks which language in it."""

    waveform: Wave
    speaker: str
    language: str
    phonemes: str = ""
    """IPA without stress marks, separated by spaces; only of whole sentences."""


def synthetic(
    key: tuple[int | str, ...], languages: tuple[str, ...], *, speaker: int, index: int, seconds: float
) -> Speech:
    """Clip `index` of an espeak-ng speaker: `seconds` cut out of sentences, or a whole sentence where `seconds` is 0.

    `key` keeps domains apart: speaker 3 of another key is somebody else.
    """
    person = generator(*key, "speaker", speaker)
    language, variant = pick(person, languages), pick(person, VARIANTS)
    say = partial(
        speak,
        voice=f"{language}+{variant}",
        pitch=round(uniform(person, 30, 70)),
        pitch_range=round(uniform(person, 35, 75)),
        rate=round(uniform(person, 150, 200)),
    )
    name = f"{language}-{variant}-{'-'.join(map(str, key[1:]))}-{speaker}"
    draws = generator(*key, "speech", index)
    first = say(sentence(language, draws))
    if not seconds:
        phonemes = " ".join(event.text.strip("ˈˌ") for event in first.phonemes)
        return Speech(first.waveform, name, language, phonemes)
    parts = [trim(first.waveform)]
    while sum(map(len, parts)) < seconds * SAMPLE_RATE:
        parts.append(trim(say(sentence(language, draws)).waveform))
    return Speech(_cut(torch.cat(parts), seconds, draws), name, language)


def _cut(waveform: Wave, seconds: float, draws: torch.Generator) -> Part:
    length = round(seconds * SAMPLE_RATE)
    start = int(torch.randint(len(waveform) - length + 1, (), generator=draws))
    return waveform[start : start + length]


def trim(waveform: Wave, floor: float = -40.0) -> Part:
    """Without the silence at both ends: 20 ms frames more than `floor` decibels below the loudest."""
    frame = SAMPLE_RATE // 50
    level = waveform[: len(waveform) // frame * frame].view(-1, frame).square().mean(1)
    if not len(level) or not level.max():
        return waveform[:0]
    loud = (level > level.max() * 10 ** (floor / 10)).nonzero()[:, 0]
    return waveform[int(loud[0]) * frame : (int(loud[-1]) + 1) * frame]


@dataclass(frozen=True)
class Segment:
    """A piece of a domain's stream of recorded speech, in samples."""

    start: int
    stop: int
    speaker: str


def listing(folder: Path) -> list[Path]:
    """Every recording below a folder, sorted. Raises ValueError where it is no folder."""
    if not folder.is_dir():
        raise ValueError(f"bonafide_dir={folder}: no such folder")
    found = (Path(root) / name for root, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(path for path in found if path.suffix.lower() in ENDINGS)


def gather(folder: Path, into: Path, needs: Mapping[str, tuple[float, Range]], seed: int) -> dict[str, list[Segment]]:
    """Deals a folder's recordings out to domains and cuts each domain's into segments.

    `needs` gives for each domain the seconds it can use and the range of a segment's seconds. No recording is in two
    domains. Each domain's 16-bit stream is written to `into`/<domain>.pcm. Short recordings of one folder, taken for
    one speaker, are joined; none is used for longer than two minutes.
    Raises ValueError naming every unreadable file, or when there are fewer than 20 recordings or 60 seconds.
    """
    dealt = _deal(folder, {domain: seconds for domain, (seconds, _) in needs.items()}, seed)
    faults: list[str] = []
    silent: list[str] = []
    segments = {}
    for domain, paths in dealt.items():
        pieces = []
        with open(into / f"{domain}.pcm", "wb") as stream:
            for path in sorted(paths, key=lambda path: (path.parent, path.name)):
                piece = _read(path, faults)
                stream.write((piece * 32767).to(torch.int16).numpy().tobytes())
                pieces.append((str(path.parent.relative_to(folder)), len(piece)))
                silent += [] if len(piece) else [str(path)]
        segments[domain] = _segments(pieces, needs[domain][1], generator("bonafide", seed, domain))
    if faults:
        raise ValueError(f"bonafide_dir={folder}: {len(faults)} recordings cannot be used: {'; '.join(faults)}")
    if silent:
        warnings.warn(f"bonafide_dir: {len(silent)} silent recordings are left out: {', '.join(silent)}", stacklevel=4)
    return segments


def _deal(folder: Path, needs: Mapping[str, float], seed: int) -> dict[str, list[Path]]:
    import soundfile

    paths, faults = listing(folder), []
    order = np.random.default_rng(seed_of("bonafide", seed)).permutation(len(paths))
    dealt: dict[str, list[Path]] = {domain: [] for domain in needs}
    filled = dict.fromkeys(needs, 0.0)
    for path in (paths[i] for i in order):
        poorest = min(needs, key=lambda domain: filled[domain] / needs[domain])
        if filled[poorest] >= needs[poorest]:
            break
        try:
            seconds = soundfile.info(path).duration
        except soundfile.LibsndfileError as error:
            faults.append(f"{path} ({error.error_string.strip()})")
            continue
        filled[poorest] += min(seconds, LONGEST_SECONDS)
        dealt[poorest].append(path)
    if faults:
        raise ValueError(f"bonafide_dir={folder}: {len(faults)} recordings cannot be read: {'; '.join(faults)}")
    total = sum(filled.values())
    if len(paths) < FEWEST_FILES or total < FEWEST_SECONDS:
        raise ValueError(
            f"bonafide_dir={folder}: {len(paths)} recordings ({', '.join(ENDINGS)}) of {total:.0f} s in all, but the "
            f"study needs at least {FEWEST_FILES} and {FEWEST_SECONDS:.0f} s, better several minutes"
        )
    return dealt


def _read(path: Path, faults: list[str]) -> Wave:
    """Mono, 16 kHz, without silence at the ends, at -26 dB; empty when there is nothing but silence."""
    import soundfile
    from scipy.signal import resample_poly

    try:
        with soundfile.SoundFile(path) as file:
            samples = file.read(int(LONGEST_SECONDS * file.samplerate), dtype="float32", always_2d=True).mean(1)
            common = int(np.gcd(file.samplerate, SAMPLE_RATE))
            resampled = resample_poly(samples, SAMPLE_RATE // common, file.samplerate // common)
    except soundfile.LibsndfileError as error:
        faults.append(f"{path} ({error.error_string.strip()})")
        return torch.zeros(0)
    wave = torch.from_numpy(np.ascontiguousarray(resampled, dtype=np.float32))
    if not bool(wave.isfinite().all()):
        faults.append(f"{path} (samples that are no numbers)")
        return torch.zeros(0)
    if not len(wave) or float(loudness(wave)) < 10 ** (SILENCE_DECIBELS / 20):
        return torch.zeros(0)
    return at_level(trim(wave))


def _segments(pieces: list[tuple[str, int]], seconds: Range, draws: torch.Generator) -> list[Segment]:
    cut, start = [], 0
    for speaker, group in itertools.groupby(pieces, key=lambda piece: piece[0]):
        end = start + sum(samples for _, samples in group)
        while end - start >= 0.75 * seconds[0] * SAMPLE_RATE:
            stop = min(end, start + round(uniform(draws, *seconds) * SAMPLE_RATE))
            cut.append(Segment(start, stop, speaker))
            start = stop
        start = end
    return cut


def recorded(stream: Path, segment: Segment) -> Speech:
    """A segment of a stream that `gather` wrote."""
    samples = np.memmap(stream, dtype=np.int16, mode="r")[segment.start : segment.stop]
    return Speech(torch.from_numpy(samples.astype(np.float32) / 32767), segment.speaker, "-")
