"""The same training over several seeds: student and twin paired, so that their difference can be told from chance."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdsnn.deploy.places import writable_checkpoint
from kdsnn.deploy.processes import cores, ranks, side_by_side
from kdsnn.deploy.progress import Estimated, Part, Progress
from kdsnn.deploy.starting import require_new
from kdsnn.deploy.tables import Result
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.deploy.training import STATE
from kdsnn.errors import OptionError, StoppedError
from profilers.text_table import TextTable, table

MOST_SEEDS = 10_000
ALONE = "without a teacher"
MEASURES = {"test_accuracy": "test accuracy", "spikes": "spikes", "synops": "SynOps"}


@dataclass(frozen=True)
class SeedRun:
    """What one seed gave.

    Attributes:
        seed: of the initial weights, the order of the images and their augmentation, for student and twin alike.
        student, twin: their figures, as `TrainedNetwork.facts`; None where no twin was trained.
    """

    seed: int
    student: Mapping[str, Any]
    twin: Mapping[str, Any] | None


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with what it is worth.

    Attributes:
        mean, std: over the seeds; std is the sample's (divided by N - 1), 0 of one seed.
        low, high: 95 % confidence interval of the mean, by Student's t with N - 1 degrees of freedom: of differences that
            of the paired test. Infinite of one seed.
        seeds: N.
    """

    mean: float
    std: float
    low: float
    high: float
    seeds: int


def spread_of(values: Sequence[float]) -> Spread:
    """Sum up one number per seed."""
    from scipy.special import stdtrit

    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return Spread(mean, 0.0, -np.inf, np.inf, count)
    std = float(np.std(values, ddof=1))
    half = float(stdtrit(count - 1, 0.975)) * std / count**0.5
    return Spread(mean, std, mean - half, mean + half, count)


@dataclass(frozen=True, eq=False, repr=False)
class SeedRuns(Result):
    """A student, and its twin where one was asked for, over several seeds.

    Attributes:
        title: what was trained on what.
        runs: one for each seed, in the order of the seeds asked for.
    """

    title: str
    runs: tuple[SeedRun, ...]

    @property
    def has_twin(self) -> bool:
        """Whether there is something to compare with."""
        return all(run.twin is not None for run in self.runs)

    def values(self, measure: str, *, twin: bool = False) -> list[float]:
        """ "test_accuracy" (0…1), "spikes" or "synops" (per image) of the student, or of its twin, one number per seed."""
        return [float((run.twin or {})[measure] if twin else run.student[measure]) for run in self.runs]

    def difference(self, measure: str) -> Spread:
        """Student minus twin, paired by seed."""
        pairs = zip(self.values(measure), self.values(measure, twin=True), strict=True)
        return spread_of([mine - other for mine, other in pairs])

    def tables(self) -> tuple[TextTable, ...]:
        """Every seed, then means, spreads and differences."""
        from profilers.report.numbers import percent

        name = "distilled" if self.has_twin else "student"
        columns = ["seed", name, *([ALONE, "difference"] if self.has_twin else []), "checkpoint"]
        rows = []
        for run in self.runs:
            mine = run.student["test_accuracy"]
            other = (
                []
                if run.twin is None
                else [percent(run.twin["test_accuracy"], 2), _points(mine - run.twin["test_accuracy"])]
            )
            rows.append([str(run.seed), percent(mine, 2), *other, str(run.student["checkpoint"])])
        return (table(f"{self.title}: test accuracy by seed", columns, rows), self._summary(name))

    def _summary(self, name: str) -> TextTable:
        from profilers.report.numbers import percent, quantity

        def shown(measure: str, value: float) -> str:
            return percent(value, 2) if measure == "test_accuracy" else quantity(value, plain_below=0, trim=True)

        def signed(measure: str, value: float) -> str:
            if not np.isfinite(value):
                return "–"
            sign = "−" if value < 0 else "+"
            return _points(value) if measure == "test_accuracy" else f"{sign}{shown(measure, abs(value))}"

        measures = list(MEASURES) if self.has_twin else ["test_accuracy"]
        rows = []
        for called, twin in ((name, False), *([(ALONE, True)] if self.has_twin else [])):
            found = {m: spread_of(self.values(m, twin=twin)) for m in measures}
            deviations = {m: f" ± {shown(m, s.std)}" if len(self.runs) > 1 else "" for m, s in found.items()}
            rows.append([called, *(f"{shown(m, s.mean)}{deviations[m]}" for m, s in found.items())])
        if self.has_twin:
            differences = {m: self.difference(m) for m in measures}
            rows.append(["difference", *(signed(m, d.mean) for m, d in differences.items())])
            if len(self.runs) > 1:
                rows.append([
                    "its 95 % interval",
                    *(f"{signed(m, d.low)} to {signed(m, d.high)}" for m, d in differences.items()),
                ])  # fmt: skip
        if len(self.runs) == 1:
            title = "one seed, which has no spread"
        else:
            title = f"mean ± sample standard deviation over {len(self.runs)} seeds"
            title += "; differences are paired by seed, intervals Student's t" if self.has_twin else ""
        return table(title, ["network", *(MEASURES[m] for m in measures)], rows)

    def rows(self) -> list[dict[str, Any]]:
        """One row a seed, the figures of its twin beside its own."""
        return [
            {"seed": run.seed, **_flat(run.student), **{f"twin_{k}": v for k, v in _flat(run.twin or {}).items()}}
            for run in self.runs
        ]

    def to_dict(self) -> Mapping[str, Any]:
        """Every seed, and mean, spread and interval of each measure."""

        def facts(found: Spread) -> dict[str, float | None]:
            one = {"mean": found.mean, "std": found.std, "low": found.low, "high": found.high}
            return {name: value if np.isfinite(value) else None for name, value in one.items()}

        measures = list(MEASURES) if self.has_twin else ["test_accuracy"]
        summary: dict[str, Any] = {"student": {m: facts(spread_of(self.values(m))) for m in measures}}
        if self.has_twin:
            summary["twin"] = {m: facts(spread_of(self.values(m, twin=True))) for m in measures}
            summary["difference"] = {m: facts(self.difference(m)) for m in measures}
        return {"seeds": self.rows(), **summary}


