"""How a question with options is put, and how the answer is read out of what a model wrote."""

import re
import unicodedata
from collections.abc import Sequence

_ANSWER = re.compile(r"<answer>(.*?)</answer>")
_PLAIN_FORMAT = re.compile(r"<answer>.*?</answer>", re.DOTALL)
_THINK_FORMAT = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_NOT_A_WORD = re.compile(r"[^\w\s']+")
_OPTIONS = "{question} Please choose the answer from the following options: {choices}."
PROMPTS = {
    1: _OPTIONS,
    2: _OPTIONS + " Output the final answer in <answer> </answer>.",
    3: _OPTIONS + " Output the thinking process in <think> </think> and final answer in <answer> </answer>.",
}
"""The prompts of 2503.11197 by the paper's numbers; 2 and 3 are the released texts, 1 is inferred from them."""


def ask(question: str, choices: Sequence[str], *, prompt: int) -> str:
    """A multiple-choice question as one of the paper's prompts puts it: options in order, as Python writes a list."""
    return PROMPTS[prompt].format(question=question, choices=list(choices))


def tagged_answer(text: str) -> str | None:
    """The inside, stripped, of the first `<answer>...</answer>` that opens and closes on one line; None without one."""
    found = _ANSWER.search(text)
    return found.group(1).strip() if found else None


def final_answer(text: str) -> str:
    """What the model answers: the first tagged answer, or everything it wrote where no tag can be read; stripped."""
    tagged = tagged_answer(text)
    return text.strip() if tagged is None else tagged


def is_formatted(text: str, *, think: bool = False) -> bool:
    """Whether the whole text, nothing stripped, is one answer block, or a thinking block and then an answer block.

    Inside and between blocks anything goes that a non-greedy pattern lets through: empty blocks, newlines, and a second
    answer block after the first all pass, as in the released code of 2503.11197.
    """
    return (_THINK_FORMAT if think else _PLAIN_FORMAT).fullmatch(text) is not None


def wrap(answer: str, *, thought: str | None = None) -> str:
    """An answer in the form that `is_formatted` accepts; `thought` puts a thinking block before it."""
    block = f"<answer>{answer}</answer>"
    return block if thought is None else f"<think>{thought}</think>{block}"


def normalise(text: str) -> str:
    """Lower case, no punctuation but apostrophes, single spaces: how two spellings of the same words are compared."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return " ".join(_NOT_A_WORD.sub(" ", plain).split())
