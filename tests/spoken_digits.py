"""A stand-in for recordings of spoken digits: a beep of its own pitch for each."""

import numpy as np
import soundfile

RATE = 8_000
NUMBERS = (0, 8, 9)  # the first is for the test


def pitch(digit):
    return 300 + 200 * digit


def beep(digit, seconds=0.5):
    return 0.3 * np.sin(2 * np.pi * pitch(digit) * np.arange(int(seconds * RATE)) / RATE)


def record(folder, numbers=NUMBERS):
    """Make a folder with a beep of each digit and number, in the layout of the real ones."""
    inside = folder / "recordings"
    inside.mkdir(parents=True)
    for digit in range(10):
        for number in numbers:
            path = inside / f"{digit}_nobody_{number}.wav"
            soundfile.write(path, beep(digit, 0.3 + 0.01 * number), RATE)
    return folder
