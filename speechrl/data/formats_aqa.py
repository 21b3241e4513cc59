"""The data sets of 2503.11197 in their own layouts, AVQA and MMAU, each turned into manifests of questions."""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechrl.data import formats
from speechrl.data.formats import Clip, Count, Fault, Prepared

AVQA_TRAIN_ROWS = 40_425
MMAU_SIZES = {"sound": 333, "music": 334, "speech": 333}

OLD, NEW, UNRECOGNISED = "2025-01", "v05.15.25", "unrecognised"
"""Versions of MMAU test-mini: the file at the date of 2503.11197, the rewritten one, and any other."""
_OLD_DIFFICULTIES = {"easy": 258, "medium": 510, "hard": 232}
_OLD_REASONING = 706
_OLD_GOLD_POSITIONS = {0: 377, 1: 271, 2: 222, 3: 130}
# Items about the words of a spoken sentence that the rewritten file has at its end, by the start of their ids.
_NEW_ITEMS = frozenset(
    [
        *("6d3e431a", "c2289905", "45abff91", "b8f25d1a", "7235d35a", "23f21925", "427ba822", "36220c27"),
        *("93c1c06a", "08267cd7", "b86317c4", "976cd4b0", "dd2f3e8d", "2783e849", "9b66a67f"),
    ]
)
_SEGMENT = re.compile(r"_0*(\d+)$")


def avqa(source: Path, output: Path, *, audio: Path | None = None, valid: float = 0.025, seed: int = 0) -> Prepared:
    """AVQA's training questions, as avqa_train.csv and a held-out avqa_valid.csv that shares no video with it.

    Reads train_qa.json, or train_qa.data of R1-AQA (one such record per line, with `audio_path`); `source` is that
    file or its folder, `audio` the folder of the clips (default: anywhere below the questions). A clip is named as its
    `video_name`, with or without the zeros before its second (`_000030`, `_30`); questions without one are dropped and
    listed. As in the original, "video" in a question becomes "audio". `valid` is the share held out of all videos, by
    a hash of the YouTube id and `seed`: it stays the same when clips come or go.
    """
    if not 0 <= valid < 1:
        raise ValueError(f"--valid {valid}: the share that is held out must be at least 0 and below 1")
    file = source if source.is_file() else formats.locate(source, "train_qa.json", "train_qa.data")
    records = _records(file)
    index = _index(audio or file.parent)
    clips, faults = [], []
    for where, record in records:
        question = _avqa_question(where, record)
        path = _avqa_clip(record, index)
        if path is None:
            faults.append(Fault(f"{record['video_name']}.wav", f"there is no such clip, for question {question.id}"))
            continue
        part = "valid" if formats.held_out(_youtube(record), valid, seed) else "train"
        clips.append(replace(question, path=path, proportion=part))
    different, repeated = formats.distinct(clips)
    rows, unreadable = formats.rows(different, "avqa")
    parts = {part: [row for row in rows if row["Proportion"] == part] for part in ("train", "valid")}
    return Prepared(
        manifests={f"avqa_{part}.csv": part_rows for part, part_rows in parts.items() if part_rows or part == "train"},
        faults=[*faults, *repeated, *unreadable],
        counts=[
            Count("questions", len(records), AVQA_TRAIN_ROWS),
            Count("questions with a clip", len(rows), None, "about 38,000 in the paper"),
            Count("of them train", len(parts["train"])),
            Count("of them valid", len(parts["valid"]), None, "the paper held none out"),
        ],
        notes=[] if parts["valid"] else [f"no video fell into the held-out share of {valid}: no avqa_valid.csv"],
    )


def mmau(source: Path, output: Path, *, audio: Path | None = None) -> Prepared:
    """MMAU test-mini, as mmau_test_mini.csv with the columns task, category, sub-category, difficulty, mmau_version.

    Reads mmau-test-mini.json; `source` is that file or its folder, `audio` the folder of the clips (default: anywhere
    below the questions), which are named by the item's id. The version is told by content (`mmau_version`).
    """
    file = source if source.is_file() else formats.locate(source, "mmau-test-mini.json", "test-mini.json")
    records = _records(file)
    version = mmau_version([record for _, record in records])
    index = _index(audio or file.parent)
    clips, faults = [], []
    for where, record in records:
        item = _mmau_item(where, record, version)
        stem = Path(_text(where, record, "audio_id")).stem
        if stem not in index:
            faults.append(Fault(f"{stem}.wav", f"there is no such clip, for item {item.id}"))
        elif item.extra["Answer"] not in item.extra["Choices"]:
            faults.append(Fault(f"item {item.id}", f"its answer {item.extra['Answer']!r} is not among its options"))
        else:
            clips.append(replace(item, path=index[stem]))
    different, repeated = formats.distinct(clips)
    rows, unreadable = formats.rows(different, "mmau")
    tasks = Counter(row["task"] for row in rows)
    return Prepared(
        manifests={"mmau_test_mini.csv": rows},
        faults=[*faults, *repeated, *unreadable],
        counts=[
            Count("items", len(rows), sum(MMAU_SIZES.values())),
            *(Count(task, tasks[task], size) for task, size in MMAU_SIZES.items()),
        ],
        notes=[_version_note(file, version)],
    )


