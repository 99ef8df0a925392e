"""Students and teachers of frames over time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import kdsnn
from kdsnn import checkpoint, models, train
from kdsnn.data import Augmentation, DataSet
from kdsnn.deploy.counting import count_ann
from kdsnn.errors import KdsnnError
from kdsnn.train import losses
from kdsnn.train.calling import CallingConvention, convention_of
from kdsnn.train.learner import Learner
from kdsnn.train.objectives import Batch, objective_of, teacher_logits
from profilers.counting.flops import count_module

T, SHAPE = 3, (2, 8, 8)
QUICK = train.TrainConfig(epochs=4, batch_size=16, lr=0.05, warmup_epochs=0, T=T)


def moving(count=64, seed=0):
    """Two classes that only time tells apart: a bar that moves down, or up, through the same places."""
    rng = np.random.RandomState(seed)
    y = np.arange(count) % 2
    x = (rng.random_sample((count, T, *SHAPE)) < 0.02).astype(np.uint8)
    for one, label in zip(x, y, strict=True):
        column = rng.randint(0, 6)
        for t in range(T):
            row = 2 * t if label == 0 else 2 * (T - 1 - t)
            one[t, 0, row : row + 2, column : column + 3] = 1
    return DataSet("moving", x, y, x.copy(), y, 2)


def brightness(count=64):
    """Two classes of which the mean of the frames says enough: many events, or few."""
    rng = np.random.RandomState(0)
    y = np.arange(count) % 2
    x = (rng.random_sample((count, T, *SHAPE)) < (0.05 + 0.3 * y)[:, None, None, None, None]).astype(np.uint8)
    return DataSet("brightness", x, y, x.copy(), y, 2)


def student(**kinds):
    torch.manual_seed(0)
    return models.build("cnn2", spiking=True, input_shape=SHAPE, classes=2, channels=(8, 8), hidden=16, **kinds)


def ann():
    torch.manual_seed(0)
    return models.build("cnn2", spiking=False, input_shape=SHAPE, classes=2, channels=(8, 8), hidden=16)


def test_a_step_sees_its_frame_alone():
    network, data = student().eval(), moving(8)
    x = torch.from_numpy(data.x_train).float()
    assert convention_of(network, data.sample_shape, T) == CallingConvention("multi-step")
    output, _ = Learner(network, T, CallingConvention("multi-step")).eval()(x)
    functional.reset_net(network)
    assert torch.equal(output, network(x.transpose(0, 1)))
    # SpikingJelly's own loop over single steps
    functional.reset_net(network)
    functional.set_step_mode(network, "s")
    one_by_one = torch.stack([network(x[:, t]) for t in range(T)])
    assert torch.equal(output, one_by_one)


def test_a_teacher_of_each_frame_answers_for_each_and_is_averaged_where_steps_are():
    data, teacher = moving(8), ann().eval()
    x, picked = torch.from_numpy(data.x_train).float(), torch.tensor([5, 0, 2])
    batch = Batch(x[picked], torch.from_numpy(data.y_train)[picked], picked)
    with torch.no_grad():
        by_hand = torch.stack([teacher(x[picked, t]) for t in range(T)])
        for augmented in (False, True):  # from the cache, and asked anew
            found = teacher_logits(teacher, data, torch.device("cpu"), augmented=augmented, frames="each")(batch)
            torch.testing.assert_close(found, by_hand)
        assert not torch.allclose(by_hand.mean(0), teacher(x[picked].mean(1)), atol=1e-3)
        output, _ = Learner(teacher, frames="each").eval()(x[picked])
    torch.testing.assert_close(output, by_hand)
    assert len(train.evaluate(teacher, data, frames="each")) == T
    shared = {"temperature": 3.0, "label_smoothing": 0.0}
    spikes = torch.randint(0, 2, (T, 3, 2), generator=torch.Generator().manual_seed(0)).float()
    weights = {"teacher_weight": 0.2, "self_weight": 0.5}
    expected = {
        "response": losses.response(spikes, by_hand.mean(0), batch.labels, alpha=0.5, **shared),
        "temporal": losses.temporal(spikes, by_hand, batch.labels, **weights, **shared),
    }
    for method, loss in expected.items():
        config = replace(QUICK, teacher_frames="each", temperature=3.0)
        learner = Learner(student(), T, CallingConvention("multi-step"))
        objective, _ = objective_of(method, learner, teacher, data, config, torch.device("cpu"), augmented=False)
        torch.testing.assert_close(objective(spikes, [], batch), loss)
    # a student that shows no step by itself learns from the mean
    config = replace(QUICK, teacher_frames="each", temperature=3.0)
    objective, _ = objective_of("temporal", learner, teacher, data, config, torch.device("cpu"), augmented=False)
    mean = spikes.mean(0, keepdim=True)
    told = losses.temporal(mean, by_hand.mean(0), batch.labels, **weights, **shared)
    torch.testing.assert_close(objective(mean, [], batch), told)


def test_a_teacher_is_trained_on_each_frame_and_its_student_asks_it_so(tmp_path):
    """A bar at the top and then at the bottom, or the other way round, has the same mean; the first frame tells them apart."""
    data, rest = moving(32), {"epochs": 1, "batch_size": 16, "options": {"channels": (8, 8), "hidden": 16}}
    teacher = kdsnn.pretrain("cnn2", data, teacher_frames="each", **rest)
    checkpoint.save(tmp_path / "t.safetensors", teacher.module, teacher.info)
    info = checkpoint.read_info(tmp_path / "t.safetensors")
    assert (info.preprocessing, info.frames) == ("each frame", "each") and info == teacher.info
    assert kdsnn.evaluate(tmp_path / "t.safetensors", data).accuracy == teacher.accuracy
    for asked in (None, "mean"):
        student = kdsnn.distill("cnn2", data, teacher=teacher, method="feature", teacher_frames=asked, **rest)
        assert student.info.training["teacher_frames"] == (asked or "each")
    counted = count_ann(teacher, data, data.x_test, data.y_test)[0].counts
    assert counted.macs == T * count_module(teacher.module, SHAPE).macs
    still = replace(data, name="stills", x_train=data.x_train[:, 0], x_test=data.x_test[:, 0])
    with pytest.raises(KdsnnError, match="stills are images, and only data over time has frames"):
        kdsnn.distill("cnn2", still, method="none", teacher_frames="each")
    with pytest.raises(KdsnnError, match="sees the mean of the frames; leave it out"):
        kdsnn.pretrain("cnn2", data, teacher_frames="each", quantize_activations=3)


@pytest.mark.parametrize("method", ["response", "temporal"])
def test_mixed_samples_are_trained_on_and_a_run_that_was_killed_mixes_the_same(method, tmp_path):
    data, teacher = moving(32), ann()
    augmentation = Augmentation(mix=0.7)

    def run(**rest):
        shown = {"augment": augmentation.apply, "mix": augmentation.mixes(data.classes)}
        config = replace(QUICK, epochs=2)
        found = train.distill(student(), data, config, method=method, teacher=teacher, **{**shown, **rest})
        return {name: tensor.clone() for name, tensor in found.module.state_dict().items()}

    def killed(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(files=train.RunFiles(tmp_path / "state", every_seconds=0), on_step=killed)
    resumed, whole = run(files=train.RunFiles(tmp_path / "state", every_seconds=0, resume=True)), run()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    unmixed = run(mix=None)
    assert any(not torch.equal(unmixed[name], whole[name]) for name in whole)


class Stepwise(nn.Module):
    """A student of SpikingJelly's layers, called in every way that people write."""

    def __init__(self, way, mean):
        super().__init__()
        mode = "m" if way == "multi-step" else "s"
        self.way, self.mean = way, mean
        self.body = nn.Sequential(
            layer.Flatten(step_mode=mode), layer.Linear(128, 2, step_mode=mode), neuron.IFNode(step_mode=mode)
        )

    def forward(self, x):
        own = self.way == "own steps"
        out = torch.stack([self.body(x[:, t]) for t in range(x.shape[1])]) if own else self.body(x)
        return out.mean(0) if self.mean else out


