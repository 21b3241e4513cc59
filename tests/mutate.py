"""Breaks the mathematics one edit at a time, in a copy, and says whether the tests notice: `python -m tests.mutate`."""

import contextlib
import io
import os
import shutil
import sys
import tempfile
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pytest
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parent.parent
PRELOADED = ["torch", "numpy", "scipy.stats", "jiwer", "jaxtyping", "beartype", "pytest", "pytest_timeout"]
"""Imported once, in the process that all mutants are forked from."""
QUICK = ["-x", "-q", "--noconftest", "--timeout=60", "-p", "pytest_timeout"]
QUICK += [
    part for plugin in ("cacheprovider", "unraisableexception", "threadexception") for part in ("-p", f"no:{plugin}")
]
"""No run-time check of annotations and no other plugin: values must tell, and soon."""
TESTS = {"grpo.py": "test_grpo.py", "metrics.py": "test_metrics.py", "inference.py": "test_metrics.py"}

GRPO = [
    ("advantage: sign", "(exact - baseline[center])", "(baseline[center] - exact)"),
    ("advantage: centre of the other axis", "exact.mean(1, keepdim=True)", "exact.mean(0, keepdim=True)"),
    ("advantage: batch centre per group", '"batch": exact.mean()', '"batch": exact.mean(1, keepdim=True)'),
    ("advantage: group centre of the batch", "exact.mean(1, keepdim=True)", "exact.mean()"),
    ("advantage: scale of the other axis", "_std(exact, 1)", "_std(exact, 0)"),
    ("advantage: batch scale per group", "_std(exact, (0, 1))", "_std(exact, 1)"),
    ("advantage: group scale of the batch", "_std(exact, 1)", "_std(exact, (0, 1))"),
    ("advantage: centre and scale swapped", "baseline[center]) / (deviation[scale]", "baseline[scale]) / (deviation[center]"),
    ("advantage: floor subtracted", "(deviation[scale] + floor)", "(deviation[scale] - floor)"),
    ("advantage: no floor", "(deviation[scale] + floor)", "deviation[scale]"),
    ("advantage: no scale keeps the floor", "exact.new_ones(()) - floor", "exact.new_ones(())"),
    ("advantage: none is centred", "exact.new_zeros(())", "exact.mean()"),
    ("advantage: single precision", "rewards.double()", "rewards"),
    ("advantage: variance for deviation", "rewards.std(axes, keepdim=True)", "rewards.var(axes, keepdim=True)"),
    ("advantage: ddof 0", "rewards.std(axes, keepdim=True)", "rewards.std(axes, correction=0, keepdim=True)"),
    ("advantage: a single answer is NaN", "if rewards.numel() > groups else torch.zeros_like(rewards)", ""),
    ("kl: direction", "delta = ref_logps - logps", "delta = logps - ref_logps"),
    ("kl: k1", "torch.expm1(delta) - delta", "-delta"),
    ("kl: k2", "torch.expm1(delta) - delta", "delta**2 / 2"),
    ("kl: sign of the linear term", "torch.expm1(delta) - delta", "torch.expm1(delta) + delta"),
    ("aggregate: how swapped", 'how == "token"', 'how != "token"'),
    ("aggregate: padding counts in sequences", "means = (values * weights).sum(1) / weights.sum(1).clamp(min=1)", "means = (values * weights).mean(1)"),
    ("aggregate: padding counts in tokens", "weights.sum() if count", "weights.numel() if count"),
    ("aggregate: padding adds", "means = (values * weights)", "means = values"),
    ("aggregate: padding adds to tokens", "return (values * weights).sum()", "return values.sum()"),
    ("aggregate: no answer without actions", ".clamp(min=1)", ""),
    ("aggregate: sequences ignore count", "(len(means) if count is None else count)", "len(means)"),
    ("aggregate: tokens ignore count", "(weights.sum() if count is None else count)", "weights.sum()"),
    ("loss: sign", "return -aggregate(", "return aggregate("),
    ("loss: max for min", "torch.minimum(", "torch.maximum("),
    ("loss: no clip", "ratio.clamp(low, high) * weight", "ratio * weight"),
    ("loss: always clipped", "torch.minimum(ratio * weight, ratio.clamp(low, high) * weight)", "ratio.clamp(low, high) * weight"),
    ("loss: lower bound's sign", "as_tensor(1 - clip_low", "as_tensor(1 + clip_low"),
    ("loss: upper bound's sign", "as_tensor(1 + clip_high", "as_tensor(1 - clip_high"),
    ("loss: lower bound from upper", "as_tensor(1 - clip_low", "as_tensor(1 - clip_high"),
    ("loss: upper bound from lower", "as_tensor(1 + clip_high", "as_tensor(1 + clip_low"),
    ("loss: bound in single precision", "1 + clip_high, dtype=ratio.dtype", "1 + clip_high, dtype=torch.float32"),
    ("loss: bounds swapped", "ratio.clamp(low, high)", "ratio.clamp(high, low)"),
    ("loss: clip without advantage", "ratio.clamp(low, high) * weight", "ratio.clamp(low, high)"),
    ("loss: ratio upside down", "(logps - (logps.detach() if old_logps is None else old_logps)).exp()", "((logps.detach() if old_logps is None else old_logps) - logps).exp()"),
    ("loss: on-policy without gradient", "(logps.detach() if", "(logps if"),
    ("loss: the old policy is ignored", "if old_logps is None else old_logps)", "if True else old_logps)"),
    ("loss: KL rewarded", "value - beta * kl(", "value + beta * kl("),
    ("loss: KL of the reference to the policy", "kl(logps, ref_logps)", "kl(ref_logps, logps)"),
    ("loss: KL to the old policy", "kl(logps, ref_logps)", "kl(logps, logps.detach() if old_logps is None else old_logps)"),
    ("loss: beta ignored", "beta * kl(", "kl("),
    ("loss: no KL", "if ref_logps is not None:", "if False:"),
    ("loss: one how for all", "aggregate(value, mask, how, count)", 'aggregate(value, mask, "sequence", count)'),
    ("loss: count forgotten", "aggregate(value, mask, how, count)", "aggregate(value, mask, how)"),
    ("clipped: sign of the upper side", "(weight > 0)", "(weight < 0)"),
    ("clipped: sign of the lower side", "(weight < 0)", "(weight > 0)"),
    ("clipped: upper bound", "ratio > 1 + clip_high", "ratio > 1 - clip_high"),
    ("clipped: lower bound", "ratio < 1 - clip_low", "ratio < 1 - clip_high"),
]  # fmt: skip

