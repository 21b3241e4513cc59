"""Attacks and surroundings: each changes the clip, by seed alone, and by what it says."""

import numpy as np
import pytest
import torch

from speechrl.data import rooms, spoofs
from speechrl.data.espeak import speak
from speechrl.types import SAMPLE_RATE, generator


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    return speak("The old captain sold seven baskets.").waveform[4000:28000]


def _log_spectrum(waveform: torch.Tensor) -> torch.Tensor:
    spectrum = torch.stft(waveform, 512, 128, window=torch.hann_window(512), return_complex=True)
    return (spectrum.abs() + 1e-3).log()


def _f0(waveform: torch.Tensor) -> float:
    import pyworld

    f0, _ = pyworld.dio(waveform.numpy().astype(np.float64), SAMPLE_RATE)
    return float(np.median(f0[f0 > 0]))


@pytest.mark.parametrize("name", spoofs.ATTACKS)
def test_every_attack_changes_the_clip_but_not_its_length_level_or_words(name: str, speech: torch.Tensor):
    fake = spoofs.spoof(name, speech, generator(1))
    assert fake.shape == speech.shape and fake.dtype == torch.float32 and bool(fake.isfinite().all())
    assert torch.allclose(rooms.loudness(fake), rooms.loudness(speech), rtol=1e-3)
    assert torch.equal(fake, spoofs.spoof(name, speech, generator(1)))
    difference = (_log_spectrum(fake) - _log_spectrum(speech)).square().mean().sqrt()
    assert difference > 0.1 or (fake - speech).abs().max() > 0.05
    # The energy still rises and falls with the words.
    envelopes = [x[: len(x) // 800 * 800].view(-1, 800).square().mean(1).sqrt() for x in (fake, speech)]
    assert torch.corrcoef(torch.stack(envelopes))[0, 1] > 0.7


def test_short_and_silent_clips_survive_and_unknown_attacks_are_named():
    for name in spoofs.ATTACKS:
        for clip in (torch.randn(300, generator=generator(2)), torch.zeros(3000)):
            assert spoofs.spoof(name, clip, generator(1)).shape == clip.shape
    with pytest.raises(ValueError, match="'wavenet'.*griffin_lim"):
        spoofs.spoof("wavenet", torch.zeros(9), generator(1))


@pytest.mark.parametrize("name", ["world_pitch", "phase_vocoder"])
def test_pitch_conversion_moves_the_pitch(name: str, speech: torch.Tensor):
    ratios = [_f0(spoofs.spoof(name, speech, generator(seed))) / _f0(speech) for seed in range(4)]
    assert all(abs(np.log2(ratio)) > 0.05 for ratio in ratios)
    assert abs(np.log2(_f0(spoofs.spoof("world", speech, generator(0))) / _f0(speech))) < 0.04


def test_phase_attacks_keep_magnitudes_and_formants_move(speech: torch.Tensor):
    inverted = spoofs.griffin_lim(speech, generator(1), iterations=60)
    assert (_log_spectrum(inverted) - _log_spectrum(speech)).square().mean().sqrt() < 0.5
    peak = np.exp(-(((np.arange(513.0) - 100) / 10) ** 2))[None]
    assert [int(spoofs._warped(peak, ratio).argmax()) for ratio in (0.8, 1.0, 1.25)] == [80, 100, 125]


def test_lpc_keeps_the_envelope_of_a_known_filter():
    from scipy.signal import lfilter

    noise = np.random.default_rng(0).standard_normal(16_000)
    coloured = torch.from_numpy(lfilter([1], [1, -1.6, 0.9], noise).astype(np.float32))
    filters = spoofs._all_pole(coloured, 100).abs()[10:90].mean(0)
    expected = torch.from_numpy(1 / np.abs(np.fft.rfft([1, -1.6, 0.9], 512)))
    ratio = (filters / expected).log()
    assert (ratio - ratio.mean()).abs().mean() < 0.25


def test_minimum_phase_of_a_minimum_phase_filter_is_its_own():
    response = np.fft.rfft([1.0, 0.5], 512)
    found = spoofs._minimum_phase(torch.from_numpy(np.abs(response)).float()[None])[0]
    assert np.allclose(found.numpy(), response, atol=1e-4)


def test_room_decays_by_sixty_decibels_in_its_reverberation_time():
    response = rooms.room(generator(3), rt60=0.5, direct_to_reverberant=3.0)
    assert response[0] == 1 and torch.allclose(response[1:].norm(), torch.tensor(10 ** (-3 / 20)), rtol=1e-3)
    early, late = response[1600:2400].norm(), response[5600:6400].norm()  # 0.25 s apart: half of 60 dB
    assert 20 * torch.log10(early / late) == pytest.approx(30, abs=3)


def test_convolution_equals_the_direct_sum(speech: torch.Tensor):
    response = torch.randn(50, generator=generator(4))
    direct = np.convolve(speech.numpy().astype(np.float64), response.numpy())[: len(speech)]
    assert np.allclose(rooms.convolve(speech, response).numpy(), direct, atol=1e-4)


def test_noise_has_its_colour_and_level(speech: torch.Tensor):
    for colour, exponent in rooms.COLOURS.items():
        clip = rooms.noise(160_000, colour, generator(5))
        power = torch.fft.rfft(clip).abs().square()
        slope = torch.log2(power[40_000:48_000].mean() / power[20_000:24_000].mean())  # an octave: 4 to 2 kHz
        assert float(slope) == pytest.approx(-exponent, abs=0.15)
    added = rooms.add_noise(speech, rooms.noise(len(speech), "pink", generator(6)), 10.0) - speech
    assert float(20 * torch.log10(rooms.loudness(speech) / rooms.loudness(added))) == pytest.approx(10, abs=0.1)


def test_channels_do_what_they_are_called(speech: torch.Tensor):
    through = {name: channel(speech, generator(7)) for name, channel in rooms.CHANNELS.items()}
    assert all(x.shape == speech.shape and bool(x.isfinite().all()) for x in through.values())
    assert torch.equal(through["none"], speech)
    power = torch.fft.rfft(rooms.band(speech, generator(7), low=300, high=3400)).abs().square()
    assert power[: int(150 * 1.5)].sum() + power[int(6000 * 1.5) :].sum() < 1e-3 * power.sum()
    assert len(through["mu_law"].unique()) <= 256 < len(speech.unique())
    assert through["clip"].abs().max() < 0.7 * speech.abs().max()
    error = (through["lossy"] - speech).square().mean() / speech.square().mean()
    assert 1e-4 < error < 0.2


def test_a_scene_is_a_function_of_its_seed(speech: torch.Tensor):
    scene = rooms.Scene(channels=tuple(rooms.CHANNELS))
    heard = [scene.heard(speech, generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(heard[0], heard[1]) and not torch.allclose(heard[0], heard[2], atol=1e-3)
    assert all(-33 < 20 * torch.log10(rooms.loudness(x)) < -19 and x.abs().max() <= 1 for x in heard)