def _points(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−") + " points"


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    best = facts.get("best") or {}
    return {**{k: v for k, v in facts.items() if k != "best"}, **{f"best_{k}": v for k, v in best.items()}}


def seeds_of(seeds: str | Sequence[int]) -> tuple[int, ...]:
    """ "0-4" → (0, 1, 2, 3, 4), "0,3,7" → (0, 3, 7); numbers as they are.

    Raises:
        OptionError: no seeds, one of them twice, or text that reads as neither.
    """
    wrong = OptionError("{seeds}: give numbers such as 0-4 or 0,3,7, each once", seeds=str(seeds)[:100])
    found: list[int] = []
    for part in seeds.split(",") if isinstance(seeds, str) else map(str, seeds):
        match = re.fullmatch(r"\s*([0-9]{1,10})(?:-([0-9]{1,10}))?\s*", part)
        if match is None:
            raise wrong
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= 2**32 or last - first >= MOST_SEEDS:
            raise wrong
        found += range(first, last + 1)
    if not found or len(set(found)) < len(found):
        raise wrong
    return tuple(found)


def over_seeds(
    train: Callable[..., Any], given: Mapping[str, Any], *, seeds: str | Sequence[int], processes: int | None, progress: Progress
) -> SeedRuns:  # fmt: skip
    """Call `train`, which is `kdsnn.distill`, with what it was `given` once for every seed.

    Each seed writes NAME.seedN.safetensors and what lies beside it. With `processes` above 1 seeds run side by side. Under a
    launcher process number r takes every so manyth seed from the r-th on; every process returns all results.

    Raises:
        KdsnnError: as `train`; no file to write to, a module of the user's own, nothing to go on from.
        StoppedError: a signal came, and what was trained until then is saved.
    """
    wanted, out = seeds_of(seeds), given["out"]
    _require_seedable(given, processes)
    writable_checkpoint(Path(out))
    places = {seed: Path(out).with_name(f"{Path(out).stem}.seed{seed}{Path(out).suffix}") for seed in wanted}
    group = ranks()
    mine = wanted[group.rank :: group.count]
    there = {seed: _files(places[seed], twin=given["twin"]) for seed in mine}
    begun = any(group.gather(any(path.exists() for files in there.values() for path in files)))
    if given["resume"] and not begun:
        raise OptionError(
            f"{{resume}}: there is nothing to go on from, no {there[mine[0]][0] if mine else out}; leave it out to start",
            resume=None,
        )
    if not given["resume"]:
        require_new([path for files in there.values() for path in files], overwrite=given["overwrite"])
    calls = {}
    for seed in mine:
        board = given["tensorboard"]
        calls[f"seed {seed}"] = {
            **given, "seed": seed, "out": places[seed],
            "resume": given["resume"] and any(path.exists() for path in there[seed]),
            "tensorboard": None if board is None else Path(board) / f"seed{seed}",
        }  # fmt: skip
    try:
        found = _trained(train, calls, processes, progress, launched=group.count > 1)
    except KeyboardInterrupt:
        if not any(path.exists() for files in there.values() for path in files):
            raise
        raise StoppedError(f"{Path(out).stem}.seed… beside {out} hold what was trained") from None
    merged = {name: run for part in group.gather(found) for name, run in part.items()}
    many = f"{len(wanted)} seeds" if len(wanted) > 1 else "one seed"
    return SeedRuns(f"{given['model']} over {many}", tuple(merged[f"seed {seed}"] for seed in wanted))


def _require_seedable(given: Mapping[str, Any], processes: int | None) -> None:
    if given["out"] is None:
        raise OptionError("{seeds}: every seed writes a file; give {out}", seeds=None, out=None)
    if given["seed"]:
        raise OptionError("{seed}: it is one of {seeds}; give one of the two", seed=given["seed"], seeds=None)
    if not isinstance(given["model"], str):
        raise OptionError(
            "{seeds}: a module has one set of initial weights; give package.module:factory, which makes one for every seed",
            seeds=None,
        )
    if processes is not None and processes < 1:
        raise OptionError("{processes}: one at least", processes=processes)


def _files(out: Path, *, twin: bool) -> list[Path]:
    """States and checkpoints of a seed, states first."""
    outs = [out, *([out.with_name(f"{out.stem}.twin{out.suffix}")] if twin else [])]
    return [*(one.with_name(f"{one.stem}{STATE}") for one in outs), *outs]


def _trained(
    train: Callable[..., Any], calls: Mapping[str, Mapping[str, Any]], processes: int | None, progress: Progress, *, launched: bool
) -> dict[str, SeedRun]:  # fmt: skip
    """Every call, one after the other here, or side by side in processes of their own."""
    import torch

    if not calls:
        return {}
    # one GPU is faster with one training at a time
    on_gpu = torch.cuda.is_available() and next(iter(calls.values())).get("device") != "cpu"
    count = min(len(calls), processes or (1 if launched or on_gpu else cores()))
    twins = bool(next(iter(calls.values()))["twin"])
    fractions = dict.fromkeys(calls, 0.0)
    model = next(iter(calls.values()))["model"]
    whole = f"distill {model}, {len(calls)} seeds" if len(calls) > 1 else f"distill {model}, {next(iter(calls))}"
    estimated = Estimated(progress, len(calls) * (1 + twins))

    def tell(name: str, fraction: float, title: str, note: str) -> None:
        if not title and fractions[name] == 1:  # the last epoch has been told
            return
        alone = title.endswith(ALONE)
        if alone or not title:  # what was finished before this run tells nothing
            estimated.noted((name, "student"), 1.0)
        called = f"{name}, {ALONE}" if alone else name
        told = f"{called}: {note}" if note else called
        told = estimated.noted((name, "twin" if alone or (twins and not title) else "student"), fraction, told)
        fractions[name] = max(fractions[name], (fraction + alone) / 2 if twins and title else fraction)
        progress(whole, sum(fractions.values()) / len(fractions), 1, told)

    if count > 1 or launched:
        why = _not_portable(calls)
        if why is None:
            threads = max(1, (torch.get_num_threads() if launched else cores()) // count)
            handed = {name: {"train": train, "arguments": dict(arguments)} for name, arguments in calls.items()}
            return side_by_side(_one_seed, handed, count=count, threads=threads, tell=tell)
        if launched or processes:
            raise OptionError(f"{{seeds}}: {why}, so that no other process can train them", seeds=None)
    found = {}
    for name, arguments in calls.items():
        found[name] = _one_seed(train, arguments, Part(partial(_tell_of, tell, name)))
        tell(name, 1.0, "", "")
    return found


def _tell_of(
    tell: Callable[[str, float, str, str], None], name: str, title: str, done: float, total: float, note: str = ""
) -> None:
    tell(name, done / total, title, note)


def _not_portable(calls: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why what was given could not be handed to another process; None if it can."""
    for name, value in next(iter(calls.values())).items():
        try:
            content = pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            return f"{name} cannot be pickled ({' '.join(str(error).split())[:200]})"
        if b"__main__" in content:
            return f"{name} is of a class in the main program and no module"
    return None


def _one_seed(train: Callable[..., TrainedNetwork], arguments: Mapping[str, Any], progress: Progress) -> SeedRun:
    trained = train(**arguments, progress=progress)

    def facts(network: TrainedNetwork) -> dict[str, Any]:
        return {**network.facts(), **network.best_facts()}

    return SeedRun(arguments["seed"], facts(trained), None if trained.twin is None else facts(trained.twin))
