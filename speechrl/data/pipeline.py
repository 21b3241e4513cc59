"""From items to the examples of a step: what is loaded, cropped and augmented when, whoever loads it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info

from speechrl import audio
from speechrl.data.manifest import Item
from speechrl.data.rawboost import rawboost as boost
from speechrl.types import SAMPLE_RATE, Example, generator

Key = tuple[int, int]
# A recording longer than this (in seconds) that is to be cropped is not decoded as a whole.
LONG = 60.0


@dataclass(frozen=True)
class Crop:
    """Clips longer than `above` seconds are cut to a random length in [shortest, longest], at a random place.

    The defaults are the released detectors' (2603.02914, section 3): the length is drawn in samples.
    """

    above: float = 13.0
    shortest: float = 10.0
    longest: float = 13.0

    def __post_init__(self) -> None:
        if not 0 < self.shortest <= self.longest <= self.above:
            raise ValueError(f"{self}: need 0 < shortest <= longest <= above")

    def span(self, samples: int, randomness: torch.Generator) -> tuple[int, int]:
        """Start and length, in samples, of what stays of a clip."""
        if samples <= self.above * SAMPLE_RATE:
            return 0, samples
        length = _draw(int(self.shortest * SAMPLE_RATE), int(self.longest * SAMPLE_RATE), randomness)
        return _draw(0, samples - length, randomness), length

    def seconds(self, seconds: float) -> float:
        """How long a clip of that length may be after the cut."""
        return self.longest if seconds > self.above else seconds


class Clips(Dataset[Example]):
    """The examples of a list of items, at 16 kHz, by (index, step); an index alone is step 0.

    Crop and RawBoost (2603.02914, section 3) draw from a generator of (seed, step, item), so an example is the same
    whichever worker loads it and whenever. Without them, as in evaluation, it is the recording at its full length.
    Decoded clips are kept in memory up to `cache_bytes`, which the workers share; nobody may write to a waveform.
    """

    def __init__(
        self,
        items: Sequence[Item],
        example: Callable[[Item, Tensor], Example],
        *,
        seed: int = 0,
        crop: Crop | None = None,
        rawboost: bool = False,
        normalised: bool = False,
        channel: audio.Channel = "mean",
        cache_bytes: int = 2**30,
    ) -> None:
        self.items, self.crop = items, crop
        self._example, self._seed = example, seed
        self._rawboost, self._normalised, self._channel = rawboost, normalised, channel
        self._cache_bytes, self._cached_bytes = cache_bytes, 0
        self._cache: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key | int) -> Example:
        """Raises AudioError naming the recording where it cannot be decoded."""
        index, step = key if isinstance(key, tuple) else (key, 0)
        item = self.items[index]
        randomness = generator(self._seed, step, "augment", item.id)
        waveform = self._load(index, item, randomness)
        if self._rawboost:
            waveform = boost(waveform, randomness)
        if self._normalised:
            waveform = audio.normalise(waveform)
        return self._example(item, waveform)

    def __getstate__(self) -> dict[str, object]:
        # A worker started afresh fills its own cache; copying this one to it would cost more than decoding.
        return self.__dict__ | {"_cache": {}, "_cached_bytes": 0}

    def _load(self, index: int, item: Item, randomness: torch.Generator) -> Float[Tensor, " s"]:
        # Which way is taken depends on the item alone, never on what is cached: the two may differ by rounding.
        if self.crop is not None and item.seconds > LONG:
            start, length = self.crop.span(audio.length(item.path), randomness)
            return audio.read_span(item.path, start, length, channel=self._channel)
        waveform = self._whole(index, item)
        if self.crop is None:
            return waveform
        start, length = self.crop.span(len(waveform), randomness)
        return waveform[start : start + length]

    def _whole(self, index: int, item: Item) -> Float[Tensor, " s"]:
        waveform = self._cache.get(index)
        if waveform is None:
            waveform = audio.read(item.path, channel=self._channel)
            worker = get_worker_info()
            if self._cached_bytes + waveform.nbytes <= self._cache_bytes // (worker.num_workers if worker else 1):
                self._cache[index] = waveform
                self._cached_bytes += waveform.nbytes
        return waveform


class Steps(Sampler[list[Key]]):
    """Which items each optimiser step takes, as (index, step) keys: a batch sampler for as many steps as there are.

    Batches have `batch_size` items, an epoch's order running on into the next; or, where `seconds` is given, as many as
    fit into it when padded to the longest, drawn within `buckets` of similar duration and shuffled (a longer clip is
    alone; `crop` says what durations count as). Step k's batch is a pure function of (seed, k), so iteration may begin
    at any `start`. Process `rank` of `world` takes each world-th item of a step, and where a step has fewer items than
    processes they are taken again, so that none is idle.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        steps: int,
        seed: int,
        batch_size: int = 16,
        seconds: float | None = None,
        buckets: int = 20,
        crop: Crop | None = None,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not items:
            raise ValueError("there are no items to train on")
        self.start = start
        self._steps, self._seed, self._batch_size = steps, seed, batch_size
        self._count, self._rank, self._world = len(items), rank, world
        self._plan = None if seconds is None else _Plan(items, seconds, buckets, crop)
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """In how many steps every item is taken once."""
        return ceil(self._count / self._batch_size) if self._plan is None else len(self._plan)

    def __len__(self) -> int:
        """All steps, those before `start` too."""
        return self._steps

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, self._steps):
            batch = self.batch(step)
            share = (batch * ceil(self._world / len(batch)))[: max(self._world, len(batch))]
            yield [(index, step) for index in share[self._rank :: self._world]]

    def batch(self, step: int) -> list[int]:
        """The indices of a step, those of all processes together."""
        if self._plan is not None:
            return self._epoch(step // len(self._plan))[step % len(self._plan)]
        places = range(step * self._batch_size, (step + 1) * self._batch_size)
        return [self._epoch(place // self._count)[0][place % self._count] for place in places]

    def _draw_epoch(self, epoch: int) -> list[list[int]]:
        randomness = generator(self._seed, epoch, "batches")
        if self._plan is not None:
            return self._plan.batches(randomness)
        return [torch.randperm(self._count, generator=randomness).tolist()]


class _Plan:
    """Dynamic batches: buckets of equally many items by duration, each with the batch size that its longest allows.

    Items of one duration change buckets from epoch to epoch, but no bucket's longest duration does; therefore every
    epoch has equally many batches, and a step's epoch is known without counting.
    """

    def __init__(self, items: Sequence[Item], seconds: float, buckets: int, crop: Crop | None) -> None:
        self._durations = torch.tensor(_durations(items, crop), dtype=torch.float64)
        # No more buckets than full batches: else each would hold less than a batch.
        buckets = max(1, min(buckets, len(items), int(self._durations.sum() / seconds)))
        ordered = self._durations.sort().values
        self._edges = [len(items) * bucket // buckets for bucket in range(buckets + 1)]
        self._parts = []
        for low, high in zip(self._edges, self._edges[1:], strict=False):
            fit = max(1, int(seconds / float(ordered[high - 1]) + 1e-9))
            self._parts.append(ceil((high - low) / fit))

    def __len__(self) -> int:
        return sum(self._parts)

    def batches(self, randomness: torch.Generator) -> list[list[int]]:
        """An epoch's batches in random order; a bucket is shared out evenly among its batches."""
        order = torch.randperm(len(self._durations), generator=randomness)
        order = order[self._durations[order].sort(stable=True).indices]
        batches = []
        for low, high, parts in zip(self._edges, self._edges[1:], self._parts, strict=False):
            shuffled = order[low + torch.randperm(high - low, generator=randomness)]
            batches += [part.tolist() for part in shuffled.tensor_split(parts)]
        return [batches[place] for place in torch.randperm(len(batches), generator=randomness).tolist()]


def eval_batches(items: Sequence[Item], seconds: float, by_length: bool = False) -> list[list[int]]:
    """Indices for evaluation, longest clips first: each batch fits into `seconds` when padded, or is one clip.

    `by_length` puts only clips of equal length together, for encoders that normalise over time.
    """
    lengths = [round(duration * SAMPLE_RATE) for duration in _durations(items, None)]
    batches: list[list[int]] = []
    for index in sorted(range(len(items)), key=lambda index: (-lengths[index], index)):
        longest = lengths[batches[-1][0]] if batches else 0
        fits = batches and (len(batches[-1]) + 1) * longest <= seconds * SAMPLE_RATE
        if fits and (not by_length or lengths[index] == longest):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _durations(items: Sequence[Item], crop: Crop | None) -> list[float]:
    unknown = next((item for item in items if item.seconds <= 0), None)
    if unknown is not None:
        raise ValueError(f"{unknown.where}: no Duration; fill the column, or let manifest.check measure it")
    return [crop.seconds(item.seconds) if crop else item.seconds for item in items]


def _draw(low: int, high: int, randomness: torch.Generator) -> int:
    """A whole number between the two, both included."""
    return int(torch.randint(low, high + 1, (), generator=randomness))
