import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from spikingjelly.activation_based import layer, neuron, surrogate
from spikingjelly.activation_based.functional import reset_net
from torch import nn

from kdsnn.data import DataSet, storage
from kdsnn.data.device import Streamed
from kdsnn.errors import KdsnnError
from kdsnn.models import build
from kdsnn.train import RECIPES, TrainConfig, distill, evaluate, loop, losses, pretrain
from kdsnn.train.objectives import Batch, teacher_logits
from kdsnn.train.optim import optimizer_of, schedule

SHAPE = (1, 8, 8)
QUICK = TrainConfig(epochs=3, batch_size=16, lr=0.05, warmup_epochs=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> DataSet:
    """Four classes: a bright quadrant in noise."""
    rng = np.random.default_rng(0)

    def part(count):
        labels = np.arange(count) % 4
        images = rng.integers(0, 120, (count, *SHAPE))
        for image, label in zip(images, labels, strict=True):
            row, column = 4 * (label // 2), 4 * (label % 2)
            image[0, row : row + 4, column : column + 4] += 100
        return images.astype(np.uint8), labels

    return DataSet("quadrants", *part(72), *part(41), classes=4)


def ann(seed=0, **changes):
    torch.manual_seed(seed)
    arguments = {"spiking": False, "input_shape": SHAPE, "classes": 4, "channels": (4, 8), "hidden": 16, **changes}
    return build("cnn2", **arguments)


def snn(seed=0, **changes):
    return ann(seed, **{"spiking": True, **changes})


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_same_seed_gives_the_same_bits(data):
    config = replace(QUICK, shift=1, seed=5)
    teachers = [pretrain(ann(), data, config).module for _ in range(2)]
    assert same(*teachers)
    students = [distill(snn(), data, config, method="response", teacher=teachers[0]).module for _ in range(2)]
    assert same(*students)
    other = distill(snn(), data, replace(config, seed=6), method="response", teacher=teachers[0]).module
    assert not same(students[0], other)


def test_history_and_callbacks(data):
    records, steps = [], []
    trained = pretrain(ann(), data, QUICK, on_epoch=records.append, on_step=lambda *now: steps.append(now))
    assert trained.history == tuple(records)
    assert [record.epoch for record in records] == [1, 2, 3]
    assert steps == [(n, 12) for n in range(1, 13)]  # 72 // 16 = 4 full batches in each epoch
    assert not trained.module.training
    assert records[-1].accuracy == evaluate(trained.module, data)[0]


def test_learning_reaches_the_test_set(data):
    teacher = pretrain(ann(), data, replace(QUICK, epochs=8)).module
    assert evaluate(teacher, data)[-1] > 0.9
    student = distill(
        snn(1), data, replace(QUICK, epochs=20, lr=0.1, alpha=0.3, temperature=2.0), method="response", teacher=teacher
    )
    assert student.history[-1].accuracy > 0.9


@pytest.mark.parametrize("readout", ["rate", "voting", "membrane"])
@pytest.mark.parametrize("method", ["response", "none"])
def test_loss_falls_on_one_batch(data, method, readout):
    config = replace(QUICK, epochs=12, batch_size=72, alpha=0.5, temperature=1.0)
    history = distill(snn(readout=readout), data, config, method=method, teacher=ann().eval()).history
    assert history[-1].loss < history[0].loss


def test_the_teacher_is_never_changed(data):
    teacher, untouched = ann(), ann()
    distill(snn(), data, QUICK, method="response", teacher=teacher)
    assert same(teacher, untouched)


def test_alpha_zero_is_the_twin(data):
    config = replace(QUICK, alpha=0.0)
    distilled = distill(snn(), data, config, method="response", teacher=ann()).module
    twin = distill(snn(), data, config, method="none").module
    assert same(distilled, twin)


def test_the_cache_answers_as_the_teacher_does(data):
    teacher = ann().eval()
    images = torch.from_numpy(data.x_train).float() / 255
    picked = torch.tensor([3, 60, 3, 0])
    batch = Batch(images[picked], torch.from_numpy(data.y_train)[picked], picked)
    cached, asked = (teacher_logits(teacher, data, torch.device("cpu"), augmented=a)(batch) for a in (False, True))
    torch.testing.assert_close(cached, asked)
    torch.testing.assert_close(asked[0], teacher(images[picked]))


@pytest.mark.parametrize("method", ["response", "feature", "temporal", "selective", "none"])
def test_streaming_changes_no_bit(data, tmp_path, monkeypatch, method):
    """Images mapped from disk and read batch by batch, against the same images held on the device."""
    for part in ("x_train", "x_test"):
        np.save(tmp_path / f"{part}.npy", getattr(data, part))
    mapped = {part: np.load(tmp_path / f"{part}.npy", mmap_mode="r") for part in ("x_train", "x_test")}
    on_disk, teacher = replace(data, **mapped), ann(1)
    resident = distill(snn(), data, QUICK, method=method, teacher=teacher)
    accuracies = evaluate(resident.module, data, T=4)
    original, read = Streamed.__getitem__, []
    monkeypatch.setattr(
        Streamed, "__getitem__", lambda images, indices: read.append(indices) or original(images, indices)
    )
    monkeypatch.setattr(storage, "IN_MEMORY", data.x_test.nbytes - 1)
    assert 4 * 4 * len(data.x_train) < storage.IN_MEMORY  # the teacher's logits still fit
    streamed = distill(snn(), on_disk, QUICK, method=method, teacher=teacher)
    assert same(streamed.module, resident.module)
    assert [r.loss for r in streamed.history] == [r.loss for r in resident.history]
    assert evaluate(streamed.module, on_disk, T=4) == accuracies
    assert sum(map(len, read)) >= 3 * (64 + 41)  # every epoch's batches and test images came by the stream


def test_the_cache_of_streamed_images_asks_the_teacher_once(data, monkeypatch):
    teacher, asked = ann().eval(), []
    teacher.register_forward_hook(lambda module, inputs, output: asked.append(len(output)))
    picked = torch.tensor([3, 60, 3, 0])
    batch = Batch(torch.from_numpy(data.x_train).float()[picked] / 255, torch.from_numpy(data.y_train)[picked], picked)
    monkeypatch.setattr(storage, "IN_MEMORY", data.x_train.nbytes - 1)
    cached = teacher_logits(teacher, data, torch.device("cpu"), augmented=False)
    assert sum(asked) == 72
    torch.testing.assert_close(cached(batch)[0], teacher(batch.images))
    assert torch.equal(cached(batch), cached(batch)) and sum(asked) == 76
    # more logits than may be kept: the teacher answers at every batch
    monkeypatch.setattr(storage, "IN_MEMORY", 4 * 4 * 72 - 1)
    each_time = teacher_logits(teacher, data, torch.device("cpu"), augmented=False)
    assert sum(asked) == 76
    torch.testing.assert_close(each_time(batch), cached(batch))
    assert sum(asked) == 80


def test_evaluate_reads_the_mean_of_the_first_steps(data):
    student = distill(snn(), data, QUICK, method="none").module
    images = torch.from_numpy(data.x_test).float() / 255
    with torch.no_grad():
        reset_net(student)
        spikes = student(images.expand(4, *images.shape)).double()
    expected = [(losses.firing_rate(spikes[:t]).argmax(-1).numpy() == data.y_test).mean().item() for t in range(1, 5)]
    assert evaluate(student, data, T=4) == tuple(expected)


class Poisoned(nn.Module):
    """Learns, until its n-th training batch, where something stops being finite."""

    def __init__(self, batch: int, where: str) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.batch, self.where, self.seen = batch, where, 0

    def forward(self, x):
        out = self.linear(x.flatten(1))
        self.seen += self.training
        if self.training and self.seen == self.batch:
            if self.where == "loss":
                return out * float("nan")
            out.register_hook(lambda grad: grad * float("inf"))
        return out


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_divergence_stops_with_the_last_good_weights(data, where):
    module, records, good = Poisoned(batch=10, where=where), [], []

    def on_epoch(record):
        records.append(record)
        good.append({k: v.clone() for k, v in module.state_dict().items()})

    with pytest.raises(KdsnnError, match=r"diverged in epoch 3.*weights of epoch 2 are kept.*lower learning rate"):
        pretrain(module, data, QUICK, on_epoch=on_epoch)
    assert len(records) == 2
    assert all(torch.equal(v, good[-1][k]) for k, v in module.state_dict().items())


class Silent(nn.Module):
    """NaN weights in front of spiking neurons: no spike, so a perfectly finite loss."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = layer.Linear(64, 4, step_mode="m")
        self.spikes = neuron.IFNode(step_mode="m", surrogate_function=surrogate.ATan())

    def forward_static(self, x, T):
        if self.training:
            with torch.no_grad():
                self.linear.weight.fill_(float("nan"))
        return torch.nan_to_num(self.spikes(self.linear(x.flatten(1).expand(T, -1, -1))))


def test_nan_weights_behind_a_finite_loss_are_noticed(data):
    module = Silent()
    with pytest.raises(KdsnnError, match="diverged in epoch 1"):
        distill(module, data, QUICK, method="none")
    assert torch.isfinite(module.linear.weight).all()


def test_a_network_that_does_not_fit_is_named_before_training(data):
    with pytest.raises(KdsnnError, match="does not accept the images of quadrants"):
        pretrain(ann(input_shape=(3, 8, 8)), data, QUICK)
    with pytest.raises(KdsnnError, match="10 classes and quadrants has 4"):
        evaluate(snn(classes=10), data, T=2)
    with pytest.raises(KdsnnError, match="10 classes"):
        distill(snn(), data, QUICK, method="response", teacher=ann(classes=10))
    with pytest.raises(KdsnnError, match="needs a teacher"):
        distill(snn(), data, QUICK, method="response")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("optimizer", "adam"),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("warmup_epochs", -1.0),
        ("label_smoothing", 1.0),
        ("shift", -1),
        ("T", 0),
        ("alpha", 1.1),
        ("temperature", 0.0),
        ("seed", -1),
    ],
)
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(KdsnnError, match=f"^{name} is"):
        TrainConfig(**{name: value})


def test_schedule():
    config = TrainConfig(epochs=10, warmup_epochs=2)
    rates = [schedule(epoch, config) for epoch in (0, 1, 2, 6, 10)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-12)
    assert schedule(0.0, replace(config, warmup_epochs=0)) == 1
    assert schedule(1.0, replace(config, epochs=1)) == 0.5  # as long as it is told to be, though it never ends


@pytest.mark.parametrize("epochs", [1, 3, 20, 50, 400])
def test_warm_up_is_a_tenth_of_a_run_at_most(epochs):
    config = TrainConfig(epochs=epochs)
    peak = next(step / 1000 for step in range(1000 * epochs + 1) if schedule(step / 1000, config) == 1)
    assert peak == pytest.approx(min(5, epochs / 10), abs=1e-3)


def test_decay_spares_biases_and_batchnorm():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 4))
    decayed, spared = optimizer_of(module, QUICK).param_groups
    assert [id(p) for p in decayed["params"]] == [id(module[0].weight), id(module[3].weight)]
    assert decayed["weight_decay"] == QUICK.weight_decay and spared["weight_decay"] == 0
    assert len(spared["params"]) == 4


def test_the_last_images_are_seen_too(data):
    accelerator = Accelerator()
    seen = [
        i
        for epoch in range(6)
        for _, part in loop._batches(torch.arange(72), QUICK, epoch, accelerator)
        for i in part.tolist()
    ]
    assert set(seen) == set(range(72)) and len(seen) == 6 * 64
    # a set smaller than one batch is one batch
    assert [len(part) for _, part in loop._batches(torch.arange(7), QUICK, 0, accelerator)] == [7]


SCRIPT = """
import hashlib, pathlib, sys, torch
from accelerate import Accelerator
from kdsnn.data import load
from kdsnn.models import build
from kdsnn.train import RunFiles, TrainConfig, distill

torch.manual_seed(0)
student = build("cnn2", spiking=True, input_shape=(1, 8, 8), classes=10, channels=(2, 4), hidden=8)
accelerator = Accelerator(cpu=True)
teacher = build("cnn2", spiking=False, input_shape=(1, 8, 8), classes=10, channels=(3, 4), hidden=8)
config = TrainConfig(epochs=1, batch_size=128, T=2, ema=0.9, clip_norm=1.0)
files = RunFiles(pathlib.Path(sys.argv[1] + ".state.safetensors"), every_seconds=0)
trained = distill(student, load("digits"), config, method="feature", teacher=teacher, accelerator=accelerator, files=files)
weights = b"".join(t.numpy().tobytes() for t in trained.module.state_dict().values())
record = trained.history[0]
line = f"{accelerator.num_processes} {hashlib.sha256(weights).hexdigest()} {record.loss} {record.accuracy}"
pathlib.Path(f"{sys.argv[1]}.{accelerator.process_index}").write_text(line)
accelerator.wait_for_everyone()  # a process whose peer is gone first may abort as it ends
accelerator.end_training()
"""


def test_two_processes_stay_in_step(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    launched = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            str(script),
            str(tmp_path / "out"),
        ],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr[-2000:]
    first, second = ((tmp_path / f"out.{process}").read_text() for process in (0, 1))
    assert first.startswith("2 ") and first == second


def test_recipes_name_networks_that_exist():
    for recipe in RECIPES.values():
        build(recipe.teacher, spiking=False, input_shape=SHAPE, classes=10)
        build(recipe.student, spiking=True, input_shape=SHAPE, classes=10, **recipe.student_options)
