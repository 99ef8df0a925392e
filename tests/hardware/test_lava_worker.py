"""The worker's pure functions, without Lava."""

import numpy as np
import pytest
from scipy.signal import convolve2d

from hardware.lava.worker import __main__ as main
from hardware.lava.worker import errors, patches


def stock_conv(x, weight, kernel, stride, padding, dilation, groups):
    """`lava.proc.conv.utils.conv_scipy`, in its own words: float64 sums of scipy convolutions, then the cast."""
    dilated = np.zeros(
        (len(weight), dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1, weight.shape[3])
    )
    dilated[:, :: dilation[0], :: dilation[1]] = weight
    padded = np.pad(x, ((padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    per_in, per_out = x.shape[2] // groups, len(weight) // groups
    channels = []
    for o in range(len(weight)):
        maps = [
            convolve2d(padded[:, :, c + o // per_out * per_in], dilated[o, :, :, c], mode="valid")
            for c in range(per_in)
        ]
        channels.append(np.sum(maps, axis=0)[:: stride[0], :: stride[1]])
    return np.stack(channels, axis=2).astype(weight.dtype)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["spikes", "pixels", "large"])
def test_fast_conv_is_bit_identical(seed, kind):
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 2, 3]))
    kernel, stride, dilation = (tuple(map(int, rng.integers(1, 4, 2))) for _ in range(3))
    padding = tuple(map(int, rng.integers(0, 3, 2)))
    cin, cout = groups * rng.integers(1, 4), groups * rng.integers(1, 4)
    limit = 10**6 if kind == "large" else 256
    weight = rng.integers(-limit, limit, (cout, *kernel, cin // groups)).astype(np.int32)
    size = rng.integers(8, 14, 2)
    x = (
        rng.integers(0, 2, (*size, cin)).astype(bool)
        if kind == "spikes"
        else rng.integers(0, 256, (*size, cin), np.int32)
    )
    expected = stock_conv(x, weight, kernel, stride, padding, dilation, groups)
    found = patches.fast_conv(x, weight, kernel, stride, padding, dilation, groups)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_fast_conv_does_not_round_where_single_precision_would():
    weight = np.array([[[[2**24]], [[1]]]], np.int32)  # 2^24 + 1 is no float32
    x = np.ones((2, 1, 1), bool)
    assert patches.fast_conv(x, weight, (2, 1), (1, 1), (0, 0), (1, 1), 1).item() == 2**24 + 1


def test_geometry_in_int8_does_not_overflow():
    seen = []
    conv = patches.with_wide_integers(lambda *args: seen.extend(args[2:]))
    conv(None, None, *(np.full(2, 3, np.int8),) * 4, np.int8(1))
    assert seen == [(3, 3)] * 4 + [1]
    assert all(type(v) is int for pair in seen[:4] for v in pair)


def test_an_exception_becomes_one_line():
    assert errors.describe(ValueError("two\n lines")) == "ValueError: two lines"
    assert errors.describe(KeyError()) == "KeyError"


def test_json_is_written_whole(tmp_path):
    main.write_json(tmp_path / "a.json", {"x": 1})
    assert (tmp_path / "a.json").read_text() == '{"x": 1}'
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
