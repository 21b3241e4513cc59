"""The embedded deepfake study: seeded corpora whose roles mirror those of 2603.02914, section 3."""

import csv
import fcntl
import json
import multiprocessing
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from speechrl.data import bonafide
from speechrl.data.rooms import Range, Scene, uniform
from speechrl.data.spoofs import spoof
from speechrl.types import SAMPLE_RATE, generator, seed_of

VERSION = 1
"""Raised whenever the same arguments would give other samples."""
COLUMNS = (
    *("ID", "Label", "Duration", "SampleRate", "Path", "Attack", "Speaker", "Proportion"),
    *("AudioChannel", "AudioEncoding", "AudioBitSample", "Language"),
)
"""The protocol's header, as released with the paper."""
TARGET_SECONDS: Mapping[str, float] = {"4s": 0.8, "10s": 1.2, "13s": 1.6, "30s": 2.4, "50s": 3.2}
"""The paper's five durations of a target-domain trial, and the scaled ones that stand for them here."""
_POST_ATTACKS = ("world", "griffin_lim", "lpc", "random_phase", "mel_inversion", "world_flat")
_POST_SCENE = Scene(channels=("none", "none", "tilt", "wide"))
_TARGET_SCENE = Scene(
    rt60=(0.2, 0.5), direct_to_reverberant=(2, 8), snr=(12, 24), channels=("telephone", "narrow", "lossy+narrow")
)


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What the trials of one role are drawn from; every second trial is fake where there are attacks."""

    trials: int
    languages: tuple[str, ...]
    attacks: tuple[str, ...]
    scene: Scene
    seconds: Range = (1.0, 2.4)
    speakers: int = 40
    proportion: str = "test"


DOMAINS: Mapping[str, Domain] = {
    # Bona fide sentences with their phonemes: what an encoder is pre-trained on, never shown real or fake.
    "pretrain": Domain(
        trials=500,
        languages=("en", "de", "es", "it"),
        attacks=(),
        scene=_POST_SCENE,
        seconds=(0, 0),
        proportion="train",
    ),
    "post_train": Domain(
        trials=1000, languages=("en", "de", "es", "it"), attacks=_POST_ATTACKS, scene=_POST_SCENE, proportion="train"
    ),
    # As ASVspoof 2019's development set is to post-training: the same attacks by other speakers.
    "valid": Domain(trials=400, languages=("en",), attacks=_POST_ATTACKS, scene=_POST_SCENE, proportion="valid"),
    "train": Domain(
        trials=600,
        languages=("en", "fr", "pt"),
        attacks=("channel_vocoder", "minimum_phase"),
        scene=_TARGET_SCENE,
        seconds=(0.8, 3.2),
        proportion="train",
    ),
    "target": Domain(
        trials=400,
        languages=("en", "fr", "pt"),
        attacks=("channel_vocoder", "minimum_phase"),
        scene=_TARGET_SCENE,
        seconds=(3.2, 3.2),
    ),
    "ood_add": Domain(
        trials=400, languages=("cmn",), attacks=("world_pitch", "world_smooth"), scene=Scene(snr=(12, 30))
    ),
    "ood_for": Domain(
        trials=400, languages=("en",), attacks=("quantized", "lpc_whisper"), scene=Scene(channels=("none", "wide"))
    ),
    "ood_dv": Domain(
        trials=400,
        languages=("en", "nl"),
        attacks=("phase_vocoder", "world_formant"),
        scene=Scene(rt60=(0.2, 0.6), direct_to_reverberant=(3, 10)),
    ),
    "ood_itw": Domain(
        trials=400,
        languages=("en", "hi", "nl"),
        attacks=("zero_phase", "spliced"),
        scene=Scene(snr=(15, 35), channels=("none", "mu_law", "clip", "tilt")),
    ),
}
"""The roles. Attacks and channel of the target are in no other role; each out-of-domain set has attacks of its own."""


def build(
    folder: str | Path,
    *,
    bonafide_dir: str | Path | None = None,
    seed: int = 0,
    workers: int = 2,
    fraction: float = 1.0,
) -> Path:
    """Makes the corpus below `folder` unless it is there already, and returns its root: what `$ROOT` stands for.

    The root holds 16-bit FLAC files, `corpus.json` and the protocols post_train, pretrain (bona fide only, with a
    column Phonemes), train, valid, target_4s ... target_50s, ood_add, ood_for, ood_dv and ood_itw (.csv). Its name
    holds a fingerprint of everything that decides the samples; `workers` does not. It appears whole or not at all.

    With `bonafide_dir`, recordings below it replace the synthetic speech as bona fide in all but `pretrain`, no
    recording in two roles; where they are few, so are the trials, and a warning says how many. `fraction` shrinks
    every role, for a quick look. Raises ValueError for recordings that are too few or unreadable, and where the disk
    is full.
    """
    domains = {role: replace(d, trials=max(2, round(d.trials * fraction))) for role, d in DOMAINS.items()}
    recordings = None if bonafide_dir is None else Path(bonafide_dir)
    root = Path(folder) / f"deepfake-{_fingerprint(recordings, seed, fraction)}"
    if root.is_dir():
        return root
    Path(folder).mkdir(parents=True, exist_ok=True)
    with _alone(Path(folder)):
        if not root.is_dir():
            with _whole(root) as part:
                _generate(part, domains, recordings, seed, workers)
    return root


def _fingerprint(recordings: Path | None, seed: int, fraction: float) -> str:
    files = []
    if recordings is not None:
        stats = [(path.relative_to(recordings), path.stat()) for path in bonafide.listing(recordings)]
        files = [f"{path}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in stats]
    kind = "espeak" if recordings is None else "recorded"
    return f"{kind}-seed{seed}-{seed_of('deepfake', VERSION, seed, repr(fraction), *files) & 0xFFFFFFFF:08x}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    # Two sweeps may want the same corpus at once: the second waits, and then finds it made.
    with open(folder / ".deepfake.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _whole(root: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `root` at the end, or goes."""
    part = root.with_name(f".{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        os.replace(part, root)
    except OSError as error:
        raise ValueError(f"no corpus below {root.parent}: {error}; it needs about 250 MB there") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _generate(part: Path, domains: dict[str, Domain], recordings: Path | None, seed: int, workers: int) -> None:
    segments: dict[str, list[bonafide.Segment]] = {}
    streams = part / ".streams"
    streams.mkdir()
    if recordings is not None:
        needs = {r: (d.trials * sum(d.seconds) / 2, d.seconds) for r, d in domains.items() if d.attacks}
        segments = bonafide.gather(recordings, streams, needs, seed)
        domains = _fitted(domains, segments, recordings)
    for role in domains:
        (part / role).mkdir()
    jobs = [
        _Job(part, seed, role, domain, index, _segment(segments.get(role), domain.trials, index))
        for role, domain in domains.items()
        for index in range(domain.trials)
    ]
    rows = _run(jobs, workers)
    for name in sorted({row["set"] for row in rows}):
        _write(part / f"{name}.csv", [row for row in rows if row["set"] == name])
    shutil.rmtree(streams)
    about = {"version": VERSION, "seed": seed, "bonafide_dir": recordings and str(recordings.resolve())}
    trials = {role: domain.trials for role, domain in domains.items()}
    (part / "corpus.json").write_text(json.dumps(about | {"trials": trials, "seconds": dict(TARGET_SECONDS)}, indent=1))


def _fitted(
    domains: dict[str, Domain], segments: dict[str, list[bonafide.Segment]], recordings: Path
) -> dict[str, Domain]:
    # A segment serves as real and, where segments are few, as the source of one fake.
    fitted = {r: replace(d, trials=min(d.trials, 2 * len(segments[r]))) if d.attacks else d for r, d in domains.items()}
    fewer = [f"{r} {fitted[r].trials} of {d.trials}" for r, d in domains.items() if fitted[r].trials < d.trials]
    if fewer:
        warnings.warn(f"{recordings} holds too little speech for every trial: {', '.join(fewer)}", stacklevel=4)
    return fitted


def _segment(segments: list[bonafide.Segment] | None, trials: int, index: int) -> bonafide.Segment | None:
    if segments is None:
        return None
    return segments[index if len(segments) >= trials else index // 2]


@dataclass(frozen=True)
class _Job:
    root: Path
    seed: int
    role: str
    domain: Domain
    index: int
    segment: bonafide.Segment | None


def _run(jobs: list[_Job], workers: int) -> list[dict[str, str]]:
    """Every trial's rows, in the jobs' order whatever the workers' order."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    chunks = [jobs[start : start + 16] for start in range(0, len(jobs), 16)]
    results: dict[int, list[dict[str, str]]] = {}
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    columns = (TextColumn("making the deepfake corpus"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, ProcessPoolExecutor(workers, context) as pool:
        task = progress.add_task("", total=len(jobs))
        waiting = {pool.submit(_work, chunk): place for place, chunk in enumerate(chunks)}
        for done in as_completed(waiting):
            results[waiting[done]] = done.result()
            progress.advance(task, len(chunks[waiting[done]]))
    return [row for place in range(len(chunks)) for row in results[place]]


def _work(jobs: list[_Job]) -> list[dict[str, str]]:
    torch.set_num_threads(1)  # more threads add up in another order, and with them the last bits
    return [row for job in jobs for row in _trial(job)]


def _trial(job: _Job) -> list[dict[str, str]]:
    domain, key = job.domain, ("deepfake", job.seed, job.role)
    draws = generator(*key, "trial", job.index)
    speaker = int(torch.randint(domain.speakers, (), generator=draws))
    seconds = uniform(draws, *domain.seconds)
    if job.segment is None:
        speech = bonafide.synthetic(key, domain.languages, speaker=speaker, index=job.index, seconds=seconds)
    else:
        speech = bonafide.recorded(job.root / ".streams" / f"{job.role}.pcm", job.segment)
    attack = domain.attacks[job.index // 2 % len(domain.attacks)] if domain.attacks and job.index % 2 else "-"
    dry = speech.waveform if attack == "-" else spoof(attack, speech.waveform, draws)
    heard = domain.scene.heard(dry, draws)
    if job.role != "target":
        return [_save(job, job.role, f"{job.role}-{job.index:04d}", heard, attack, speech)]
    return [
        _save(job, f"target_{name}", f"target-{job.index:04d}-{name}", _middle(heard, cut), attack, speech)
        for name, cut in TARGET_SECONDS.items()
    ]


def _middle(waveform: torch.Tensor, seconds: float) -> torch.Tensor:
    length = min(len(waveform), round(seconds * SAMPLE_RATE))
    start = (len(waveform) - length) // 2
    return waveform[start : start + length]


def _save(
    job: _Job, name: str, identity: str, waveform: torch.Tensor, attack: str, speech: bonafide.Speech
) -> dict[str, str]:
    import soundfile

    path = f"{job.role}/{identity}.flac"
    try:
        soundfile.write(job.root / path, waveform.numpy(), SAMPLE_RATE, subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise OSError(f"{path} cannot be written ({error.error_string})") from None
    row = dict.fromkeys(COLUMNS, "-") | {
        "ID": identity,
        "Label": "real" if attack == "-" else "fake",
        "Duration": f"{len(waveform) / SAMPLE_RATE:.2f}",
        "SampleRate": str(SAMPLE_RATE),
        "Path": f"$ROOT/{path}",
        "Attack": attack,
        "Speaker": speech.speaker,
        "Proportion": job.domain.proportion,
        "AudioChannel": "1",
        "AudioEncoding": "FLAC",
        "AudioBitSample": "16",
        "Language": speech.language,
    }
    return row | {"set": name} | ({"Phonemes": speech.phonemes} if speech.phonemes else {})


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    columns = [*COLUMNS, *(["Phonemes"] if "Phonemes" in rows[0] else [])]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
