"""RawBoost, algorithm 5: a random channel with its distortions, then impulsive noise on a waveform's own samples.

After Tak et al., 2111.04433, with the settings of 2603.02914 (section 3): linear and non-linear convolutive noise
(LnL), then impulsive signal-dependent noise (ISD), in series.

    LnL   y = sum over k = 1..orders of h_k * x^k, each h_k a cascade of `bands` random band-stop filters with its peak
          gain at 0 dB for k = 1, and `low_loss` to `high_loss` dB lower for the powers; then y - mean(y)
    ISD   y[p] = x[p] (1 + impulse_gain * u v) on up to `impulse_percent` % of the samples, u and v uniform in [-1, 1]

Either result is divided by its peak if that is above 1. All filtering is by FFT, in numpy and scipy: their sums do not
depend on the number of threads.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from speechrl.types import SAMPLE_RATE

# The grid on which a filter's peak gain is found: 512 frequencies from 0 towards the Nyquist frequency, as released.
GRID = 1024


@dataclass(frozen=True)
class Channel:
    """What is drawn of a channel: [orders, bands] centres and widths in Hz, odd numbers of taps, and [orders] dB."""

    centres: Float64[np.ndarray, "orders bands"]
    widths: Float64[np.ndarray, "orders bands"]
    taps: Int64[np.ndarray, "orders bands"]
    gains: Float64[np.ndarray, " orders"]


@dataclass(frozen=True, kw_only=True)
class RawBoost:
    """The augmentation with its ranges: frequencies and widths in Hz, filters in taps, gains in dB, impulses in %."""

    orders: int = 5
    bands: int = 5
    centre: tuple[float, float] = (20.0, 8000.0)
    width: tuple[float, float] = (100.0, 1000.0)
    taps: tuple[int, int] = (10, 100)
    gain: tuple[float, float] = (0.0, 0.0)
    loss: tuple[float, float] = (5.0, 20.0)
    impulse_percent: float = 10.0
    impulse_gain: float = 2.0

    def __call__(self, waveform: Float[Tensor, " s"], generator: torch.Generator) -> Float[Tensor, " s"]:
        """Another version of a waveform in [-1, 1], equally long, drawn from the generator alone."""
        values = convolve(waveform.numpy().astype(np.float64), kernels(self.draw_channel(generator)))
        places, factors = self.draw_impulses(len(values), generator)
        values[places] *= 1 + factors
        return torch.from_numpy(_below_one(values).astype(np.float32))

    def draw_channel(self, generator: torch.Generator) -> Channel:
        """A channel within the ranges; the powers' gains lie lower by the loss, its bounds taken one by one."""
        shape = (self.orders, self.bands)
        taps = _uniform(shape, *self.taps, generator).astype(np.int64)
        gains = _uniform((self.orders,), 0.0, 1.0, generator)
        low, high = np.array(self.gain)[:, None] - np.outer(self.loss, np.arange(self.orders) > 0)
        return Channel(
            centres=_uniform(shape, *self.centre, generator),
            widths=_uniform(shape, *self.width, generator),
            taps=taps + 1 - taps % 2,
            gains=low + (high - low) * gains,
        )

    def draw_impulses(self, samples: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Which samples are changed, and by what multiple of themselves."""
        count = int(samples * float(_uniform((1,), 0.0, self.impulse_percent, generator)[0]) / 100)
        places = torch.randperm(samples, generator=generator)[:count].numpy()
        pairs = _uniform((2, count), -1.0, 1.0, generator)
        return places, self.impulse_gain * pairs[0] * pairs[1]


rawboost = RawBoost()


def kernels(channel: Channel) -> Float64[np.ndarray, "orders length"]:
    """The impulse responses, of one odd length with the peak of each in the middle.

    A band-stop is the window method's (Hamming) with unit gain at 0 Hz; a response is the cascade of its bands.
    """
    import scipy.fft

    half = int(channel.taps.max()) // 2
    ticks = np.arange(-half, half + 1)
    nyquist = SAMPLE_RATE / 2
    low = np.maximum(channel.centres - channel.widths / 2, 1e-3)[..., None] / nyquist
    high = np.minimum(channel.centres + channel.widths / 2, nyquist - 1e-3)[..., None] / nyquist
    ideal = low * np.sinc(low * ticks) + np.sinc(ticks) - high * np.sinc(high * ticks)
    spans = channel.taps[..., None] - 1
    stops = ideal * (0.54 + 0.46 * np.cos(2 * np.pi * ticks / spans)) * (2 * np.abs(ticks) <= spans)
    stops /= stops.sum(-1, keepdims=True)
    length = 2 * half * stops.shape[1] + 1
    fine = -(-length // GRID)
    spectrum = scipy.fft.rfft(stops, fine * GRID).prod(1)
    peak = np.abs(spectrum[:, : fine * GRID // 2 : fine]).max(-1, keepdims=True)
    return scipy.fft.irfft(spectrum)[:, :length] * 10 ** (channel.gains[:, None] / 20) / peak


def convolve(
    waveform: Float64[np.ndarray, " s"], responses: Float64[np.ndarray, "orders length"]
) -> Float64[np.ndarray, " s"]:
    """The waveform's powers through their filters, added up, without mean, and at most 1.

    The released filter leads by one sample more than half its length; so does this one.
    """
    import scipy.fft

    orders, length = responses.shape
    block = max(4096, scipy.fft.next_fast_len(4 * length, real=True))
    step = block - length + 1
    lead = length // 2 + 1
    count = -(-len(waveform) // step)
    padded = np.zeros(count * step + length - 1)
    offset = length - 1 - lead
    padded[offset : offset + len(waveform)] = waveform
    frames = np.lib.stride_tricks.sliding_window_view(padded, block)[::step]
    power, total = frames, 0.0
    for order in range(orders):
        total = total + scipy.fft.rfft(power) * scipy.fft.rfft(responses[order], block)
        power = power * frames
    mixed = scipy.fft.irfft(total, block)[:, length - 1 :].reshape(-1)[: len(waveform)]
    return _below_one(mixed - mixed.mean())


def _below_one(values: Float64[np.ndarray, " s"]) -> Float64[np.ndarray, " s"]:
    return values / max(np.abs(values).max(initial=0.0), 1.0)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> np.ndarray:
    return low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=generator).numpy()
