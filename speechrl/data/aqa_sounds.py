"""The sounds of the embedded audio-question corpus: events, instruments and backgrounds, synthesised with numpy.

Every function takes lengths in seconds and a numpy generator, and returns float64 samples at 16 kHz of about unit peak.
"""

from collections.abc import Sequence

import numpy as np

from speechrl.types import SAMPLE_RATE

Wave = np.ndarray
MOVES = ("rising", "falling", "steady")
TONAL = ("buzz", "siren", "whistle")
"""Events with a pitch that can move."""
STRUCK = ("bell", "knock", "rattle", "hiss")
EVENTS = (*TONAL, *STRUCK)
INSTRUMENTS = ("flute", "organ", "violin", "guitar", "trumpet")
BACKGROUNDS = ("wind", "rain", "hum", "silence")

_PITCH = {"buzz": (90, 150), "siren": (400, 600), "whistle": (1600, 2400)}  # Hz, of the start
_BODY = {"buzz": tuple(1 / k for k in range(1, 25)), "siren": (1.0, 0, 0.4, 0, 0.2), "whistle": (1.0,)}
_VIBRATO = {"buzz": 0.0, "siren": 0.06, "whistle": 0.015}  # depth, relative to the pitch
_TIMBRE = {  # amplitude of each partial, decay per second, attack in seconds, vibrato depth
    "flute": ((1.0, 0.25, 0.08), 0.0, 0.05, 0.004),
    "organ": ((1.0, 0.8, 0.0, 0.7, 0.0, 0.0, 0.0, 0.6), 0.0, 0.01, 0.0),
    "violin": (tuple(1 / k for k in range(1, 13)), 0.0, 0.08, 0.012),
    "guitar": (tuple(k**-0.7 for k in range(1, 10)), 9.0, 0.002, 0.0),
    "trumpet": ((0.5, 0.9, 1.0, 0.9, 0.7, 0.5, 0.3), 0.0, 0.03, 0.004),
}


def event(name: str, seconds: float, move: str, rng: np.random.Generator) -> Wave:
    """One sound event; `move` is heard in tonal events only."""
    if name in TONAL:
        start = rng.uniform(*_PITCH[name])
        sweep = {"rising": 1.8, "falling": 1 / 1.8, "steady": 1.0}[move]
        pitch = start * sweep ** np.linspace(0, 1, samples(seconds))
        return _enveloped(tone(pitch, _BODY[name], vibrato=_VIBRATO[name], rate=9.0), attack=0.01)
    return {"bell": _bell, "knock": _knock, "rattle": _rattle, "hiss": _hiss}[name](seconds, rng)


def note(instrument: str, hertz: float, seconds: float, rng: np.random.Generator) -> Wave:
    """One note of an instrument, slightly out of tune."""
    partials, decay, attack, vibrato = _TIMBRE[instrument]
    pitch = np.full(samples(seconds), hertz * rng.uniform(0.995, 1.005))
    wave = tone(pitch, partials, vibrato=vibrato, rate=5.5)
    if instrument == "flute":
        wave += 0.08 * rng.standard_normal(len(wave))
    return _enveloped(wave * np.exp(-decay * _time(seconds)), attack=attack)


def drum(seconds: float, rng: np.random.Generator) -> Wave:
    """One stroke on a drum: a falling low tone with a burst of noise."""
    time = _time(seconds)
    low = np.sin(2 * np.pi * np.cumsum(60 + 90 * np.exp(-30 * time)) / SAMPLE_RATE) * np.exp(-14 * time)
    return low + 0.3 * rng.standard_normal(len(time)) * np.exp(-60 * time)


def background(name: str, seconds: float, rng: np.random.Generator) -> Wave:
    """What goes on behind a scene: low moving noise, bright patter, mains hum, or nothing."""
    noise, time = rng.standard_normal(samples(seconds)), _time(seconds)
    if name == "wind":
        gusts = 1 + 0.7 * np.sin(2 * np.pi * rng.uniform(0.6, 1.4) * time + rng.uniform(0, 6))
        return _unit(_filtered(noise, high=500) * gusts)
    if name == "rain":
        drops = (rng.random(len(noise)) < 0.004) * rng.standard_normal(len(noise)) * 8
        return _unit(_filtered(noise + drops, low=2500))
    if name == "hum":
        return _unit(tone(np.full(len(noise), 100.0), (1.0, 0.7, 0.5, 0.3, 0.2)))
    return np.zeros(len(noise))


