"""A simulated event camera in front of still images, moved as the camera was that recorded N-MNIST.

Orchard et al. (Frontiers in Neuroscience 9:437, 2015) show an image to a sensor that makes three saccades of 100 ms,
along the sides of an isosceles triangle and back to where it began. Here the same happens in numbers:

* The image moves past a sensor that is wider by the reach of the movement on every side, so that nothing leaves it
  (28×28 pixels are seen as 34×34, as in N-MNIST); in between pixels it is interpolated, and around it all is black.
* A pixel compares L = ln(I/255 + 0.1) with the L at its last event, and emits an event for every whole threshold of the
  difference: polarity 1 (ON) where it grew brighter, 0 (OFF) where darker (Lichtsteiner et al., JSSC 43:566, 2008).
* Thresholds differ between pixels and samples: normal, of mean 0.25 and standard deviation 0.02. Events also come by
  themselves, each pixel and polarity at 0.1 Hz. These are drawn with a seed.

It is no recording: there is no latency, no limit of bandwidth, and no flicker of the screen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.events.cutting import held_counts

CORNERS = ((-1.0, 1.0), (0.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
"""Where the three saccades begin and end, (x, y) in units of the reach."""

LEAST_STEPS = 48
"""The movement is computed in so many steps or more; a step moves the image by less than half a pixel at 28×28."""

REACH = 28 / 3
"""An image of so many pixels on its shorter side moves by one pixel each way; 28 by 3, as in N-MNIST."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Camera:
    """A camera has pixels that compare log intensities.

    Attributes:
        threshold: mean of the pixels' thresholds, in units of ln.
        mismatch: standard deviation of the thresholds.
        dark: what is added to an intensity of 0…1 before its logarithm.
        noise: events per second, pixel and polarity that nothing in the image makes.
        seconds: of all three saccades.
    """

    threshold: float = 0.25
    mismatch: float = 0.02
    dark: float = 0.1
    noise: float = 0.1
    seconds: float = 0.3

    def counts(
        self, images: NDArray[np.uint8], T: int, rng: np.random.RandomState
    ) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Yield the events of gray images (N, H, W), a step of the movement after another.

        Yields:
            (frame, events): in which of T frames of equal length the step lies, and how many events of polarity 0 and 1
            every pixel emits in it, (N, 2, H + 2 reach, W + 2 reach).
        """
        far = reach(images.shape[1:])
        wide = np.pad(images, ((0, 0), (2 * far, 2 * far + 1), (2 * far, 2 * far + 1))).astype(np.float32) / np.float32(
            255
        )
        shape = (len(images), *seen_shape(images.shape[1:]))
        thresholds = rng.normal(self.threshold, self.mismatch, shape).astype(np.float32)
        thresholds = np.maximum(thresholds, np.float32(self.threshold / 4))
        steps = T * ceil(LEAST_STEPS / T)
        stray = self.noise * self.seconds / steps
        last = self._log(wide, CORNERS[0], far, shape)
        for step in range(steps):
            grown = (self._log(wide, _place((step + 1) / steps), far, shape) - last) / thresholds
            events = np.trunc(grown)
            last += events * thresholds
            found = np.stack([np.maximum(-events, 0), np.maximum(events, 0)], axis=1).astype(np.int32)
            # by their number: a random number for every pixel and step would take longer than all the rest
            np.add.at(found.reshape(-1), rng.randint(0, found.size, rng.binomial(found.size, stray)), 1)
            yield step * T // steps, found

    def _log(self, wide: Floats, place: tuple[float, float], far: int, shape: tuple[int, ...]) -> Floats:
        """Log intensities where the image is moved by `place` × `far` pixels: float32 of `shape`."""
        x, y = (far - part * far for part in place)
        x0, y0 = min(int(x), 2 * far), min(int(y), 2 * far)
        fx, fy = np.float32(x - x0), np.float32(y - y0)
        height, width = shape[1:]
        rows = wide[:, y0 : y0 + height + 1, x0 : x0 + width + 1]
        across = rows[:, :, :-1] + fx * (rows[:, :, 1:] - rows[:, :, :-1])
        moved = across[:, :-1] + fy * (across[:, 1:] - across[:, :-1])
        found: Floats = np.log(moved + np.float32(self.dark))
        return found


def reach(size: tuple[int, ...]) -> int:
    """Tell by how many pixels an image of (H, W) moves each way from the middle."""
    return max(1, round(min(size) / REACH))


def seen_shape(size: tuple[int, ...]) -> tuple[int, int]:
    """Tell the sensor's (height, width) for images of (H, W)."""
    far = reach(size)
    return size[0] + 2 * far, size[1] + 2 * far


def seen_frames(
    images: NDArray[np.uint8], T: int, rng: np.random.RandomState, counts: int = 0, camera: Camera | None = None
) -> NDArray[np.uint8]:
    """Show gray images (N, H, W) to a camera: frames (N, T, 2, H', W') of 0 and 1, whether a pixel emitted an event of
    polarity 0 or 1 in each of T stretches of equal length; (H', W') as `seen_shape` says. With `counts`, pixels that say how
    many, as `held_counts` does."""
    found = np.zeros((len(images), T, 2, *seen_shape(images.shape[1:])), np.uint16 if counts else np.uint8)
    for frame, events in (camera or Camera()).counts(images, T, rng):
        if counts:
            found[:, frame] += events.astype(np.uint16)
        else:
            found[:, frame] |= events > 0
    return held_counts(found, counts) if counts else found


def _place(done: float) -> tuple[float, float]:
    """Tell where the image is when this share of the movement, 0…1, is done, in units of the reach."""
    saccade = min(int(3 * done), 2)
    part = 3 * done - saccade
    (x0, y0), (x1, y1) = CORNERS[saccade : saccade + 2]
    return x0 + part * (x1 - x0), y0 + part * (y1 - y0)
