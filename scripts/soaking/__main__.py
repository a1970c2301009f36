"""What `scripts/soak` runs: work on a real mount while everything breaks, against a model.

    python -m scripts.soaking --minutes 10
    python -m scripts.soaking --seed 7 --server vsftpd     repeats one round

Programs (cp, mv, rm, dd, truncate, rsync, tar, shells...) change files through a mount with default
options, except for shorter deadlines and, in every second group of six rounds, a store on the disk
whose files rot while the daemon is dead. In every second round with a store, the server is away for
seconds, again and again, and programs go on without it. Between it and a real server, a relay cuts,
delays and swallows traffic. The daemon gets SIGKILL at random moments and is mounted again. Another
client changes files on the server's disk, including files that are being read here. The server
refuses one folder and has no room in another. A model says what each file may be: if a call has
returned, its result counts; if a call was in progress, the file is as before or as intended.

The soak compares with the model
- after each call that failed, through the mount;
- after each kill, before the next mount: closed files are whole on the server's disk or in the
  journal, and no file on that disk has content that no program wrote;
- after each `ftpfs sync`: the server's disk, byte for byte.

A seed fixes the operations, their order, their files, and the faults; it does not fix when each
thread runs. A seed that failed is likely to fail again within some repetitions.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from typing import NoReturn

from scripts.soaking.model import Counts, Finding
from scripts.soaking.rounds import run_round
from tests.support.servers import Kind

KINDS: tuple[Kind, ...] = ("vsftpd", "proftpd", "pure-ftpd")
ROUND = 60.0  # seconds with one server and one seed


def soak_core(seed: int, deadline: float) -> int:
    """Run the state machines of test_filesystem_model.py, one seed after the other."""
    while time.monotonic() < deadline:
        model = ["tests/unit/core/test_filesystem_model.py", f"--hypothesis-seed={seed}"]
        print(f"--core --seed {seed}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-o", "timeout=0", *model],
            env={**os.environ, "FTPFS_MODEL_EXAMPLES": "200"},
            check=False,
        )
        if done.returncode:
            return done.returncode
        seed += 1
    return 0


def _terminate(number: int, _frame: object) -> NoReturn:
    """Exit by an exception, so that everything is unmounted and ended."""
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="how long (10)")
    parser.add_argument("--kills", type=int, default=0, help="go on until there were so many")
    parser.add_argument("--core", action="store_true", help="the core alone, against its model")
    parser.add_argument(
        "--seed", type=int, help="repeat the round with this seed; with --kills, begin with it"
    )
    parser.add_argument("--server", choices=KINDS, help="with this server (all in turn)")
    parser.add_argument("--binding", default="auto", help="fusepy or mfusepy (the better one)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminate)
    total = Counts()
    deadline = time.monotonic() + options.minutes * 60
    seed = options.seed if options.seed is not None else int(time.time())
    if options.core:
        return soak_core(seed, deadline)
    while True:
        kind = options.server or KINDS[seed % len(KINDS)]
        began = time.monotonic()
        left = ROUND if options.kills else min(ROUND, max(5.0, deadline - began))
        try:
            # Mounts that live long test reading best, because they know much.
            kill_every = 0.7 if options.kills else (2.0, 12.0)[seed // len(KINDS) % 2]
            stores = bool(seed // (2 * len(KINDS)) % 2)
            counts = run_round(
                kind,
                seed,
                left,
                options.binding,
                stores=stores,
                absences=stores and bool(seed % 2),
                kill_every=kill_every,
            )
        except Finding as finding:
            print(f"FOUND by --seed {seed} --server {kind}: {finding}")
            return 1
        total.add(counts)
        print(f"--seed {seed} --server {kind}: {counts}", flush=True)
        enough = time.monotonic() > deadline if not options.kills else total.kills >= options.kills
        if enough or (options.seed is not None and not options.kills):
            break
        seed += 1
    print(f"in all: {total}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
