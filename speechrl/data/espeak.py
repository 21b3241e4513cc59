"""Synthetic speech in many languages and voices from espeak-ng, with the time of every word and phoneme."""

import ctypes
import os
import tempfile
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from speechrl.types import SAMPLE_RATE

# Values of espeak-ng's speak_lib.h.
_NATIVE_RATE, _SYNCHRONOUS, _PHONEMES_IN_IPA, _DO_NOT_EXIT, _UTF8, _SSML = 22_050, 2, 0x0003, 0x8000, 0x01, 0x10
_WORD, _PHONEME = 1, 7
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_LONGEST_DATA_PATH = 140
_LOCK = threading.Lock()  # the library keeps one voice and one random state for the whole process


class Event(NamedTuple):
    """A word as it stands in the text, or a phoneme in IPA, and when it starts, in seconds."""

    text: str
    start: float


@dataclass(frozen=True, eq=False)
class Spoken:
    """A 16 kHz waveform and what is said in it."""

    waveform: Float[Tensor, " s"]
    words: tuple[Event, ...]
    phonemes: tuple[Event, ...]
    """IPA with stress marks (ˈ ˌ before the stressed vowel); pauses are left out."""

    @property
    def seconds(self) -> float:
        """The clip's duration."""
        return self.waveform.numel() / SAMPLE_RATE


def speak(
    text: str,
    *,
    voice: str = "en-us",
    rate: int = 175,
    pitch: int = 50,
    pitch_range: int = 50,
    volume: int = 100,
    ssml: bool = False,
) -> Spoken:
    """Text to speech: the same arguments give the same samples, in any process and after any other call.

    `voice` is a language, alone or with a variant: "en-us", "de+f3" ("en" is British; see `voices`, `variants`).
    `rate` is in words a minute (80-450), `pitch` and `pitch_range` 0-99, `volume` 0-200. With `ssml` the text is SSML:
    <break time='300ms'/>, <prosody rate='..' pitch='..' volume='..'>, <emphasis level='strong'>.
    Raises ValueError for an unknown voice, a value out of range, or a text in which there is nothing to speak.
    """
    _check(text, voice, rate, pitch, pitch_range, volume)
    settings = {_RATE: rate, _PITCH: pitch, _RANGE: pitch_range, _VOLUME: volume}
    samples, events = _synthesize(text, voice, settings, _UTF8 | (_SSML if ssml else 0))
    if not len(samples) or not samples.any():
        raise ValueError(f"espeak: voice {voice!r} finds nothing to speak in {text!r}")
    words = tuple(Event(text[at - 1 : at - 1 + length], t) for kind, at, length, t, _ in events if kind == _WORD)
    phonemes = tuple(Event(name, t) for kind, _, _, t, name in events if kind == _PHONEME and name)
    return Spoken(_resample(samples), words, phonemes)


@lru_cache(maxsize=1)
def voices() -> tuple[str, ...]:
    """Every language code that `speak` takes as a voice ("en-us", "de", "cmn", ...), sorted."""
    return tuple(sorted(set(_listed())))


@lru_cache(maxsize=1)
def variants() -> tuple[str, ...]:
    """Every speaker that may follow a language after "+": m1-m8, f1-f5, croak, whisper, klatt, ..., sorted."""
    folder = Path(_data_path()) / "voices" / "!v"
    return tuple(sorted(file.name for file in folder.iterdir() if " " not in file.name))


def _check(text: str, voice: str, rate: int, pitch: int, pitch_range: int, volume: int) -> None:
    limits = {"rate": (rate, 80, 450), "pitch": (pitch, 0, 99), "pitch_range": (pitch_range, 0, 99)}
    for name, (value, low, high) in (limits | {"volume": (volume, 0, 200)}).items():
        if not low <= value <= high:
            raise ValueError(f"espeak: {name}={value} is not in {low}-{high}")
    language, _, variant = voice.partition("+")
    if language not in voices():
        raise ValueError(f"espeak: no language {language!r} in voice {voice!r}; there are {', '.join(voices())}")
    if "+" in voice and variant not in variants():
        raise ValueError(f"espeak: no variant {variant!r} in voice {voice!r}; there are {', '.join(variants())}")
    if "\0" in text:
        raise ValueError(f"espeak: a zero character in {text!r} would end the text there")


