"""Speech from espeak-ng: the same samples always, events that match what is heard, and clear refusals."""

import subprocess
import sys
import time

import pytest
import torch

from speechrl.data.espeak import speak, variants, voices

TEXT = "Hello wide world. Twenty three."
DIGEST = (
    "import hashlib; from speechrl.data.espeak import speak;"
    f"print(hashlib.md5(speak({TEXT!r}, voice='en-us+f3').waveform.numpy().tobytes()).hexdigest())"
)


def test_same_samples_after_other_speech_and_in_another_process():
    import hashlib

    first = speak(TEXT, voice="en-us+f3").waveform
    speak("Ein ganz anderer Satz.", voice="de+m4", rate=220)
    again = speak(TEXT, voice="en-us+f3").waveform
    assert torch.equal(first, again)
    other = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.md5(first.numpy().tobytes()).hexdigest()


def test_words_and_phonemes_carry_their_times():
    spoken = speak(TEXT)
    assert [word.text for word in spoken.words] == ["Hello", "wide", "world", "Twenty", "three"]
    assert "".join(phoneme.text for phoneme in spoken.phonemes).startswith("həlˈoʊwˈaɪd")
    for events in (spoken.words, spoken.phonemes):
        starts = [event.start for event in events]
        assert starts == sorted(starts) and starts[0] >= 0 and starts[-1] < spoken.seconds
    # The pause between the sentences lies between "world" and "Twenty", and is silent just before the second.
    pause = spoken.waveform[int((spoken.words[3].start - 0.15) * 16_000) : int(spoken.words[3].start * 16_000)]
    assert pause.abs().max() < 0.01 < spoken.waveform.abs().max()


def test_settings_do_what_they_say():
    plain = speak(TEXT)
    assert speak(TEXT, rate=300).seconds < 0.75 * plain.seconds
    assert speak(TEXT, volume=50).waveform.abs().max() < 0.7 * plain.waveform.abs().max()
    assert _f0(speak(TEXT, pitch=90).waveform) > 1.2 * _f0(speak(TEXT, pitch=10).waveform)
    broken = speak("<speak>Hello <break time='800ms'/> world</speak>", ssml=True)
    assert broken.words[1].start - broken.words[0].start > 0.9


def _f0(waveform: torch.Tensor) -> float:
    import numpy as np
    import pyworld

    f0, _ = pyworld.dio(waveform.numpy().astype(np.float64), 16_000)
    return float(np.median(f0[f0 > 0]))


def test_many_languages_speak():
    assert {"en-us", "en", "de", "fr", "es", "it", "pt", "hi", "cmn", "pl", "nl", "ru"} <= set(voices())
    assert {f"m{k}" for k in range(1, 9)} | {f"f{k}" for k in range(1, 6)} <= set(variants())
    for language, text in {"cmn": "你好世界", "hi": "नमस्ते", "ru": "привет"}.items():
        assert len(speak(text, voice=f"{language}+f2").phonemes) >= 3


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"text": "  "}, "nothing to speak"),
        ({"text": "a", "voice": "xx"}, "'xx'"),
        ({"text": "a", "voice": "de+nobody"}, "'nobody'"),
        ({"text": "a", "rate": 20}, "rate=20"),
        ({"text": "a\0b"}, "zero character"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], names: str):
    with pytest.raises(ValueError, match=names):
        speak(**arguments)  # type: ignore[arg-type]


def test_a_long_installation_path_speaks(monkeypatch: pytest.MonkeyPatch):
    from speechrl.data import espeak

    before = speak("hello").waveform
    monkeypatch.setattr(espeak, "_LONGEST_DATA_PATH", 3)
    espeak._data_path.cache_clear()
    assert torch.equal(before, speak("hello").waveform)
    espeak._data_path.cache_clear()


def test_faster_than_a_hundred_times_real_time():
    start = time.process_time()
    seconds = sum(speak(f"The number is {n}, she said.").seconds for n in range(20))
    assert seconds / (time.process_time() - start) > 100
