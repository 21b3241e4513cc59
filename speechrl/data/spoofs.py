"""Fake speech made from real speech: vocoders, conversions and phase tricks, seeded and of the clip's own length."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from speechrl.data.rooms import loudness, uniform
from speechrl.types import SAMPLE_RATE

Wave = Float[Tensor, " s"]
Spectrum = Complex[Tensor, "f t"]
_FFT, _HOP, _ORDER = 512, 128, 18


def spoof(name: str, waveform: Wave, generator: torch.Generator) -> Wave:
    """The clip after the attack `name` (one of `ATTACKS`), as long and as loud as before.

    Raises ValueError for an unknown attack.
    """
    if name not in ATTACKS:
        raise ValueError(f"no attack {name!r}; there are {', '.join(ATTACKS)}")
    length = len(waveform)
    padded = torch.nn.functional.pad(waveform, (0, max(0, 2 * _FFT - length)))
    fake = ATTACKS[name](padded, generator)[:length]
    assert len(fake) == length and bool(fake.isfinite().all()), name
    return fake * (loudness(waveform) / loudness(fake))


def world(
    waveform: Wave,
    generator: torch.Generator,
    *,
    pitch: tuple[float, float] = (1.0, 1.0),
    formant: tuple[float, float] = (1.0, 1.0),
    aperiodicity: str = "kept",
    smoothing: int = 0,
) -> Wave:
    """WORLD analysis and resynthesis (Morise 2016), altered in between.

    `pitch` and `formant` are ranges of ratios, drawn above or below 1 alike. `aperiodicity` is kept, flattened to its
    mean over time, or perturbed. `smoothing` keeps that many cepstral coefficients of the envelope, as statistical
    synthesis does.
    """
    import pyworld

    signal = waveform.numpy().astype(np.float64)
    rough, times = pyworld.dio(signal, SAMPLE_RATE)
    f0 = pyworld.stonemask(signal, rough, times, SAMPLE_RATE)
    envelope = pyworld.cheaptrick(signal, f0, times, SAMPLE_RATE, fft_size=1024)
    noisiness = pyworld.d4c(signal, f0, times, SAMPLE_RATE, fft_size=1024)
    envelope = _warped(envelope, _ratio(generator, *formant))
    if smoothing:
        envelope = _smoothed(envelope, smoothing)
    if aperiodicity == "flat":
        noisiness = np.broadcast_to(noisiness.mean(0), noisiness.shape).copy()
    if aperiodicity == "perturbed":
        noisiness = noisiness ** uniform(generator, 0.4, 2.0)
    voice = pyworld.synthesize(f0 * _ratio(generator, *pitch), envelope, noisiness, SAMPLE_RATE)
    return _fit(torch.from_numpy(voice.astype(np.float32)), len(waveform))


def _ratio(generator: torch.Generator, low: float, high: float) -> float:
    ratio = uniform(generator, low, high)
    return ratio if uniform(generator, 0, 1) < 0.5 else 1 / ratio


def _warped(envelope: np.ndarray, ratio: float) -> np.ndarray:
    bins = np.arange(envelope.shape[1])
    source = np.clip(bins / ratio, 0, bins[-1])
    low = np.minimum(source.astype(int), bins[-1] - 1)
    share = source - low
    return np.ascontiguousarray(envelope[:, low] * (1 - share) + envelope[:, low + 1] * share)


def _smoothed(envelope: np.ndarray, coefficients: int) -> np.ndarray:
    cepstrum = np.fft.irfft(np.log(envelope + 1e-12), axis=1)
    cepstrum[:, coefficients:-coefficients] = 0
    return np.ascontiguousarray(np.exp(np.fft.rfft(cepstrum, axis=1).real))


def _fit(waveform: Float[Tensor, " r"], length: int) -> Wave:
    return torch.nn.functional.pad(waveform, (0, max(0, length - len(waveform))))[:length]


def _window() -> Wave:
    return torch.hann_window(_FFT)


def _stft(waveform: Wave) -> Spectrum:
    return torch.stft(waveform, _FFT, _HOP, window=_window(), return_complex=True)


def _istft(spectrum: Spectrum, length: int) -> Wave:
    return torch.istft(spectrum, _FFT, _HOP, window=_window(), length=length)


def griffin_lim(waveform: Wave, generator: torch.Generator, *, iterations: int = 12) -> Wave:
    """Magnitudes kept, phases found anew from a random start (Griffin and Lim 1984)."""
    return _from_magnitude(_stft(waveform).abs(), generator, iterations, len(waveform))


def mel_inversion(waveform: Wave, generator: torch.Generator, *, bands: int = 80, iterations: int = 16) -> Wave:
    """Only a mel spectrogram is kept; the magnitudes come from its pseudo-inverse, the phases from Griffin-Lim."""
    bank, inverse = _mel_bank(bands)
    magnitude = (inverse @ (bank @ _stft(waveform).abs())).clamp(min=1e-5)
    return _from_magnitude(magnitude, generator, iterations, len(waveform))


def _from_magnitude(magnitude: Tensor, generator: torch.Generator, iterations: int, length: int) -> Wave:
    spectrum = torch.polar(magnitude, 2 * torch.pi * torch.rand(magnitude.shape, generator=generator))
    for _ in range(iterations):
        spectrum = torch.polar(magnitude, _stft(_istft(spectrum, length)).angle())
    return _istft(spectrum, length)


@lru_cache(maxsize=4)
def _mel_bank(bands: int) -> tuple[Tensor, Tensor]:
    from torchaudio.functional import melscale_fbanks

    bank = melscale_fbanks(_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE, norm="slaney").T
    return bank, torch.linalg.pinv(bank)


def random_phase(waveform: Wave, generator: torch.Generator) -> Wave:
    """Each bin's phase moved at random by up to a quarter to a whole turn."""
    spectrum = _stft(waveform)
    reach = 2 * torch.pi * uniform(generator, 0.25, 1.0)
    moved = reach * (torch.rand(spectrum.shape, generator=generator) - 0.5)
    return _istft(spectrum * torch.polar(torch.ones_like(moved), moved), len(waveform))