class _Identifier(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identifier),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("languages", ctypes.c_void_p), ("identifier", ctypes.c_char_p)]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
_Row = tuple[int, int, int, float, str]


class _Library:
    """The library, loaded anew on entry and unloaded on exit.

    Its wave generator keeps phases between calls and has no way to reset them, so only a fresh copy speaks the same
    text the same way twice. It costs 1 ms to load and makes forked workers safe; `Terminate` alone does not help.
    """

    def __enter__(self) -> ctypes.CDLL:
        import espeakng_loader

        _LOCK.acquire()
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, _data_path().encode(), _PHONEMES_IN_IPA | _DO_NOT_EXIT)
        if rate != _NATIVE_RATE:
            self.__exit__()
            raise RuntimeError(f"espeak-ng does not start with the voices of {_data_path()} (code {rate})")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        return self._library

    def __exit__(self, *_: object) -> None:
        import _ctypes

        self._library.espeak_Terminate()
        _ctypes.dlclose(self._library._handle)
        _LOCK.release()


def _synthesize(text: str, voice: str, settings: dict[int, int], flags: int) -> tuple[np.ndarray, list[_Row]]:
    chunks: list[bytes] = []
    rows: list[_Row] = []

    def receive(samples: int | None, count: int, events: "ctypes._Pointer[_Event]") -> int:
        if samples and count:
            chunks.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while (event := events[index]).type:
            name = bytes(event.id.string).decode("utf-8", "ignore") if event.type == _PHONEME else ""
            rows.append((event.type, event.text_position, event.length, event.sample / _NATIVE_RATE, name))
            index += 1
        return 0

    callback = _Callback(receive)
    with _Library() as library:
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak: voice {voice!r} does not load")
        for parameter, value in settings.items():
            library.espeak_SetParameter(parameter, value, 0)
        encoded = text.encode()
        library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 1, 0, flags, None, None)
    return np.frombuffer(b"".join(chunks), dtype=np.int16), rows


def _resample(samples: np.ndarray) -> Float[Tensor, " s"]:
    # Polyphase and single-threaded: torch's convolution would differ in the last bits with the number of threads.
    from scipy.signal import resample_poly

    resampled = resample_poly(samples.astype(np.float64) / 32768, 320, 441, window=_lowpass())
    return torch.from_numpy(resampled.clip(-1, 1).astype(np.float32))


@lru_cache(maxsize=1)
def _lowpass() -> np.ndarray:
    from scipy.signal import firwin

    return firwin(2 * 10 * 441 + 1, 1 / 441, window=("kaiser", 5.0))


def _listed() -> list[str]:
    with _Library() as library:
        library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        listed, codes, index = library.espeak_ListVoices(None), [], 0
        while listed[index]:
            voice = listed[index].contents
            if not voice.identifier.startswith(b"mb/"):  # voices of another program, which is not bundled
                codes += _codes(voice.languages)
            index += 1
        # Some codes are listed without a dictionary, and some are second names that the library does not look up.
        spoken = [code for code in codes if (Path(_data_path()) / f"{code.split('-')[0]}_dict").exists()]
        return [code for code in spoken if not library.espeak_SetVoiceByName(code.encode())]


def _codes(address: int) -> list[str]:
    # Each code is a priority byte and a zero-ended string; a priority of zero ends the list.
    codes = []
    while ctypes.string_at(address, 1) != b"\0":
        code = ctypes.string_at(address + 1)
        codes.append(code.decode())
        address += len(code) + 2
    return codes


@lru_cache(maxsize=1)
def _data_path() -> str:
    import espeakng_loader

    path = espeakng_loader.get_data_path()
    if len(path) <= _LONGEST_DATA_PATH:
        return path
    # espeak-ng cuts a longer path off without a word, so give it a short one.
    link = Path(tempfile.mkdtemp(prefix="espeak-")) / "espeak-ng-data"
    os.symlink(path, link)
    return str(link)
