"""What every test shares: annotations checked at run time, one thread, fixed seeds, no network, small recordings."""

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
}  # before torch and transformers are imported, and for the subprocesses of tests

import jaxtyping  # noqa: E402

import tests.typecheck  # noqa: E402, F401  (the hook finds it as an attribute of tests)

jaxtyping.install_import_hook("speechrl", "tests.typecheck.typecheck")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, without its import of torch._inductor


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="slow: run with --slow")
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What draws from a global generator, as the initial weights of a model do, draws alike in any order of tests."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that needs the network fails, on any machine; a process may still talk to another on this one."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests must not use the network, and this one connects to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def write_tone(tmp_path: Path) -> Callable[..., Path]:
    """Writes a sine of some seconds to a file of the test's own folder, in the format of its suffix."""

    def write(
        name: str = "tone.wav", *, seconds: float = 1.0, rate: int = 16_000, hertz: float = 440.0, channels: int = 1
    ) -> Path:
        import soundfile

        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
        soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate)
        return path

    return write