def zero_phase(waveform: Wave, _: torch.Generator) -> Wave:
    """Each frame becomes one symmetric pulse in its middle: the robot voice, its pitch that of the frames."""
    magnitude = _stft(waveform).abs()
    return _istft(magnitude * _to_the_middle(magnitude), len(waveform))


def minimum_phase(waveform: Wave, _: torch.Generator) -> Wave:
    """Each frame becomes the minimum-phase pulse of its magnitude, which starts in its middle."""
    magnitude = _stft(waveform).abs()
    return _istft(_minimum_phase(magnitude.T).T * _to_the_middle(magnitude), len(waveform))


def _to_the_middle(magnitude: Float[Tensor, "f t"]) -> Complex[Tensor, "f 1"]:
    # A delay of half a frame, (-1)^k in bin k; at its edges the window is zero.
    return (1 - 2 * (torch.arange(len(magnitude)) % 2))[:, None].to(torch.complex64)


def _minimum_phase(magnitude: Float[Tensor, "t f"]) -> Complex[Tensor, "t f"]:
    cepstrum = torch.fft.irfft(magnitude.clamp(min=1e-6).log(), dim=1)
    half = cepstrum.shape[1] // 2
    fold = torch.zeros(cepstrum.shape[1])
    fold[0], fold[1:half], fold[half] = 1, 2, 1
    return torch.exp(torch.fft.rfft(cepstrum * fold, dim=1))


