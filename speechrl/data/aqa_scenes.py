"""What happens in a clip of the embedded audio-question corpus: drawn, rendered to samples, and put into words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechrl.data import aqa_sounds as sounds
from speechrl.data.espeak import speak

TASKS = ("sound", "music", "speech")
NUMBERS = ("one", "two", "three", "four", "five", "six")
PACES = ("slow", "medium", "fast")
REGISTERS = ("low", "middle", "high")
NAMES = ("Anna", "Peter", "Maria", "Oscar")
ACTIONS = ("finds", "buys", "paints")
COLOURS = ("red", "blue", "green", "yellow", "white", "black")
THINGS = ("boats", "coats", "cars", "cards", "birds", "lamps", "apples", "chairs")
SPEAKERS = {"man": ("m1", "m3"), "woman": ("f2", "f4")}
ABROAD = {
    "German": ("de", ("Der Hund läuft durch den Garten", "Wir essen heute frisches Brot", "Morgen wird es schön")),
    "French": ("fr", ("Le chien court dans le jardin", "Nous mangeons du pain frais", "Il fait beau ce matin")),
    "Spanish": ("es", ("El perro corre por el parque", "Hoy comemos pan muy bueno", "La casa tiene dos puertas")),
    "Polish": ("pl", ("Pies biega po ogrodzie", "Jutro będzie ładna pogoda", "Kupiłem świeży chleb")),
}
LANGUAGES = ("English", *ABROAD)

_SCALE = (0, 2, 4, 5, 7, 9, 11, 12)  # semitones of a major scale
_NOTE_SECONDS = {"slow": 0.5, "medium": 0.3, "fast": 0.17}
_WORDS_A_MINUTE = {"slow": 140, "medium": 190, "fast": 260}
_LOWEST_NOTE = {"low": 43, "middle": 60, "high": 77}  # MIDI numbers


@dataclass(frozen=True)
class Scene:
    """One clip's content: its kind (sound, music, speech), its facts, how it is mixed, and its caption."""

    task: str
    facts: Mapping[str, Any]
    caption: str
    background: str
    snr: float
    """Of the scene over a faint noise and its background, in dB."""

    @property
    def difficulty(self) -> str:
        """MMAU's three levels, here a matter of noise."""
        return "easy" if self.snr > 20 else "medium" if self.snr > 13 else "hard"


def draw(task: str, rng: np.random.Generator, *, snr: tuple[float, float] = (8.0, 25.0)) -> Scene:
    """A scene of a kind at a signal-to-noise ratio from the range `snr`."""
    level = float(rng.uniform(*snr))
    background = pick(rng, sounds.BACKGROUNDS) if task == "sound" else "silence"
    facts, caption = {"sound": _draw_sound, "music": _draw_music, "speech": _draw_speech}[task](rng)
    if task == "sound":
        facts["background"], caption = background, f"{caption}; {background}"
    return Scene(task, facts, caption, background, level)


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The scene's samples, float64 at 16 kHz, 0.8 to 3 s, peak 0.7."""
    clean = {"sound": _render_sound, "music": _render_music, "speech": _render_speech}[scene.task](scene.facts, rng)
    seconds = min(max(len(clean) / sounds.SAMPLE_RATE, 0.8), 3.0)
    clean = sounds.placed([(0.0, clean)], seconds)
    behind = sounds.background(scene.background, seconds, rng) + 0.02 * rng.standard_normal(len(clean))
    return sounds.mixed(clean, behind, scene.snr if scene.background != "silence" else scene.snr + 8)


