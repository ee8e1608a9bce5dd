"""What a prediction is for models that were trained for an objective: made, and shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from loopwright.datasets import Array, ClassLabel
from loopwright.datasets.pairs import BEGIN, END, PADDING
from loopwright.errors import NotSupportedError
from loopwright.inputs import BadInputError
from loopwright.models import CycleGan
from loopwright.trainers.adversarial_autoencoders import SemiSupervisedAaeInferrer
from loopwright.trainers.autoencoders import AutoencoderInferrer
from loopwright.trainers.gans import DcganInferrer
from loopwright.trainers.image_translation import CycleGanInferrer, Pix2PixInferrer
from loopwright.trainers.language_models import LanguageModelInferrer
from loopwright.trainers.seq2seq import Seq2SeqInferrer
from loopwright.trainers.tokens import decode_texts, encode_texts

__all__ = ["Generation", "Inference", "Reconstruction", "Translation", "inference_for"]


@dataclass(frozen=True)
class Inference(ABC):
    """Says what a model predicts that was trained for an objective."""

    features: Array
    """A raw sample."""
    labels: Array
    loss: str
    """The name of a loss in the place of the objective's own; empty without one."""
    transform: Callable[[Any], Tensor]
    """Makes what the model gets of raw samples."""
    description: ClassVar[str]

    @property
    def names(self) -> tuple[str, ...]:
        """What the tokens of predictions stand for; empty where that is not known."""
        return self.labels.names if isinstance(self.labels, ClassLabel) else ()

    @property
    def takes_texts(self) -> bool:
        """Whether a sample may be a text."""
        return self.features.dtype is str

    def as_samples(self, inputs: Any) -> Any:
        """Return inputs, or raw samples made of them where they are texts and samples are not."""
        return inputs

    @abstractmethod
    def inferrer(self, model: nn.Module) -> Any:
        """Return what uses the model on its device."""

    @abstractmethod
    def outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Return a prediction for each row of what the model gets."""

    def evidence(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Return numbers by which a model is known again, without a choice between near ones."""
        return self.outputs(model, inputs)

    def predictions(self, outputs: Tensor) -> np.ndarray:
        """Return outputs as they are shown."""
        array: np.ndarray = outputs.numpy()
        return array

    @abstractmethod
    def no_outputs(self) -> Tensor:
        """Return the outputs for no samples."""


class Reconstruction(Inference):
    """Predicts samples as they come out of their codes, in the values that the model gets."""

    description = "the sample as it comes out of its code"

    def inferrer(self, model: nn.Module) -> AutoencoderInferrer:
        has_logits = self.loss in ("", "binary_cross_entropy")
        activation = torch.sigmoid if has_logits else nn.Identity()
        return AutoencoderInferrer.of(model, activation=activation)

    def outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        return self.inferrer(model).reconstruct(inputs)

    def no_outputs(self) -> Tensor:
        return torch.empty(0, *(size or 0 for size in self.features.shape))


class ClassedReconstruction(Reconstruction):
    """Predicts the same of an autoencoder that keeps the class apart from the style."""

    def inferrer(self, model: nn.Module) -> SemiSupervisedAaeInferrer:
        return SemiSupervisedAaeInferrer.of(model, activation=super().inferrer(model).activation)


class ImageTranslation(Inference):
    """Predicts the image that a generator makes of an image."""

    description = "the image that is made of the input"

    def inferrer(self, model: nn.Module) -> Pix2PixInferrer | CycleGanInferrer:
        return (CycleGanInferrer if isinstance(model, CycleGan) else Pix2PixInferrer).of(model)

    def outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        return self.inferrer(model).translate(inputs)

    def no_outputs(self) -> Tensor:
        return torch.empty(0, *(size or 0 for size in self.labels.shape))


