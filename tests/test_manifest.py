"""The manifest: written and read back, a user's own read as it is, and every fault named by file and row."""

import json
import os
from dataclasses import replace

import pytest
import torch

from speechrl import audio
from speechrl.data import manifest, verified
from speechrl.data.manifest import Item

LABELS = ("real", "fake")
PROTOCOL = "ID,Label,Duration,SampleRate,Path,Attack,Speaker,Proportion"


def save(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        audio.write(tmp_path / f"wav/{number}.wav", torch.full((8_000 + number,), 0.1))
    return tmp_path


def labelled(folder, header="ID,Label,Path", rows=4):
    lines = [f"x-{number},{LABELS[number % 2]},$ROOT/wav/{number}.wav" for number in range(rows)]
    return save(folder / "m.csv", "\n".join([header, *lines]) + "\n")


def test_the_papers_protocol_is_read(tmp_path):
    path = save(tmp_path / "p.csv", f"{PROTOCOL}\nItW-1,fake,4.02,44100,$ROOT/a/1.wav,A07,-,test\n")
    (item,) = manifest.read(path, root="/data", labels=LABELS)
    meta = {"samplerate": "44100", "attack": "A07", "speaker": "-", "proportion": "test"}
    assert item == Item("ItW-1", type(path)("/data/a/1.wav"), "fake", "", 4.02, meta)
    assert manifest.read(path)[0].path == tmp_path / "a/1.wav", "the default root is the CSV's folder"


def test_a_root_given_relative_is_not_doubled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "p.csv", "Path,Label\n$ROOT/a.wav,real\nb.wav,fake\n")
    assert [os.path.abspath(item.path) for item in manifest.read(path, root="data")] == [
        str(tmp_path / "data/a.wav"),
        str(tmp_path / "data/b.wav"),
    ]


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_users_own_minimal_csv_is_read(tmp_path, start, delimiter):
    rows = [
        ("AUDIO", "prompt", "Answer", "room"),
        ("a/1.wav", '"Which, of two?\nSay."', "dog", "k"),
        ("2.wav", "", "cat", ""),
    ]
    path = save(tmp_path / "p.csv", start + "\n".join(delimiter.join(row) for row in rows))
    first, second = manifest.read(path)
    assert (first.id, first.path, first.target, first.seconds) == ("1", tmp_path / "a/1.wav", "dog", 0.0)
    assert first.prompt == "Which, of two?\nSay." and first.meta == {"room": "k"} and second.row == 3


def test_files_of_one_name_in_two_folders_stay_apart(tmp_path):
    path = save(tmp_path / "p.csv", "path,label\na/1.wav,real\nb/1.wav,fake\n2.wav,fake\n")
    assert [item.id for item in manifest.read(path)] == ["a/1.wav", "b/1.wav", "2"]


def test_what_is_written_is_read_back(tmp_path):
    items = [
        Item("q1", tmp_path / "a.wav", 'the "dog", or\nnot', "<audio>What?", 1 / 3, {"choices": ["dog", "Vögel"]}),
        Item("q2", type(tmp_path)("/elsewhere/b.wav"), "cat", "<audio>Who?", 2.0000625, {"attack": "A1", "own": "7"}),
    ]
    manifest.write(tmp_path / "deep/m.csv", items, root=tmp_path)
    assert (tmp_path / "deep/m.csv").read_text().splitlines()[0] == "ID,Prompt,Answer,Choices,Duration,Path,Attack,own"
    back = manifest.read(tmp_path / "deep/m.csv", root=tmp_path)
    assert [(item.id, item.path, item.target, item.prompt) for item in back] == [
        (item.id, item.path, item.target, item.prompt) for item in items
    ]
    assert back[0].seconds == pytest.approx(1 / 3, abs=1e-7) and back[1].seconds == 2.0000625
    assert back[0].meta["choices"] == ["dog", "Vögel"] and back[1].meta["own"] == "7"
    rows = [
        {"ID": "a", "Label": "real", "Path": tmp_path / "a.wav", "Attack": "-"},
        {"ID": "b", "Label": "fake", "Path": "/b.wav"},
    ]
    manifest.write(tmp_path / "m.csv", rows)
    assert (tmp_path / "m.csv").read_text() == "ID,Label,Path,Attack\na,real,$ROOT/a.wav,-\nb,fake,/b.wav,\n"
    assert sorted(os.listdir(tmp_path)) == ["deep", "m.csv"], "no temporary file stays"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,Label,Path\n", "m.csv: no row below the header"),
        ("", "m.csv: no row below the header"),
        ("ID,Label\n1,real\n", "m.csv: add a column Path or Audio; it has id, label"),
        ("ID,Path\n1,a.wav\n", "m.csv: add a column Answer or Label"),
        ("ID,Path,path,Label\n1,a,b,real\n", "column 'path' occurs twice"),
        (
            "ID,Path,Label\n1,a.wav,real\n2,b.wav,faek\n",
            "m.csv row 3: the label 'faek' is not one of real, fake; did you mean 'fake'",
        ),
        ("ID,Path,Label\n1,a.wav,real\n\n1,b.wav,fake\n", "m.csv row 4: the ID '1' is already that of row 2"),
        ("ID,Path,Label\n1,a.wav,real,\n", "m.csv row 2: 4 cells under 3 columns"),
        ("ID,Path,Label\n1,,real\n", "m.csv row 2: the path is empty"),
        ("ID,Path,Label\n,a.wav,real\n", "m.csv row 2: the ID is empty"),
        ("ID,Path,Label,Duration\n1,a.wav,real,long\n", "m.csv row 2: the Duration 'long' is not a number"),
        ("ID,Path,Label,Choices\n1,a.wav,real,dog\n", "m.csv row 2: Choices is not a JSON list"),
    ],
)
def test_faults_are_named_by_file_and_row(tmp_path, text, message):
    with pytest.raises(ValueError) as caught:
        manifest.read(save(tmp_path / "m.csv", text), labels=LABELS)
    assert message in str(caught.value)


