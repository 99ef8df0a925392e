"""Networks without shortcuts: VGG, and the paper's network of two convolutions."""

from __future__ import annotations

from torch import nn

from kdsnn.models.kit import Kit, named
from kdsnn.models.network import Network, Tap


def vgg(
    kit: Kit,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    widths: tuple[int, ...],
    convs: tuple[int, ...],
    hidden: tuple[int, ...],
) -> Network:
    """VGG has stages of 3×3 conv-BN-act, each closed by a 2×2 max-pool, then hidden layers, and no biases.

    KDSNN Table 3, VGG11: 9.75 M parameters, which only a head of 512-512-classes without biases gives.
    A pool that a map of one pixel leaves no room for (28×28: the fifth) is left out.
    Taps: the last activation of every stage, before its pool.

    Args:
        kit: what to build it from.
        input_shape: (C, H, W).
        classes: number of classes.
        widths: channels per stage.
        convs: convolutions per stage.
        hidden: widths of the hidden layers before the classifier.
    """
    inputs, height, width = input_shape
    stem = named(conv=kit.conv(inputs, widths[0]), bn=kit.norm(widths[0]))
    body: dict[str, nn.Module] = {}
    taps: list[Tap] = []
    inputs = widths[0]
    for i, (channels, count) in enumerate(zip(widths, convs, strict=True), start=1):
        stage: dict[str, nn.Module] = {}
        for j in range(1, count + 1):
            if (i, j) != (1, 1):
                stage[f"conv{j}"] = kit.conv(inputs, channels)
                stage[f"bn{j}"] = kit.norm(channels)
            stage[f"act{j}"] = kit.act()
            inputs = channels
        bn = "stem.bn" if (i, count) == (1, 1) else f"body.stage{i}.bn{count}"
        taps.append(Tap(f"body.stage{i}.act{count}", bn, channels))
        if min(height, width) > 1:
            stage["pool"] = kit.max_pool()
            height, width = height // 2, width // 2
        body[f"stage{i}"] = named(**stage)
    body["head"] = kit.head(inputs * height * width, classes, hidden=hidden, bias=False)
    return Network(stem, named(**body), tuple(taps), spiking=kit.spiking)


def cnn2(
    kit: Kit, input_shape: tuple[int, int, int], classes: int, *, channels: tuple[int, int], hidden: int
) -> Network:
    """KDSNN's "2conv" is 128C3-BN-IF-P2-128C3-BN-IF-P2-1152FC-IF-10FC-IF, without biases (Table 3: 7.39 M parameters).

    Args:
        kit: what to build it from.
        input_shape: (C, H, W).
        classes: number of classes.
        channels: of the two convolutions.
        hidden: width of the hidden layer.
    """
    return vgg(kit, input_shape, classes, widths=channels, convs=(1, 1), hidden=(hidden,))
