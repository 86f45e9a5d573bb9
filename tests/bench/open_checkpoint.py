"""Seconds to open a checkpoint and build its model, after torch is imported, and peak memory over the file's size.

By hand, one file a process: python tests/bench/open_checkpoint.py x.pt
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import torch  # noqa: F401  imported before the clock starts

from bitfalcon_plugin.models.weights.foreign import open_checkpoint


def main() -> None:
    path = Path(sys.argv[1])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    spent = time.process_time()  # of a machine that others use too, this is the steadier number
    model = open_checkpoint(path).model()
    seconds, used, size = time.perf_counter() - start, time.process_time() - spent, path.stat().st_size
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024  # ru_maxrss is in KiB on Linux
    count = sum(p.numel() for p in model.parameters())
    print(
        f"{size / 1e6:.1f} MB, {count / 1e6:.1f} M parameters: {seconds:.2f} s ({used:.2f} s of processor time), "
        f"peak {grown / size:.2f} times the file's size"
    )


if __name__ == "__main__":
    main()
