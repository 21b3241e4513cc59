"""Tables and pictures from made-up runs whose effects are known, and the published cells against their own sums."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from speechrl import figures, metrics, runs, tables
from speechrl.markdown import markdown
from speechrl.records import Column
from speechrl.results import Results, comparisons, unfair, verdicts
from speechrl.types import Outcome
from tests import synthetic_runs as synthetic

TABLE = Path(__file__).parent.parent / "experiments" / "deepfake_table1"
PUBLISHED = yaml.safe_load((TABLE / "published.yaml").read_text())
FEW = 400


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two seeds of four rows, one seed of the row before fine-tuning."""
    return synthetic.folders(tmp_path_factory.mktemp("runs"), {"none": 1, "sft": 2, "grpo": 2, "sft_grpo": 2})


@pytest.fixture(scope="module")
def results(folders):
    """Their results at embedded scale."""
    return Results(synthetic.described(), PUBLISHED, folders, resamples=FEW)


def test_a_cell_holds_the_metric_of_each_seed_and_its_deviation(results, folders):
    cell = results.cell("sft", results.column("ood/eer"))
    recorded = [runs.read_json(folder / runs.DONE)["ood/eer"] for folder in folders["sft"]]
    assert cell.values == tuple(recorded)
    assert cell.mean == pytest.approx(np.mean(recorded)) and cell.std == pytest.approx(np.std(recorded, ddof=1))
    assert (cell.published, cell.source, cell.items) == (6.28, "two", 800)
    assert cell.interval[0] < cell.mean < cell.interval[1]
    assert results.cell("none", results.column("ood/eer")).std is None


def test_draws_vary_about_the_recorded_value(results):
    for metric in ("ood_dv/eer", "target/eer", "ood_dv/auc", "ood_dv/accuracy"):
        column = results.column(metric)
        draws = results._draws("sft", [0], column)[0]
        assert draws.mean() == pytest.approx(results.values("sft", column)[0], rel=0.15)
        assert draws.std() > 0


def test_cuts_of_one_recording_are_resampled_together(folders):
    column = Column(metric="target/eer")
    together = Results(synthetic.described(), PUBLISHED, {"none": folders["none"]})
    apart = Results(synthetic.described(unit="no such id"), PUBLISHED, {"none": folders["none"]})
    wide, narrow = (np.diff(one.cell("none", column).interval)[0] for one in (together, apart))
    assert wide > 1.15 * narrow, "the two durations hold the same recordings: their errors do not average out"


def test_claims_follow_the_known_effects(results):
    says = {one.text: one.says for one in verdicts(results)}
    assert says["SFT raises out-of-domain error over the detector before fine-tuning"] == "support"
    assert says["GRPO generalises better than SFT (XLS-R-2B)"] == "support"
    assert says["GRPO generalises better than SFT on each of the four out-of-domain sets (XLS-R-2B)"] == "support"
    assert says["β = 1 generalises best"] == "not run"


@pytest.mark.parametrize(
    ("direction", "margin", "says"),
    [
        ("lower", None, "support"),
        ("higher", None, "contradict"),
        ("equal", 1.0, "contradict"),
        ("equal", "as found", "leave open"),
        ("equal", 50.0, "support"),
    ],
)
def test_a_claim_in_every_direction(folders, direction, margin, says):
    claim = {"text": "x", "a": "grpo", "b": "sft", "metric": "ood/eer", "direction": direction}
    if margin == "as found":
        value = comparisons(Results(synthetic.described(), {}, folders, resamples=FEW))[0].difference.value
        margin = 1.02 * abs(value)  # holds the value, but not its interval
    claim |= {"margin": margin} if margin else {}
    found = Results(synthetic.described(), {"claims": [claim]}, folders, resamples=FEW)
    assert [one.says for one in verdicts(found)] == [says]


def test_one_contradicted_metric_contradicts_a_claim(folders):
    claim = {"text": "x", "a": "sft", "b": "none", "metric": ["target/eer", "ood/eer"], "direction": "lower"}
    assert verdicts(Results(synthetic.described(), {"claims": [claim]}, folders, resamples=FEW))[0].says == "contradict"


def test_comparisons_are_paired_and_corrected(results):
    ood, target = comparisons(results)
    assert ood.difference.high < 0 and ood.corrected == pytest.approx(2 * ood.difference.p)
    assert target.corrected >= target.difference.p
    cells = [results.cell(row, ood.column).interval for row in ("grpo", "sft")]
    assert ood.difference.value == pytest.approx(
        results.cell("grpo", ood.column).mean - results.cell("sft", ood.column).mean
    )
    assert ood.difference.high - ood.difference.low < sum(high - low for low, high in cells)


