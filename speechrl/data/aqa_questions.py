"""Multiple-choice questions about a scene of the embedded audio-question corpus: 18 kinds, each in two wordings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechrl.data import aqa_scenes as scenes
from speechrl.data import aqa_sounds as sounds
from speechrl.data.aqa_scenes import Scene, pick

Facts = Mapping[str, Any]
Options = tuple[str, Sequence[str], dict[str, str]]
"""The right option, the wrong ones with the near misses first, and the words that fill the question's blanks."""


@dataclass(frozen=True)
class Question:
    """A question about a clip: its text, its options, which is right, its kind, and a thought that leads there."""

    kind: str
    text: str
    choices: tuple[str, ...]
    answer: int
    think: str

    @property
    def right(self) -> str:
        """The right option's text."""
        return self.choices[self.answer]


@dataclass(frozen=True)
class Kind:
    """A kind of question: MMAU's names for it, an AVQA-like wording and an MMAU-like one, and how it is made.

    `make` gives None where the scene has no such question.
    """

    category: str
    sub_category: str
    wordings: tuple[str, str]
    make: Callable[[Facts, np.random.Generator], Options | None]


def askable(scene: Scene, rng: np.random.Generator) -> dict[str, Options]:
    """Every question that the scene admits, by the name of its kind."""
    made = {name: kind.make(scene.facts, rng) for name, kind in KINDS.items() if name.startswith(scene.task)}
    return {name: options for name, options in made.items() if options is not None}


def ask(scene: Scene, name: str, options: Options, rng: np.random.Generator, *, wording: int) -> Question:
    """The question as it is put: two to four options in random order, the nearest wrong ones kept."""
    right, wrong, blanks = options
    kept = list(wrong)[: 2 if len(wrong) > 2 and rng.random() < 0.15 else 3]
    order = rng.permutation(len(kept) + 1)
    choices = tuple([right, *kept][index] for index in order)
    text = KINDS[name].wordings[wording].format(**blanks)
    return Question(name, text, choices, int(np.argmin(order)), scene.caption)


def _among(answer: str, options: Sequence[str], rng: np.random.Generator, near: Sequence[str] = ()) -> Options:
    near = list(dict.fromkeys(option for option in near if option != answer))
    rest = [option for option in options if option != answer and option not in near]
    return answer, [*rng.permutation(near).tolist(), *rng.permutation(rest).tolist()], {}


def _yes(holds: bool) -> Options:
    return ("yes", ["no"], {}) if holds else ("no", ["yes"], {})


def _fact(key: str, options: Sequence[str]) -> Callable[[Facts, np.random.Generator], Options | None]:
    return lambda facts, rng: _among(facts[key], options, rng) if key in facts else None


def _position(index: int) -> Callable[[Facts, np.random.Generator], Options]:
    return lambda facts, rng: _among(facts["events"][index], sounds.EVENTS, rng, facts["events"])


def _present(facts: Facts, rng: np.random.Generator) -> Options:
    heard = pick(rng, facts["events"])
    return _among(heard, [name for name in sounds.EVENTS if name == heard or name not in facts["events"]], rng)


def _count(facts: Facts, rng: np.random.Generator) -> Options:
    name = pick(rng, facts["events"])
    right, wrong, _ = _among(scenes.NUMBERS[facts["events"].count(name) - 1], scenes.NUMBERS[:3], rng)
    return right, wrong, {"event": name}


def _movement(facts: Facts, rng: np.random.Generator) -> Options | None:
    if not facts["moves"]:
        return None
    name = pick(rng, sorted(facts["moves"]))
    right, wrong, _ = _among(facts["moves"][name], sounds.MOVES, rng)
    return right, wrong, {"event": name}


def _player(key: str) -> Callable[[Facts, np.random.Generator], Options]:
    return lambda facts, rng: _among(facts[key], sounds.INSTRUMENTS, rng, (facts["first"], facts["last"]))


_SEEN, _THOUGHT = "Information Extraction", "Reasoning"
KINDS: dict[str, Kind] = {
    "sound.present": Kind(
        _SEEN, "Sound Source", ("What is heard in the video?", "Which of these sounds occurs?"), _present
    ),
    "sound.first": Kind(
        _THOUGHT, "First Event", ("What is heard first in the video?", "Which sound comes first?"), _position(0)
    ),
    "sound.count": Kind(
        _THOUGHT,
        "Event Counting",
        ("How many times is the {event} heard in the video?", "How often does the {event} occur?"),
        _count,
    ),
    "sound.background": Kind(
        _SEEN,
        "Ambience",
        ("What is in the background of the video?", "Which background goes with the sounds?"),
        _fact("background", sounds.BACKGROUNDS),
    ),
    "sound.last": Kind(
        _THOUGHT, "Last Event", ("What is heard last in the video?", "Which sound comes last?"), _position(-1)
    ),
    "sound.pitch": Kind(
        _SEEN,
        "Pitch Movement",
        ("How does the {event} in the video move?", "How does the pitch of the {event} move?"),
        _movement,
    ),
    "music.instrument": Kind(
        _SEEN,
        "Instrument",
        ("What is played first in the video?", "Which instrument begins?"),
        _player("first"),
    ),
    "music.move": Kind(
        _THOUGHT,
        "Melodic Movement",
        ("How does the tune in the video move?", "What is the movement of the melody?"),
        _fact("move", ("rising", "falling", "wavy")),
    ),
    "music.last": Kind(
        _THOUGHT,
        "Last Instrument",
        ("What is played last in the video?", "Which instrument ends the melody?"),
        _player("last"),
    ),
    "music.pace": Kind(
        _SEEN, "Tempo", ("How fast is the tune in the video?", "What is the tempo?"), _fact("pace", scenes.PACES)
    ),
    "music.register": Kind(
        _SEEN,
        "Register",
        ("How high is the tune in the video?", "In which register is the melody?"),
        _fact("register", scenes.REGISTERS),
    ),
    "music.drum": Kind(
        _SEEN, "Rhythm Section", ("Is a drum in the video?", "Does a drum play?"), lambda facts, _: _yes(facts["drum"])
    ),
    "speech.thing": Kind(
        _SEEN,
        "Spoken Object",
        ("What things are named in the video?", "Which things does the speaker mention?"),
        _fact("thing", scenes.THINGS),
    ),
    "speech.colour": Kind(
        _SEEN,
        "Spoken Colour",
        ("What colour is named in the video?", "Which colour does the speaker mention?"),
        _fact("colour", scenes.COLOURS),
    ),
    "speech.sex": Kind(
        _SEEN, "Speaker", ("Who speaks in the video?", "Whose voice is it?"), _fact("sex", tuple(scenes.SPEAKERS))
    ),
    "speech.number": Kind(
        _SEEN,
        "Spoken Number",
        ("What number is named in the video?", "Which number does the speaker mention?"),
        _fact("number", scenes.NUMBERS[1:]),
    ),
    "speech.pace": Kind(
        _THOUGHT,
        "Speaking Rate",
        ("How fast is the speech in the video?", "What is the speaking rate?"),
        _fact("pace", scenes.PACES),
    ),
    "speech.language": Kind(
        _THOUGHT,
        "Language",
        ("What language is in the video?", "Which language is spoken?"),
        _fact("language", scenes.LANGUAGES),
    ),
}

TAUGHT = (
    *("sound.present", "sound.first", "sound.count"),
    *("music.instrument", "music.move", "music.pace"),
    *("speech.thing", "speech.colour", "speech.sex"),
)
"""The kinds that the fine-tuning set has; the test set has all, the others known from pre-training only."""