def tone(pitch: Wave, partials: Sequence[float], *, vibrato: float = 0.0, rate: float = 6.0) -> Wave:
    """Partials of a moving pitch (Hz at each sample); those above 7.6 kHz are left out."""
    time = np.arange(len(pitch)) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(pitch * (1 + vibrato * np.sin(2 * np.pi * rate * time))) / SAMPLE_RATE
    top = pitch.max() * (1 + vibrato)
    kept = [(k, a) for k, a in enumerate(partials, start=1) if a and k * top < 7600]
    return _unit(sum((a * np.sin(k * phase) for k, a in kept), start=np.zeros(len(pitch))))


def placed(parts: Sequence[tuple[float, Wave]], seconds: float) -> Wave:
    """Waves added up at their starts, in seconds; what runs past the end is cut."""
    out = np.zeros(samples(seconds))
    for start, wave in parts:
        at = samples(start)
        room = max(len(out) - at, 0)
        out[at : at + len(wave)] += wave[:room]
    return out


def mixed(wave: Wave, noise: Wave, snr: float) -> Wave:
    """`noise` behind `wave` at a signal-to-noise ratio in dB, scaled to a peak of 0.7; silent noise changes nothing."""
    power, loud = np.mean(wave**2), np.mean(noise**2)
    gain = np.sqrt(power / loud / 10 ** (snr / 10)) if loud > 0 else 0.0
    return 0.7 * _unit(wave + gain * noise)


def samples(seconds: float) -> int:
    """A length in samples."""
    return round(seconds * SAMPLE_RATE)


def _time(seconds: float) -> Wave:
    return np.arange(samples(seconds)) / SAMPLE_RATE


def _bell(seconds: float, rng: np.random.Generator) -> Wave:
    time, base = _time(seconds), rng.uniform(500, 800)
    partials = ((0.56, 0.6), (1.0, 1.0), (1.19, 0.7), (1.71, 0.5), (2.74, 0.4), (4.07, 0.2))
    ringing = [a * np.sin(2 * np.pi * base * k * time) * np.exp(-(4 + 2 * k) * time) for k, a in partials]
    return _unit(np.sum(ringing, axis=0))


def _knock(seconds: float, rng: np.random.Generator) -> Wave:
    stroke = _struck(rng.uniform(150, 230), 45.0, seconds)
    return placed([(0.0, stroke), (seconds * rng.uniform(0.4, 0.5), stroke)], seconds)


def _struck(hertz: float, decay: float, seconds: float) -> Wave:
    time = _time(seconds)
    return (np.sin(2 * np.pi * hertz * time) + 0.5 * np.sin(2 * np.pi * 2.7 * hertz * time)) * np.exp(-decay * time)


def _rattle(seconds: float, rng: np.random.Generator) -> Wave:
    clicks = np.exp(-150 * (_time(seconds) % (1 / rng.uniform(16, 24))))
    return _enveloped(_unit(_filtered(rng.standard_normal(len(clicks)), low=800, high=4500) * clicks), attack=0.005)


def _hiss(seconds: float, rng: np.random.Generator) -> Wave:
    return _enveloped(_unit(_filtered(rng.standard_normal(samples(seconds)), low=3500)), attack=0.03)


def _filtered(wave: Wave, *, low: float = 0.0, high: float = 8000.0) -> Wave:
    spectrum, hertz = np.fft.rfft(wave), np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    slope = np.minimum(1, (hertz + 1) / max(low, 1)) ** 4 * np.minimum(1, high / np.maximum(hertz, 1)) ** 4
    return np.fft.irfft(spectrum * slope, len(wave))


def _enveloped(wave: Wave, *, attack: float) -> Wave:
    """Fades in over `attack` seconds and out over 20 ms, so that no edge clicks."""
    out = wave.copy()
    head, tail = min(samples(attack), len(out) // 2), min(samples(0.02), len(out) // 2)
    out[:head] *= np.linspace(0, 1, head)
    out[len(out) - tail :] *= np.linspace(1, 0, tail)
    return out


def _unit(wave: Wave) -> Wave:
    peak = np.abs(wave).max(initial=0.0)
    return wave / peak if peak > 0 else wave
