"""All cells of a paper's table: every row with every seed, several at once, and what is done is never done again."""

import argparse
import contextlib
import copy
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from speechrl import runs


@dataclass(frozen=True)
class Cell:
    """One row with one seed."""

    row: str
    seed: int
    overrides: tuple[str, ...]
    config: DictConfig
    folder: Path


@dataclass
class Sweep:
    """A table's folder in `experiments/`, and the cells that it asks for."""

    table: Path
    overrides: Sequence[str] = ()
    seeds: int = 1
    quick: bool = False
    described: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        path = self.table / "sweep.yaml"
        if not path.is_file():
            raise ValueError(f"{path}: no such file; name a folder of experiments/ that holds a sweep.yaml")
        self.described = yaml.safe_load(path.read_text())

    def rows(self) -> list[str]:
        """The rows that are run: all but those that only the paper has, or the quick few."""
        runs_of_ours = [row["name"] for row in self.described["rows"] if not row.get("published_only")]
        return self.described["quick"] if self.quick else runs_of_ours

    def cells(self) -> list[Cell]:
        """Every row with every seed, seeds outermost so that a whole table stands early."""
        from speechrl.config import composed

        overrides = {row: (f"experiment={self.described['experiments']}/{row}", *self.overrides) for row in self.rows()}
        composed_rows = {row: composed(list(given)) for row, given in overrides.items()}
        cells = []
        for seed in range(self.seeds):
            for row, given in overrides.items():
                config = copy.deepcopy(composed_rows[row])
                config.seed = seed
                cells.append(Cell(row, seed, (*given, f"seed={seed}"), config, runs.folder(config)))
        return cells


def prepare(overrides: Sequence[str], part: str) -> None:
    """Makes what a cell stands on, in this process: its `data` (corpora) or its `model` (base weights)."""
    from speechrl.config import built, composed

    config = composed(list(overrides))
    node = config.data.folder if part == "data" else config.model.get("weights")
    if node is not None and not isinstance(node, str):
        built(node)


def run_cell(overrides: Sequence[str], folder: Path) -> None:
    """Runs one cell, its output kept in the run's log."""
    from speechrl.config import composed
    from speechrl.train import run

    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / "log.txt").open("a", buffering=1)
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            run(composed(list(overrides)))
        except Exception:
            traceback.print_exc(file=log)
            raise


def _one_thread() -> None:
    import logging
    import warnings

    import torch

    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def _leave_with(parent: int) -> None:
    # a parent that was killed cannot say so: its orphans find themselves with another one
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


class Pool:
    """Worker processes of one thread each; they end with this process, whatever ends it."""

    def __init__(self, workers: int) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread)

    def __enter__(self) -> ProcessPoolExecutor:
        return self._executor

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for child in multiprocessing.active_children():
                child.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)


def execute(sweep: Sweep, workers: int, console: Console) -> list[str]:
    """Runs the cells that are not done; returns one line for each that failed."""
    cells = sweep.cells()
    missing = [cell for cell in cells if not runs.finished(cell.folder)]
    console.print(f"{sweep.table.name}: {len(cells)} cells, {len(cells) - len(missing)} done before")
    if not missing:
        return []
    with Pool(workers) as pool:
        for part in ("data", "model"):
            console.print({"data": "making sure of the data ...", "model": "making sure of the base models ..."}[part])
            wanted = _distinct(missing, part)
            first = [] if part == "model" else wanted[:1]
            for cell in first:
                prepare(cell.overrides, part)
            for future in [pool.submit(prepare, cell.overrides, part) for cell in wanted[len(first) :]]:
                future.result()
        futures = {pool.submit(run_cell, cell.overrides, cell.folder): cell for cell in missing}
        _watch(futures, len(cells), console)
    failed = [(cell, future.exception()) for future, cell in futures.items() if future.exception()]
    return [f"{cell.row} seed={cell.seed}: {error} (log: {cell.folder / 'log.txt'})" for cell, error in failed]


def _distinct(cells: Sequence[Cell], part: str) -> list[Cell]:
    from speechrl.config import plain

    seen: dict[str, Cell] = {}
    for cell in cells:
        config = plain(cell.config)
        node = config["data"]["folder"] if part == "data" else config["model"].get("weights")
        seen.setdefault(repr(node), cell)
    return list(seen.values())


def _watch(futures: dict[Future[None], Cell], cells: int, console: Console) -> None:
    """Shows which cell of how many, the step each running one is at, and the time left."""
    done_before = cells - len(futures)
    columns = (TextColumn("{task.description:34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=console)
    total = bars.add_task("cells", total=cells, completed=done_before)
    shown: dict[Future[None], Any] = {}
    with Live(bars, console=console, refresh_per_second=2):
        while True:
            for future, cell in futures.items():
                if future in shown and future.done():
                    bars.remove_task(shown.pop(future))
                elif future.running() and not future.done():
                    shown.setdefault(future, bars.add_task(f"  {cell.row} seed={cell.seed}", total=None))
                    state = _state(cell.folder)
                    if state:
                        name = f"  {cell.row} seed={cell.seed} {state['phase']}"
                        bars.update(shown[future], description=name, completed=state["step"], total=state["steps"])
            bars.update(total, completed=done_before + sum(future.done() for future in futures))
            if all(future.done() for future in futures):
                return
            time.sleep(0.5)


def _state(folder: Path) -> dict[str, Any] | None:
    path = folder / "progress.json"
    return runs.read_json(path) if path.is_file() else None


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m speechrl.sweep", description=__doc__)
    parser.add_argument("table", type=Path, help="a folder of experiments/, such as experiments/deepfake_table1")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 ... SEEDS-1 of every row")
    parser.add_argument("--quick", action="store_true", help="only the few rows of a first look")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cells at once, one thread each")
    parser.add_argument("--config-dir", type=Path, help="a folder of your own configurations, searched as well")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for all cells, such as scale=paper")
    return parser


def main() -> int:
    """Runs a sweep and prints its table."""
    from speechrl import tables

    given = arguments().parse_intermixed_args()
    console = Console()
    own = [f"hydra.searchpath=[file://{given.config_dir.resolve()}]"] if given.config_dir else []
    sweep = Sweep(given.table, [*given.overrides, *own], given.seeds, given.quick)
    started = time.time()
    try:
        failed = execute(sweep, given.workers, console)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return 130
    tables.write(sweep, console)
    for line in failed:
        console.print(f"[red]failed[/red] {line}")
    console.print(f"{(time.time() - started) / 60:.1f} minutes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
