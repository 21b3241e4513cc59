"""The house rules that a reader relies on: rooms, arrows, sizes, and what may be imported where."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = {
    "types": 0,
    **dict.fromkeys(("grpo", "text", "metrics", "inference", "audio"), 1),
    **dict.fromkeys(("policies", "data", "rewards"), 2),
    "tasks": 3,
    "regimes": 4,
}
ENTRY = 5
"""The level of every other room: entry points, and what they share."""
FORBIDDEN = [("regimes", "tasks"), ("regimes", "rewards"), ("tasks", "policies"), ("rewards", "policies")]
CONFIGURATION = {"hydra", "omegaconf"}
HEAVY = {
    "transformers",
    "matplotlib",
    "pyworld",
    "wandb",
    "peft",
    "pandas",
    "scipy",
    "parselmouth",
    "jiwer",
    "sacrebleu",
}
MAX_FILE, MAX_FUNCTION = 300, 40

MODULES = sorted((ROOT / "speechrl").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in MODULES + TESTS}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    """The first name below speechrl: a module, or a folder of modules."""
    return path.relative_to(ROOT / "speechrl").with_suffix("").parts[0]


def level_of(room: str) -> int:
    return LEVELS.get(room, ENTRY)


def imports(tree: ast.AST) -> set[str]:
    """Full names of all that is imported anywhere in a module, lazily or not."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_imported(tree: ast.AST) -> set[str]:
    return {name.split(".")[1] for name in imports(tree) if name.startswith("speechrl.")}


def imported_at_once(tree: ast.Module) -> set[str]:
    """Top-level packages that importing the module imports, by its own statements."""
    statements = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name.split(".")[0] for node in statements for name in imports(node)}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_only_down(path):
    here = room_of(path)
    for there in rooms_imported(TREES[path]) - {here}:
        assert (here, there) not in FORBIDDEN, f"{here} must not know of {there}"
        both_enter = level_of(here) == level_of(there) == ENTRY
        assert both_enter or level_of(there) < level_of(here), f"{here} is not above {there}"
    if here == "regimes":
        policies = {name for name in imports(TREES[path]) if name.startswith("speechrl.policies")}
        assert all(name.startswith("speechrl.policies.base.") for name in policies), "regimes know one Policy, no kinds"


@pytest.mark.parametrize("path", [path for path in MODULES if level_of(room_of(path)) < ENTRY], ids=name_of)
def test_configuration_stops_at_the_constructor(path):
    assert not CONFIGURATION & {name.split(".")[0] for name in imports(TREES[path])}
    assert not re.search(r"DictConfig|omegaconf|\bcfg\b", path.read_text())


@pytest.mark.parametrize("path", MODULES + TESTS, ids=name_of)
def test_files_and_functions_fit_on_a_screen_or_few(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION, f"{node.name} at line {node.lineno}"


@pytest.mark.parametrize("path", MODULES + TESTS, ids=name_of)
def test_a_module_opens_with_one_sentence(path):
    if path.name == "__init__.py" and not path.read_text():
        return
    opening = (ast.get_docstring(TREES[path]) or "").split("\n\n")[0]
    assert opening.endswith("."), "a module says in one sentence what it is for"
    assert not re.search(r"[.!?] +[A-Z]", opening), f"more than one sentence: {opening}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_types_are_asked_of_classes_and_not_guessed(path):
    assert path.stem not in ("utils", "util", "helpers", "misc", "common"), "a module is a noun"
    calls = [node.func for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)]
    assert "hasattr" not in {call.id for call in calls if isinstance(call, ast.Name)}


@pytest.mark.parametrize("path", [path for path in MODULES if room_of(path) != "policies"], ids=name_of)
def test_heavy_packages_are_imported_where_they_are_used(path):
    """Policies are models and may begin with transformers; nothing else makes every command wait for it."""
    assert not HEAVY & imported_at_once(TREES[path])


def loaded_by(statement: str) -> set[str]:
    """Packages in memory after a statement, in a process of its own."""
    script = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_core_starts_without_heavy_packages():
    core = [room for room, level in LEVELS.items() if level <= 1]
    loaded = loaded_by("import " + ", ".join(f"speechrl.{room}" for room in [*core, "rewards"]))
    assert {"torch", "speechrl"} <= loaded
    assert not (HEAVY | CONFIGURATION | {"pytorch_lightning"}) & loaded


def test_rooms_are_those_of_the_plan():
    """A level that nothing has, or a room that went elsewhere, would leave a rule above without anything to check."""
    assert set(LEVELS) <= {room_of(path) for path in MODULES}


def test_the_rules_can_fail():
    tree = ast.parse(
        "def f():\n    from speechrl.policies.base import Policy\n    from speechrl import tasks\nimport scipy.signal"
    )
    assert rooms_imported(tree) == {"policies", "tasks"} and imported_at_once(tree) == {"scipy"}