METRICS = [
    ("eer: real and fake exchanged", "order[real], order[~real], below[0], below[1]", "order[~real], order[real], below[1], below[0]"),
    ("eer: fake first within a tie", "np.lexsort((~real, values))", "np.lexsort((real, values))"),
    ("eer: items unsorted", "order = np.lexsort((~real, values))", "order = np.arange(len(values))"),
    ("eer: ties never merged", "if merge_ties else", "if False else"),
    ("eer: ties always merged", "if merge_ties else", "if True else"),
    ("eer: a tie ends at its first item", "np.append(values[1:] != values[:-1], True)", "np.append(True, values[1:] != values[:-1])"),
    ("eer: no threshold below all scores", "kept = np.append(True, last)", "kept = np.append(False, last)"),
    ("eer: gap is a sum", "missed * fakes - accepted * reals", "missed * fakes + accepted * reals"),
    ("eer: gap of counts, not of rates", "missed * fakes - accepted * reals", "missed - accepted"),
    ("eer: gap of the wrong classes", "missed * fakes - accepted * reals", "missed * reals - accepted * fakes"),
    ("eer: farthest, not closest", "np.where(-gap(low) <= gap(high), low, high)", "np.where(-gap(low) > gap(high), low, high)"),
    ("eer: last of equally good thresholds", "-gap(low) <= gap(high)", "-gap(low) < gap(high)"),
    ("eer: always the lower threshold", "np.where(-gap(low) <= gap(high), low, high)", "low"),
    ("eer: search goes the wrong way", "np.where(over, low, middle), np.where(over, middle, high)", "np.where(over, middle, low), np.where(over, high, middle)"),
    ("eer: false acceptance is its complement", "fakes - fake[row, items.fake_below[at]]", "fake[row, items.fake_below[at]].astype(np.int64)"),
    ("eer: FRR over the fakes", "missed / reals + accepted / fakes", "missed / fakes + accepted / reals"),
    ("eer: minimum for mean", "(missed / reals + accepted / fakes) / 2", "np.minimum(missed / reals, accepted / fakes)"),
    ("eer: difference for sum", "missed / reals + accepted / fakes", "missed / reals - accepted / fakes"),
    ("roc: FAR is its complement", "(fakes - items.fake_below) / fakes", "items.fake_below / fakes"),
    ("roc: FAR over the reals", "(fakes - items.fake_below) / fakes", "(fakes - items.fake_below) / reals"),
    ("roc: FRR over the fakes", "items.real_below / reals", "items.real_below / fakes"),
    ("auc: upside down", "real[:, -1:] - (missed", "(missed"),
    ("auc: a tie counts nothing", "(missed[:, 1:] + missed[:, :-1]) / 2", "missed[:, 1:]"),
    ("auc: a tie counts whole", "(missed[:, 1:] + missed[:, :-1]) / 2", "missed[:, :-1]"),
    ("det: the other tail", "(len(items.fake) - items.fake_below, len(items.fake))", "(items.fake_below, len(items.fake))"),
    ("det: rates of 0 and 1", "np.clip(wrong, 0.5, total - 0.5)", "np.clip(wrong, 1, total - 1)"),
    ("accuracy: the threshold itself", "> threshold)", ">= threshold)"),
    ("accuracy: wrong for right", "== np.asarray(is_real, dtype=bool)", "!= np.asarray(is_real, dtype=bool)"),
    ("resampled: numerator unweighted", "(weights @ np.asarray(numerators, dtype=float))", "np.asarray(numerators, dtype=float).sum()"),
    ("binomial: variance", "np.sqrt(rate * (1 - rate) / n)", "(rate * (1 - rate) / n)"),
    ("mmau: some words are enough", "right <= predicted and", "right & predicted and"),
    ("mmau: wrong words allowed", " and not predicted & wrong", ""),
    ("mmau: shared words are wrong", "for choice in choices)) - right", "for choice in choices if choice != answer))"),
    ("mmau: case matters", "text.lower()", "text"),
    ("wer: right words are errors", 'part.type != "equal"', 'part.type == "equal"'),
    ("wer: insertions are free", "max(part.ref_end_idx - part.ref_start_idx, part.hyp_end_idx - part.hyp_start_idx)", "(part.ref_end_idx - part.ref_start_idx)"),
    ("wer: over the items", "errors.sum() / words.sum()", "errors.sum() / len(words)"),
    ("drift: squared", "np.abs(a - b)", "((a - b) ** 2)"),
    ("drift: summed over dimensions", "np.abs(a - b).mean(1)", "np.abs(a - b).sum(1)"),
    ("drift: unsorted", "np.sort(embeddings_a, 0)", "embeddings_a"),
]  # fmt: skip