@pytest.mark.parametrize(("way", "mean"), [("multi-step", False), ("multi-step", True), ("single-step", False),
                                           ("own steps", False), ("own steps", True)])  # fmt: skip
def test_a_module_of_any_form_takes_frames(way, mean):
    torch.manual_seed(0)
    module = Stepwise(way, mean)
    found = convention_of(module, (T, *SHAPE), T)
    assert (found.form, found.averaged) == (way, mean)
    x = torch.from_numpy(moving(8).x_train).float()
    output = found.run(module, x, T)
    functional.reset_net(module)
    linear, v, spikes = module.body[1], torch.zeros(8, 2), []
    for t in range(T):  # integrate and fire by hand
        v = v + x[:, t].flatten(1) @ linear.weight.T + linear.bias
        spikes.append((v >= 1).float())
        v = v * (1 - spikes[-1])
    expected = torch.stack(spikes)
    assert torch.equal(output, expected.mean(0, keepdim=True) if mean else expected)


@pytest.mark.parametrize("readout", ["rate", "membrane"])
def test_a_student_learns_from_frames(readout):
    data = brightness()
    config = train.TrainConfig(**{**vars(QUICK), "epochs": 8})
    trained = train.distill(student(readout=readout), data, config, method="none")
    by_step = train.evaluate(trained.module, data, T=T)
    assert len(by_step) == T and by_step[-1] > 0.9
    assert trained.history[-1].accuracy == by_step[-1] and trained.history[-1].by_step == by_step


