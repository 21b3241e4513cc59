"""Recordings: every format a user may bring is read, every broken one is named."""

import os
import pickle
import stat
import sys

import numpy as np
import pytest
import soundfile
import torch

from speechrl import audio
from speechrl.audio import AudioError


def tone(rate, seconds=1.0, channels=1, hertz=440.0):
    times = np.arange(int(rate * seconds)) / rate
    wave = 0.5 * np.sin(2 * np.pi * hertz * times)
    return np.stack([wave * (channel + 1) / channels for channel in range(channels)], axis=1)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "w64", "caf"])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (44_100, 1), (8_000, 1)])
def test_any_container_rate_and_channels_is_the_same_tone(tmp_path, suffix, rate, channels):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(rate, channels=channels), rate)
    waveform = audio.read(path)
    assert waveform.dtype == torch.float32 and waveform.shape == (16_000,)
    expected = torch.from_numpy(tone(16_000)[:, 0]).float() * (1 if channels == 1 else 0.75)
    lossless = suffix not in ("ogg", "mp3")
    assert (waveform - expected)[1000:-1000].abs().max() < (2e-3 if lossless else 0.06)
    assert audio.measure(path) == audio.length(path) == 16_000


@pytest.mark.parametrize(
    ("subtype", "tolerance"), [("PCM_U8", 1e-2), ("PCM_16", 4e-5), ("PCM_24", 2e-7), ("FLOAT", 6e-8), ("DOUBLE", 6e-8)]
)
def test_sample_formats_keep_their_scale(tmp_path, subtype, tolerance):
    soundfile.write(tmp_path / "a.wav", tone(16_000), 16_000, subtype=subtype)
    assert np.abs(audio.read(tmp_path / "a.wav").numpy() - tone(16_000)[:, 0]).max() < tolerance


def test_six_channels_are_averaged_or_the_first_is_taken(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16_000, channels=6), 16_000, subtype="FLOAT")
    one = tone(16_000)[:, 0]
    assert np.allclose(audio.read(tmp_path / "a.wav"), one * 3.5 / 6, atol=1e-6)
    assert np.allclose(audio.read(tmp_path / "a.wav", channel="first"), one / 6, atol=1e-6)


def test_an_awkward_rate_needs_no_gigabyte(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16_001), 16_001)
    expected = torch.from_numpy(tone(16_000)[:, 0]).float()
    assert (audio.read(tmp_path / "a.wav") - expected)[500:-500].abs().max() < 2e-3
    assert torch.equal(audio.read_span(tmp_path / "a.wav", 99, 50), audio.read(tmp_path / "a.wav")[99:149])


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 192_000])
def test_a_span_is_that_part_of_the_whole(tmp_path, suffix, rate):
    path = tmp_path / f"a.{suffix}"
    rate = min(rate, 48_000) if suffix == "mp3" else rate
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (rate * 2, 2))
    soundfile.write(path, noise, rate)
    whole = audio.read(path)
    for start, frames in [(0, 100), (1, 1), (7_777, 5_000), (len(whole) - 300, 300), (len(whole) - 10, 100)]:
        torch.testing.assert_close(
            audio.read_span(path, start, frames), whole[start : start + frames], rtol=0, atol=1e-6
        )


