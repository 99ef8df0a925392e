"""The verb `predict`: the class of images and recordings that a network was not given yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.classifiers import Classifier, classifier
from kdsnn.deploy.images import require_count
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.tables import Result
from kdsnn.errors import KdsnnError, OptionError, UserError
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from exporters.graph import Array
    from kdsnn.deploy.images import ImageSize
    from kdsnn.deploy.lower import NetworkSource

MOST_CHANGES = 6
"""Changes of mind that a table shows; of more it shows the last ones."""

SAMPLES_AT_ONCE = 64
"""Samples that are run together."""


@dataclass(frozen=True, eq=False)
class Decision:
    """What one sample was taken for.

    Attributes:
        file: its file, with the sample's number where that holds several.
        scores: (S, K) after each of S time steps; S is 1 where there are no steps, or where only the last one is known.
    """

    file: str
    scores: Array

    @property
    def label(self) -> int:
        """The class with the highest score after the last step; the lowest number where classes tie."""
        return int(self.scores[-1].argmax())

    @property
    def by_step(self) -> tuple[int, ...]:
        """The class after each step."""
        return tuple(self.scores.argmax(axis=1).tolist())

    def best(self, count: int) -> tuple[int, ...]:
        """The classes of the highest scores after the last step, the best first."""
        import numpy as np

        return tuple(np.argsort(-self.scores[-1], kind="stable")[:count].tolist())


@dataclass(frozen=True)
class RefusedFile:
    """A file that could not be used, and the error that says why."""

    file: str
    error: UserError

    @property
    def reason(self) -> str:
        """Why, in one line."""
        return " ".join(str(self.error).split())


@dataclass(frozen=True, eq=False, repr=False)
class Predictions(Result):
    """What the samples of some files were taken for.

    Attributes:
        name: of the network; `on`: the back end.
        scored: what a score is: "rate" (spikes per time step), "membrane" (per time step) or "logit".
        class_names: of the network's outputs, or empty.
        decisions: one per sample, in the order of the files.
        top: how many classes are shown.
        refused: files that could not be used.
    """

    name: str
    on: str
    scored: str
    class_names: tuple[str, ...]
    decisions: tuple[Decision, ...]
    top: int = 1
    refused: tuple[RefusedFile, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every file could be used."""
        return not self.refused

    def class_name(self, label: int) -> str:
        """A class is called by its name, or by its number."""
        return self.class_names[label] if self.class_names else str(label)

    def tables(self) -> tuple[TextTable, ...]:
        """One line for each sample: its class with the score, the next ones, and what it was taken for at each step."""
        if not self.decisions:
            return ()
        top = min(self.top, self.decisions[0].scores.shape[1])
        over_time = any(len(one.scores) > 1 for one in self.decisions)
        ranks = [
            cell
            for rank in range(top)
            for cell in (("class", self.scored) if rank == 0 else (f"{rank + 1}.", self.scored))
        ]
        rows = []
        for one in self.decisions:
            best = [(self.class_name(label), f"{one.scores[-1][label]:.3g}") for label in one.best(top)]
            steps = [self._changes(one)] if over_time else []
            rows.append([one.file, *(cell for pair in best for cell in pair), *steps])
        columns = ["file", *ranks, *(["after time step"] if over_time else [])]
        return (table(f"{Path(self.name).name} on {self.on}", columns, rows),)

    def _changes(self, one: Decision) -> str:
        """ "t=1: cat, t=3: dog": the step from which on each class was in front; a dash while all scores are the same."""
        spread = (one.scores.max(axis=1) - one.scores.min(axis=1)).tolist()
        names = [self.class_name(label) if wide else "–" for label, wide in zip(one.by_step, spread, strict=True)]
        found = [f"t={t + 1}: {name}" for t, name in enumerate(names) if t == 0 or name != names[t - 1]]
        return ", ".join(found if len(found) <= MOST_CHANGES else ["…", *found[-MOST_CHANGES:]])

    def rows(self) -> list[dict[str, Any]]:
        """One row per sample: the file, the class, its name and its score."""
        return [
            {
                "file": one.file, "class": one.label, "name": self.class_name(one.label),
                "score": float(one.scores[-1][one.label]),
            }
            for one in self.decisions
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Every sample with its best classes, all scores, and the class after each time step; files that could not be used."""
        samples = [
            {
                **row,
                "top": [
                    {"class": k, "name": self.class_name(k), "score": float(one.scores[-1][k])}
                    for k in one.best(self.top)
                ],
                "scores": one.scores[-1].tolist(),
                "by_step": list(one.by_step),
            }
            for row, one in zip(self.rows(), self.decisions, strict=True)
        ]
        refused = [{"file": one.file, "reason": one.reason} for one in self.refused]
        return {"network": self.name, "on": self.on, "scored": self.scored, "samples": samples, "refused": refused}


def predict(
    source: NetworkSource,
    files: str | Path | Sequence[str | Path],
    *,
    on: str | None = None,
    top: int = 1,
    image_size: ImageSize = None,
    progress: Progress = silent,
    **lowering: Any,
) -> Predictions:
    """Classify images and recordings of events, each with its score, and with the class after each time step.

    Files are made what the network was trained on: the size, the channels and the cut into frames of its training data, see
    `kdsnn.data.sample_files`.

    Args:
        source: whatever `lower` takes, an ANN's checkpoint, or an `.onnx` file of this program or of an ANN.
        files: images (PNG, JPEG, …), `.npy` files of images or frames, or recordings of events; one or several.
        on: "torch", "onnx", "emulator", "lava" or "sanafe"; by default "torch", the network as it was trained, "onnx" for `.onnx`
            files, and "emulator" for `.net` files.
        top: how many classes to show for each sample.
        image_size: resize images to (H, W), or one number for both; by default as the training images were.
        progress: told how far it is.
        **lowering: of `lower`, for a source that is not lowered yet.

    Returns:
        What each sample was taken for; files that could not be used are in `.refused`.

    Raises:
        KdsnnError, DeployError: a network that cannot be read or run; one line each.
    """
    from kdsnn.data import require_size

    require_count("top", top)
    given = [files] if isinstance(files, str | Path) or not isinstance(files, Sequence) else list(files)
    for one in given:
        if not isinstance(one, str | Path):
            raise KdsnnError(f"files: {type(one).__name__} is given; give paths (numpy.save makes a file of an array)")
    paths = [Path(one) for one in given]
    size = None if image_size is None else require_size(image_size)
    with classifier(source, on, size, dict(lowering), progress) as ready:
        if size is not None and ready.wanted.over_time:
            raise OptionError(
                f"{{image_size}}: {ready.name} reads frames over time, which are not resized; leave it out",
                image_size=None,
            )
        samples, refused = _read(paths, ready)
        decisions = _decided(ready, samples, progress)
    return Predictions(ready.name, ready.on, ready.scored, ready.class_names, tuple(decisions), top, tuple(refused))


def _read(paths: Sequence[Path], ready: Classifier) -> tuple[list[tuple[str, Array]], list[RefusedFile]]:
    """What each sample is called, and the sample; and the files that could not be used."""
    from kdsnn.data.sample_files import read_samples

    samples: list[tuple[str, Array]] = []
    refused = []
    for path in paths:
        try:
            found = read_samples(path, ready.wanted)
        except UserError as error:
            refused.append(RefusedFile(str(path), error))
        except OSError as error:
            reason = f"{path}: {error.strerror or error}: make it readable"
            refused.append(RefusedFile(str(path), KdsnnError(reason)))
        else:
            several = len(found) > 1
            samples += [(f"{path}[{i}]" if several else str(path), sample) for i, sample in enumerate(found)]
    return samples, refused


def _decided(ready: Classifier, samples: Sequence[tuple[str, Array]], progress: Progress) -> list[Decision]:
    import numpy as np

    decisions: list[Decision] = []
    while len(decisions) < len(samples):
        left = samples[len(decisions) : len(decisions) + SAMPLES_AT_ONCE]
        # samples of one shape go together: an ANN takes frames of any number
        part = next(list(alike) for _, alike in groupby(left, key=lambda one: one[1].shape))
        scores = ready.run(np.stack([sample for _, sample in part]))
        decisions += [Decision(name, found) for (name, _), found in zip(part, scores, strict=True)]
        progress(f"predict on {ready.on}", len(decisions), len(samples))
    return decisions
