"""A trained model with what it needs to be used: preprocessors, and what goes in and comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loopwright.datasets import Array, ClassLabel, Samples, encode_rows
from loopwright.device import pick_device
from loopwright.inference import Inference, inference_for
from loopwright.inputs import BadInputError
from loopwright.preprocessors import Preprocessor
from loopwright.preprocessors.pipeline import Pipeline
from loopwright.trainer import Trainer
from loopwright.trainers.inferrer import Inferrer

__all__ = ["Fitted"]

Give = Callable[[nn.Module, Tensor], Tensor]
"""Makes numbers for each row of what a model gets."""


class _Predicting(Trainer):
    """Predicts by a function of the model and its inputs."""

    give: Give

    def calculate_prediction(self, batch: Any) -> Any:
        return self.give(self.model, batch)


@dataclass
class Fitted:
    """Predicts for samples as the data set holds them.

    Preprocessors are applied as they were fitted on the training part; nothing is augmented.
    """

    model: nn.Module
    features: Array
    """A sample as it comes in, before the preprocessors."""
    labels: Array
    preprocessors: list[Preprocessor] = field(default_factory=list)
    loss: str = ""
    """The name of the loss, which says what the model's outputs mean."""
    objective: str = ""
    """The name of what it was trained for in the place of a loss on labels."""
    batch_size: int = 32
    """Samples that go through the model at once, unless a call says otherwise."""
    device: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the run that trained it reported."""

    def predict(self, inputs: Any, batch_size: int | None = None) -> np.ndarray:
        """Return predictions for raw samples.

        Args:
            inputs: an array or tensor of shape (samples, *features.shape).
            batch_size: samples that go through the model at once.

        Returns:
            For classes their indices, int64 of shape (samples,); for numbers the model's outputs,
            of shape (samples, *labels.shape). For an objective: what an autoencoder makes of the
            samples, as the model gets them; the translations of texts; the likeliest continuations
            of texts, as long as a sample.

        Raises:
            ValueError: the inputs have another shape, or are no numbers.
        """
        return self.as_predictions(self.outputs(inputs, batch_size))

    def predict_proba(self, inputs: Any, batch_size: int | None = None) -> np.ndarray:
        """Return the probability of each class for raw samples, of shape (samples, classes).

        Raises:
            NotImplementedError: the model gives no probabilities.
            ValueError: the inputs have another shape, or are no numbers.
        """
        if not self.is_probabilistic:
            raise NotImplementedError(
                "This model gives no probabilities of classes: it was trained "
                f"{f'as {self.objective}' if self.objective else f'with the loss {self.loss!r}'}. "
                "Use predict, or train on classes with cross_entropy."
            )
        return self.as_probabilities(self.outputs(inputs, batch_size))

    @property
    def is_probabilistic(self) -> bool:
        """Whether there are probabilities of classes."""
        is_class = isinstance(self.labels, ClassLabel) and not self.objective
        return is_class and self.loss == "cross_entropy"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, one of which is predicted; empty where something else is."""
        labels = self.labels
        is_one = isinstance(labels, ClassLabel) and not labels.shape and not self.objective
        return labels.names if is_one else ()

    @property
    def inference(self) -> Inference | None:
        """What a prediction is for the objective; None where the model predicts labels.

        Raises:
            NotSupportedError: a model of this objective has no prediction for a sample.
        """
        if not self.objective:
            return None
        return inference_for(self.objective, self.features, self.labels, self.loss, self.transform)

    @property
    def inferrer(self) -> Any:
        """What uses the model: to encode, translate or generate, as its objective has it."""
        self.model.to(pick_device(self.device))
        inference = self.inference
        return Inferrer.of(self.model) if inference is None else inference.inferrer(self.model)

    def outputs(self, inputs: Any, batch_size: int | None = None) -> Tensor:
        """Return what the model gives for raw samples, on the CPU."""
        samples = self.transform(inputs)
        if not len(samples):
            return self.empty_outputs()
        return self._numbers(self._give(), samples, batch_size)

    def evidence(self, inputs: Any) -> Tensor:
        """Return numbers for raw samples, on the CPU, by which the model is known again."""
        inference = self.inference
        give = self._give() if inference is None else inference.evidence
        return self._numbers(give, self.transform(inputs))

    def _give(self) -> Give:
        inference = self.inference
        return nn.Module.__call__ if inference is None else inference.outputs

    def _numbers(self, give: Give, samples: Tensor, batch_size: int | None = None) -> Tensor:
        trainer = _Predicting(self.model, None, None, callbacks=(), device=self.device)
        trainer.give = give
        numbers: Tensor = trainer.predict(samples, batch_size or self.batch_size)
        return numbers

    def forward(self, samples: Samples) -> Tensor:
        """Return what the model gives for raw samples, all at once; it has to be in eval mode.

        Raises:
            BadInputError: a preprocessor refuses the samples, or the model does and they are not
                finite.
        """
        with torch.inference_mode():
            try:
                inputs = Pipeline(self.preprocessors).transform(samples)
            except ValueError as error:  # such as a text that is longer than the model takes
                raise BadInputError(str(error)) from error
            device = next(self.model.parameters(), inputs).device
            try:
                return self._give()(self.model, inputs.to(device)).cpu()
            except ValueError as error:  # as estimators raise it for numbers that are missing
                if inputs.isfinite().all():
                    raise
                finite = inputs.isfinite().reshape(len(inputs), -1).all(1)
                raise BadInputError(
                    f"Sample {int(finite.int().argmin())} has a number that is not finite, which "
                    "the model does not take."
                ) from error

    def transform(self, inputs: Any) -> Tensor:
        """Return raw samples as the model gets them."""
        return Pipeline(self.preprocessors).transform(self.as_samples(inputs))

    def as_samples(self, inputs: Any) -> Samples:
        """Return inputs as raw samples, in the form of the data set.

        Texts are a list of them, rows of a table a list of mappings or an array; images that may
        differ in size are a list of arrays.

        Raises:
            ValueError: they have another shape, or are no numbers.
        """
        if inference := self.inference:
            inputs = inference.as_samples(inputs)
        if self.features.dtype is str:
            return _texts(inputs)
        if self.features.names and _are_mappings(inputs):
            return encode_rows(inputs, self.features)
        if None in self.features.shape:
            return [self._as_sample(each) for each in inputs]
        expected = ("samples", *self.features.shape)
        wanted = f"({', '.join(map(str, expected))})" if self.features.shape else "(samples,)"
        try:
            tensor = inputs if isinstance(inputs, Tensor) else torch.from_numpy(np.array(inputs))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The inputs are no numbers of one shape ({error}). Expected {wanted}."
            ) from None
        if tensor.shape[1:] != self.features.shape or not tensor.ndim:
            hint = " (a single sample needs a dimension before its own)"
            raise ValueError(
                f"The inputs have the shape {tuple(tensor.shape)}, expected {wanted}"
                f"{hint if tensor.shape == self.features.shape else ''}."
            )
        assert isinstance(self.features.dtype, torch.dtype)
        return tensor.to(self.features.dtype)

    def _as_sample(self, value: Any) -> Tensor:
        """Return one sample whose size is its own."""
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        shape = self.features.shape
        fits = tensor.ndim == len(shape) and all(
            size in (None, found) for size, found in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"A sample has the shape {tuple(tensor.shape)}, expected {shape} (None: any size)."
            )
        assert isinstance(self.features.dtype, torch.dtype)
        return tensor.to(self.features.dtype)

    def as_predictions(self, outputs: Tensor) -> np.ndarray:
        """Return the predictions that a model's outputs mean."""
        if inference := self.inference:
            return inference.predictions(outputs)
        predicted = outputs.argmax(dim=1) if isinstance(self.labels, ClassLabel) else outputs
        array: np.ndarray = predicted.numpy()
        return array

    def as_probabilities(self, outputs: Tensor) -> np.ndarray:
        """Return the probabilities that the logits of classes mean, in their type."""
        array: np.ndarray = outputs.softmax(dim=1).numpy()
        return array

    def empty_outputs(self) -> Tensor:
        """Return what the model gives for no samples."""
        if inference := self.inference:
            return inference.no_outputs()
        if isinstance(self.labels, ClassLabel):
            return torch.empty(0, self.labels.num_classes)
        return torch.empty(0, *(size or 0 for size in self.labels.shape))


def _texts(inputs: Any) -> list[str]:
    if isinstance(inputs, str) or not all(isinstance(text, str) for text in inputs):
        raise ValueError("The inputs are no list of texts, which this model takes.")
    return list(inputs)


def _are_mappings(inputs: Any) -> bool:
    return isinstance(inputs, list | tuple) and all(isinstance(row, Mapping) for row in inputs)