def test_a_mean_over_named_sets_is_compared(folders):
    asked = [{"a": "grpo", "b": "sft", "metric": "eer", "splits": ["ood_add", "ood_dv"]}]
    (found,) = comparisons(Results(synthetic.described(compare=asked), {}, folders, resamples=FEW))
    parts = [[runs.read_json(f / runs.DONE)[f"{s}/eer"] for s in asked[0]["splits"]] for f in folders["grpo"]]
    other = [[runs.read_json(f / runs.DONE)[f"{s}/eer"] for s in asked[0]["splits"]] for f in folders["sft"]]
    assert found.difference.value == pytest.approx(np.mean(parts) - np.mean(other))


def test_rows_that_answered_other_items_are_not_compared(tmp_path, folders):
    odd = {"grpo": [synthetic.write(tmp_path, "grpo", 0, trials=120)], "sft": folders["sft"]}
    with pytest.raises(ValueError, match="answered different items"):
        comparisons(Results(synthetic.described(), {}, odd, resamples=FEW))


def test_results_md_says_what_the_data_are(results, folders, tmp_path):
    text = markdown(results)
    assert "prove the machinery, not the paper" in text and "difference |" not in text
    assert "| XLS_R: SFT | 10.26 |" in text and "p (Holm)" in text and "(n = 2)" in text
    assert "- XLS_R: NONE, seed 1: `python -m speechrl.train -m experiment=deepfake/none seed=1`" in text
    assert "answers drawn" in text and "commit 0123456789" in text and "2026-11-20" in text
    paper = synthetic.folders(tmp_path, {"sft": 1}, scale="paper")
    text = markdown(Results(synthetic.described(), PUBLISHED, paper, resamples=FEW))
    row = next(line for line in text.splitlines() if line.startswith("| XLS_R: SFT"))
    ours = Results(synthetic.described(), PUBLISHED, paper, resamples=FEW).cell("sft", Column(metric="ood/eer")).mean
    assert row.endswith(f"| {ours - 6.28:+.2f} |".replace("-", "−")) and "Paper scale" in text
    assert "scale=paper`" in text
    with pytest.raises(ValueError, match="embedded.*paper.*cannot share a table"):
        Results(synthetic.described(), PUBLISHED, {**folders, "sft": paper["sft"]})


def test_a_table_without_runs_names_every_command():
    text = markdown(Results(synthetic.described(), PUBLISHED, {}))
    assert text.count("python -m speechrl.train -m experiment=deepfake/") == 4 and "No runs yet" in text


def test_two_runs_of_one_cell_are_an_error(folders):
    with pytest.raises(ValueError, match="same row and seed"):
        Results(synthetic.described(), {}, {"sft": [folders["sft"][0]] * 2})


def test_unequal_costs_are_named(tmp_path):
    there = synthetic.folders(tmp_path / "a", {"sft": 1}) | synthetic.folders(tmp_path / "b", {"grpo": 1}, cost=2.5)
    results = Results(synthetic.described(), {}, there, resamples=FEW)
    assert [(a, b, {k: round(v, 3) for k, v in wide.items()}) for a, b, wide in unfair(results)] == [
        ("grpo", "sft", dict.fromkeys(("optimizer_steps", "examples", "audio_seconds", "wall_seconds"), 2.5))
    ]
    assert "**Unequal cost**: XLS_R: GRPO against XLS_R: SFT: optimiser steps × 2.5" in markdown(results)


def right(outcome: Outcome) -> bool:
    """A judge from outside, as an open-text study names one."""
    return outcome.answer.strip(".") == outcome.target


