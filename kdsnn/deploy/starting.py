"""Training starts anew, or goes on where one was stopped; what lies there already is never replaced unasked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from kdsnn.deploy.processes import is_first_process
from kdsnn.deploy.progress import Estimated, Part, Progress, silent
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.deploy.training import STATE, Training, completed, finished, held
from kdsnn.errors import OptionError, StoppedError, notice


def train_all(
    jobs: Sequence[Training], progress: Progress = silent, *, resume: bool = False, overwrite: bool = False
) -> list[TrainedNetwork]:
    """Train one network after the other, of one run; with `resume` each goes on from where it is, and one that is
    finished is read from its checkpoint.

    Raises:
        KdsnnError: as `train_and_save`, and `require_start`.
        StoppedError: a signal came, and what was trained until then is saved.
    """
    with held(jobs):
        # every process asks, before they first wait for one another: none is left waiting for one that refused
        require_start(jobs, resume=resume, overwrite=overwrite)
        todo = [job for job in jobs if not (resume and _state_of(job) is None and finished(job))]
        if not todo:
            notice(f"{' and '.join(str(job.out) for job in jobs)}: finished already, nothing was left to train")
        told = progress if isinstance(progress, Part) else Estimated(progress, len(todo))
        try:
            return [completed(replace(job, resume=resume), told) for job in jobs]
        except KeyboardInterrupt:
            kept = [_state_of(job) or job.out for job in jobs if _state_of(job) is not None or finished(job)]
            if not kept:
                raise
            raise StoppedError(f"{kept[-1]} holds what was trained") from None


def require_start(jobs: Sequence[Training], *, resume: bool, overwrite: bool) -> None:
    """Ask whether the files of a run let it start; where it starts anew, states of the one before are deleted.

    Raises:
        OptionError: there is nothing to go on from, or something lies there that nobody said should be replaced.
    """
    placed = [job for job in jobs if job.out is not None]
    if resume and not placed:
        raise OptionError("{resume}: it goes on with the run that writes {out}; give that too", resume=None, out=None)
    if not resume:
        require_new([path for job in placed for path in _files(job)], overwrite=overwrite)
        for job in placed:
            if job.state is not None and is_first_process():
                job.state.unlink(missing_ok=True)
        return
    begun = [job for job in placed if _state_of(job) is not None]
    done = [job for job in placed if job not in begun and finished(job)]
    others = [job.out for job in placed if job not in (*begun, *done) and job.out is not None and job.out.exists()]
    # of a run that is under way they are those that it was to replace
    if others and not begun and not overwrite:
        raise OptionError(
            f"{others[0]}: this is not of the run that {{resume}} should go on with; choose another {{out}}, or replace it "
            "with {overwrite}",
            resume=None, out=None, overwrite=None,
        )  # fmt: skip
    if not begun and not done:
        raise OptionError(
            f"{{resume}}: there is nothing to go on from, no {placed[0].state}; leave it out to start", resume=None
        )


def require_new(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse to write over what is there.

    Raises:
        OptionError: one of `paths`, states or checkpoints, exists and `overwrite` was not said.
    """
    there = next((path for path in paths if path.exists()), None)
    if there is None or overwrite:
        return
    if there.suffix == STATE:
        raise OptionError(
            f"{there}: a run that was stopped left this; go on with it by {{resume}}, or start anew with {{overwrite}}",
            resume=None, overwrite=None,
        )  # fmt: skip
    raise OptionError(
        f"{there}: this is there already; choose another {{out}}, or replace it with {{overwrite}}",
        out=None, overwrite=None,
    )  # fmt: skip


def _state_of(job: Training) -> Path | None:
    return job.state if job.state is not None and job.state.exists() else None


def _files(job: Training) -> Iterable[Path]:
    """States first: they say most."""
    return [path for path in (job.state, job.out, job.best if job.config.val else None) if path is not None]
