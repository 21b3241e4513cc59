"""Runs a configuration in forked processes that are killed at given moments, then once to its end; for test_resume."""

import json
import os
import signal
import sys
import time

import torch

from speechrl.config import composed
from speechrl.train import run
from tests.miniature import CONF


def child(overrides: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
        try:
            run(composed(overrides, extra=[CONF]))
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    os._exit(0)


def main() -> None:
    torch.set_num_threads(1)
    task = json.loads(sys.argv[1])
    killed = 0
    for delay in task["delays"]:
        pid = child(task["overrides"])
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG)[0] == 0:
            time.sleep(0.005)
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed += 1
        except (ProcessLookupError, ChildProcessError):
            break
    started = time.monotonic()
    _, status = os.waitpid(child(task["overrides"]), 0)
    print(json.dumps({"killed": killed, "status": status, "seconds": time.monotonic() - started}))


if __name__ == "__main__":
    main()
