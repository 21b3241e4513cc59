"""The embedded audio-question corpus: seeded clips and questions, in AVQA's and MMAU's own files and as manifests.

    pretrain/           clips for the base model; pretrain.csv asks for captions, transcripts, and answers of all kinds
    avqa/               train_qa.json and wavs/: questions of the taught kinds, read into train.csv and valid.csv
    mmau/               mmau-test-mini.json and test-mini-audios/: all kinds, 333 sound, 334 music, 333 speech: test.csv
    tokenizer/          a small tokenizer that knows these texts

The fine-tuning set covers 9 of the 18 kinds of question, in wordings of its own; the test set has all kinds in other
wordings. The base has seen both, so what fine-tuning keeps or loses can be measured.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.progress import track

from speechrl import text
from speechrl.data import aqa_vocabulary, formats_aqa, manifest
from speechrl.data.aqa_questions import KINDS, TAUGHT, Question, ask, askable
from speechrl.data.aqa_scenes import TASKS, Scene, draw, render
from speechrl.types import SAMPLE_RATE, seed_of

VERSION = 1  # goes up with every change that reaches a sample or a text, so that no cached corpus is mistaken for it
ASKED = 0.5
"""Of the clips for pre-training: the share with a question. All have a caption, so the base hears more than it says."""
TAUGHT_WEIGHT = 0.3
"""How often the base is asked a question of a kind that fine-tuning teaches, beside one of the other kinds."""
CAPTION, TRANSCRIPT = "Describe the audio.", "Write down what is said."
AVQA_WORDING, MMAU_WORDING = 0, 1


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many clips each part has."""

    pretrain: int = 5000
    avqa: int = 1740
    """Of which about a seventh is held out for validation."""
    test: int = 1000
    """333 of sound, 334 of music, 333 of speech, as in MMAU."""


FULL = Sizes()


@dataclass(frozen=True)
class Clip:
    """A rendered clip: its file, its length, what is in it, and the questions about it."""

    path: str
    seconds: float
    scene: Scene
    questions: tuple[Question, ...]


def build(folder: str | Path, *, seed: int = 0, workers: int = 2, sizes: Sizes = FULL) -> Path:
    """The corpus of a seed below `folder`, made unless it is there: whole or not at all. Returns its own folder."""
    home = Path(folder) / f"aqa-{seed_of('aqa', VERSION, seed, repr(sizes)):016x}"
    if home.exists():
        return home
    draft = home.with_name(f".{home.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _pretrain(draft, seed, workers, sizes)
        _avqa(draft, seed, workers, sizes)
        _mmau(draft, seed, workers, sizes)
        _tokenizer(draft)
        if not home.exists():  # another process may have been faster
            os.replace(draft, home)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return home


def clip(folder: Path, seed: int, part: str, index: int) -> Clip:
    """Draws, renders and writes one clip, a pure function of seed, part and index."""
    rng = np.random.default_rng(seed_of("aqa", seed, part, index))
    scene, questions = {"pretrain": _any_questions, "avqa": _taught_question, "mmau": _test_question}[part](index, rng)
    samples = np.round(render(scene, rng) * 32767).astype(np.int16)
    name = {"pretrain": _pretrain_name, "avqa": _avqa_name, "mmau": _mmau_name}[part](seed, index)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, samples, SAMPLE_RATE, subtype="PCM_16")
    return Clip(name, len(samples) / SAMPLE_RATE, scene, questions)


def _any_questions(index: int, rng: np.random.Generator) -> tuple[Scene, tuple[Question, ...]]:
    """A scene and perhaps one of its questions, of any kind and in any wording."""
    scene = draw(TASKS[index % 3], rng)
    options = askable(scene, rng)
    if rng.random() >= ASKED:
        return scene, ()
    weights = np.array([TAUGHT_WEIGHT if kind in TAUGHT else 1.0 for kind in options])
    kind = str(rng.choice(list(options), p=weights / weights.sum()))
    return scene, (ask(scene, kind, options[kind], rng, wording=int(rng.integers(2))),)