def broken(tmp_path):
    good = tmp_path / "good.wav"
    soundfile.write(good, tone(16_000, 2.0), 16_000)
    content = good.read_bytes()
    soundfile.write(tmp_path / "good.flac", tone(16_000, 2.0), 16_000)
    soundfile.write(tmp_path / "good.mp3", tone(16_000, 2.0), 16_000)
    files = {"empty.wav": b"", "cut.wav": content[: len(content) // 2], "header.wav": b"\0" * 16 + content[16:]}
    soundfile.write(tmp_path / "good.ogg", np.random.default_rng(0).uniform(-0.5, 0.5, 64_000), 16_000)
    for name in ("good.flac", "good.mp3", "good.ogg"):
        whole = (tmp_path / name).read_bytes()
        files["cut" + name[4:]] = whole[: len(whole) // 2]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    soundfile.write(tmp_path / "silent.wav", np.zeros((0, 1)), 16_000)
    bad = tone(16_000)
    bad[7] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, 16_000, subtype="FLOAT")
    bad[7] = np.inf
    soundfile.write(tmp_path / "inf.wav", bad, 16_000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.wav", "no such file"),
        ("empty.wav", "is empty"),
        ("cut.wav", "truncated"),
        ("cut.flac", "truncated"),
        ("cut.mp3", "truncated"),
        ("cut.ogg", "truncated"),
        ("header.wav", "ffmpeg"),
        ("silent.wav", "no sample"),
        ("nan.wav", "1 of its samples are NaN"),
        ("inf.wav", "1 of its samples are NaN or infinite"),
    ],
)
def test_a_broken_recording_is_named_in_one_sentence(tmp_path, name, reason):
    broken(tmp_path)
    for use in (audio.read, audio.measure):
        with pytest.raises(AudioError, match=reason) as caught:
            use(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value), "workers hand it to the main process"


def test_a_streamed_header_without_length_is_no_truncation(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16_000), 16_000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(content)
    assert len(audio.read(tmp_path / "a.wav")) == 16_000


def fake_ffmpeg(folder, body):
    """An `ffmpeg` that answers as the true one does, for machines without it."""
    program = folder / "ffmpeg"
    program.write_text(f"#!{sys.executable}\nimport struct, sys\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    return str(folder)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('moov atom not found', file=sys.stderr); sys.exit(1)", "moov atom not found"),
        ("print('x: partial file', file=sys.stderr); sys.stdout.buffer.write(b'.snd' + bytes(40))", "truncated"),
        ("sys.stdout.buffer.write(b'.snd' + struct.pack('>5I', 24, 0, 6, 16000, 1))", "no sample"),
    ],
)
def test_what_ffmpeg_refuses_is_refused(tmp_path, monkeypatch, body, reason):
    (tmp_path / "a.m4a").write_bytes(b"not a format that soundfile knows")
    monkeypatch.setenv("PATH", fake_ffmpeg(tmp_path, body))
    with pytest.raises(AudioError, match=reason):
        audio.read(tmp_path / "a.m4a")


def test_other_formats_go_through_ffmpeg(tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"not a format that soundfile knows")
    header = "b'.snd' + struct.pack('>5I', 28, 0xFFFFFFFF, 6, 48000, 2) + bytes(4)"
    body = f"sys.stdout.buffer.write({header} + struct.pack('>2f', 0.5, 0.25) * 48000)"
    monkeypatch.setenv("PATH", fake_ffmpeg(tmp_path, body))
    waveform = audio.read(tmp_path / "a.m4a")
    assert waveform.shape == (16_000,) and (waveform[100:-100] - 0.375).abs().max() < 1e-3
    assert torch.equal(audio.read_span(tmp_path / "a.m4a", 5, 10), waveform[5:15])
    assert audio.length(tmp_path / "a.m4a") == 16_000
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(AudioError, match="ffmpeg, which might, is not on the PATH"):
        audio.read(tmp_path / "a.m4a")


def test_normalise_is_layer_norm():
    waveform = torch.randn(50_000) * 0.01 + 0.3
    expected = torch.nn.functional.layer_norm(waveform.double(), waveform.shape).float()
    torch.testing.assert_close(audio.normalise(waveform), expected, rtol=1e-5, atol=2e-6)
    assert torch.equal(audio.normalise(torch.zeros(10)), torch.zeros(10))


def test_write_is_atomic_and_read_back(tmp_path, monkeypatch):
    waveform = torch.linspace(-1.5, 1.5, 1000)
    for name in ("deep/a.wav", "deep/a.flac"):
        audio.write(tmp_path / name, waveform)
        assert (audio.read(tmp_path / name) - waveform.clamp(-1, 1)).abs().max() < 5e-5
        assert soundfile.info(tmp_path / name).subtype == "PCM_16"
    with pytest.raises(ValueError, match=r"written as \.wav or \.flac"):
        audio.write(tmp_path / "a.mp3", waveform)
    before = (tmp_path / "deep/a.wav").read_bytes()
    with open(tmp_path / "deep/a.wav", "rb") as reader:
        audio.write(tmp_path / "deep/a.wav", waveform[:500])
        assert reader.read() == before, "who reads the old file reads it to its end"
    before = (tmp_path / "deep/a.wav").read_bytes()
    monkeypatch.setattr(soundfile, "write", lambda *_, **__: (_ for _ in ()).throw(soundfile.LibsndfileError(2)))
    with pytest.raises(OSError, match=r"a\.wav.*space"):
        audio.write(tmp_path / "deep/a.wav", torch.zeros(5))
    assert (tmp_path / "deep/a.wav").read_bytes() == before
    assert sorted(os.listdir(tmp_path / "deep")) == ["a.flac", "a.wav"]
