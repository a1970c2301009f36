"""The rounds: each case by each peer in turn, and the results.

Peers take turns within a case, and each round begins with another one, so that drift of the machine
(its heat, its neighbours) affects all of them.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark.data import Wrong, copy_tree
from scripts.benchmark.peers import Failed, Peer, Place
from scripts.benchmark.trial import Bench, Figure, Trial
from scripts.benchmark.workloads import Case, Row

NOT_RUN = "not run"  # the error of such a figure begins with this


@dataclass(frozen=True)
class Result:
    """One row of one case by one peer in one round."""

    case: str
    peer: str
    round: int
    figure: Figure

    def to_json(self) -> dict[str, Any]:
        figure = self.figure.to_json()
        return {"case": self.case, "peer": self.peer, "round": self.round, **figure}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Result:
        rest = {key: values[key] for key in values.keys() - {"case", "peer", "round"}}
        return Result(values["case"], values["peer"], values["round"], Figure(**rest))


def run_all(
    bench: Bench, cases: Sequence[Case], peers: Sequence[Peer], say: Callable[[str], None]
) -> list[Result]:
    """All rounds. A failed trial is a result too."""
    started = time.monotonic()
    results: list[Result] = []
    for number in range(bench.parameters.rounds):
        for case in cases:
            for peer in _turn(peers, number):
                if not peer.mounts and case.straight is None:
                    continue
                budget = bench.parameters.budget
                if budget and time.monotonic() - started > budget:
                    figures = _failed(case.rows, f"{NOT_RUN}: {budget:g} s were up")
                else:
                    figures = run_trial(bench, case, peer)
                for figure in figures:
                    results.append(Result(case.name, peer.name, number, figure))
                    say(f"{number + 1}  {peer.name:14}  {_told(figure)}")
    return results


def _turn(peers: Sequence[Peer], number: int) -> list[Peer]:
    first = number % len(peers)
    return [*peers[first:], *peers[:first]]


def _told(figure: Figure) -> str:
    if figure.error:
        return f"{figure.row:14}  failed: {figure.error}"
    settled = f", settled {figure.settled:.3f} s" if figure.settled is not None else ""
    return f"{figure.row:14}  {figure.seconds or 0:.3f} s{settled}"


def run_trial(bench: Bench, case: Case, peer: Peer) -> list[Figure]:
    """One figure for each row of the case that the peer can do; a failed one has an error."""
    rows = case.rows if peer.mounts else case.rows[:1]
    figures: list[Figure] = []
    folder = case.stock if case.stock and not case.changes else f"trial-{time.monotonic_ns()}"
    try:
        with _filled(bench, case, folder):
            _try(bench, case, peer, folder, figures)
    except (Failed, Wrong, OSError) as error:
        # Figures verified before are valid; the last one begun, and later ones, are not.
        del figures[-1:]
        done = {figure.row for figure in figures}
        reason = error.strerror if isinstance(error, OSError) else None
        rest = [row for row in rows if row.name not in done]
        # The same reason has the same text in each round.
        return figures + _failed(rest, (reason or str(error)).replace(folder, case.name))
    return figures


def _failed(rows: Sequence[Row], reason: str) -> list[Figure]:
    return [Figure(row.name, error=reason) for row in rows]


@contextlib.contextmanager
def _filled(bench: Bench, case: Case, folder: str) -> Iterator[None]:
    """The case's folder on the server: one for all its trials, or a new one for this trial."""
    disk = bench.server.root / folder
    if not disk.exists():
        disk.mkdir()
        if case.stock:
            copy_tree(bench.store.folder(case.stock), disk)
        bench.server.give(disk)
    try:
        yield
    finally:
        if case.changes:
            shutil.rmtree(disk)


def _try(bench: Bench, case: Case, peer: Peer, folder: str, figures: list[Figure]) -> None:
    """Mount, do the case, unmount, check; nothing is left behind in any outcome."""
    with contextlib.ExitStack() as stack:
        # What the peer keeps on disk is on a disk; what the case writes locally is in memory.
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        local = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=bench.server.root.parent)))
        here, scratch = state / "mnt", local / "scratch"
        here.mkdir()
        scratch.mkdir()
        bench.drop_caches()
        before = bench.tap.seen() if bench.tap else None
        mount = None
        if peer.mounts:
            place = Place(bench.server, here, state)
            mount = peer.mount(place, bench.parameters.timeout)
            stack.callback(mount.kill)
        trial = Trial(bench, mount, folder, scratch, before, peer)
        trial.figures = figures
        with trial.deadline():
            if mount is not None:
                # A peer that has not listed the parent folders while mounting does so now.
                trial.here.stat()
                case.run(trial)
            elif case.straight is not None:
                case.straight(trial)
        try:
            if mount is not None:
                mount.close()
            if trial.after is not None:
                trial.after()
        except (Failed, Wrong, OSError):
            figures.clear()  # none of them can be trusted
            raise