def phase_vocoder(waveform: Wave, generator: torch.Generator) -> Wave:
    """Pitch moved by 1 to 4 semitones: stretched in the frequency domain, then resampled back."""
    from scipy.signal import resample_poly
    from torchaudio.functional import phase_vocoder as stretch

    up = 100 * 2 ** (uniform(generator, 1, 4) * (1 if uniform(generator, 0, 1) < 0.5 else -1) / 12)
    advance = torch.linspace(0, torch.pi * _HOP, _FFT // 2 + 1)[:, None]
    longer = stretch(_stft(waveform), 100 / round(up), advance)
    stretched = torch.istft(longer, _FFT, _HOP, window=_window())
    return _fit(torch.from_numpy(resample_poly(stretched.numpy(), 100, round(up))), len(waveform))


def sinusoids(waveform: Wave, _: torch.Generator) -> Wave:
    """Only the spectral peaks of each frame are kept, as in sinusoidal coding; the noise between them is gone."""
    spectrum = _stft(waveform)
    magnitude = spectrum.abs()
    around = torch.nn.functional.max_pool1d(magnitude.T, 5, 1, 2).T
    return _istft(spectrum * (magnitude >= 0.7 * around) * (magnitude > 0.02 * magnitude.max(0).values), len(waveform))


def quantized(waveform: Wave, generator: torch.Generator) -> Wave:
    """Magnitudes in steps of 5-9 dB and phases in 2-4 directions: what a codec of few tokens keeps."""
    spectrum = _stft(waveform)
    step = uniform(generator, 0.6, 1.0)
    turn = 2 * torch.pi / round(uniform(generator, 2, 4))
    magnitude = torch.exp(torch.round(spectrum.abs().clamp(min=1e-5).log() / step) * step)
    return _istft(torch.polar(magnitude, torch.round(spectrum.angle() / turn) * turn), len(waveform))


def lpc(waveform: Wave, generator: torch.Generator, *, voicing: float = 0.9) -> Wave:
    """Linear prediction: an all-pole filter a frame, driven by pulses at the pitch or, where unvoiced, by noise."""
    spectrum = _stft(_pulses(waveform, voicing, generator))
    return _istft(spectrum * _all_pole(waveform, spectrum.shape[1]).T, len(waveform))


def _all_pole(waveform: Wave, frames: int) -> Complex[Tensor, "t f"]:
    padded = torch.nn.functional.pad(waveform[None], (_FFT // 2, _FFT // 2), mode="reflect")[0]
    windowed = padded.unfold(0, _FFT, _HOP)[:frames] * _window()
    power = torch.fft.rfft(windowed.double(), 2 * _FFT, dim=1).abs() ** 2
    correlation = torch.fft.irfft(power, dim=1)[:, : _ORDER + 1]
    correlation[:, 0] = correlation[:, 0] * 1.001 + 1e-7
    lags = (torch.arange(_ORDER)[:, None] - torch.arange(_ORDER)).abs()
    taps = torch.linalg.solve(correlation[:, lags], correlation[:, 1:])
    gain = (correlation[:, 0] - (taps * correlation[:, 1:]).sum(1)).clamp(min=1e-9).sqrt()
    polynomial = torch.cat([torch.ones(len(taps), 1, dtype=torch.double), -taps], 1)
    return (gain[:, None] / torch.fft.rfft(polynomial, _FFT, dim=1)).to(torch.complex64)


def _pulses(waveform: Wave, voicing: float, generator: torch.Generator) -> Wave:
    import pyworld

    f0, _ = pyworld.dio(waveform.numpy().astype(np.float64), SAMPLE_RATE)
    pitch = torch.from_numpy(f0).repeat_interleave(SAMPLE_RATE // 200)
    pitch = torch.cat([pitch, pitch[-1:].expand(max(0, len(waveform) - len(pitch)))])[: len(waveform)]
    cycles = torch.cumsum(pitch / SAMPLE_RATE, 0).floor()
    pulse = (torch.diff(cycles, prepend=cycles[:1]) > 0).float() * (SAMPLE_RATE / pitch.clamp(min=50).float()).sqrt()
    hiss = torch.randn(len(waveform), generator=generator)
    return torch.where(pitch > 0, voicing * pulse + (1 - voicing) * hiss, hiss)


def channel_vocoder(waveform: Wave, generator: torch.Generator, *, bands: int = 24) -> Wave:
    """The energy of mel bands over time, put on pulses and noise (Dudley 1939)."""
    bank, _ = _mel_bank(bands)
    spread = bank.T / bank.T.sum(1, keepdim=True).clamp(min=1e-6)
    energy = spread @ (bank @ _stft(waveform).abs())
    carrier = _stft(_pulses(waveform, 0.8, generator))
    return _istft(carrier * energy / (carrier.abs().mean() + 1e-6), len(waveform))


def spliced(waveform: Wave, generator: torch.Generator) -> Wave:
    """A part, 50-90 % of the clip, is resynthesised by Griffin-Lim and faded in and out: a partial fake."""
    share = uniform(generator, 0.5, 0.9)
    start = uniform(generator, 0, 1 - share)
    time = torch.linspace(0, 1, len(waveform))
    inside = torch.sigmoid(400 * (time - start)) * torch.sigmoid(400 * (start + share - time))
    return waveform * (1 - inside) + griffin_lim(waveform, generator) * inside


Attack = Callable[[Wave, torch.Generator], Wave]
ATTACKS: Mapping[str, Attack] = {
    "world": world,
    "world_flat": partial(world, aperiodicity="flat"),
    "world_perturbed": partial(world, aperiodicity="perturbed"),
    "world_smooth": partial(world, smoothing=24),
    "world_pitch": partial(world, pitch=(1.1, 1.4)),
    "world_formant": partial(world, formant=(1.1, 1.25)),
    "griffin_lim": griffin_lim,
    "mel_inversion": mel_inversion,
    "random_phase": random_phase,
    "zero_phase": zero_phase,
    "minimum_phase": minimum_phase,
    "phase_vocoder": phase_vocoder,
    "sinusoids": sinusoids,
    "quantized": quantized,
    "lpc": lpc,
    "lpc_whisper": partial(lpc, voicing=0.0),
    "channel_vocoder": channel_vocoder,
    "spliced": spliced,
}
"""Every attack by the name that protocols give it."""
