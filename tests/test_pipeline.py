"""Clips and steps: the same example for the same step, whoever loads it, wherever the run began."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from speechrl import audio
from speechrl.data import pipeline
from speechrl.data.manifest import Item
from speechrl.data.pipeline import Clips, Crop, Steps, eval_batches
from speechrl.types import Example, generator


def example(item, waveform):
    return Example(item.id, waveform, target=item.target, meta=dict(item.meta))


def items_of(*seconds):
    return [Item(f"i{number}", Path("none.wav"), "real", seconds=value) for number, value in enumerate(seconds)]


@pytest.fixture
def items(tmp_path):
    made = []
    for number in range(9):
        path = tmp_path / f"{number}.wav"
        audio.write(path, 0.3 * torch.randn(1_000 + 2_000 * number, generator=generator(number)))
        made.append(Item(f"i{number}", path, "real", seconds=(1_000 + 2_000 * number) / 16_000))
    return made


SMALL = Crop(above=0.6, shortest=0.3, longest=0.5)


def loaded(items, workers, start=0, **clips):
    steps = Steps(items, steps=6, seed=1, batch_size=4, start=start)
    dataset = Clips(items, example, seed=1, crop=SMALL, rawboost=True, **clips)
    return list(DataLoader(dataset, batch_sampler=steps, collate_fn=list, num_workers=workers))


def same(batches, others):
    assert [[e.id for e in batch] for batch in batches] == [[e.id for e in batch] for batch in others]
    pairs = zip(sum(batches, []), sum(others, []), strict=True)
    return all(torch.equal(one.waveform, other.waveform) for one, other in pairs)


def test_workers_the_cache_and_the_start_change_nothing(items):
    batches = loaded(items, 0)
    assert len(batches) == 6 and all(len(batch) == 4 for batch in batches)
    assert same(batches, loaded(items, 2))
    assert same(batches, loaded(items, 0, cache_bytes=0))
    assert same(batches[4:], loaded(items, 0, start=4)), "a run resumed at step 4 sees what it would have seen"
    assert same(batches[4:], loaded(items, 2, start=4))


def test_every_step_augments_anew(items):
    clips = Clips(items, example, seed=1, crop=SMALL, rawboost=True)
    assert not torch.equal(clips[8, 0].waveform[:1000], clips[8, 1].waveform[:1000])
    assert torch.equal(clips[8, 3].waveform, clips[8, 3].waveform) and torch.equal(
        clips[8].waveform, clips[8, 0].waveform
    )
    assert not torch.equal(clips[0, 0].waveform, Clips(items, example, seed=2, rawboost=True)[0, 0].waveform)


def test_evaluation_hears_the_recording_as_it_is(items):
    clips = Clips(items, example)
    assert all(torch.equal(clips[index].waveform, audio.read(item.path)) for index, item in enumerate(items))
    assert len(clips) == 9
    normal = Clips(items, example, normalised=True)[3].waveform
    assert abs(float(normal.mean())) < 1e-6 and abs(float(normal.std()) - 1) < 1e-3


def test_the_cache_has_its_limit(items, monkeypatch):
    reads = []
    true_read = audio.read
    monkeypatch.setattr(audio, "read", lambda path, **options: reads.append(path) or true_read(path, **options))
    clips = Clips(items, example, cache_bytes=4 * (1_000 + 3_000) + 1)
    for _ in range(3):
        for index in range(3):
            clips[index]
    assert Counter(path.stem for path in reads) == {"0": 1, "1": 1, "2": 3}


def test_crop_follows_the_paper():
    crop = Crop()
    assert crop.span(13 * 16_000, generator("a")) == (0, 13 * 16_000)
    spans = [crop.span(15 * 16_000, generator(number)) for number in range(500)]
    starts, lengths = torch.tensor(spans).T
    assert 160_000 <= lengths.min() < 161_500 and 206_500 < lengths.max() <= 208_000
    assert starts.min() >= 0 and (starts + lengths).max() <= 240_000 and (starts + lengths).max() > 238_000
    assert crop.seconds(50.0) == 13.0 and crop.seconds(12.0) == 12.0
    with pytest.raises(ValueError, match="shortest <= longest <= above"):
        Crop(above=5.0)


def test_long_recordings_are_cut_without_decoding_all(items, monkeypatch):
    whole = Clips(items, example, seed=4, crop=SMALL)[8, 7].waveform
    monkeypatch.setattr(pipeline, "LONG", 1.0)
    monkeypatch.setattr(audio, "read", None)
    assert torch.equal(Clips(items, example, seed=4, crop=SMALL)[8, 7].waveform, whole)


def test_fixed_batches_take_every_item_once_an_epoch():
    items = items_of(*[1.0] * 10)
    steps = Steps(items, steps=10, seed=0, batch_size=4)
    keys = list(steps)
    assert len(steps) == len(keys) == 10 and steps.steps_per_epoch == 3
    assert all(step == number for number, batch in enumerate(keys) for _, step in batch)
    order = [index for batch in keys for index, _ in batch]
    assert [sorted(order[epoch : epoch + 10]) for epoch in range(0, 40, 10)] == [list(range(10))] * 4
    assert order[:10] != order[10:20]
    assert order != [index for batch in Steps(items, steps=10, seed=1, batch_size=4) for index, _ in batch]


DURATIONS = [0.5 + (number * 37 % 101) / 10 for number in range(150)] + [40.0, 50.0] + [2.0] * 60


@pytest.mark.parametrize("buckets", [1, 20])
def test_dynamic_batches_fit_the_budget_and_hold_similar_lengths(buckets):
    steps = Steps(items_of(*DURATIONS), steps=10_000, seed=0, seconds=30.0, buckets=buckets)
    for epoch in range(3):
        first = epoch * steps.steps_per_epoch
        batches = [steps.batch(step) for step in range(first, first + steps.steps_per_epoch)]
        assert sorted(sum(batches, [])) == list(range(len(DURATIONS))), "every item once"
        for batch in batches:
            longest = max(DURATIONS[index] for index in batch)
            assert len(batch) * longest <= 30.0 or len(batch) == 1
            assert buckets == 1 or longest < 5 or longest - min(DURATIONS[index] for index in batch) < 2 or longest > 9
    assert steps.batch(0) != steps.batch(steps.steps_per_epoch)


def test_dynamic_batches_are_few_and_mixed():
    steps = Steps(items_of(*[2.0] * 64), steps=1, seed=0, seconds=32.0)
    assert steps.steps_per_epoch == 4, "no bucket is smaller than a batch"
    halves = Counter(sum(index < 32 for index in steps.batch(step)) for step in range(40))
    assert halves[0] == halves[16] == 0, "items of equal length are mixed whatever their order in the manifest"


def test_durations_count_as_cropped_and_must_be_known():
    items = items_of(*[50.0] * 14)
    assert Steps(items, steps=1, seed=0, seconds=100.0).steps_per_epoch == 7
    assert Steps(items, steps=1, seed=0, seconds=100.0, crop=Crop()).steps_per_epoch == 2
    with pytest.raises(ValueError, match="item i1: no Duration"):
        Steps(items_of(1.0, 0.0), steps=1, seed=0, seconds=10.0)
    with pytest.raises(ValueError, match="no items"):
        Steps([], steps=1, seed=0)


@pytest.mark.parametrize("options", [{"batch_size": 5}, {"seconds": 12.0}])
def test_a_middle_step_is_found_without_the_earlier(options):
    items = items_of(*DURATIONS)
    whole = list(Steps(items, steps=200, seed=3, **options))
    assert list(Steps(items, steps=200, seed=3, start=123, **options)) == whole[123:]
    late = Steps(items, steps=200, seed=3, **options)
    late.start = 199
    assert list(late) == whole[199:] and len(late) == 200


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_step(world):
    items = items_of(*DURATIONS)
    whole = list(Steps(items, steps=90, seed=3, seconds=12.0))
    parts = [list(Steps(items, steps=90, seed=3, seconds=12.0, rank=rank, world=world)) for rank in range(world)]
    assert min(map(len, whole)) == 1, "there is a step with fewer items than processes"
    for batch, *shares in zip(whole, *parts, strict=True):
        assert all(shares), "nobody is idle"
        assert set(sum(shares, [])) == set(batch)
        assert sum(map(len, shares)) == max(len(batch), world)


def test_evaluation_batches_are_full_and_ordered():
    items = items_of(*DURATIONS)
    batches = eval_batches(items, 30.0)
    lengths = [[DURATIONS[index] for index in batch] for batch in batches]
    assert sorted(sum(batches, [])) == list(range(len(items)))
    assert sum(lengths, []) == sorted(DURATIONS, reverse=True)
    assert all(len(batch) == 1 or len(batch) * max(batch) <= 30.0 for batch in lengths)
    assert all((len(batch) + 1) * max(batch) > 30.0 for batch in lengths[:-1])
    equal = eval_batches(items, 30.0, by_length=True)
    assert sorted(sum(equal, [])) == list(range(len(items)))
    assert all(len({DURATIONS[index] for index in batch}) == 1 for batch in equal)
    assert max(map(len, equal)) == 15 and eval_batches(items, 30.0) == batches