def test_all_bad_rows_are_listed_at_once(tmp_path):
    path = save(tmp_path / "m.csv", "ID,Path,Label\n1,a,Real\n2,b,real\n3,c,bonafide\n")
    with pytest.raises(ValueError, match=r"(?s)remove 2 of its rows.*row 2.*did you mean 'real'.*row 4"):
        manifest.read(path, labels=LABELS)
    with pytest.raises(ValueError, match="no such manifest"):
        manifest.read(tmp_path / "other.csv")
    (tmp_path / "latin.csv").write_bytes("Path,Label\nä.wav,real\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv: not UTF-8"):
        manifest.read(tmp_path / "latin.csv")


def test_check_measures_and_remembers(folder, monkeypatch):
    items = manifest.read(labelled(folder), labels=LABELS)
    good, faults = manifest.check(items, progress=False)
    assert not faults and [round(item.seconds * 16_000) for item in good] == [8_000, 8_001, 8_002, 8_003]
    assert good == [replace(item, seconds=item2.seconds) for item, item2 in zip(items, good, strict=True)]
    decoded = []
    monkeypatch.setattr(audio, "measure", lambda path: decoded.append(path.name) or 8_000)
    assert manifest.check(items, progress=False)[0] == good and not decoded
    audio.write(folder / "wav/2.wav", torch.zeros(9_000))
    manifest.check(items, progress=False)
    assert decoded == ["2.wav"], "only what changed is decoded again"
    manifest.check(items, cache=folder / "wav/new", progress=False)
    assert len(decoded) == 5 and len(json.loads((folder / "wav/new" / verified.MEMORY).read_text())) == 4


def test_check_lists_every_fault_or_skips(folder):
    (folder / "wav/0.wav").unlink()
    (folder / "wav/3.wav").write_bytes(b"")
    items = manifest.read(labelled(folder))
    with pytest.raises(ValueError) as caught:
        manifest.check(items, progress=False)
    head, first, second = str(caught.value).splitlines()
    assert head == "2 of 4 recordings cannot be used; repair or remove them, or set on_bad_audio=skip:"
    assert "m.csv row 2" in first and "0.wav: there is no such file" in first
    assert "m.csv row 5" in second and "3.wav: the file is empty" in second
    good, faults = manifest.check(items, on_bad_audio="skip", progress=False)
    assert [item.id for item in good] == ["x-1", "x-2"] and [fault.item.id for fault in faults] == ["x-0", "x-3"]
    with pytest.raises(ValueError, match=r"less than the 0\.6 s"):
        manifest.check(good, on_bad_audio="skip", min_seconds=0.6, progress=False)


def test_one_class_is_no_test_set(folder):
    items = manifest.read(labelled(folder))
    manifest.check_two_classes(items)
    with pytest.raises(ValueError, match=r"m\.csv: it has 2 real but no fake"):
        manifest.check_two_classes([item for item in items if item.target == "real"], "m.csv")


def test_the_fingerprint_knows_the_data_not_the_order(folder):
    items = manifest.read(labelled(folder))
    mark = manifest.fingerprint(items)
    assert mark == manifest.fingerprint(items[::-1]) and len(mark) == 16
    assert mark != manifest.fingerprint(items[1:])
    assert mark != manifest.fingerprint([replace(items[0], target="fake"), *items[1:]])
    audio.write(folder / "wav/0.wav", torch.zeros(10))
    assert mark != manifest.fingerprint(items)