def pick(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def _draw_sound(rng: np.random.Generator) -> tuple[dict[str, Any], str]:
    pool = rng.choice(sounds.EVENTS, size=rng.integers(1, 4), replace=False).tolist()
    extra = int(rng.integers(0, 4 - len(pool)))
    events = rng.permutation(pool + [pick(rng, pool) for _ in range(extra)]).tolist()
    moves = {name: pick(rng, sounds.MOVES) for name in pool if name in sounds.TONAL}
    words = [f"{name} {moves[name]}" if name in moves else name for name in events]
    return {"events": events, "moves": moves}, ", ".join(words)


def _render_sound(facts: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    parts, at = [], float(rng.uniform(0.02, 0.15))
    for name in facts["events"]:
        seconds = float(rng.uniform(0.28, 0.5))
        wave = sounds.event(name, seconds, facts["moves"].get(name, "steady"), rng)
        parts.append((at, wave * rng.uniform(0.4, 1.0)))
        at += seconds + float(rng.uniform(-0.06, 0.12))
    return sounds.placed(parts, at + 0.15)


def _draw_music(rng: np.random.Generator) -> tuple[dict[str, Any], str]:
    pace, move, register = pick(rng, PACES), pick(rng, ("rising", "falling", "wavy")), pick(rng, REGISTERS)
    first, last = rng.choice(sounds.INSTRUMENTS, size=2, replace=False).tolist()
    last = last if rng.random() < 0.5 else first
    notes = int(rng.integers(3, 6 if pace == "slow" else 7))
    drum = bool(rng.random() < 0.5)
    facts = {"pace": pace, "move": move, "register": register, "first": first, "last": last, "notes": notes}
    who = first if first == last else f"{first} then {last}"
    caption = f"{pace} {register} {who}, {move}{' with drum' if drum else ''}"
    return facts | {"drum": drum}, caption


def _render_music(facts: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    count, seconds = facts["notes"], _NOTE_SECONDS[facts["pace"]] * rng.uniform(0.92, 1.08)
    steps = np.arange(count) if facts["move"] != "wavy" else np.arange(count) % 2 * 3 + np.arange(count) // 3
    steps = steps[::-1] if facts["move"] == "falling" else steps
    lowest = _LOWEST_NOTE[facts["register"]] + int(rng.integers(-3, 4))
    parts = []
    for index, step in enumerate(steps):
        instrument = facts["first"] if index < (count + 1) // 2 else facts["last"]
        hertz = 440 * 2 ** ((lowest + _SCALE[int(step)] - 69) / 12)
        parts.append((0.05 + index * seconds, sounds.note(instrument, hertz, seconds, rng)))
    if facts["drum"]:
        parts += [(0.05 + index * seconds, 0.9 * sounds.drum(0.15, rng)) for index in range(0, count, 2)]
    return sounds.placed(parts, 0.15 + count * seconds)


def _draw_speech(rng: np.random.Generator) -> tuple[dict[str, Any], str]:
    sex = pick(rng, tuple(SPEAKERS))
    facts = {"sex": sex, "voice": pick(rng, SPEAKERS[sex]), "pace": pick(rng, PACES)}
    facts["language"] = "English" if rng.random() < 0.8 else pick(rng, tuple(ABROAD))
    if facts["language"] != "English":
        said = pick(rng, ABROAD[facts["language"]][1])
        return facts | {"said": said}, f"{facts['pace']} {sex} in {facts['language']}"
    facts["name"], facts["action"], facts["number"] = pick(rng, NAMES), pick(rng, ACTIONS), pick(rng, NUMBERS[1:])
    facts["colour"], facts["thing"] = pick(rng, COLOURS), pick(rng, THINGS)
    said = "{name} {action} {number} {colour} {thing}".format(**facts)
    return facts | {"said": said}, f"{facts['pace']} {sex}: {said}"


def _render_speech(facts: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    language = "en-us" if facts["language"] == "English" else ABROAD[facts["language"]][0]
    rate = int(_WORDS_A_MINUTE[facts["pace"]] * rng.uniform(0.93, 1.07))
    spoken = speak(
        facts["said"],
        voice=f"{language}+{facts['voice']}",
        rate=rate,
        pitch=int(rng.integers(40, 61)),
    )
    return spoken.waveform.double().numpy()
