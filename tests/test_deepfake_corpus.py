"""The embedded corpora: whole or absent, the same for any number of workers, and each role as it is described."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechrl.data import bonafide
from speechrl.data import deepfake_corpus as corpus
from speechrl.data.sentences import LANGUAGES, sentence
from speechrl.types import SAMPLE_RATE, generator

SETS = {
    *("pretrain", "post_train", "train", "valid", "ood_add", "ood_for", "ood_dv", "ood_itw"),
    *("target_4s", "target_10s", "target_13s", "target_30s", "target_50s"),
}


def _rows(root: Path, name: str) -> list[dict[str, str]]:
    with open(root / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus.build(tmp_path_factory.mktemp("corpora"), seed=3, fraction=0.006, workers=2)


def test_protocols_describe_the_files(built: Path):
    assert {path.stem for path in built.glob("*.csv")} == SETS
    identities = []
    for name in SETS:
        rows = _rows(built, name)
        assert tuple(rows[0])[:12] == corpus.COLUMNS
        assert (tuple(rows[0])[12:] == ("Phonemes",)) == (name == "pretrain")
        identities += [row["ID"] for row in rows]
        for row in rows:
            info = soundfile.info(row["Path"].replace("$ROOT", str(built)))
            assert (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
            assert f"{info.duration:.2f}" == row["Duration"]
            assert (row["Label"] == "fake") == (row["Attack"] != "-")
            assert row["Attack"] == "-" or row["Attack"] in corpus.DOMAINS[row["ID"].split("-")[0]].attacks
    assert len(set(identities)) == len(identities)


def test_labels_are_balanced_and_pretraining_is_bona_fide(built: Path):
    for name in SETS - {"pretrain"}:
        fakes = sum(row["Label"] == "fake" for row in _rows(built, name))
        assert abs(2 * fakes - len(_rows(built, name))) <= 1
    pretrain = _rows(built, "pretrain")
    assert all(row["Label"] == "real" and len(row["Phonemes"].split()) > 8 for row in pretrain)
    assert not any(mark in row["Phonemes"] for row in pretrain for mark in "ˈˌ")


def test_target_durations_are_cuts_of_the_same_recordings(built: Path):
    longest = _rows(built, "target_50s")
    for name, seconds in corpus.TARGET_SECONDS.items():
        rows = _rows(built, f"target_{name}")
        assert all(float(row["Duration"]) == seconds for row in rows)
        assert [row["Speaker"] for row in rows] == [row["Speaker"] for row in longest]
        part = soundfile.read(rows[1]["Path"].replace("$ROOT", str(built)), dtype="int16")[0]
        whole = soundfile.read(longest[1]["Path"].replace("$ROOT", str(built)), dtype="int16")[0]
        start = (len(whole) - len(part)) // 2
        assert np.array_equal(part, whole[start : start + len(part)])


def test_samples_do_not_depend_on_workers_or_order(built: Path, tmp_path: Path):
    for role, index in (("post_train", 5), ("ood_dv", 1), ("train", 2)):
        (tmp_path / role).mkdir()
        threads = torch.get_num_threads()
        corpus._work([corpus._Job(tmp_path, 3, role, corpus.DOMAINS[role], index, None)])
        torch.set_num_threads(threads)
        name = f"{role}/{role}-{index:04d}.flac"
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes()


def test_a_finished_corpus_is_returned_and_a_failed_one_is_absent(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(corpus, "_run", fail)
    assert corpus.build(built.parent, seed=3, fraction=0.006) == built
    with pytest.raises(ValueError, match="disk is full.*250 MB"):
        corpus.build(tmp_path, seed=3)
    assert [path.name for path in tmp_path.iterdir()] == [".deepfake.lock"]
    names = {corpus._fingerprint(None, seed, fraction) for seed in (0, 1) for fraction in (0.5, 1.0)}
    assert len(names) == 4


def test_roles_mirror_the_paper():
    domains = corpus.DOMAINS
    tests = {role: d for role, d in domains.items() if d.proportion == "test"}
    assert set(tests) == {"target", "ood_add", "ood_for", "ood_dv", "ood_itw"}
    assert all(d.trials >= 400 for d in tests.values())
    assert set(domains["valid"].attacks) <= set(domains["post_train"].attacks)
    # What is heard after post-training has attacks of its own, and no two domains share one.
    later = [domains["train"].attacks, *(d.attacks for role, d in tests.items() if role != "target")]
    assert not {attack for attacks in later for attack in attacks} & set(domains["post_train"].attacks)
    assert len({attack for attacks in later for attack in attacks}) == sum(map(len, later))
    assert (domains["train"].attacks, domains["train"].scene) == (domains["target"].attacks, domains["target"].scene)


def test_sentences_differ_and_unknown_languages_are_named():
    for language in LANGUAGES:
        drawn = {sentence(language, generator("t", k)) for k in range(60)}
        assert len(drawn) > 50
    with pytest.raises(ValueError, match="'xx'"):
        sentence("xx", generator(0))


def _tones(folder: Path, count: int, seconds: float) -> Path:
    """Recordings that are told apart by their pitch: number k is 400 + 100 k Hz, between silences."""
    for k in range(count):
        rate, ending = [(16_000, "wav"), (22_050, "flac"), (44_100, "ogg"), (48_000, "mp3")][k % 4]
        tone = 0.3 * np.sin(2 * np.pi * (400 + 100 * k) * np.arange(int(rate * seconds)) / rate)
        padded = np.concatenate([np.zeros(rate // 4), tone, np.zeros(rate // 4)])
        path = folder / f"speaker{k % 3}" / f"{k}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([padded, padded], 1), rate)
    return folder


def _heard(samples: np.ndarray) -> int:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return round((float(spectrum.argmax()) * SAMPLE_RATE / len(samples) - 400) / 100)


def test_recordings_are_dealt_out_without_overlap(tmp_path: Path):
    folder, streams = _tones(tmp_path / "recordings", 28, 4.0), tmp_path / "streams"
    streams.mkdir()
    needs = {"a": (40.0, (1.0, 1.0)), "b": (40.0, (1.0, 1.0)), "c": (20.0, (2.0, 2.0))}
    segments = bonafide.gather(folder, streams, needs, seed=1)
    heard: dict[str, set[int]] = {}
    for domain, cuts in segments.items():
        assert sum(cut.stop - cut.start for cut in cuts) == pytest.approx(needs[domain][0] * SAMPLE_RATE, rel=0.2)
        clips = [bonafide.recorded(streams / f"{domain}.pcm", cut) for cut in cuts]
        assert {clip.speaker for clip in clips} <= {"speaker0", "speaker1", "speaker2"}
        heard[domain] = {_heard(clip.waveform.numpy()) for clip in clips}
        assert all(clip.waveform.abs().max() > 0.05 for clip in clips)
    assert all(heard.values()) and sum(map(len, heard.values())) == len(set.union(*heard.values()))


def test_silent_recordings_are_left_out_aloud(tmp_path: Path):
    folder = _tones(tmp_path / "recordings", 24, 3.0)
    faint = 1e-4 * torch.randn(320_000, generator=generator("faint")).numpy()
    soundfile.write(folder / "pause.wav", faint, SAMPLE_RATE)
    with pytest.warns(UserWarning, match="1 silent .*pause.wav"):
        segments = bonafide.gather(folder, tmp_path, {"a": (1000.0, (1.0, 2.0))}, seed=0)
    assert all(cut.speaker != "." for cut in segments["a"])


def test_few_recordings_make_fewer_trials_and_say_so(tmp_path: Path):
    segments = {role: [bonafide.Segment(0, 9, "x")] * 30 for role, d in corpus.DOMAINS.items() if d.attacks}
    with pytest.warns(UserWarning, match="valid 60 of 400, train 60 of 600"):
        fitted = corpus._fitted(dict(corpus.DOMAINS), segments, tmp_path)
    assert fitted["target"].trials == 60 and fitted["pretrain"].trials == corpus.DOMAINS["pretrain"].trials


def test_unusable_recordings_are_named(tmp_path: Path):
    needs = {"a": (1000.0, (1.0, 2.0))}
    with pytest.raises(ValueError, match="no such folder"):
        bonafide.listing(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="3 recordings .* at least 20"):
        bonafide.gather(_tones(tmp_path / "few", 3, 30), tmp_path, needs, seed=0)
    folder = _tones(tmp_path / "some", 24, 3)
    (folder / "broken.wav").write_bytes(b"RIFF nothing of the kind")
    with pytest.raises(ValueError, match="broken.wav"):
        bonafide.gather(folder, tmp_path, needs, seed=0)
    (folder / "broken.wav").unlink()
    soundfile.write(folder / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match="nan.wav.*no numbers"):
        bonafide.gather(folder, tmp_path, needs, seed=0)


def test_trimming_leaves_the_sound_alone():
    sound = torch.ones(3200)
    padded = torch.cat([torch.zeros(1600), sound, torch.zeros(960)])
    assert torch.equal(bonafide.trim(padded), sound)
    assert not len(bonafide.trim(torch.zeros(5000)))