def test_an_open_answer_study_has_accuracies_with_binomial_errors(tmp_path):
    folder = tmp_path / "seed=0-0123abcd"
    kinds = ["sound"] * 60 + ["music"] * 40
    outcomes = [
        Outcome(id=f"{k:03d}", split="test", target="a", answer="a." if k % 4 else "b", meta={"task": kind})
        for k, kind in enumerate(kinds)
    ]
    runs.write_outcomes(folder / "answers.jsonl", outcomes)
    runs.write_json(folder / "provenance.json", synthetic.provenance(0, "embedded", 1.0))
    runs.write_json(folder / runs.DONE, {"test/accuracy": 0.75, "test_sound/accuracy": 0.75})
    shared = {"times": 100.0, "error": "binomial", "item": f"{__name__}.right", "digits": 1}
    sound = {
        "metric": "test_sound/accuracy",
        "label": "Sound",
        "splits": ["test"],
        "where": {"task": "sound"},
        **shared,
    }
    columns = [sound, {"metric": "test/accuracy", "label": "Average", **shared}]
    results = Results(synthetic.described(["base"], columns=columns, compare=[]), {}, {"base": [folder]})
    cells = [results.cell("base", column) for column in results.columns]
    assert [cell.items for cell in cells] == [60, 100]
    assert cells[0].binomial() == pytest.approx(100 * metrics.binomial_se(0.75, 60))
    assert cells[1].interval == pytest.approx((75 - 8.5, 75 + 8.5), abs=1.5)
    assert "75.0 ± 4.3 (n = 1)" in markdown(results)


@dataclasses.dataclass
class Sweep:
    """Stands for `speechrl.sweep.Sweep`, whose cells are found by composing configurations."""

    table: Path
    runs: Path
    seeds: int = 1
    quick: bool = False
    described: dict = dataclasses.field(default_factory=synthetic.described)

    def cells(self):
        """As a sweep's."""
        rows = ["none", "sft"] if self.quick else ["none", "sft", "grpo"]
        make = dataclasses.make_dataclass("Cell", ["row", "seed", "folder"])
        return [make(r, s, self.runs / r / f"seed={s}-0123abcd") for s in range(self.seeds) for r in rows]


def test_write_takes_every_finished_run_and_leaves_whole_files(tmp_path):
    synthetic.folders(tmp_path / "runs", {"none": 1, "sft": 2, "grpo": 2}, trials=60)
    (tmp_path / "runs" / "grpo" / "seed=1-0123abcd" / runs.DONE).unlink()
    tables.write(Sweep(tmp_path / "table", tmp_path / "runs", quick=True), Console(quiet=True))
    lines = list(csv.DictReader((tmp_path / "table" / "results.csv").open()))
    assert {(line["row"], line["seeds"]) for line in lines} == {
        ("none", "1"),
        ("sft", "2"),
        ("grpo", "1"),
        ("sft_grpo", "0"),
    }
    assert (tmp_path / "table" / "results.tex").read_text().count(r"\\") == 6
    names = sorted(str(path.relative_to(tmp_path / "table")) for path in (tmp_path / "table").rglob("*.*"))
    pictures = [f"figures/{name}.png" for name in sorted(figures.PICTURES)]
    assert names == [*pictures, "results.csv", "results.md", "results.tex"]


def test_pictures_that_the_runs_do_not_allow_are_left_out(tmp_path):
    assert figures.draw(Results(synthetic.described(), {}, {}), tmp_path) == []


def test_smoothing_keeps_a_constant_and_curves_are_read(folders):
    flat = np.column_stack([np.arange(300.0), np.ones(300)])
    np.testing.assert_allclose(figures._smoothed(flat), flat)
    logged = figures._logged(folders["grpo"][0] / "metrics.csv")
    assert logged["train/reward"].shape == (40, 2) and logged["valid/eer"][:, 0].tolist() == [9, 19, 29, 39]


def test_published_cells_agree_with_each_other():
    described = yaml.safe_load((TABLE / "sweep.yaml").read_text())
    rows = {row["name"] for row in described["rows"]}
    columns = {column["metric"] for column in described["columns"]}
    assert set(PUBLISHED["rows"]) | {"grpo_group"} == rows and len(PUBLISHED["rows"]) == 20
    for row, cells in PUBLISHED["rows"].items():
        assert cells.keys() <= columns and all(cell["source"] in PUBLISHED["sources"] for cell in cells.values()), row
        parts = [cells[name]["value"] for name in columns if name.startswith("ood_") and name in cells]
        if parts:
            assert cells["ood/eer"]["value"] == pytest.approx(np.mean(parts), abs=0.006), row
    for claim in PUBLISHED["claims"]:
        for metric in [claim["metric"]] if isinstance(claim["metric"], str) else claim["metric"]:
            a, b = (PUBLISHED["rows"][claim[side]].get(metric) for side in "ab")
            if a and b:
                gap = a["value"] - b["value"]
                assert {"lower": gap < 0, "higher": gap > 0, "equal": abs(gap) < claim.get("margin", 0)}[
                    claim["direction"]
                ]
