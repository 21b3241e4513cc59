"""RawBoost against its definition in the time domain, with scipy's own filter design and filtering."""

import time

import numpy as np
import pytest
import torch
from scipy import signal

from speechrl.data.rawboost import RawBoost, convolve, kernels, rawboost
from speechrl.types import generator


def clip(samples=16_000, seed=0):
    """A random walk held below 0.9: loud enough for its powers to matter."""
    return 0.9 * np.sin(np.cumsum(np.random.default_rng(seed).standard_normal(samples)) / 10)


def convolve_directly(waveform, channel):
    """Filter after filter, power after power, as the authors' recipe describes it."""
    total = np.zeros_like(waveform)
    for order, gain in enumerate(channel.gains):
        taps = np.ones(1)
        for centre, width, count in zip(
            channel.centres[order], channel.widths[order], channel.taps[order], strict=True
        ):
            edges = [max(centre - width / 2, 1e-3), min(centre + width / 2, 8000 - 1e-3)]
            taps = np.convolve(taps, signal.firwin(int(count), edges, window="hamming", fs=16_000))
        _, response = signal.freqz(taps, 1, fs=16_000)
        taps = taps * 10 ** (gain / 20) / np.abs(response).max()
        padding = len(taps) + 1
        filtered = signal.lfilter(taps, 1, np.pad(waveform ** (order + 1), (0, padding)))
        total += filtered[padding // 2 : len(filtered) - padding // 2]
    total -= total.mean()
    return total / max(np.abs(total).max(), 1)


@pytest.mark.parametrize("samples", [1, 100, 3_606, 3_607, 16_000, 64_001])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_channel_is_that_of_direct_filtering(samples, seed):
    channel = rawboost.draw_channel(generator(seed))
    expected = convolve_directly(clip(samples, seed), channel)
    assert np.abs(convolve(clip(samples, seed), kernels(channel)) - expected).max() < 1e-12


@pytest.mark.parametrize("settings", [{"orders": 1, "bands": 2}, {"bands": 8, "taps": (60, 300), "gain": (-3.0, 6.0)}])
def test_other_settings_too(settings):
    channel = RawBoost(**settings).draw_channel(generator(3))
    assert channel.taps.shape == (settings.get("orders", 5), settings["bands"])
    assert np.abs(convolve(clip(), kernels(channel)) - convolve_directly(clip(), channel)).max() < 1e-12


def test_draws_stay_in_the_papers_ranges():
    channels = [rawboost.draw_channel(generator("ranges", number)) for number in range(300)]
    for name, low, high in [("centres", 20, 8000), ("widths", 100, 1000), ("taps", 11, 99)]:
        values = np.stack([getattr(channel, name) for channel in channels])
        assert low <= values.min() < low * 1.5 + 10 and high * 0.98 < values.max() <= high
    assert all((channel.taps % 2 == 1).all() and channel.gains[0] == 0 for channel in channels)
    losses = np.stack([channel.gains[1:] for channel in channels])
    assert -20 <= losses.min() < -19.5 and -5.5 < losses.max() <= -5


def test_impulses_hit_up_to_a_tenth_of_the_samples_in_proportion():
    counts, sizes = [], []
    for number in range(300):
        places, factors = rawboost.draw_impulses(1_000, generator("impulses", number))
        assert len(np.unique(places)) == len(places) == len(factors) and (places < 1_000).all()
        counts.append(len(places))
        sizes.append(factors)
    factors = np.concatenate(sizes)
    assert min(counts) <= 2 and 97 <= max(counts) <= 100 and abs(np.mean(counts) - 50) < 6
    assert np.abs(factors).max() <= 2 and abs(factors.mean()) < 0.02
    assert factors.var() == pytest.approx(4 / 9, rel=0.05), "the product of two uniforms, times two"


def test_both_parts_in_series():
    randomness, again = generator("series"), generator("series")
    boosted = rawboost(torch.from_numpy(clip()).float(), randomness)
    values = convolve_directly(clip().astype(np.float32).astype(np.float64), rawboost.draw_channel(again))
    places, factors = rawboost.draw_impulses(len(values), again)
    values[places] += factors * values[places]
    torch.testing.assert_close(boosted, torch.from_numpy(values / max(np.abs(values).max(), 1)).float())


def test_it_depends_on_the_generator_alone_and_keeps_its_input():
    waveform = torch.from_numpy(clip(seed=5)).float()
    before = waveform.clone()
    first = rawboost(waveform, generator("a"))
    torch.set_num_threads(2)
    assert torch.equal(first, rawboost(waveform, generator("a"))), "nor on the number of threads"
    torch.set_num_threads(1)
    assert not torch.equal(first, rawboost(waveform, generator("b")))
    assert torch.equal(waveform, before) and first.dtype == torch.float32 and first.shape == waveform.shape
    assert first.abs().max() <= 1 and abs(float(first.mean())) < 1e-2
    assert torch.equal(rawboost(torch.zeros(50), generator("a")), torch.zeros(50)), "silence stays silence"


@pytest.mark.slow
def test_ten_utterances_of_four_seconds_take_less_than_a_second():
    waveform = torch.from_numpy(clip(64_000)).float()
    rawboost(waveform, generator("warm"))
    start = time.perf_counter()
    for number in range(10):
        rawboost(waveform, generator("speed", number))
    assert time.perf_counter() - start < 1
