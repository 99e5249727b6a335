"""Runs of Python in processes of their own, on one rank or several."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def launch(script: list[str], *arguments: object, ranks: int = 1) -> None:
    """Run a script to its end, and fails with what it wrote if it fails."""
    done = execute(script, *arguments, ranks=ranks)
    assert done.returncode == 0, f"{done.args} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-8000:]}"


def execute(script: list[str], *arguments: object, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, whatever that is. Ranks find each other without looking up the machine's name."""
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | loopback
    command = [sys.executable, *launcher, *script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment, check=False)
