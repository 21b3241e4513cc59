"""Where a clip is heard: seeded rooms, coloured noise, and the channels of telephones, codecs and bad microphones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from speechrl.types import SAMPLE_RATE

Wave = Float[Tensor, " s"]
Response = Float[Tensor, " r"]
Range = tuple[float, float]
T = TypeVar("T")

COLOURS: Mapping[str, float] = {"white": 0.0, "pink": 1.0, "brown": 2.0, "blue": -1.0}
"""Exponent a of the power spectrum 1 / f^a."""


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """One draw from low-high."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def pick(generator: torch.Generator, items: tuple[T, ...]) -> T:
    """One of the items, all equally likely."""
    return items[int(torch.randint(len(items), (), generator=generator))]


def loudness(waveform: Wave) -> Float[Tensor, ""]:
    """Root mean square, never zero."""
    return waveform.square().mean().sqrt().clamp(min=1e-6)


def at_level(waveform: Wave, decibels: float = -26.0) -> Wave:
    """The clip at a level relative to full scale, and lower where its peaks would not fit."""
    scaled = waveform * (10 ** (decibels / 20) / loudness(waveform))
    return scaled * (0.99 / scaled.abs().max().clamp(min=0.99))


def room(generator: torch.Generator, *, rt60: float, direct_to_reverberant: float = 5.0) -> Response:
    """An impulse response: direct sound, a dozen early reflections, and noise that decays by 60 dB in `rt60` seconds.

    `direct_to_reverberant` is the energy ratio in decibels. The direct sound is the first sample, so that a filtered
    clip stays aligned.
    """
    samples = max(int(rt60 * SAMPLE_RATE), 64)
    time = torch.arange(samples) / SAMPLE_RATE
    tail = torch.randn(samples, generator=generator) * torch.exp(-6.9 * time / rt60)
    early = torch.randint(16, min(samples, 800), (12,), generator=generator) if samples > 16 else torch.tensor([1])
    tail[early] += 3 * torch.randn(len(early), generator=generator) * torch.exp(-6.9 * time[early] / rt60)
    tail[:16] = 0  # nothing arrives within the first millisecond of the direct sound
    tail *= 10 ** (-direct_to_reverberant / 20) / tail.norm().clamp(min=1e-6)
    tail[0] = 1
    return tail


def convolve(waveform: Wave, response: Response) -> Wave:
    """Linear convolution by FFT, cut to the clip's length."""
    size = _fast(len(waveform) + len(response))
    return torch.fft.irfft(torch.fft.rfft(waveform, size) * torch.fft.rfft(response, size), size)[: len(waveform)]


