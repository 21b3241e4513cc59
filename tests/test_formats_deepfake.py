"""The deepfake data sets' own layouts in miniature: what becomes of them, and that nothing is lost in silence."""

import csv
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
import torch

from speechrl import audio, prepare
from speechrl.data import formats, manifest

RATE = 8_000


def wav(path, seconds=0.5, rate=RATE, channels=1):
    """A ramp, so that a cut's samples say where it was cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.arange(int(seconds * rate), dtype=np.float64) % 30_000 / 32_768
    soundfile.write(
        path, np.repeat(ramp[:, None], channels, axis=1), rate, subtype=None if path.suffix == ".mp3" else "PCM_16"
    )
    return path


def run(*arguments):
    return prepare.main([str(argument) for argument in arguments])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def faults(path):
    return {row["What"].rsplit("/", 1)[-1]: row["Why"] for row in rows(path)}


@pytest.fixture
def asvspoof(tmp_path):
    source = tmp_path / "ASVspoof2019-LA"
    protocol = source / "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.dev.trl.txt"
    protocol.parent.mkdir(parents=True)
    protocol.write_text("LA_0069 LA_D_1 - - bonafide\nLA_0070 LA_D_2 - A03 spoof\nLA_0070 LA_D_3 - A04 spoof\n")
    for number in (1, 2):
        wav(source / f"LA/ASVspoof2019_LA_dev/flac/LA_D_{number}.flac", rate=16_000)
    return source


def test_asvspoof2019(asvspoof, tmp_path, capsys):
    assert run("asvspoof2019-la", asvspoof, tmp_path / "out") == 0
    real, fake = rows(tmp_path / "out/asvspoof2019_la_dev.csv")
    assert real == {
        "ID": "ASV19LA-LA_D_1",
        "Label": "real",
        "Duration": "0.50",
        "SampleRate": "16000",
        "Path": "$ROOT/ASVspoof2019-LA/LA/ASVspoof2019_LA_dev/flac/LA_D_1.flac",
        "Attack": "-",
        "Speaker": "LA_0069",
        "Proportion": "valid",
        "AudioChannel": "1",
        "AudioEncoding": "FLAC",
        "AudioBitSample": "16",
        "Language": "EN",
    }
    assert (fake["Label"], fake["Attack"], fake["Speaker"]) == ("fake", "A03", "LA_0070")
    assert faults(tmp_path / "out/asvspoof2019_la_missing.csv") == {"LA_D_3.flac": "there is no such file"}
    printed = capsys.readouterr().out
    assert "24,844" in printed and "24,842" in printed and "LA_D_3.flac" in printed
    items = manifest.read(tmp_path / "out/asvspoof2019_la_dev.csv", root=tmp_path, labels=("real", "fake"))
    assert [len(audio.read(item.path)) for item in items] == [8_000, 8_000]


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("LA_0069 LA_D_1 - - genuine\n", "line 1: label 'genuine', expected one of bonafide, spoof"),
        ("LA_0069 LA_D_1 - - bonafide\nLA_0069 LA_D_2\n", "line 2: 2 words, expected 5"),
        ("", "nothing is left for asvspoof2019_la_dev.csv; it lists no recording"),
    ],
)
def test_broken_protocol(asvspoof, tmp_path, capsys, protocol, message):
    next(asvspoof.rglob("*.trl.txt")).write_text(protocol)
    assert run("asvspoof2019-la", asvspoof, tmp_path / "out") == 1
    assert message in capsys.readouterr().err


def test_wrong_folder(tmp_path, capsys):
    assert run("asvspoof2019-la", tmp_path, tmp_path / "out") == 1
    assert "ASVspoof2019.LA.cm.dev.trl.txt; give the folder that the data set unpacks to" in capsys.readouterr().err
    assert run("add2023", tmp_path / "nowhere", tmp_path / "out") == 1
    assert "nowhere: there is no such file or folder" in capsys.readouterr().err


def test_root(asvspoof, tmp_path, capsys):
    assert run("asvspoof2019-la", asvspoof, tmp_path / "out", "--root", asvspoof) == 0
    assert rows(tmp_path / "out/asvspoof2019_la_dev.csv")[0]["Path"].startswith("$ROOT/LA/")
    assert run("asvspoof2019-la", asvspoof, tmp_path / "out", "--root", tmp_path / "out") == 1
    assert "not below --root" in capsys.readouterr().err


def test_add2023(tmp_path):
    source = tmp_path / "ADD2023/Track1.2/testR2"
    for number in (3, 4, 5):
        wav(source / f"wav/ADD2023_T1.2R2_E_0000000{number}.wav")
    lines = [f"ADD2023_T1.2R2_E_0000000{number}.wav {label}" for number, label in [(3, "genuine"), (4, "fake")]]
    (source / "label.txt").write_text("\n".join([*lines, lines[0]]))
    assert run("add2023", tmp_path / "ADD2023", tmp_path / "out") == 0
    real, fake = rows(tmp_path / "out/add2023.csv")
    assert (real["ID"], real["Label"]) == ("ADD2023-ADD2023_T1.2R2_E_00000003.wav", "real")
    assert (fake["Label"], fake["Proportion"]) == ("fake", "test")
    assert list(faults(tmp_path / "out/add2023_missing.csv").values()) == [
        "listed twice, as ADD2023-ADD2023_T1.2R2_E_00000003.wav"
    ]


def test_fake_or_real(tmp_path):
    testing = tmp_path / "FakeOrReal/for-original/testing"
    wav(testing / "real/file1.wav", channels=2)
    wav(testing / "fake/file1.mp3", rate=16_000)
    wav(testing / "fake/file1.wav")
    (testing / "fake/file2.mp3").write_bytes(b"")
    (testing / "fake/notes.txt").write_text("not audio")
    assert run("fake-or-real", tmp_path / "FakeOrReal", tmp_path / "out") == 0
    found = {row["ID"]: row for row in rows(tmp_path / "out/fake_or_real_test.csv")}
    assert list(found) == ["FoR-testing-fake-file1", "FoR-testing-fake-file1-2", "FoR-testing-real-file1"]
    assert found["FoR-testing-real-file1"]["AudioChannel"] == "2"
    assert found["FoR-testing-fake-file1"]["AudioEncoding"] == "MP3"
    assert faults(tmp_path / "out/fake_or_real_missing.csv") == {"file2.mp3": "the file is empty"}


def test_in_the_wild(tmp_path):
    folder = tmp_path / "release_in_the_wild"
    for number in (0, 1):
        wav(folder / f"{number}.wav")
    (folder / "meta.csv").write_text('file,speaker,label\n0.wav,"Guinness, Alec",spoof\n1.wav,Ayn Rand,bona-fide\n')
    assert run("in-the-wild", tmp_path, tmp_path / "out") == 0
    fake, real = rows(tmp_path / "out/in_the_wild.csv")
    assert (fake["ID"], fake["Label"], fake["Speaker"]) == ("ItW-0", "fake", "Guinness, Alec")
    assert (real["Label"], real["Proportion"]) == ("real", "-")
    assert not (tmp_path / "out/in_the_wild_missing.csv").exists()


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("file,label\n0.wav,spoof\n", "no column speaker in its header"),
        ("file,speaker,label\n0.wav,X\n", "line 2: the row ends before its column label"),
    ],
)
def test_broken_meta(tmp_path, capsys, meta, message):
    (tmp_path / "meta.csv").write_text(meta)
    assert run("in-the-wild", tmp_path, tmp_path / "out") == 1
    assert message in capsys.readouterr().err


@pytest.fixture
def deep_voice(tmp_path):
    folder = tmp_path / "DeepVoice/KAGGLE/AUDIO"
    wav(folder / "FAKE/Obama-to-Biden.wav", seconds=40)
    wav(folder / "REAL/musk-original.wav", seconds=40, channels=2)
    return tmp_path / "DeepVoice"


def test_deep_voice_from_the_log(deep_voice, tmp_path):
    (deep_voice / "DeepVoice_seg_log.txt").write_text(
        "Audio: Obama-to-Biden_seg_1, start at: 0, end at: 2000\n"
        "Saved: /base/AUDIO_SEGMENTS/FAKE/Obama-to-Biden_seg_1.wav\n"
        "Audio: Obama-to-Biden_seg_2, start at: 1500, end at: 9000\n"
        "Audio: linus-to-musk_seg_1, start at: 0, end at: 10\n"
    )
    assert run("deep-voice", deep_voice, tmp_path / "out") == 0
    first, second = rows(tmp_path / "out/deep_voice.csv")
    assert (first["ID"], first["Label"], first["Attack"]) == ("DeepVoice-VC_Obama-to-Biden_seg_1", "fake", "VC")
    assert second["Path"] == "$ROOT/out/AUDIO_SEGMENTS/FAKE/Obama-to-Biden_seg_2.wav"
    cut, rate = soundfile.read(tmp_path / "out/AUDIO_SEGMENTS/FAKE/Obama-to-Biden_seg_2.wav", dtype="int16")
    assert rate == RATE and (cut == np.arange(1500, 9000)).all()
    missing = faults(tmp_path / "out/deep_voice_missing.csv")
    assert missing == {
        "linus-to-musk.wav": "not in AUDIO; the log cuts it into 1",
        "musk-original.wav": "not in the log",
    }


def test_deep_voice_that_is_not_the_logged_recording(deep_voice, tmp_path, capsys):
    log = tmp_path / "other.txt"
    log.write_text("Audio: Obama-to-Biden_seg_1, start at: 0, end at: 999999\n")
    assert run("deep-voice", deep_voice, tmp_path / "out", "--log", log) == 1
    assert "cuts beyond its end" in faults(tmp_path / "out/deep_voice_missing.csv")["Obama-to-Biden.wav"]
    log.write_text("nothing of the kind\n")
    assert run("deep-voice", deep_voice, tmp_path / "out", "--log", log) == 1
    assert "other.txt: no line like 'Audio:" in capsys.readouterr().err


def test_deep_voice_without_the_log(deep_voice, tmp_path, capsys):
    assert run("deep-voice", deep_voice, tmp_path / "out") == 0
    assert "own seed" in capsys.readouterr().out
    found = rows(tmp_path / "out/deep_voice.csv")
    assert {row["Label"] for row in found} == {"real", "fake"}
    assert all(row["Label"] in row["Path"].lower() for row in found)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*.wav")}
    run("deep-voice", deep_voice, tmp_path / "again")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "again").rglob("*.wav")}
    run("deep-voice", deep_voice, tmp_path / "other", "--seed", 1)
    assert first != {path.name: path.read_bytes() for path in (tmp_path / "other").rglob("*.wav")}


def test_random_cuts():
    cuts = formats.random_cuts(1_000 * RATE, RATE, "key")
    starts, ends = (torch.tensor(side) for side in zip(*cuts, strict=True))
    lengths = (ends - starts) / RATE
    overlaps = (ends[:-1] - starts[1:]) / (ends - starts)[:-1]
    assert starts[0] == 0 and ends[-1] == 1_000 * RATE and (starts.diff() > 0).all()
    assert lengths[:-1].min() > 1.49 and lengths.max() <= 15 and 7 < lengths.mean() < 9.5
    assert overlaps.min() > 0.09 and overlaps.max() < 0.81


def test_equal_cuts_keep_the_rest():
    assert formats.equal_cuts(25, 1, 10) == [(0, 10), (10, 20), (20, 25)]
    assert formats.equal_cuts(20, 1, 10) == [(0, 10), (10, 20)]
    assert formats.equal_cuts(3, 1, 10) == [(0, 3)]


@pytest.fixture
def deepfake_eval(tmp_path):
    source = tmp_path / "Deepfake-Eval-2024"
    wav(source / "audio-data/a.wav", seconds=21, rate=11_025, channels=2)
    wav(source / "audio-data/b.wav", seconds=3)
    wav(source / "audio-data/c.flac", seconds=60)
    wav(source / "audio-data/unlisted.wav")
    (source / "audio-data/broken.m4a").write_bytes(b"not audio at all")
    listed = ["a.wav,Fake,Test", "b.wav,Real,Test", "c.flac,Real,Train", "broken.m4a,Fake,Train", "d.mp3,Fake,Test"]
    listed += ["e.wav,Unknown,Test", "f.wav,Fake,", "c.flac,Real,Train"]
    lines = ["Filename,Ground Truth,Finetuning Set,Language", *(f"{line},English" for line in listed)]
    (source / "audio-metadata-publish.csv").write_text("\n".join(lines))
    return source


def test_deepfake_eval_2024(deepfake_eval, tmp_path, capsys):
    assert run("deepfake-eval-2024", deepfake_eval, tmp_path / "out") == 0
    tests = {seconds: rows(tmp_path / f"out/deepfake_eval_2024_test_{seconds}s.csv") for seconds in (4, 10, 13, 30, 50)}
    assert {seconds: len(found) for seconds, found in tests.items()} == {4: 7, 10: 4, 13: 3, 30: 2, 50: 2}
    assert [row["Duration"] for row in tests[10]] == ["10.00", "10.00", "1.00", "3.00"]
    last = tests[10][2]
    assert (last["ID"], last["Label"], last["SampleRate"]) == ("DFE24-test_10s-a_seg3", "fake", "11025")
    assert (last["AudioChannel"], last["AudioEncoding"], last["Proportion"]) == ("1", "FLAC", "test")
    cut, _ = soundfile.read(tmp_path / "out/segmented/test_10s/fake/a_seg2.flac", dtype="int16")
    assert (cut == np.arange(110_250, 220_500) % 30_000).all()
    train = rows(tmp_path / "out/deepfake_eval_2024_train.csv")
    assert {row["Label"] for row in train} == {"real"} and max(float(row["Duration"]) for row in train) <= 15
    missing = faults(tmp_path / "out/deepfake_eval_2024_missing.csv")
    assert set(missing) == {"broken.m4a", "d.mp3", "e.wav", "f.wav", "c.flac"}
    assert "decode" in missing["broken.m4a"] and missing["d.mp3"] == "there is no such file"
    assert "'Unknown', neither real nor fake" in missing["e.wav"] and "'', neither train nor test" in missing["f.wav"]
    assert "1 recordings in" in capsys.readouterr().out


def test_deepfake_eval_2024_tells_equal_stems_apart(tmp_path):
    for suffix in ("wav", "flac"):
        wav(tmp_path / f"audio-data/a.{suffix}", seconds=3)
    wav(tmp_path / "audio-data/b.wav")
    lines = ["Filename,Ground Truth,Finetuning Set", "a.wav,Fake,Test", "a.flac,Real,Test", "b.wav,Real,Train"]
    (tmp_path / "audio-metadata-publish.csv").write_text("\n".join(lines))
    assert run("deepfake-eval-2024", tmp_path, tmp_path / "out") == 0
    found = rows(tmp_path / "out/deepfake_eval_2024_test_4s.csv")
    assert [row["ID"] for row in found] == ["DFE24-test_4s-a_wav_seg1", "DFE24-test_4s-a_flac_seg1"]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="m4a and mp4 are NOT tested: ffmpeg is not on the PATH")
@pytest.mark.parametrize("suffix", ["m4a", "mp4"])
def test_deepfake_eval_2024_reads_m4a_and_mp4(deepfake_eval, suffix):
    plain = wav(deepfake_eval / "plain.wav", seconds=9, rate=44_100)
    made = deepfake_eval / f"audio-data/made.{suffix}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", plain, "-c:a", "aac", made], check=True)
    with open(deepfake_eval / "audio-metadata-publish.csv", "a") as file:
        file.write(f"\nmade.{suffix},Fake,Test,English")
    assert run("deepfake-eval-2024", deepfake_eval, deepfake_eval / "out") == 0
    made = [row for row in rows(deepfake_eval / "out/deepfake_eval_2024_test_4s.csv") if "made" in row["ID"]]
    assert [row["SampleRate"] for row in made] == ["44100"] * 3
    assert sum(float(row["Duration"]) for row in made) == pytest.approx(9, abs=0.1)


def test_a_disk_without_space_stops_it(deepfake_eval, tmp_path, monkeypatch, capsys):
    def full(path, waveform, *, rate):
        raise OSError(f"{path}: cannot be written (no space left on device); is there space on the disk?")

    monkeypatch.setattr(audio, "write", full)
    assert run("deepfake-eval-2024", deepfake_eval, tmp_path / "out") == 1
    assert "is there space on the disk?" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.csv"))
