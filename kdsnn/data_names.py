"""The names of data sets, and what may follow them; without numpy, so that they are listed at once."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "digits": "scikit-learn's 1,797 handwritten digits, 8×8, embedded",
        "mnist": "70,000 handwritten digits, 28×28, through Hugging Face datasets",
        "fashion-mnist": "70,000 pieces of clothing, 28×28, through Hugging Face datasets",
        "cifar10": "60,000 color images of 10 classes, 32×32, through Hugging Face datasets",
        "cifar100": "60,000 color images of 100 classes, 32×32, through Hugging Face datasets",
        "hf:REPO": "a repository of labeled images on the Hugging Face Hub, or a local one",
        "npz:FILE": "arrays x_train, y_train, x_test, y_test (uint8 images, or frames of 0 and 1 over time) in one archive",
        "npy:DIR": "the same arrays as .npy files, read batch by batch where they are large",
        "folder:DIR": "images in class sub-folders, in DIR/train and DIR/test or in DIR itself",
        "events:DIR": "recordings (.bin, .npy, .npz, .h5, .aedat, .aedat4) in class sub-folders, or DVS-Gesture, SHD, SSC",
        "nmnist:DIR": "N-MNIST as it was unpacked, and nothing else: Train and Test, in each 0 to 9 with .bin files",
        "cifar10-dvs:DIR": "CIFAR10-DVS: airplane to truck, with .aedat files; the test set is drawn",
        "dvs-gesture:DIR": "DVS-Gesture: trials_to_train.txt, trials_to_test.txt, .aedat files and their _labels.csv",
        "shd:DIR": "Spiking Heidelberg Digits: shd_train.h5 and shd_test.h5",
        "ssc:DIR": "Spiking Speech Commands: ssc_train.h5 and ssc_test.h5",
        "events:DIR+frames16": "in 16 frames, not 8, of equal time; of equal number: …-by-number; of 5000 µs: …-of-5000",
        "events:DIR+frames8-counts": "in graded frames: k events of a pixel are k/15, or k/51 with -counts51",
        "events:DIR+denoise5000": "events without one in a pixel around theirs in the 5000 µs before are left out",
        "events:DIR+down2": "2×2 pixels become one",
        "events:DIR+crop32x48": "32×48 pixels (height × width) in the middle of the sensor",
        "FILE or DIR": "an .npz file, or a folder of .npy files or of images: its kind is recognized",
        "DATA+HxW": "images resized, e.g. +32x32; those of folders and of the Hub may differ in size then",
        "DATA+rgb": "gray images in three equal channels",
        "DATA+gray": "color images in one channel",
        "DATA+rot": "gray images turned by random angles, a variant of MNIST",
        "DATA+back-rand": "gray images on random pixels, a variant of MNIST",
        "DATA+back-image": "gray images on patches of photographs, a variant of MNIST",
        "DATA+rot-back-image": "both rot and back-image",
        "DATA+events": "what a simulated event camera sees of images: 8 frames of 2 polarities, or +events16; graded: "
        "+events-counts",
        "DATA+12k-50k": "12,000 training and 50,000 test images drawn from all: the split of MNIST's variants",
    }
)
"""The forms that `load` takes, and what they are."""