def _fast(samples: int) -> int:
    # An FFT of a prime length is ten times slower: round up to a multiple of a large power of two.
    return -(-samples // 2048) * 2048


def _shaped(waveform: Wave, gain: Callable[[Tensor], Tensor]) -> Wave:
    """The clip with each frequency in Hz multiplied by `gain` of it, without change of phase."""
    size = _fast(len(waveform) + SAMPLE_RATE // 10)
    frequency = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    return torch.fft.irfft(torch.fft.rfft(waveform, size) * gain(frequency), size)[: len(waveform)]


def noise(length: int, colour: str, generator: torch.Generator) -> Wave:
    """Unit-variance noise of a colour from `COLOURS`."""
    white = torch.randn(_fast(length), generator=generator)
    shaped = _shaped(white, lambda frequency: (frequency / 1000).clamp(min=0.03) ** (-COLOURS[colour] / 2))[:length]
    return shaped / loudness(shaped)


def add_noise(waveform: Wave, interference: Wave, snr: float) -> Wave:
    """The clip with interference at a signal-to-noise ratio in decibels."""
    return waveform + interference * (loudness(waveform) / loudness(interference) * 10 ** (-snr / 20))


def band(waveform: Wave, _: torch.Generator, *, low: float, high: float) -> Wave:
    """A band limit in Hz: the magnitude of a 6th-order Butterworth filter at each end."""

    def gain(frequency: Tensor) -> Tensor:
        frequency = frequency.clamp(min=1e-3)
        return ((1 + (low / frequency) ** 12) * (1 + (frequency / high) ** 12)).rsqrt()

    return _shaped(waveform, gain)


def mu_law(waveform: Wave, _: torch.Generator, *, bits: int = 8) -> Wave:
    """Companding to `bits` and back, as telephone networks do (ITU-T G.711)."""
    mu = 2.0**bits - 1
    peak = waveform.abs().max().clamp(min=1e-6)
    compressed = torch.sign(waveform) * torch.log1p(mu * (waveform / peak).abs()) / torch.log1p(torch.tensor(mu))
    levels = torch.round((compressed + 1) / 2 * mu) / mu * 2 - 1
    return torch.sign(levels) * torch.expm1(levels.abs() * torch.log1p(torch.tensor(mu))) / mu * peak


def telephone(waveform: Wave, generator: torch.Generator) -> Wave:
    """300-3400 Hz and 8-bit mu-law."""
    return mu_law(band(waveform, generator, low=300, high=3400), generator)


def clip(waveform: Wave, generator: torch.Generator) -> Wave:
    """A microphone driven too far: peaks cut softly at 25-60 % of the highest."""
    ceiling = waveform.abs().max().clamp(min=1e-6) * uniform(generator, 0.25, 0.6)
    return ceiling * torch.tanh(waveform / ceiling)


def tilt(waveform: Wave, generator: torch.Generator) -> Wave:
    """A loudspeaker or microphone that leans by -6 to +6 dB an octave around 1 kHz."""
    slope = uniform(generator, -1, 1)
    return _shaped(waveform, lambda frequency: (frequency.clamp(min=60) / 1000) ** slope)


def lossy(waveform: Wave, generator: torch.Generator) -> Wave:
    """A transform codec at a low rate: bins well below their neighbourhood go, the others get steps of 2-3 dB."""
    window = torch.hann_window(512)
    spectrum = torch.stft(waveform, 512, 256, window=window, return_complex=True)
    magnitude = spectrum.abs().clamp(min=1e-8)
    around = torch.nn.functional.avg_pool1d(magnitude.T, 25, 1, 12, count_include_pad=False).T
    step = uniform(generator, 0.25, 0.35)
    coarse = torch.exp(torch.round(magnitude.log() / step) * step)
    kept = torch.where(magnitude > uniform(generator, 0.5, 0.9) * around, coarse, 0)
    return torch.istft(spectrum / magnitude * kept, 512, 256, window=window, length=len(waveform))


Channel = Callable[[Wave, torch.Generator], Wave]
CHANNELS: Mapping[str, Channel] = {
    "none": lambda waveform, _: waveform,
    "telephone": telephone,
    "narrow": partial(band, low=150, high=3800),
    "wide": partial(band, low=80, high=6500),
    "mu_law": mu_law,
    "clip": clip,
    "tilt": tilt,
    "lossy": lossy,
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The surroundings that the clips of one domain are drawn from."""

    rt60: Range = (0.05, 0.2)
    """Reverberation time in seconds."""
    direct_to_reverberant: Range = (6.0, 15.0)
    """In decibels."""
    snr: Range = (20.0, 40.0)
    """In decibels."""
    colours: tuple[str, ...] = ("white", "pink", "brown")
    channels: tuple[str, ...] = ("none",)
    """Names of `CHANNELS`, several joined by "+" are passed one after the other."""

    def heard(self, waveform: Wave, generator: torch.Generator) -> Wave:
        """The clip in a room, with noise, through a channel, at -32 to -20 dB."""
        response = room(
            generator,
            rt60=uniform(generator, *self.rt60),
            direct_to_reverberant=uniform(generator, *self.direct_to_reverberant),
        )
        reverberant = convolve(waveform, response)
        interference = noise(len(waveform), pick(generator, self.colours), generator)
        passed = add_noise(reverberant, interference, uniform(generator, *self.snr))
        for name in pick(generator, self.channels).split("+"):
            passed = CHANNELS[name](passed, generator)
        return at_level(passed, uniform(generator, -32, -20))