@pytest.mark.parametrize("method", ["response", "feature", "temporal", "selective"])
def test_every_method_teaches_from_the_mean_of_the_frames(method):
    data = brightness()
    teacher = train.pretrain(ann(), data, QUICK).module
    means = torch.from_numpy(data.x_test).float().mean(1)
    expected = (teacher(means).argmax(1).numpy() == data.y_test).mean()
    assert train.evaluate(teacher, data)[0] == pytest.approx(expected)
    config = train.TrainConfig(**{**vars(QUICK), "shift": 1})
    readout = "membrane" if method == "selective" else "rate"
    found = train.distill(student(readout=readout), data, config, method=method, teacher=teacher)
    assert found.history[-1].loss < found.history[0].loss


def test_other_numbers_of_steps_are_refused():
    with pytest.raises(KdsnnError, match="moving has 3 frames, and the network T=4 steps"):
        train.distill(student(), moving(), train.TrainConfig(T=4), method="none")
    with pytest.raises(KdsnnError, match="moving has 3 frames, and the network T=2 steps"):
        train.evaluate(student(), moving(), T=2)
    with pytest.raises(kdsnn.errors.OptionError, match="moving has 3 frames, one for each step"):
        kdsnn.distill("cnn2", moving(), method="none", T=5)


def test_a_checkpoint_says_what_its_network_sees(tmp_path):
    data = moving()
    options = {"channels": (4, 4), "hidden": 8}
    teacher = kdsnn.pretrain("cnn2", data, epochs=1, options=options, out=tmp_path / "teacher.safetensors")
    made = kdsnn.distill(
        "cnn2", data, teacher=teacher, epochs=1, options=options, twin=True, out=tmp_path / "student.safetensors"
    )
    assert made.info.T == T and (made.info.encoding, made.info.over_time) == ("spikes", True)
    assert (teacher.info.T, teacher.info.encoding, teacher.info.over_time) == (None, "direct", True)
    read = kdsnn.load(tmp_path / "student.safetensors")
    assert read.info == made.info and checkpoint.read_info(tmp_path / "teacher.safetensors") == teacher.info
    result = kdsnn.evaluate(read, data)
    assert len(result.accuracies) == T and result.accuracy == made.accuracy
    # SynOps by hand: every event and every spike times its fan-out; here of the events alone
    assert made.cost["synops"] > made.cost["spikes"] > 0
    stills = DataSet("stills", data.x_train[:, 0] * 255, data.y_train, data.x_test[:, 0], data.y_test, 2)
    for network in (read, teacher):
        with pytest.raises(KdsnnError, match=r"reads frames over time, and stills holds images"):
            kdsnn.evaluate(network, stills)
    other = kdsnn.pretrain("cnn2", stills, epochs=1, options=options)
    with pytest.raises(KdsnnError, match="reads images, and moving holds frames over time"):
        kdsnn.evaluate(other, data)
    with pytest.raises(KdsnnError, match="reads images, and moving holds frames over time"):
        kdsnn.distill("cnn2", data, teacher=other)


def test_a_student_of_frames_is_trained_on_a_grid():
    data = moving()
    options = {"channels": (4, 4), "hidden": 8}
    start = kdsnn.distill("cnn2", data, method="none", epochs=2, options=options)
    fine = kdsnn.distill("cnn2", data, method="none", epochs=1, quantize=3, start=start)
    assert fine.info.encoding == "spikes" and fine.info.quantized["bits"] == 3
    network = kdsnn.lower(fine)
    assert network.bits == 3 and network.over_time
    emulated = kdsnn.run(network, data, on=["torch", "emulator"], samples=32)
    assert all(c.mismatches == 0 and c.hidden == 0 for c in emulated.comparisons if c.backend == "emulator")
