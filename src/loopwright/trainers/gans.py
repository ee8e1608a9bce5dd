"""Trainers of networks that play against each other, and using the images that they make."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from loopwright.models.gans import OpposedNetworks
from loopwright.trainer import Trainer
from loopwright.trainers.gan_losses import (
    GanLoss,
    check_gan_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from loopwright.trainers.inferrer import Inferrer, floats_of


class GanTrainer(Trainer):
    """Is the base of trainers with several networks, each with an optimizer of its own.

    The loss of each is recorded as `train_<optimizer>_loss_epoch`.

    Args:
        model: A model with `parameters_by_optimizer`, which says what each optimizer trains.
        loss_func: None, unless the trainer says what for.
        optimizer: A dict of optimizers with those names.
        args: The other arguments of `Trainer`.
        gan_loss: Which loss the networks play for.
        label_smoothing: See `discriminator_loss`.
        options: The other options of `Trainer`.

    Raises:
        ValueError: An option is out of its range, or optimizers do not fit the model.
    """

    inferrer_class: ClassVar[type[Any]]
    """What uses the trained model, and draws pictures of it."""
    takes_a_loss: ClassVar[bool] = False

    def __init__(
        self,
        model: Any,
        loss_func: Any,
        optimizer: Any,
        *args: Any,
        gan_loss: GanLoss = "cross_entropy",
        label_smoothing: float = 0.0,
        **options: Any,
    ) -> None:
        check_gan_loss(gan_loss)
        _check_label_smoothing(label_smoothing, gan_loss)
        _check_optimizers(model, optimizer)
        if loss_func is not None and not self.takes_a_loss:
            raise ValueError(
                f"{type(self).__name__} got the loss_func {loss_func!r}; its loss is gan_loss. "
                "Give None."
            )
        self.gan_loss, self.label_smoothing = gan_loss, label_smoothing
        super().__init__(model, loss_func, optimizer, *args, **options)
        if gan_loss == "wasserstein" and not self.is_bounded:
            raise ValueError(
                "gan_loss='wasserstein' falls without end unless something bounds the slope of the "
                "discriminator (arXiv 1701.07875). Make the model with spectral_norm=True, give a "
                "DcganTrainer penalty_weight=10, or choose another gan_loss. A trainer that bounds "
                "it in its own way, as by clipping weights, overrides is_bounded."
            )

    @property
    def is_bounded(self) -> bool:
        """Whether the slope of each discriminator is bounded, as a Wasserstein loss needs.

        That is so where each layer with a `weight` has spectral normalization; a batch norm has a
        weight, and a slope without a bound.
        """
        parts = self.model.named_children()
        judges = [part for name, part in parts if "discriminator" in name]
        layers = [layer for judge in judges for layer in judge.modules()]
        return any(map(_has_spectral_norm, layers)) and all(
            _has_spectral_norm(layer) or not isinstance(getattr(layer, "weight", None), Tensor)
            for layer in layers
        )

    def discriminator_loss(self, real: Tensor, made: Tensor) -> Tensor:
        """Return the loss of a discriminator of these logits, by the options."""
        return discriminator_loss(real, made, self.gan_loss, self.label_smoothing)

    def generator_loss(self, made: Tensor) -> Tensor:
        """Return the loss of a generator of these logits, by the options."""
        return generator_loss(made, self.gan_loss)


class DcganTrainer(GanTrainer):
    """Trains a generator of images of random codes, and the discriminator that it plays against.

    Radford et al. 2016 (https://arxiv.org/abs/1511.06434). Targets in a batch are ignored, and
    samples have values from 0 to 1. The codes come from torch's global generator. An evaluation
    gives the discriminator's loss, of newly made samples.

    Args:
        args: Those of `GanTrainer`; the optimizers are `generator` and `discriminator`.
        penalty_weight: The weight of `gradient_penalty` in the discriminator's loss; with
            gan_loss="wasserstein" and 10 that is WGAN-GP (https://arxiv.org/abs/1704.00028).
        generator_every: Updates of the discriminator for one of the generator; 5 in that paper.
        options: Those of `GanTrainer`.
    """

    def __init__(
        self, *args: Any, penalty_weight: float = 0.0, generator_every: int = 1, **options: Any
    ) -> None:
        if not penalty_weight >= 0 or generator_every < 1:
            raise ValueError(
                f"penalty_weight={penalty_weight}, generator_every={generator_every}; expected a "
                "weight of 0 or greater, and a count of 1 or more."
            )
        self.penalty_weight, self.generator_every = penalty_weight, generator_every
        super().__init__(*args, **options)
        check_penalty(self.model, penalty_weight)

    @property
    def is_bounded(self) -> bool:
        return self.penalty_weight > 0 or super().is_bounded

    @property
    def needs_eager_steps(self) -> bool:
        """Whether steps differ by their number."""
        return self.generator_every > 1

    def train_step(self, batch: Any) -> dict[str, Any]:
        model, real = self.model, samples_of(batch)
        trains_generator = (self.progress.step + 1) % self.generator_every == 0
        with torch.set_grad_enabled(trains_generator):
            made = model.generator(self.draw_codes(len(real)))
        self.update(self._loss_against(real, made.detach()), "discriminator")
        if trains_generator:
            self.update(self.generator_loss(model.discriminator(made)), "generator")
            if model.average is not None and self._accumulation.completes_update:
                model.average.update(model.generator)
        return {"batch_size": len(real)}

    def draw_codes(self, num_samples: int) -> Tensor:
        """Return codes of a standard normal distribution, [num_samples, code_size]."""
        size, floats = (num_samples, self.model.code_size), floats_of(self.model)
        return torch.randn(size, device=self.device, dtype=floats)

    def _loss_against(self, real: Tensor, made: Tensor) -> Tensor:
        discriminator = self.model.discriminator
        loss = self.discriminator_loss(discriminator(real), discriminator(made))
        if not self.penalty_weight:
            return loss
        return loss + self.penalty_weight * gradient_penalty(discriminator, real, made)

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        real = samples_of(batch)
        made = self.model(self.draw_codes(len(real)))
        logits = self.model.discriminator(real), self.model.discriminator(made)
        loss = self.discriminator_loss(*logits)
        return {"loss": loss, "model_outputs": made, "batch_size": len(real)}


class DcganInferrer(Inferrer):
    """Makes images with a trained generator; of averaged weights where the model keeps them."""

    def decode(self, codes: Tensor) -> Tensor:
        """Return images of codes [N, code_size]: values from 0 to 1."""
        images: Tensor = self.forward(codes)
        return images

    def generate(self, num_samples: int, seed: int | None = None) -> Tensor:
        """Return images of codes drawn from a standard normal.

        Args:
            num_samples: How many.
            seed: Decides the codes; without it they come from torch's global generator.
        """
        return self.decode(self.draw_codes(num_samples, seed))

    def interpolate(self, first: Tensor, last: Tensor, steps: int = 8) -> Tensor:
        """Return images [steps, ...] of codes in a line from one to another.

        Args:
            first: One code [code_size].
            last: Another.
            steps: How many, both ends included.
        """
        shares = torch.linspace(0, 1, steps, device=first.device)[:, None]
        return self.decode(first + (last - first) * shares)

    def draw_codes(self, num_samples: int, seed: int | None = None) -> Tensor:
        """Return codes of a standard normal distribution, [num_samples, code_size]."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        model: Any = self.get_model()
        size = num_samples, model.code_size
        return torch.randn(size, generator=generator, dtype=floats_of(model))


DcganTrainer.inferrer_class = DcganInferrer


def samples_of(batch: Any) -> Tensor:
    """Return the samples of a batch, which may have targets beside them."""
    samples: Tensor = batch[0] if isinstance(batch, (list, tuple)) else batch
    return samples


def check_penalty(model: nn.Module, penalty_weight: float) -> None:
    """Refuse to penalize gradients where a norm mixes the samples of a batch.

    Raises:
        ValueError: The discriminator has such a norm.
    """
    discriminator: Any = model.discriminator
    norms = [m for m in discriminator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if penalty_weight and norms:
        raise ValueError(
            "penalty_weight is for discriminators whose samples do not mix (arXiv 1704.00028), and "
            f"this one has a {type(norms[0]).__name__}. Make it with norm='instance' or 'none'."
        )


def _has_spectral_norm(layer: nn.Module) -> bool:
    """Whether the weight of a layer is normalized, by a parametrization or by the older hook."""
    parametrizations = getattr(getattr(layer, "parametrizations", None), "weight", ())
    return any(isinstance(each, _SpectralNorm) for each in parametrizations) or any(
        isinstance(hook, SpectralNorm) and hook.name == "weight"
        for hook in layer._forward_pre_hooks.values()
    )


def _check_label_smoothing(share: float, gan_loss: str) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"label_smoothing is {share}; expected a share from 0 to below 1.")
    if share and gan_loss == "wasserstein":
        raise ValueError("label_smoothing has no meaning for gan_loss='wasserstein'. Leave it out.")


def _check_optimizers(model: Any, optimizer: Any) -> None:
    if not isinstance(model, OpposedNetworks):
        raise TypeError(
            f"The model is a {type(model).__name__}; expected one with parameters_by_optimizer, "
            "such as loopwright.models.dcgan makes."
        )
    names = list(model.parameters_by_optimizer())
    given = sorted(optimizer) if isinstance(optimizer, Mapping) else type(optimizer).__name__
    if given != sorted(names):
        raise ValueError(
            f"The optimizer is {given}; expected a dict with one for each of {', '.join(names)}: "
            "{name: Adam(parameters) for name, parameters in "
            "model.parameters_by_optimizer().items()}."
        )