INFERENCE = [
    ("bootstrap: without strata", "for label in np.unique(labels)]", "for label in [0]] and [np.arange(len(labels))]"),
    ("bootstrap: keys ignored", 'seed_of("bootstrap", *keys)', 'seed_of("bootstrap")'),
    ("bootstrap: each statistic its own resamples", "[statistic(counts) for statistic in statistics]", "[statistic(np.roll(counts, i, 0)) for i, statistic in enumerate(statistics)]"),
    ("seeds: not resampled", "np.take_along_axis(draws, chosen, 0)", "draws"),
    ("interval: one-sided", "[(1 - level) / 2, (1 + level) / 2]", "[1 - level, level]"),
    ("p-value: the larger tail", "tail = min(", "tail = max("),
    ("p-value: one-sided", "2 * (tail + 1)", "(tail + 1)"),
    ("p-value: zero counts for nothing", "(draws <= 0).sum(), (draws >= 0).sum()", "(draws < 0).sum(), (draws > 0).sum()"),
    ("p-value: may be zero", "2 * (tail + 1) / (len(draws) + 1)", "2 * tail / len(draws)"),
    ("p-value: above one", ", 1.0))", ", 9.0))"),
    ("difference: B minus A", "over_seeds(a - b", "over_seeds(b - a"),
    ("holm: Bonferroni", "(count - np.arange(count))", "count"),
    ("holm: may fall", "np.maximum.accumulate(stepped)", "stepped"),
    ("holm: from the largest", 'np.argsort(p_values, kind="stable")', 'np.argsort(p_values, kind="stable")[::-1]'),
    ("deviation: ddof 0", "ddof=1", "ddof=0"),
]  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One edit of one file; `old` stands in it exactly once, and is empty in the control."""

    file: str
    name: str
    old: str = ""
    new: str = ""


@dataclass(frozen=True)
class Verdict:
    """The test that failed, if one did; or why nothing can be said."""

    killed_by: str = ""
    trouble: str = ""


class Watch:
    """A pytest plugin that keeps the name of the first test to fail."""

    failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid.partition("::")[2]


def judge(mutant: Mutant, source: Path) -> Verdict:
    """Runs the tests of a file against its mutant, in this process, which has not imported the package yet."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = shutil.copytree(source, Path(folder).resolve(), dirs_exist_ok=True)
        path = copy / "speechrl" / mutant.file
        text = path.read_text()
        if mutant.old and text.count(mutant.old) != 1:
            return Verdict(trouble=f"{text.count(mutant.old)} places to edit: rewrite this mutation")
        path.write_text(text.replace(mutant.old, mutant.new) if mutant.old else text)
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        watch, output = Watch(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = pytest.main([*QUICK, f"--rootdir={copy}", f"tests/{TESTS[mutant.file]}"], plugins=[watch])
        os.chdir(source)
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or (code and not watch.failed):
        return Verdict(trouble=output.getvalue().strip()[-300:])
    loaded = sys.modules[f"speechrl.{path.stem}"]
    assert str(loaded.__file__).startswith(str(copy)), "the copy is what was tested"
    return Verdict(killed_by=watch.failed)


def snapshot(folder: Path) -> Path:
    """What the mutants are made from, so that the working tree may change meanwhile."""
    shutil.copytree(ROOT / "speechrl", folder / "speechrl", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    for name in ("pyproject.toml", *(f"tests/{test}" for test in set(TESTS.values()))):
        shutil.copy(ROOT / name, folder / name)
    return folder


def main() -> int:
    """Prints what became of each mutant; 1 if one survived, or could not be judged."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    controls = [Mutant(file, "unchanged") for file in TESTS]
    mutants = [Mutant("grpo.py", *edit) for edit in GRPO]
    mutants += [Mutant("metrics.py", *edit) for edit in METRICS]
    mutants += [Mutant("inference.py", *edit) for edit in INFERENCE]
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    table = Table("file", "edit", "killed by", title="One edit each: do the tests notice?")
    with (
        tempfile.TemporaryDirectory(prefix="mutate-") as folder,
        ProcessPoolExecutor(max_workers=2, mp_context=context, max_tasks_per_child=1) as pool,
    ):
        source = snapshot(Path(folder))
        running = [(mutant, pool.submit(judge, mutant, source)) for mutant in controls + mutants]
        troubled = sum(row(table, *pair) for pair in track(running, "mutants", console=Console(stderr=True)))
    Console(width=150).print(table, f"{len(mutants)} mutants, {troubled} to look at")
    return int(troubled > 0)


def row(table: Table, mutant: Mutant, found: Future[Verdict]) -> bool:
    """Adds a mutant's line; whether something is wrong with it."""
    verdict = found.result()
    alive = not verdict.killed_by and not verdict.trouble
    wrong = bool(verdict.trouble) or alive != (not mutant.old)
    said = escape(verdict.trouble or verdict.killed_by) or ("SURVIVED" if mutant.old else "passes, as it should")
    table.add_row(mutant.file, mutant.name, said, style="bold red" if wrong else "")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
