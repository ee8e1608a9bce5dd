"""Preprocessors of sound."""

from dataclasses import replace

import torch
from torch import Tensor

from loopwright.datasets.base import Array, Samples
from loopwright.preprocessors.base import (
    Preprocessor,
    as_float,
    as_tensor,
    preprocessors,
    require_numbers,
)


@preprocessors.register("spectrogram")
class Spectrogram(Preprocessor):
    """Turns waveforms into images of one channel: power by frequency and time, under Hann windows.

    Args:
        frame_length: values in a window.
        frame_step: values from one window to the next.
        logarithm: whether the logarithm of the power is taken, after adding 1e-10.
    """

    def __init__(
        self, frame_length: int = 256, frame_step: int = 128, logarithm: bool = False
    ) -> None:
        if min(frame_length, frame_step) < 1:
            raise ValueError(
                f"frame_length is {frame_length} and frame_step {frame_step}; expected at least 1."
            )
        self.frame_length = frame_length
        self.frame_step = frame_step
        self.logarithm = logarithm

    def describe(self, info: Array) -> Array:
        require_numbers(info, "spectrogram")
        length = info.shape[0] if len(info.shape) == 1 else None
        if length is None or length < self.frame_length:
            raise ValueError(
                f"spectrogram takes waveforms of at least {self.frame_length} values; features "
                f"have the shape {info.shape}."
            )
        frames = 1 + (length - self.frame_length) // self.frame_step
        shape = (1, self.frame_length // 2 + 1, frames)
        return replace(info, shape=shape, dtype=torch.float32, names=(), value_range=None)

    def transform(self, features: Samples) -> Tensor:
        waves = as_float(as_tensor(features, "spectrogram"))
        spectrum = torch.stft(
            waves,
            self.frame_length,
            self.frame_step,
            window=torch.hann_window(self.frame_length, dtype=waves.dtype),
            center=False,
            return_complex=True,
        )
        power = spectrum.abs().square().unsqueeze(1)
        return (power + 1e-10).log() if self.logarithm else power