class Sampling(Inference):
    """Predicts nothing for a sample: the model makes images of codes."""

    description = "nothing: it makes images of codes"

    def inferrer(self, model: nn.Module) -> DcganInferrer:
        return DcganInferrer.of(model)

    def outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        raise NotSupportedError(
            "A model that makes images of codes has no prediction for a sample. Use "
            "experiment.inferrer.generate(num_samples)."
        )

    def evidence(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Return as many images of the same codes."""
        return self.inferrer(model).generate(len(inputs), seed=0)

    def no_outputs(self) -> Tensor:
        return torch.empty(0, *(size or 0 for size in self.features.shape))


class Translation(Inference):
    """Predicts the likeliest target of a source by greedy search; as text where it has names."""

    description = "the text that belongs to the input"

    def inferrer(self, model: nn.Module) -> Seq2SeqInferrer:
        return Seq2SeqInferrer.of(model, encode=self.transform, names=self.names)

    def outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        tokens: Tensor = self.inferrer(model).translate(inputs, max_length=self._length)
        return tokens

    def evidence(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Return the logits of the first token."""
        begin = torch.full((len(inputs), 1), BEGIN)
        logits: Tensor = self.inferrer(model).call(model, inputs, begin)
        return logits

    def predictions(self, outputs: Tensor) -> np.ndarray:
        if not self.names:
            return super().predictions(outputs)
        return np.array(decode_texts(outputs, self.names, (BEGIN, END, PADDING)), dtype=str)

    def no_outputs(self) -> Tensor:
        return torch.empty(0, self._length, dtype=torch.int64)

    @property
    def _length(self) -> int:
        """Tokens in a target without its beginning."""
        return _length_of(self.labels) - 1


class Generation(Inference):
    """Predicts the likeliest tokens after a text, as many as a sample has."""

    description = "the text that is likeliest to follow the input"

    @property
    def takes_texts(self) -> bool:
        return bool(self.names)

    def as_samples(self, inputs: Any) -> Any:
        """Return texts as tokens, the last ones that a sample has room for; -1 fills up."""
        if isinstance(inputs, str) or not all(isinstance(each, str) for each in inputs):
            return inputs
        samples = torch.full((len(inputs), self._length), -1)
        for row, tokens in zip(samples, encode_texts(inputs, self.names), strict=True):
            kept = tokens[-self._length :]
            row[: len(kept)] = kept
        return samples

    def inferrer(self, model: nn.Module) -> LanguageModelInferrer:
        return LanguageModelInferrer.of(model, characters=self.names)

    def outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        inferrer, lengths = self.inferrer(model), (inputs >= 0).sum(dim=1)
        if not lengths.all():
            raise BadInputError(f"Sample {int(lengths.argmin())} has no token to go on after.")
        found = torch.empty_like(inputs)
        for length in lengths.unique().tolist():
            rows = lengths == length
            found[rows] = inferrer.generate(inputs[rows, :length], self._length, temperature=0)
        return found

    def evidence(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Return the logits of all places."""
        logits: Tensor = self.inferrer(model).call(model, inputs)
        return logits

    def predictions(self, outputs: Tensor) -> np.ndarray:
        if not self.names:
            return super().predictions(outputs)
        return np.array(decode_texts(outputs, self.names), dtype=str)

    def no_outputs(self) -> Tensor:
        return torch.empty(0, self._length, dtype=torch.int64)

    @property
    def _length(self) -> int:
        return _length_of(self.features)


def _length_of(sequences: Array) -> int:
    if len(sequences.shape) != 1 or not sequences.shape[0]:
        raise ValueError(f"The shape is {sequences.shape}; expected the length of sequences.")
    return sequences.shape[0]


_KINDS: dict[str, type[Inference]] = {
    "autoencoder": Reconstruction,
    "denoising_autoencoder": Reconstruction,
    "vae": Reconstruction,
    "aae": Reconstruction,
    "semi_supervised_aae": ClassedReconstruction,
    "dcgan": Sampling,
    "pix2pix": ImageTranslation,
    "cyclegan": ImageTranslation,
    "seq2seq": Translation,
    "language_model": Generation,
}


def inference_for(
    objective: str,
    features: Array,
    labels: Array,
    loss: str,
    transform: Callable[[Any], Tensor],
) -> Inference:
    """Return what a prediction is for an objective, by its name.

    Raises:
        NotSupportedError: there is none for it.
    """
    if objective not in _KINDS:
        raise NotSupportedError(
            f"A model that was trained as {objective} has no prediction for a sample; that have "
            f"{', '.join(_KINDS)}. Use experiment.model.model."
        )
    return _KINDS[objective](features, labels, loss, transform)
