"""The deepfake data sets of 2603.02914 in their own layouts, each turned into manifests of the paper's protocol."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from speechrl import audio
from speechrl.data import formats
from speechrl.data.formats import Clip, Count, Fault, Prepared

DURATIONS = (4, 10, 13, 30, 50)
"""Seconds that the test part of Deepfake-Eval-2024 is cut to, one test set for each."""

_LOGGED_CUT = re.compile(r"Audio:\s*(.+)_seg_(\d+), start at: (\d+), end at: (\d+)")


@dataclass(frozen=True)
class _Long:
    """A long recording that is cut into clips: `split` is train or test, `cuts` are published ones if there are any."""

    path: Path
    stem: str
    label: str
    split: str = "-"
    cuts: tuple[tuple[int, int, int], ...] = ()


def asvspoof2019_la(source: Path, output: Path) -> Prepared:
    """ASVspoof2019 LA, development part: the validation set. IDs `ASV19LA-...`, attacks A01 to A06.

    Reads ASVspoof2019.LA.cm.dev.trl.txt (speaker, file, -, attack, bonafide|spoof) and ASVspoof2019_LA_dev/flac.
    """
    protocols, name = "ASVspoof2019_LA_cm_protocols", "ASVspoof2019.LA.cm.dev.trl.txt"
    protocol = formats.locate(source, f"LA/{protocols}/{name}", f"{protocols}/{name}", name)
    folder = formats.locate(source, "LA/ASVspoof2019_LA_dev/flac", "ASVspoof2019_LA_dev/flac", "flac")
    clips = [
        Clip(
            id=f"ASV19LA-{file}",
            path=folder / f"{file}.flac",
            label=_label(word, {"bonafide": "real", "spoof": "fake"}, protocol, line),
            attack=attack,
            speaker=speaker,
            proportion="valid",
            language="EN",
        )
        for line, (speaker, file, _, attack, word) in formats.lines(protocol, 5)
    ]
    return _in_place("asvspoof2019_la_dev.csv", clips, published=(24_844, 2_548, 22_296))


def add2023(source: Path, output: Path) -> Prepared:
    """ADD2023 Track 1.2 testR2 (Mandarin). IDs `ADD2023-<file>.wav`, as in the published protocol.

    Reads label.txt (`<file>.wav genuine|fake`) and the folder wav.
    """
    inner = "Track1.2/testR2"
    protocol = formats.locate(
        source, f"ADD2023/{inner}/label.txt", f"{inner}/label.txt", "testR2/label.txt", "label.txt"
    )
    clips = [
        Clip(
            id=f"ADD2023-{file}",
            path=protocol.parent / "wav" / file,
            label=_label(word, {"genuine": "real", "fake": "fake"}, protocol, line),
            proportion="test",
        )
        for line, (file, word) in formats.lines(protocol, 2)
    ]
    return _in_place("add2023.csv", clips, published=(118_477, None, None))


def fake_or_real(source: Path, output: Path) -> Prepared:
    """Fake-or-Real, for-original, the testing part: wavs and, of most fakes, mp3s. IDs `FoR-testing-<label>-<stem>`."""
    testing = formats.locate(source, "for-original/testing", "testing")
    clips = [
        Clip(id=f"FoR-testing-{label}-{path.stem}", path=path, label=label, proportion="test", language="EN")
        for label in ("fake", "real")
        for path in formats.recordings(formats.locate(testing, label))
    ]
    note = "the published size is not known for for-original"
    return _in_place("fake_or_real_test.csv", clips, published=(None, None, None), note=note)


def in_the_wild(source: Path, output: Path) -> Prepared:
    """In-the-Wild. IDs `ItW-<stem>`; reads meta.csv (file, speaker, label: bona-fide|spoof) and the wavs beside it."""
    meta = formats.locate(source, "release_in_the_wild/meta.csv", "meta.csv")
    clips = [
        Clip(
            id=f"ItW-{Path(row['file']).stem}",
            path=meta.parent / row["file"],
            label=_label(row["label"], {"bona-fide": "real", "spoof": "fake"}, meta, line),
            speaker=row["speaker"],
            language="EN",
        )
        for line, row in formats.table(meta, "file", "speaker", "label")
    ]
    return _in_place("in_the_wild.csv", clips, published=(31_779, 19_963, 11_816))


def deep_voice(source: Path, output: Path, *, log: Path | None = None, seed: int = 0) -> Prepared:
    """DEEP-VOICE: the recordings of its folder AUDIO, cut into overlapping clips. IDs `DeepVoice-VC_<stem>_seg_<i>`.

    `log` is the published DeepVoice_seg_log.txt, which gives the start and end of every cut in samples; it is also
    found inside `source`. Without it the cuts are this project's own: the published scheme (`formats.random_cuts`)
    with our seed, so the trials are not those of the paper.
    """
    folder = formats.locate(source, "KAGGLE/AUDIO", "AUDIO")
    if log is None and (source / "DeepVoice_seg_log.txt").exists():
        log = source / "DeepVoice_seg_log.txt"
    found = [
        _Long(path, path.stem, label)
        for label in ("fake", "real")
        for path in formats.recordings(formats.locate(folder, label.upper()))
    ]
    longs, faults = _logged(log, found) if log else (found, [])

    def segment(long: _Long) -> list[Clip] | Fault:
        return _segment_deep_voice(long, output / "AUDIO_SEGMENTS", seed)

    clips, broken = _flat(formats.in_threads(segment, longs, "cutting"))
    notes = [] if log else ["cut by this project's own seed: give --log DeepVoice_seg_log.txt for the paper's trials"]
    prepared = _in_place("deep_voice.csv", clips, published=(6_593, 810, 5_783), faults=[*faults, *broken])
    files = Count("long recordings", len(found), 64, "56 fake and 8 real")
    return replace(prepared, counts=[files, *prepared.counts], notes=notes)


def deepfake_eval_2024(source: Path, output: Path, *, seed: int = 0) -> Prepared:
    """Deepfake-Eval-2024, audio: one training manifest and five test ones. IDs `DFE24-<set>-<stem>_seg<i>`.

    Reads audio-metadata-publish.csv (Filename, Ground Truth, Finetuning Set) and the folder audio-data. The test
    recordings are cut one after another into 4, 10, 13, 30 and 50 s, the training ones at random into at most 15 s
    (`formats.random_cuts`: the script of the paper's random segmentation is not published; that it is the scheme of
    DEEP-VOICE, made by the same group, is inferred from the same limit of 15 s). Clips are 16-bit mono FLAC at the
    recording's own rate.
    """
    meta = formats.locate(source, "audio-metadata-publish.csv", "metadata.csv")
    folder = formats.locate(source, "audio-data", "audio")
    longs, faults = _deepfake_eval_recordings(meta, folder)

    def segment(long: _Long) -> list[Clip] | Fault:
        return _segment_deepfake_eval(long, output / "segmented", seed)

    clips, broken = _flat(formats.in_threads(segment, longs, "cutting"))
    names = ["train", *(f"test_{seconds}s" for seconds in DURATIONS)]
    manifests, counts = {}, [Count("recordings", len(longs), None, "the metadata file lists about 1,980")]
    faults = [*faults, *broken]
    for name in names:
        part = [clip for clip in clips if clip.extra["Set"] == name]
        rows, unreadable = formats.rows(part, name)
        manifests[f"deepfake_eval_2024_{name}.csv"] = rows
        faults += unreadable
        hours = sum(float(row["Duration"]) for row in rows) / 3600
        note = f"{hours:.1f} h" + ("; about 50 h in the paper" if name == "train" else "")
        counts.append(Count(f"{name} clips", len(rows), None, note))
    unlisted = len(set(formats.recordings(folder)) - {long.path for long in longs} - {Path(f.what) for f in faults})
    notes = [f"{unlisted} recordings in {folder} are not in {meta.name}"] if unlisted else []
    return Prepared(manifests=manifests, faults=faults, counts=counts, notes=notes)


def _deepfake_eval_recordings(meta: Path, folder: Path) -> tuple[list[_Long], list[Fault]]:
    """The recordings that the metadata puts into a set; a stem that two files share is told apart by their suffixes."""
    longs: dict[Path, _Long] = {}
    faults = []
    for _, row in formats.table(meta, "Filename", "Ground Truth", "Finetuning Set"):
        path, label, split = folder / row["Filename"], row["Ground Truth"].lower(), row["Finetuning Set"].lower()
        if label not in ("real", "fake"):
            faults.append(Fault(str(path), f"its ground truth is {row['Ground Truth']!r}, neither real nor fake"))
        elif split not in ("train", "test"):
            faults.append(Fault(str(path), f"its set is {row['Finetuning Set']!r}, neither train nor test"))
        elif path in longs:
            faults.append(Fault(str(path), f"listed twice, as {longs[path].label} and as {label}; the first counts"))
        else:
            longs[path] = _Long(path, path.stem, label, split)
    shared = Counter(long.stem for long in longs.values())
    return [
        replace(long, stem=long.path.name.replace(".", "_")) if shared[long.stem] > 1 else long
        for long in longs.values()
    ], faults


def _segment_deepfake_eval(long: _Long, folder: Path, seed: int) -> list[Clip] | Fault:
    try:
        waveform, rate = formats.native(long.path)
    except audio.AudioError as error:
        return Fault(str(long.path), error.reason)
    if long.split == "train":
        sets = {"train": formats.random_cuts(len(waveform), rate, seed, "deepfake-eval-2024", long.stem)}
    else:
        sets = {f"test_{seconds}s": formats.equal_cuts(len(waveform), rate, seconds) for seconds in DURATIONS}
    clips = []
    for name, cuts in sets.items():
        for number, (start, end) in enumerate(cuts, start=1):
            path = folder / name / long.label / f"{long.stem}_seg{number}.flac"
            audio.write(path, waveform[start:end], rate=rate)
            clip_id = f"DFE24-{name}-{path.stem}"
            clips.append(Clip(id=clip_id, path=path, label=long.label, proportion=long.split, extra={"Set": name}))
    return clips


def _segment_deep_voice(long: _Long, folder: Path, seed: int) -> list[Clip] | Fault:
    try:
        waveform, rate = formats.native(long.path)
    except audio.AudioError as error:
        return Fault(str(long.path), error.reason)
    if long.cuts and max(end for _, _, end in long.cuts) > len(waveform):
        return Fault(str(long.path), f"the log cuts beyond its end ({len(waveform)} samples): not the logged recording")
    own = formats.random_cuts(len(waveform), rate, seed, "deep-voice", long.stem)
    clips = []
    for number, start, end in long.cuts or [(number, *cut) for number, cut in enumerate(own, start=1)]:
        path = folder / long.label.upper() / f"{long.stem}_seg_{number}.wav"
        audio.write(path, waveform[start:end], rate=rate)
        clip_id = f"DeepVoice-VC_{path.stem}"
        clips.append(Clip(id=clip_id, path=path, label=long.label, attack="VC", language="EN"))
    return clips


def _logged(log: Path, found: Sequence[_Long]) -> tuple[list[_Long], list[Fault]]:
    """The recordings with the cuts that the log gives them, and what log and folder do not share."""
    cuts: dict[str, list[tuple[int, int, int]]] = {}
    for stem, *numbers in _LOGGED_CUT.findall(formats.text_of(log)):
        number, start, end = map(int, numbers)
        cuts.setdefault(stem, []).append((number, start, end))
    if not cuts:
        raise ValueError(f"{log}: no line like 'Audio: <name>_seg_1, start at: 0, end at: 209527'; is this the log?")
    longs = [replace(one, cuts=tuple(cuts[one.stem])) for one in found if one.stem in cuts]
    absent = set(cuts) - {one.stem for one in found}
    faults = [Fault(f"{stem}.wav", f"not in AUDIO; the log cuts it into {len(cuts[stem])}") for stem in sorted(absent)]
    faults += [Fault(str(one.path), "not in the log") for one in found if one.stem not in cuts]
    return longs, faults


def _in_place(
    name: str,
    clips: Sequence[Clip],
    *,
    published: tuple[int | None, int | None, int | None],
    faults: Sequence[Fault] = (),
    note: str = "",
) -> Prepared:
    """One manifest of clips that exist as files; `published` counts all, real and fake ones."""
    different, repeated = formats.distinct(clips)
    rows, unreadable = formats.rows(different, name)
    labels = [row["Label"] for row in rows]
    here = (len(rows), labels.count("real"), labels.count("fake"))
    whats = ("clips", "real", "fake")
    counts = [Count(what, *pair, note) for what, pair in zip(whats, zip(here, published, strict=True), strict=True)]
    return Prepared(manifests={name: rows}, faults=[*faults, *repeated, *unreadable], counts=counts)


def _flat(found: Sequence[list[Clip] | Fault]) -> tuple[list[Clip], list[Fault]]:
    clips = [clip for one in found if not isinstance(one, Fault) for clip in one]
    return clips, [one for one in found if isinstance(one, Fault)]


def _label(word: str, names: dict[str, str], file: Path, line: int) -> str:
    return formats.label_of(word, names, f"{file}, line {line}")
