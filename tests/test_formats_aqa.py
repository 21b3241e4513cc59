"""AVQA, R1-AQA's own file and MMAU in miniature: questions kept, dropped and counted, and which MMAU file it is."""

import csv
import json
import os

import numpy as np
import pytest
import soundfile

from speechrl import audio, prepare
from speechrl.data import formats, manifest
from speechrl.data.formats_aqa import _NEW_ITEMS, NEW, OLD, UNRECOGNISED, mmau_version
from speechrl.tasks.aqa import AudioQuestions

TASKS = ["sound"] * 333 + ["music"] * 334 + ["speech"] * 333


def wav(path, rate=16_000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((rate // 4, channels)), rate)
    return path


def run(*arguments):
    return prepare.main([str(argument) for argument in arguments])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def question(number, name, text="What happened in the video?", **changes):
    record = {
        "id": number,
        "video_name": name,
        "video_id": number,
        "question_text": text,
        "multi_choice": ["motorboat", "Yacht consignment", "Sailboat set sail", "Consignment car"],
        "answer": 1,
        "question_relation": "View",
        "question_type": "Happening",
    }
    return record | changes


@pytest.fixture
def avqa(tmp_path):
    """Clips named with the zeros of their second and without, one in a folder of its own, and one question without."""
    source = tmp_path / "AVQA"
    names = ["-HG3Omg_89c_000030", "00uubiDNU_x_000210", "abc_000000"]
    wav(source / "wav/-HG3Omg_89c_30.wav", rate=44_100, channels=2)
    wav(source / "wav/VGG10000/00uubiDNU_x_000210.wav")
    wav(source / "wav/abc_0.wav")
    records = [question(number, name) for number, name in enumerate(names, start=183)]
    records.append(question(186, "gone_000001", "Why videos? The Video ..."))
    records.append(question(187, "abc_000000", "Is this a video of videos in a Video?", answer=0))
    (source / "train_qa.json").write_text(json.dumps(records))
    return source


def test_avqa(avqa, tmp_path, capsys):
    assert run("avqa", avqa, tmp_path / "out", "--valid", 0) == 0
    found = rows(tmp_path / "out/avqa_train.csv")
    assert [row["ID"] for row in found] == ["AVQA-183", "AVQA-184", "AVQA-185", "AVQA-187"]
    first = found[0]
    assert first["Path"] == "$ROOT/AVQA/wav/-HG3Omg_89c_30.wav" and first["SampleRate"] == "44100"
    assert first["Prompt"] == "What happened in the audio?" and first["Answer"] == "Yacht consignment"
    assert json.loads(first["Choices"])[3] == "Consignment car" and first["question_relation"] == "View"
    assert "Label" not in first
    assert found[3]["Prompt"] == "Is this a audio of audios in a Video?" and found[3]["Answer"] == "motorboat"
    (missing,) = rows(tmp_path / "out/avqa_missing.csv")
    assert missing == {"What": "gone_000001.wav", "Why": "there is no such clip, for question AVQA-186"}
    printed = capsys.readouterr().out
    assert "40,425" in printed and "gone_000001.wav" in printed and "no avqa_valid.csv" in printed


def test_avqa_rows_are_what_the_task_asks(avqa, tmp_path):
    run("avqa", avqa, tmp_path / "out", "--valid", 0)
    item = manifest.read(tmp_path / "out/avqa_train.csv", root=tmp_path)[0]
    example = AudioQuestions(prompt=1).example(item, audio.read(item.path))
    assert example.target == "Yacht consignment" and example.meta["choices"][0] == "motorboat"
    assert example.prompt.startswith("<audio>What happened in the audio? Please choose")


def test_no_video_is_in_both_parts(tmp_path):
    source = tmp_path / "AVQA"
    records = []
    for number in range(120):
        name = f"video{number % 40}_{10 * (number % 3):06d}"
        records.append(question(number, name))
        wav(source / f"audio/{name}.wav")
    (source / "train_qa.json").write_text(json.dumps(records))
    assert run("avqa", source, tmp_path / "out", "--valid", 0.3) == 0
    train, valid = (rows(tmp_path / f"out/avqa_{part}.csv") for part in ("train", "valid"))
    videos = [{row["video_name"].rsplit("_", 1)[0] for row in part} for part in (train, valid)]
    assert not videos[0] & videos[1] and len(train) + len(valid) == 120 and 5 <= len(videos[1]) <= 20
    assert {row["Proportion"] for row in valid} == {"valid"}
    # A clip more or less moves no other one to another part.
    (source / "train_qa.json").write_text(json.dumps(records[7:]))
    run("avqa", source, tmp_path / "fewer", "--valid", 0.3)
    assert {row["ID"] for row in rows(tmp_path / "fewer/avqa_valid.csv")} <= {row["ID"] for row in valid}
    run("avqa", source, tmp_path / "other", "--valid", 0.3, "--seed", 1)
    assert {row["ID"] for row in rows(tmp_path / "other/avqa_valid.csv")} != {row["ID"] for row in valid}


def test_held_out_share():
    assert sum(formats.held_out(f"video{number}", 0.1, 0) for number in range(5_000)) == pytest.approx(500, abs=80)


def test_r1_aqa_own_file(tmp_path):
    source, elsewhere = tmp_path / "R1", wav(tmp_path / "clips/elsewhere.wav")
    wav(source / "wavs/-HG3Omg_89c_30.wav")
    paths = ["/their/disk/-HG3Omg_89c_30.wav", str(elsewhere)]
    records = [
        question(n, f"-HG3Omg_89c_00003{n}", dataset_name="AVQA", audio_path=path) for n, path in enumerate(paths)
    ]
    (source / "train_qa.data").write_text("\n".join(map(json.dumps, records)) + "\n\n")
    assert run("avqa", source, tmp_path / "R1/out", "--valid", 0) == 0
    found = rows(source / "out/avqa_train.csv")
    assert [row["Path"] for row in found] == ["$ROOT/R1/wavs/-HG3Omg_89c_30.wav", "$ROOT/clips/elsewhere.wav"]
    assert found[0]["Prompt"] == "What happened in the audio?"
    assert run("avqa", source / "train_qa.data", tmp_path / "out", "--valid", 0, "--audio", source / "wavs") == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            json.dumps([question(1, "a_1", answer=4)]),
            "record 1: answer is 4, expected the position of one of 4 options",
        ),
        (
            json.dumps([question(1, "a_1", multi_choice="a")]),
            "record 1: multi_choice is 'a', expected a list of options",
        ),
        (json.dumps([question(1, "a_1", "")]), "record 1: no 'question_text'; its keys are id, video_name"),
        (json.dumps([question(1, "a_1"), 3]), "record 2: not a JSON object but 3"),
        (json.dumps([question(1, "a_1")])[:-9], "train_qa.json: not JSON"),
        (json.dumps(question(1, "a_1")) + '\n{"id', "train_qa.json, line 2: not JSON"),
        ("[]", "train_qa.json: it holds no question"),
        (json.dumps([question(1, "absent_1")]), "nothing is left for avqa_train.csv"),
    ],
)
def test_broken_avqa(tmp_path, capsys, content, message):
    wav(tmp_path / "a_1.wav")
    (tmp_path / "train_qa.json").write_text(content)
    assert run("avqa", tmp_path, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_folders_without_clips(tmp_path, capsys):
    (tmp_path / "train_qa.json").write_text(json.dumps([question(1, "a_1")]))
    assert run("avqa", tmp_path, tmp_path / "out") == 1
    assert "no recording in it; give the folder of the clips as --audio" in capsys.readouterr().err
    assert run("avqa", tmp_path, tmp_path / "out", "--audio", tmp_path / "nowhere") == 1
    assert "nowhere: there is no such folder of clips" in capsys.readouterr().err
    assert run("avqa", tmp_path, tmp_path / "out", "--valid", 1.5) == 1
    assert "--valid 1.5" in capsys.readouterr().err


def mmau_item(number, **changes):
    name = f"{number:08x}-282c-4bc8-a753-68f8f6c35652"
    record = {
        "id": name,
        "audio_id": f"./test-mini-audios/{name}.wav",
        "question": "Based on the given video, identify the source of the speaking voice.",
        "choices": ["Man", "Woman", "Child", "Robot"],
        "answer": "Man",
        "dataset": "AudioSet",
        "task": "sound",
        "split": "test-mini",
        "category": "Reasoning",
        "sub-category": "Acoustic Source Inference",
        "difficulty": "medium",
    }
    return record | changes


def old_file():
    """A thousand items with the published numbers of the old file, 13 categories wrapped in lists."""
    levels = ["easy"] * 258 + ["medium"] * 510 + ["hard"] * 232
    gold = ["Man"] * 377 + ["Woman"] * 271 + ["Child"] * 222 + ["Robot"] * 130
    kinds = [["Reasoning"]] * 13 + ["Reasoning"] * 693 + ["Information Extraction"] * 294
    columns = zip(range(1_000), levels, gold, kinds, TASKS, strict=True)
    return [mmau_item(n, difficulty=d, answer=a, category=c, task=t) for n, d, a, c, t in columns]


def new_file():
    ids = [{"id": f"{start}-ba0c-4914-afa5-9d154ba32eff"} for start in sorted(_NEW_ITEMS)]
    return [*(mmau_item(number) for number in range(1_000 - len(ids))), *(mmau_item(0, **one) for one in ids)]


def test_mmau_versions():
    assert mmau_version(old_file()) == OLD
    corrected = old_file()
    corrected[0]["answer"] = "Woman"
    assert mmau_version(corrected) == OLD
    assert mmau_version(new_file()) == NEW
    assert mmau_version(old_file()[1:]) == UNRECOGNISED
    for key, value in [("difficulty", "easy"), ("category", "Reasoning")]:
        assert mmau_version([*old_file()[:-1], old_file()[-1] | {key: value}]) == UNRECOGNISED
    shuffled = [record | {"answer": "Robot"} if number < 50 else record for number, record in enumerate(old_file())]
    assert mmau_version(shuffled) == UNRECOGNISED
    mistaken = [record | {"answer": "?"} if number < 147 else record for number, record in enumerate(new_file())]
    assert mmau_version(mistaken) == UNRECOGNISED


def write_mmau(folder, records):
    clip = wav(folder / "test-mini-audios/.clip.wav")
    for record in records:
        os.link(clip, folder / record["audio_id"])
    (folder / "mmau-test-mini.json").write_text(json.dumps(records))


def test_mmau_old_file(tmp_path, capsys):
    write_mmau(tmp_path / "MMAU", old_file())
    (tmp_path / "MMAU/test-mini-audios/000003e7-282c-4bc8-a753-68f8f6c35652.wav").unlink()
    assert run("mmau", tmp_path / "MMAU", tmp_path / "out") == 0
    found = rows(tmp_path / "out/mmau_test_mini.csv")
    assert len(found) == 999 and {row["mmau_version"] for row in found} == {OLD}
    assert {row["category"] for row in found} == {"Reasoning", "Information Extraction"}
    first = found[0]
    assert first["ID"] == "MMAU-00000000-282c-4bc8-a753-68f8f6c35652" and first["Answer"] == "Man"
    assert first["Prompt"] == "Based on the given video, identify the source of the speaking voice."
    assert (first["task"], first["sub-category"], first["difficulty"]) == ("sound", "Acoustic Source Inference", "easy")
    printed = capsys.readouterr().out
    assert "MMAU test-mini 2025-01" in printed and "333" in printed and "000003e7" in printed


def test_mmau_odd_items(tmp_path, capsys):
    records = [
        mmau_item(0, choices=["1.63 seconds", "2 s", "1.63 seconds"], answer=" 1.63 seconds"),
        mmau_item(1, answer="Dog"),
        {
            key: value
            for key, value in mmau_item(2, choices=["crazy", "compositions"], answer="crazy").items()
            if key != "id"
        },
    ]
    write_mmau(tmp_path, records)
    assert run("mmau", tmp_path, tmp_path / "out", "--root", tmp_path) == 0
    repeated, without_id = rows(tmp_path / "out/mmau_test_mini.csv")
    assert repeated["Answer"] == "1.63 seconds" and repeated["mmau_version"] == UNRECOGNISED
    assert without_id["ID"] == "MMAU-00000002-282c-4bc8-a753-68f8f6c35652"
    (missing,) = rows(tmp_path / "out/mmau_missing.csv")
    assert missing["Why"] == "its answer 'Dog' is not among its options"
    assert "compare its scores with no published one" in capsys.readouterr().out
    item = manifest.read(tmp_path / "out/mmau_test_mini.csv", root=tmp_path)[1]
    assert AudioQuestions(prompt=2).example(item, audio.read(item.path)).target == "<answer>crazy</answer>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": []}, "record 2: choices is [], expected a list of options"),
        ({"task": ""}, "record 2: no 'task'; its keys are"),
        ({"question": ""}, "record 2: no 'question'; its keys are"),
    ],
)
def test_broken_mmau(tmp_path, capsys, change, message):
    write_mmau(tmp_path, [mmau_item(0), mmau_item(1, **change)])
    assert run("mmau", tmp_path, tmp_path / "out") == 1
    assert f"mmau-test-mini.json, {message}" in capsys.readouterr().err


@pytest.mark.parametrize("name", prepare.DATA_SETS)
def test_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        run(name, "--help")
    assert ended.value.code == 0 and "--root" in capsys.readouterr().out
