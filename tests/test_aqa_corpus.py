"""The embedded audio-question corpus: its sounds, its answers, its files, and that a seed means one corpus."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile

from speechrl import text
from speechrl.data import aqa_corpus, aqa_sounds, aqa_vocabulary, manifest
from speechrl.data.aqa_questions import KINDS, TAUGHT, ask, askable
from speechrl.data.aqa_scenes import TASKS, Scene, draw, render

SIZES = aqa_corpus.Sizes(pretrain=30, avqa=60, test=78)
RATE = aqa_sounds.SAMPLE_RATE


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return aqa_corpus.build(tmp_path_factory.mktemp("cache"), seed=5, workers=1, sizes=SIZES)


def rng(*keys):
    return np.random.default_rng(keys)


def pitch(wave):
    """The strongest frequency, in Hz."""
    return np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 8 * len(wave))).argmax() * RATE / 8 / len(wave)


@pytest.mark.parametrize("name", aqa_sounds.TONAL)
def test_tonal_events_move_as_they_are_said_to(name):
    ends = {}
    for move in aqa_sounds.MOVES:
        wave = aqa_sounds.event(name, 0.5, move, rng(1))
        ends[move] = pitch(wave[-2000:-400]) / pitch(wave[400:2000])
    assert ends["rising"] > 1.3 and ends["falling"] < 0.75 and 0.85 < ends["steady"] < 1.15


@pytest.mark.parametrize("instrument", aqa_sounds.INSTRUMENTS)
def test_instruments_are_in_tune(instrument):
    wave = aqa_sounds.note(instrument, 440.0, 0.5, rng(2))
    octaves = np.log2(pitch(wave) / 440)
    assert abs(octaves - round(octaves)) < 0.02 or abs(pitch(wave) / 440 - 3) < 0.03


@pytest.mark.parametrize("name", aqa_sounds.EVENTS)
def test_events_differ_by_seed_and_not_without(name):
    one, same, other = (aqa_sounds.event(name, 0.3, "rising", rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert len(one) == 4800 and 0.2 < np.abs(one).max() < 3


def test_noise_is_mixed_at_the_ratio_asked_for():
    wave, noise = np.sin(np.arange(RATE) / 5), rng(3).standard_normal(RATE)
    clean = aqa_sounds.mixed(wave, np.zeros(RATE), 6.0)
    added = aqa_sounds.mixed(wave, noise, 6.0)
    scale = np.dot(added, wave) / np.dot(wave, wave)
    behind = added - scale * wave
    assert 10 * np.log10(np.mean((scale * wave) ** 2) / np.mean(behind**2)) == pytest.approx(6, abs=0.3)
    assert np.abs(clean).max() == pytest.approx(0.7) and np.abs(added).max() == pytest.approx(0.7)


def test_parts_are_placed_and_cut():
    out = aqa_sounds.placed([(0.1, np.ones(1600)), (0.15, np.ones(RATE))], 0.3)
    assert out[:1600].sum() == 0 and out[2000] == 1 and out[2500] == 2 and len(out) == 4800


@pytest.mark.parametrize("task", TASKS)
def test_clips_last_up_to_three_seconds_and_do_not_clip(task):
    for index in range(12):
        scene = draw(task, rng(index))
        wave = render(scene, rng(index))
        assert 0.8 <= len(wave) / RATE <= 3 and np.abs(wave).max() == pytest.approx(0.7) and wave.std() > 0.01


HEARD = {"events": ["bell", "siren", "bell", "knock"], "moves": {"siren": "falling"}, "background": "wind"}
PLAYED = {"first": "flute", "last": "organ", "move": "wavy", "notes": 5, "pace": "slow", "register": "low"} | {
    "drum": True
}
SPOKEN = {
    **{"sex": "woman", "pace": "fast", "language": "English", "name": "Anna", "action": "buys"},
    **{"number": "two", "colour": "red", "thing": "boats"},
}
RIGHT = {
    **{"sound.first": "bell", "sound.last": "knock", "sound.background": "wind", "sound.pitch": "falling"},
    **{"music.instrument": "flute", "music.last": "organ", "music.move": "wavy"},
    **{"music.pace": "slow", "music.register": "low", "music.drum": "yes"},
    **{"speech.thing": "boats", "speech.colour": "red", "speech.sex": "woman", "speech.number": "two"},
    **{"speech.pace": "fast", "speech.language": "English"},
}


def asked(facts, task, seed=0):
    scene = Scene(task, facts, "caption", "silence", 20.0)
    made = askable(scene, rng(seed))
    return {name: ask(scene, name, options, rng(seed, 1), wording=1) for name, options in made.items()}


@pytest.mark.parametrize(("task", "facts"), [("sound", HEARD), ("music", PLAYED), ("speech", SPOKEN)])
def test_answers_worked_out_by_hand(task, facts):
    found = {name: question.right for name, question in asked(facts, task).items() if name in RIGHT}
    assert found == {name: right for name, right in RIGHT.items() if name.startswith(task)}


def test_answers_that_depend_on_what_is_asked():
    for seed in range(20):
        found = asked(HEARD, "sound", seed)
        present, count = found["sound.present"], found["sound.count"]
        assert {option for option in present.choices if option in HEARD["events"]} == {present.right}
        assert count.right == ("two" if "bell" in count.text else "one")


def test_scenes_that_have_no_such_question():
    one = asked({"events": ["bell", "bell"], "moves": {}, "background": "wind"}, "sound")
    assert "sound.pitch" not in one
    assert set(asked({"sex": "man", "pace": "slow", "language": "German"}, "speech")) == {
        *("speech.sex", "speech.pace", "speech.language")
    }


def test_every_option_is_distinct_and_every_position_equally_likely():
    places = Counter()
    for index in range(600):
        scene = draw(TASKS[index % 3], rng(index))
        for name, options in askable(scene, rng(index, 1)).items():
            question = ask(scene, name, options, rng(index, 2, len(name)), wording=0)
            assert 2 <= len(set(question.choices)) == len(question.choices) <= 4
            if len(question.choices) == 4:
                places[question.answer] += 1
    shares = np.array([places[place] for place in range(4)]) / sum(places.values())
    assert np.abs(shares - 0.25).max() < 0.03


def test_the_test_set_has_every_kind_and_fine_tuning_the_taught_ones(corpus):
    names = {kind.sub_category: name for name, kind in KINDS.items()}
    assert len(names) == len(KINDS)
    test, train, valid = (manifest.read(corpus / f"{name}.csv") for name in ("test", "train", "valid"))
    assert {names[item.meta["sub-category"]] for item in test} == set(KINDS)
    assert {names[item.meta["question_type"]] for item in train} == set(TAUGHT)
    assert len(train) + len(valid) == SIZES.avqa and len(valid) > 0
    assert not {item.prompt for item in test} & {item.prompt for item in train}
    assert all(item.target in item.meta["choices"] for item in (*test, *train, *valid))


def test_the_full_test_set_has_mmaus_sizes():
    tasks = Counter(aqa_corpus._test_question(index, rng(index))[0].task for index in range(1000))
    assert tasks == {"sound": 333, "music": 334, "speech": 333}


def test_the_files_are_avqas_and_mmaus_own(corpus):
    avqa = json.loads((corpus / "avqa" / "train_qa.json").read_text())
    mmau = json.loads((corpus / "mmau" / "mmau-test-mini.json").read_text())
    assert set(avqa[0]) == {
        *("id", "video_name", "video_id", "question_text", "multi_choice", "answer", "question_relation"),
        "question_type",
    }
    assert any("video" in record["question_text"] for record in avqa)
    assert not any("video" in item.prompt for item in manifest.read(corpus / "train.csv"))
    assert {"id", "audio_id", "question", "choices", "answer", "task", "category", "sub-category"} < set(mmau[0])
    assert (corpus / "mmau" / mmau[0]["audio_id"]).exists()


def test_the_base_hears_captions_transcripts_and_all_three_prompts(corpus):
    lessons = manifest.read(corpus / "pretrain.csv")
    prompts = [lesson.prompt for lesson in lessons]
    assert prompts.count(aqa_corpus.CAPTION) == SIZES.pretrain and aqa_corpus.TRANSCRIPT in prompts
    for lesson in lessons:
        if "following options" in lesson.prompt and "<answer>" not in lesson.prompt:
            assert text.tagged_answer(lesson.target) is None
        if "<think>" in lesson.target:
            assert text.is_formatted(lesson.target, think=True) and "<think>" in lesson.prompt


def test_a_clip_depends_on_seed_part_and_index_alone(corpus, tmp_path):
    for part, index in (("mmau", 7), ("pretrain", 3), ("avqa", 11), ("mmau", 2)):
        clip = aqa_corpus.clip(tmp_path, 5, part, index)
        assert (tmp_path / clip.path).read_bytes() == (corpus / clip.path).read_bytes()
        assert clip.seconds == pytest.approx(soundfile.info(corpus / clip.path).duration)
        other = aqa_corpus.clip(tmp_path, 6, part, index)
        assert (tmp_path / other.path).read_bytes() != (corpus / clip.path).read_bytes()


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(corpus, tmp_path):
    again = aqa_corpus.build(tmp_path, seed=5, workers=2, sizes=SIZES)
    files = {path.relative_to(corpus): path.read_bytes() for path in corpus.rglob("*") if path.is_file()}
    assert files == {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()}


def test_a_corpus_is_made_once_and_whole_or_not_at_all(corpus, monkeypatch):
    monkeypatch.setattr(aqa_corpus, "clip", None)
    assert aqa_corpus.build(corpus.parent, seed=5, workers=1, sizes=SIZES) == corpus
    with pytest.raises(TypeError):
        aqa_corpus.build(corpus.parent, seed=6, workers=1, sizes=SIZES)
    assert list(corpus.parent.iterdir()) == [corpus]


def test_the_tokenizer_gives_every_text_back(corpus):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    items = manifest.read(corpus / "test.csv")
    texts = [text.ask(item.prompt, item.meta["choices"], prompt=prompt) for item in items for prompt in (1, 2, 3)]
    texts += [text.wrap(item.target, thought="a, b; c") for item in items]
    for one in [*texts, "", "  two  spaces\n\n", "Ünïcode 漢字 'quotes' \"and\" \\slashes\t", "<|im_end|> <answer> ."]:
        assert tokenizer.decode(tokenizer.encode(one, split_special_tokens=True)) == one
    specials = [aqa_vocabulary.PAD, aqa_vocabulary.START, aqa_vocabulary.END, aqa_vocabulary.AUDIO]
    assert [len(tokenizer.encode(special)) for special in specials] == [1] * 4
    assert (tokenizer.pad_token, tokenizer.eos_token) == (aqa_vocabulary.PAD, aqa_vocabulary.END)
    assert len(tokenizer.encode("<answer>")) > 1  # ordinary text, not special
