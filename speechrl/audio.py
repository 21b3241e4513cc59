"""Recordings as 16 kHz mono waveforms, whatever container, rate or channels they came in."""

import os
import re
import shutil
import struct
import subprocess
import threading
from functools import lru_cache
from math import ceil, gcd
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from speechrl.types import SAMPLE_RATE

Channel = Literal["mean", "first"]

# Containers in which a seek is exact and cheap.
SEEKABLE = frozenset({"WAV", "WAVEX", "FLAC", "AIFF", "AU", "W64", "RF64", "CAF"})
# What libsndfile logs of a header that claims more bytes than the file has.
CLAIM = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
# A claim this large is a streaming encoder's "length unknown", not a truncation.
UNKNOWN_LENGTH = 0x7FFF0000
# ffmpeg exits with 0 after these messages, although samples are missing.
CUT_SHORT = ("partial file", "ended prematurely")
# torchaudio's kernel has this many entries at most; rates such as 16001 Hz would need a gigabyte of it.
LARGEST_KERNEL = 2_000_000


class AudioError(ValueError):
    """A recording that cannot be used; the message names the file and says why, in one sentence."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["AudioError"], tuple[Path, str]]:
        return AudioError, (self.path, self.reason)


def read(path: str | os.PathLike[str], *, channel: Channel = "mean") -> Float[Tensor, " s"]:
    """A whole recording as 16 kHz mono float32; `channel` is how several channels become one.

    Raises AudioError: missing, empty, truncated, not decodable, or with NaN or infinite samples.
    """
    samples, rate = _decode(path)
    return _resample(_mono(path, samples, channel), rate)


def read_span(
    path: str | os.PathLike[str], start: int, frames: int, *, channel: Channel = "mean"
) -> Float[Tensor, " s"]:
    """`read(path)[start : start + frames]`, positions in 16 kHz samples, without decoding the rest where it can be."""
    assert start >= 0 and frames > 0, (start, frames)
    file = _open(path)
    if file is None:
        return read(path, channel=channel)[start : start + frames]
    with file:
        rate, per_block, source = file.samplerate, *_ratio(file.samplerate)
        if file.format not in SEEKABLE or per_block * source > LARGEST_KERNEL:
            return read(path, channel=channel)[start : start + frames]
        # Whole blocks of `source` input frames become `per_block` output samples; the margin covers the filter.
        margin = 0 if rate == SAMPLE_RATE else ceil(8 * max(1, source / per_block) / source) + 1
        first = max(start // per_block - margin, 0)
        last = ceil((start + frames) / per_block) + margin
        samples = _read_frames(path, file, first * source, min(last * source, file.frames))
    offset = start - first * per_block
    return _resample(_mono(path, samples, channel), rate)[offset : offset + frames]


def measure(path: str | os.PathLike[str]) -> int:
    """How many samples `read` returns, after decoding all of the file.

    Raises AudioError as `read` does, but does not resample: the quickest way to know that a recording is good.
    """
    samples, rate = _decode(path)
    _check_finite(path, samples)
    return ceil(len(samples) * SAMPLE_RATE / rate)


def length(path: str | os.PathLike[str]) -> int:
    """How many samples `read` returns, from the header where the container states it."""
    file = _open(path)
    if file is None:
        return measure(path)
    with file:
        return ceil(file.frames * SAMPLE_RATE / file.samplerate)


def normalise(waveform: Float[Tensor, " s"], *, eps: float = 1e-5) -> Float[Tensor, " s"]:
    """Layer norm over the whole waveform: zero mean and unit variance (2603.02914, section 3).

    Summed by numpy, whose result does not depend on the number of threads as torch's may.
    """
    values = waveform.numpy()
    centred = values - values.mean(dtype=np.float64).astype(np.float32)
    scale = 1 / np.sqrt(np.square(centred).mean(dtype=np.float64) + eps)
    return torch.from_numpy(centred * np.float32(scale))


def write(path: str | os.PathLike[str], waveform: Float[Tensor, " s"], *, rate: int = SAMPLE_RATE) -> None:
    """Writes 16-bit PCM, wav or flac by the suffix; readers see the old file or the whole new one, never a part."""
    path = Path(path)
    container = {".wav": "WAV", ".flac": "FLAC"}.get(path.suffix.lower())
    if container is None:
        raise ValueError(f"{path}: recordings are written as .wav or .flac")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        soundfile.write(temporary, waveform.clamp(-1, 1).numpy(), rate, subtype="PCM_16", format=container)
        os.replace(temporary, path)
    except soundfile.LibsndfileError as error:
        raise OSError(f"{path}: cannot be written ({error}); is there space on the disk?") from error
    finally:
        temporary.unlink(missing_ok=True)


def _open(path: str | os.PathLike[str]) -> soundfile.SoundFile | None:
    """The file opened by libsndfile, or None where it does not know the format."""
    if not os.path.isfile(path):
        raise AudioError(path, "there is no such file")
    if os.path.getsize(path) == 0:
        raise AudioError(path, "the file is empty")
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        if not os.access(path, os.R_OK):
            raise AudioError(path, "the file may not be read") from error
        return None
    claims = [(int(claim), int(actual)) for claim, actual in CLAIM.findall(file.extra_info)]
    claimed = any(actual + 8 < claim < UNKNOWN_LENGTH for claim, actual in claims)
    if claimed or (file.format == "OGG" and not _ogg_has_end(path)):
        file.close()
        raise AudioError(path, "the file is truncated: it ends before its header, or its last page, says it does")
    return file


def _ogg_has_end(path: str | os.PathLike[str]) -> bool:
    """Whether the last page, which begins within the last 64 KiB, is marked as the end of its stream."""
    with open(path, "rb") as file:
        file.seek(max(os.path.getsize(path) - 65_536, 0))
        tail = file.read()
    page = tail.rfind(b"OggS")
    return page >= 0 and len(tail) > page + 5 and bool(tail[page + 5] & 4)


def _decode(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """All samples as [frames, channels] float32, and their rate in Hz."""
    file = _open(path)
    if file is None:
        return _decode_by_ffmpeg(path)
    with file:
        return _read_frames(path, file, 0, file.frames), file.samplerate


def _read_frames(path: str | os.PathLike[str], file: soundfile.SoundFile, first: int, last: int) -> np.ndarray:
    if file.frames == 0:
        raise AudioError(path, "the file holds no sample")
    try:
        if first:
            file.seek(first)
        samples = file.read(max(last - first, 0), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(path, f"the file is corrupt or truncated ({error})") from error
    if len(samples) < last - first:
        raise AudioError(path, f"the file is truncated: {len(samples)} of {last - first} frames could be decoded")
    return samples


def _decode_by_ffmpeg(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """The first audio stream, piped as an AU stream because that header states rate and channels of any length."""
    if shutil.which("ffmpeg") is None:
        raise AudioError(path, "soundfile cannot decode it, and ffmpeg, which might, is not on the PATH")
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", os.path.abspath(path), "-map", "0:a:0"]
    done = subprocess.run([*command, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"], capture_output=True, check=False)
    complaints = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0 or len(done.stdout) < 24:
        last = complaints.splitlines()[-1] if complaints else "it says nothing"
        raise AudioError(path, f"neither soundfile nor ffmpeg can decode it (ffmpeg: {last})")
    if any(message in complaints for message in CUT_SHORT):
        raise AudioError(path, "the file is truncated (ffmpeg: it ended before its last packet)")
    magic, offset, _, _, rate, channels = struct.unpack(">4s5I", done.stdout[:24])
    assert magic == b".snd", magic
    samples = np.frombuffer(done.stdout, dtype=">f4", offset=offset).astype(np.float32)
    if len(samples) == 0:
        raise AudioError(path, "the file holds no sample")
    return samples.reshape(-1, channels), rate


def _mono(path: str | os.PathLike[str], samples: np.ndarray, channel: Channel) -> Float[Tensor, " s"]:
    _check_finite(path, samples)
    mono = samples[:, 0] if channel == "first" or samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(mono))


def _check_finite(path: str | os.PathLike[str], samples: np.ndarray) -> None:
    bad = samples.size - np.count_nonzero(np.isfinite(samples))
    if bad:
        raise AudioError(path, f"{bad} of its samples are NaN or infinite")


def _ratio(rate: int) -> tuple[int, int]:
    """The smallest whole numbers of 16 kHz samples and of samples at `rate` that last equally long."""
    common = gcd(rate, SAMPLE_RATE)
    return SAMPLE_RATE // common, rate // common


def _resample(waveform: Float[Tensor, " frames"], rate: int) -> Float[Tensor, " s"]:
    if rate == SAMPLE_RATE:
        return waveform
    up, down = _ratio(rate)
    if up * down <= LARGEST_KERNEL:
        return _resampler(rate)(waveform)
    from scipy.signal import resample_poly  # lazy: slow to import, and needed for odd rates only

    return torch.from_numpy(resample_poly(waveform.numpy(), up, down).astype(np.float32))


@lru_cache(maxsize=16)
def _resampler(rate: int) -> torch.nn.Module:
    """The sinc kernel, computed once per rate and in float64."""
    from torchaudio.transforms import Resample

    return Resample(rate, SAMPLE_RATE)