def mmau_version(records: Sequence[Mapping[str, Any]]) -> str:
    """Which MMAU test-mini file this is: "2025-01" (the one of 2503.11197), "v05.15.25", or "unrecognised".

    The old file is told by its numbers of difficulties, of reasoning questions and of right answers per position (up
    to the one answer that was corrected in March 2025), the rewritten one by the items that it added. The first
    releases of v05.15.25, replaced within days because answers were not among the options, are not recognised.
    """
    if len(records) != sum(MMAU_SIZES.values()):
        return UNRECOGNISED
    difficulties = Counter(record.get("difficulty") for record in records)
    reasoning = sum(_unwrapped(record.get("category")) == "Reasoning" for record in records)
    gold = Counter(_position(record) for record in records)
    moved = sum(abs(gold[place] - count) for place, count in _OLD_GOLD_POSITIONS.items())
    if difficulties == _OLD_DIFFICULTIES and reasoning == _OLD_REASONING and moved <= 2:
        return OLD
    ids = {str(record.get("id"))[:8] for record in records}
    return NEW if len(ids & _NEW_ITEMS) >= 12 and gold[-1] <= 10 else UNRECOGNISED


def _version_note(file: Path, version: str) -> str:
    if version == UNRECOGNISED:
        return f"{file.name} is neither the file of 2503.11197 nor v05.15.25: compare its scores with no published one"
    return f"{file.name} is MMAU test-mini {version}: compare its scores with those of the same version only"


def _records(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """The records of a JSON list or of JSON lines, each with its place in the file for messages."""
    content = formats.text_of(file)
    if content.lstrip().startswith("["):
        try:
            found = [(f"{file}, record {number}", one) for number, one in enumerate(json.loads(content), start=1)]
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}: not JSON ({error}); is the download complete?") from error
    else:
        found = [_line(file, number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    if not found:
        raise ValueError(f"{file}: it holds no question")
    for where, record in found:
        if not isinstance(record, dict):
            raise ValueError(f"{where}: not a JSON object but {record!r}")
    return found


def _line(file: Path, number: int, line: str) -> tuple[str, Any]:
    try:
        return f"{file}, line {number}", json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {number}: not JSON ({error}); is the download complete?") from error


def _index(folder: Path) -> dict[str, Path]:
    """The recordings below a folder by stem; of several, the first in the order of paths."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of clips; give the right one as --audio")
    index: dict[str, Path] = {}
    for path in formats.recordings(Path(os.path.abspath(folder))):
        index.setdefault(path.stem, path)
    if not index:
        raise ValueError(f"{folder}: no recording in it; give the folder of the clips as --audio")
    return index


def _avqa_question(where: str, record: Mapping[str, Any]) -> Clip:
    """A question without its clip; ValueError naming record and key where it is not as AVQA writes it."""
    choices, answer = record.get("multi_choice"), record.get("answer")
    if not isinstance(choices, list) or len(choices) < 2:
        raise ValueError(f"{where}: multi_choice is {choices!r}, expected a list of options")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise ValueError(f"{where}: answer is {answer!r}, expected the position of one of {len(choices)} options")
    options = [str(choice) for choice in choices]
    extra = {
        "Prompt": _text(where, record, "question_text").replace("video", "audio"),
        "Answer": options[answer],
        "Choices": options,
        "video_name": _text(where, record, "video_name"),
        "question_relation": record.get("question_relation", ""),
        "question_type": record.get("question_type", ""),
    }
    return Clip(id=f"AVQA-{_text(where, record, 'id')}", path=Path(), extra=extra)


def _avqa_clip(record: Mapping[str, Any], index: Mapping[str, Path]) -> Path | None:
    """The clip of a question: the path that an R1-AQA record gives, else the recording of that name."""
    given = Path(str(record.get("audio_path") or ""))
    if given.is_absolute() and given.is_file():
        return given
    name = str(record["video_name"])
    return index.get(given.stem) or index.get(name) or index.get(_SEGMENT.sub(r"_\1", name))


def _youtube(record: Mapping[str, Any]) -> str:
    """What two clips of one video have in common: the name without its second."""
    return _SEGMENT.sub("", str(record["video_name"]))


def _mmau_item(where: str, record: Mapping[str, Any], version: str) -> Clip:
    """An item without its clip; ValueError naming record and key where it is not as MMAU writes it."""
    choices = record.get("choices")
    if not isinstance(choices, list) or len(choices) < 2:
        raise ValueError(f"{where}: choices is {choices!r}, expected a list of options")
    audio_id = _text(where, record, "audio_id")
    extra = {
        "Prompt": _text(where, record, "question"),
        "Answer": _text(where, record, "answer"),
        "Choices": [str(choice).strip() for choice in choices],
        "task": _text(where, record, "task"),
        "category": _unwrapped(record.get("category")),
        "sub-category": _unwrapped(record.get("sub-category")),
        "difficulty": record.get("difficulty", ""),
        "mmau_version": version,
    }
    key = record.get("id") or Path(audio_id).stem
    return Clip(id=f"MMAU-{key}", path=Path(), proportion="test", extra=extra)


def _text(where: str, record: Mapping[str, Any], key: str) -> str:
    """A value as text without spaces around it; ValueError where the key is missing or empty."""
    value = str(record.get(key, "")).strip()
    if not value:
        raise ValueError(f"{where}: no {key!r}; its keys are {', '.join(record)}")
    return value


def _position(record: Mapping[str, Any]) -> int:
    choices = [str(choice).strip() for choice in record.get("choices") or []]
    answer = str(record.get("answer")).strip()
    return choices.index(answer) if answer in choices else -1


def _unwrapped(value: Any) -> str:
    """A category, also where the file wraps it in a list."""
    first = value[0] if isinstance(value, list) and value else value
    return str(first or "")
