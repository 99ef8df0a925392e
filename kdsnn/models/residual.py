"""Networks with shortcuts: ResNet, pre-activation (wide) ResNet, PyramidNet.

The spiking form is the ANN with neurons for ReLU, as in KDSNN: shortcuts add to the membrane current. What an
identity shortcut of `resnet` adds are the spikes of the block before, each a current of 1.
"""

from __future__ import annotations

from torch import Tensor, nn

from kdsnn.errors import KdsnnError
from kdsnn.models.kit import Kit, named
from kdsnn.models.network import Network, Tap


class BasicBlock(nn.Module):
    """The block is act(conv-BN-act-conv-BN + shortcut); where the shape changes the shortcut is 1×1
    conv-BN ("option B").

    Attributes:
        successions: pairs of layers of which the first feeds the second and nothing else.
    """

    successions = (("bn1", "act1"),)

    def __init__(self, kit: Kit, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = kit.conv(inputs, outputs, stride=stride)
        self.bn1 = kit.norm(outputs)
        self.act1 = kit.act()
        self.conv2 = kit.conv(outputs, outputs)
        self.bn2 = kit.norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = named(conv=kit.conv(inputs, outputs, kernel=1, stride=stride), bn=kit.norm(outputs))
        self.act2 = kit.act()

    def forward(self, x: Tensor) -> Tensor:
        """Run the block: (…, C, H, W) → (…, outputs, H / stride, W / stride)."""
        residual = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        out: Tensor = self.act2(residual + self.shortcut(x))
        return out


class PreActBlock(nn.Module):
    """The block is BN-act-conv-BN-act-conv + shortcut; where the shape changes the shortcut is a 1×1 conv of the
    first act.

    Attributes:
        successions: see `BasicBlock`.
    """

    successions = (("bn1", "act1"), ("bn2", "act2"))

    def __init__(self, kit: Kit, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = kit.norm(inputs)
        self.act1 = kit.act()
        self.conv1 = kit.conv(inputs, outputs, stride=stride)
        self.bn2 = kit.norm(outputs)
        self.act2 = kit.act()
        self.conv2 = kit.conv(outputs, outputs)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = kit.conv(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block: (…, C, H, W) → (…, outputs, H / stride, W / stride)."""
        activated = self.act1(self.bn1(x))
        residual = self.conv2(self.act2(self.bn2(self.conv1(activated))))
        out: Tensor = residual + (x if self.shortcut is None else self.shortcut(activated))
        return out


class PyramidBlock(nn.Module):
    """The block is BN-conv-BN-act-conv-BN + shortcut, which pads channels with zeros, then averages 2×2 at stride 2.

    Attributes:
        successions: see `BasicBlock`.
    """

    successions = (("bn2", "act"),)

    def __init__(self, kit: Kit, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = kit.norm(inputs)
        self.conv1 = kit.conv(inputs, outputs, stride=stride)
        self.bn2 = kit.norm(outputs)
        self.act = kit.act()
        self.conv2 = kit.conv(outputs, outputs)
        self.bn3 = kit.norm(outputs)
        shortcut: dict[str, nn.Module] = {}
        if outputs > inputs:  # ZeroPad3d pads the last three axes, and those are (C, H, W) with time and without
            shortcut["pad"] = nn.ZeroPad3d((0, 0, 0, 0, 0, outputs - inputs))
        if stride == 2:
            shortcut["pool"] = kit.avg_pool()
        self.shortcut = named(**shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block: (…, C, H, W) → (…, outputs, H / stride, W / stride)."""
        residual = self.bn3(self.conv2(self.act(self.bn2(self.conv1(self.bn1(x))))))
        out: Tensor = residual + self.shortcut(x)
        return out


Block = type[BasicBlock] | type[PreActBlock] | type[PyramidBlock]


def _stage(kit: Kit, block: Block, inputs: int, outputs: list[int], stride: int) -> nn.Sequential:
    """Make blocks with the given numbers of output channels; the first one has the stride."""
    return nn.Sequential(
        *(
            block(kit, a, b, stride if i == 0 else 1)
            for i, (a, b) in enumerate(zip([inputs, *outputs], outputs, strict=False))
        )
    )


def _stages(
    kit: Kit, block: Block, stem: int, widths: tuple[int, ...], blocks: tuple[int, ...]
) -> dict[str, nn.Module]:
    """Make stage1, stage2, … of constant width; each but the first halves the map."""
    inputs = (stem, *widths)
    return {
        f"stage{i + 1}": _stage(kit, block, inputs[i], [widths[i]] * blocks[i], stride=1 if i == 0 else 2)
        for i in range(len(widths))
    }


def resnet(
    kit: Kit,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    stem: int,
    widths: tuple[int, ...],
    blocks: tuple[int, ...],
    hidden: tuple[int, ...],
) -> Network:
    """This is ResNet for small images (He et al., CVPR 2016): 3×3 stem without pooling, option-B shortcuts.

    KDSNN Table 3, ResNet18: 11.17 M parameters, 557.88 M FLOPs on CIFAR, 457.72 M on MNIST.
    ResNet14 is 6n+2 with n = 2. ResNet19 came with tdBN (Zheng et al., AAAI 2021) and is built here as in the code
    of TWD (ICML 2025): blocks 3-3-2 of 128-256-512 behind a stem of 128, then 256 hidden neurons and the classifier.
    TET's code has a stem of 64 and a projection behind it instead (12.63 M parameters, here 12.70 M).
    Taps: the last sum of every stage, before its activation.

    Args:
        kit: what to build it from.
        input_shape: (C, H, W).
        classes: number of classes.
        stem: channels of the first convolution.
        widths: channels per stage.
        blocks: blocks per stage.
        hidden: widths of the hidden layers before the classifier.
    """
    body = {
        "act": kit.act(),
        **_stages(kit, BasicBlock, stem, widths, blocks),
        "pool": kit.global_pool(),
        "head": kit.head(widths[-1], classes, hidden=hidden),
    }
    last = [f"body.stage{i}.{n - 1}" for i, n in enumerate(blocks, start=1)]
    taps = (Tap(f"{block}.act2", f"{block}.bn2", width) for block, width in zip(last, widths, strict=True))
    first = named(conv=kit.conv(input_shape[0], stem), bn=kit.norm(stem))
    return Network(first, named(**body), tuple(taps), spiking=kit.spiking)


def preact_resnet(
    kit: Kit,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    stem: int,
    widths: tuple[int, ...],
    blocks: tuple[int, ...],
) -> Network:
    """This is pre-activation ResNet (He et al., ECCV 2016) and WideResNet (Zagoruyko & Komodakis, BMVC 2016), no
    dropout.

    KDSNN Table 3: WRN28-4 5.85 M parameters and 849.33 M FLOPs, WRN16-2 0.69 M.
    Taps: a stage's output behind the next stage's first BatchNorm (the last stage's: the final one).

    Args:
        kit: what to build it from.
        input_shape: (C, H, W).
        classes: number of classes.
        stem: channels of the first convolution.
        widths: channels per stage.
        blocks: blocks per stage.
    """
    body = {
        **_stages(kit, PreActBlock, stem, widths, blocks),
        "bn": kit.norm(widths[-1]),
        "act": kit.act(),
        "pool": kit.global_pool(),
        "head": kit.head(widths[-1], classes),
    }
    following = [f"body.stage{i}.0" for i in range(2, len(widths) + 1)]
    taps = [Tap(f"{block}.act1", f"{block}.bn1", width) for block, width in zip(following, widths, strict=False)]
    taps.append(Tap("body.act", "body.bn", widths[-1]))
    return Network(kit.conv(input_shape[0], stem), named(**body), tuple(taps), spiking=kit.spiking)


def pyramidnet(kit: Kit, input_shape: tuple[int, int, int], classes: int, *, alpha: int, blocks: int) -> Network:
    """This is PyramidNet of basic blocks (Han et al., CVPR 2017), as dnddnjs/pytorch-cifar10 builds its "18".

    KDSNN Table 3, Pyramidnet18: 1.56 M parameters, 368.74 M FLOPs. That "18" has 17 blocks in each of three stages,
    and every block is alpha / (3·18) = 48/54 channels wider than the one before it, from 16 to 61.
    There is no activation between a sum and the next convolution, so as an SNN it multiplies currents there, not
    spikes: it is meant as a teacher.
    Taps of the ANN: a stage's output behind the next stage's first BatchNorm, `bn1` (clovaai/overhaul-distillation
    takes `bn2`, which has other channels). Taps of the SNN: the last neurons inside the stage.

    Args:
        kit: what to build it from.
        input_shape: (C, H, W); H and W divisible by 4.
        classes: number of classes.
        alpha: channels that the whole network widens by, nominally.
        blocks: blocks per stage.

    Raises:
        KdsnnError: H or W is not divisible by 4.
    """
    inputs, height, width = input_shape
    if height % 4 or width % 4:
        raise KdsnnError(
            f"a PyramidNet halves the image twice and has no room for odd sizes: {height}×{width} is not "
            "divisible by 4; pad or crop the images"
        )
    base, rate = 16, alpha / (3 * (blocks + 1))
    channels = [base, *(round(base + rate * n) for n in range(1, 3 * blocks + 1))]
    body: dict[str, nn.Module] = {}
    for i in range(3):
        start = i * blocks
        outputs = channels[start + 1 : start + blocks + 1]
        body[f"stage{i + 1}"] = _stage(kit, PyramidBlock, channels[start], outputs, stride=1 if i == 0 else 2)
    body |= {"bn": kit.norm(channels[-1]), "act": kit.act(), "pool": kit.global_pool()}
    body["head"] = kit.head(channels[-1], classes)

    if kit.spiking:
        taps = [
            Tap(f"body.stage{i}.{blocks - 1}.act", f"body.stage{i}.{blocks - 1}.bn2", channels[i * blocks])
            for i in (1, 2)
        ]
    else:
        taps = [Tap(f"body.stage{i + 1}.0.conv1", f"body.stage{i + 1}.0.bn1", channels[i * blocks]) for i in (1, 2)]
    taps.append(Tap("body.act", "body.bn", channels[-1]))
    first = named(conv=kit.conv(inputs, base), bn=kit.norm(base))
    return Network(first, named(**body), tuple(taps), spiking=kit.spiking)
