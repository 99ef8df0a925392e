"""SANA-FE's own Python runs this file, `worker.py FOLDER`; the package never imports it.

FOLDER has `job.json` (file, steps, groups with their sizes, the input group, the group whose membranes are read), and
`input.bin`, a byte per sample, step and sender. Written are `spikes.bin`, a byte per sample, step and neuron, group
after group, `membranes.json` and, last, `done.json`.
"""

import json
import sys
import time
from pathlib import Path


def main(folder: Path) -> None:
    """Run every sample on a chip of its own, so that nothing is left of the one before."""
    import sanafe

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    sent = (folder / "input.bin").read_bytes()
    architecture = sanafe.load_arch(job["file"])
    network = sanafe.load_net(job["file"], architecture)
    size, T, steps = job["input_size"], job["T"], job["steps"]
    first, at = 0, {}
    for name, neurons in job["groups"]:
        at[name] = first
        first += neurons
    costs, membranes = [], []
    started = time.perf_counter()
    with (folder / "spikes.bin").open("wb") as file:
        for sample in range(job["samples"]):
            chip = sanafe.SpikingChip(architecture)
            chip.load(network)
            senders = chip.mapped_neuron_groups[job["input"]]
            for neuron in range(size):
                begin = sample * T * size + neuron
                train = sent[begin : begin + T * size : size]
                if any(train):
                    senders[neuron].set_attributes(model_attributes={"spikes": [bool(spike) for spike in train]})
            found = chip.sim(steps, spike_trace=True, perf_trace=True, potential_trace=job["membranes"])
            fired = bytearray(steps * first)
            for step, neurons in enumerate(found["spike_trace"]):
                for neuron in neurons:
                    if neuron.group_name in at:
                        fired[step * first + at[neuron.group_name] + neuron.neuron_offset] = 1
            file.write(fired)
            perf = found["perf_trace"]
            costs.append(
                {key: list(perf[key]) for key in ("total_energy", "sim_time")} | {"energy": dict(found["energy"])}
            )
            if job["membranes"]:
                membranes.append([list(row) for row in found["potential_trace"]])
            print(sample + 1, flush=True)
    seconds = time.perf_counter() - started
    (folder / "membranes.json").write_text(json.dumps(membranes), encoding="utf-8")
    done = {"costs": costs, "seconds": seconds}
    (folder / "done.json").write_text(json.dumps(done), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