def _taught_question(index: int, rng: np.random.Generator) -> tuple[Scene, tuple[Question, ...]]:
    task = TASKS[index % 3]
    kinds = [kind for kind in TAUGHT if kind.startswith(task)]
    return _scene_for(kinds[index // 3 % len(kinds)], rng, AVQA_WORDING)


def _test_question(index: int, rng: np.random.Generator) -> tuple[Scene, tuple[Question, ...]]:
    task = "music" if index == 999 else TASKS[index % 3]
    kinds = [kind for kind in KINDS if kind.startswith(task)]
    return _scene_for(kinds[index // 3 % len(kinds)], rng, MMAU_WORDING)


def _scene_for(kind: str, rng: np.random.Generator, wording: int) -> tuple[Scene, tuple[Question, ...]]:
    """A scene that admits a question of this kind, and the question."""
    while True:
        scene = draw(kind.split(".")[0], rng)
        options = askable(scene, rng)
        if kind in options:
            return scene, (ask(scene, kind, options[kind], rng, wording=wording),)


def _clips(folder: Path, seed: int, part: str, count: int, workers: int) -> list[Clip]:
    """`count` clips in their order; the number of workers changes nothing but the time."""
    make = partial(clip, folder, seed, part)
    title = f"making {part} clips"
    if workers < 2:
        return [make(index) for index in track(range(count), title)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return list(track(pool.map(make, range(count), chunksize=50), title, count))


def _pretrain_name(_: int, index: int) -> str:
    return f"pretrain/{index // 1000:02d}/{index:06d}.wav"


def _avqa_name(seed: int, index: int) -> str:
    return f"avqa/wavs/{_video(seed, index)}_{index % 90}.wav"


def _mmau_name(seed: int, index: int) -> str:
    return f"mmau/test-mini-audios/{uuid.UUID(int=seed_of('mmau', seed, index) << 64 | seed_of(index))}.wav"


def _video(seed: int, index: int) -> str:
    """Eleven characters, as a video site names its videos."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    number = seed_of("video", seed, index)
    return "".join(letters[number >> 5 * place & 63] for place in range(11))


def _pretrain(folder: Path, seed: int, workers: int, sizes: Sizes) -> None:
    clips = _clips(folder, seed, "pretrain", sizes.pretrain, workers)
    rows = [row for index, one in enumerate(clips) for row in _lessons(one, index, seed)]
    manifest.write(folder / "pretrain.csv", rows)


def _lessons(one: Clip, index: int, seed: int) -> Iterator[dict[str, Any]]:
    """What the base learns from a clip: its caption, what is said, and its questions under the three prompts.

    Half of the tagged answers that prompts 2 and 3 ask for are given bare: the base knows the form but often forgets
    it, so that there is a format to be reinforced.
    """
    rng = np.random.default_rng(seed_of("lessons", seed, index))
    lessons = [(CAPTION, one.scene.caption)]
    if "name" in one.scene.facts and rng.random() < 0.25:
        lessons.append((TRANSCRIPT, one.scene.facts["said"]))
    for question in one.questions:
        prompt = int(rng.choice([1, 2, 3], p=[0.6, 0.2, 0.2]))
        thought = question.think if prompt == 3 else None
        tagged = prompt > 1 and rng.random() < 0.5
        answer = text.wrap(question.right, thought=thought) if tagged else question.right
        asked = text.ask(question.text.replace("video", "audio"), question.choices, prompt=prompt)
        lessons.append((asked, answer))
    for number, (asked, answer) in enumerate(lessons):
        name = f"pretrain-{index:06d}-{number}"
        yield {"ID": name, "Prompt": asked, "Answer": answer, "Duration": one.seconds, "Path": f"$ROOT/{one.path}"}


def _avqa(folder: Path, seed: int, workers: int, sizes: Sizes) -> None:
    clips = _clips(folder, seed, "avqa", sizes.avqa, workers)
    records = [
        {
            "id": index,
            "video_name": f"{_video(seed, index)}_{index % 90:06d}",
            "video_id": index,
            "question_text": question.text,
            "multi_choice": list(question.choices),
            "answer": question.answer,
            "question_relation": "Sound",
            "question_type": KINDS[question.kind].sub_category,
        }
        for index, (question,) in enumerate(one.questions for one in clips)
    ]
    _write_json(folder / "avqa" / "train_qa.json", records)
    read = formats_aqa.avqa(folder / "avqa", folder, valid=1 / 7).manifests
    manifest.write(folder / "train.csv", read["avqa_train.csv"], root=folder)
    manifest.write(folder / "valid.csv", read["avqa_valid.csv"], root=folder)


def _mmau(folder: Path, seed: int, workers: int, sizes: Sizes) -> None:
    clips = _clips(folder, seed, "mmau", sizes.test, workers)
    records = [
        {
            "id": Path(one.path).stem,
            "audio_id": f"./test-mini-audios/{Path(one.path).name}",
            "question": question.text,
            "choices": list(question.choices),
            "answer": question.right,
            "dataset": "embedded",
            "task": one.scene.task,
            "split": "test-mini",
            "category": KINDS[question.kind].category,
            "sub-category": KINDS[question.kind].sub_category,
            "difficulty": one.scene.difficulty,
        }
        for one in clips
        for question in one.questions
    ]
    _write_json(folder / "mmau" / "mmau-test-mini.json", records)
    read = formats_aqa.mmau(folder / "mmau", folder).manifests
    manifest.write(folder / "test.csv", read["mmau_test_mini.csv"], root=folder)


def _write_json(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False), encoding="utf-8")


def _tokenizer(folder: Path) -> None:
    items = manifest.read(folder / "pretrain.csv")
    turn = "system\nYou are a helpful assistant.\nuser\nAudio 1:\nassistant\n"
    lines = [line for item in items for line in (turn, item.prompt, item.target)]
    aqa_vocabulary.train(lines).save_pretrained(folder / "tokenizer")
