"""Trainers for autoencoders, their losses as functions, and using what they trained."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwright.trainer import Trainer
from loopwright.trainers.inferrer import Inferrer, floats_of


def reconstruction_loss(logits: Tensor, samples: Tensor) -> Tensor:
    """Return the mean over samples of the cross entropy, in nats, summed over their values.

    Args:
        logits: [N, ...], of the values' probabilities.
        samples: [N, ...], values from 0 to 1.
    """
    summed = functional.binary_cross_entropy_with_logits(logits, samples, reduction="sum")
    return summed / len(samples)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the mean over samples of the divergence from a standard normal, in nats.

    Kingma and Welling 2014 (https://arxiv.org/abs/1312.6114), appendix B.

    Args:
        mean: [N, code_size].
        log_variance: [N, code_size].
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / len(mean)


def negative_elbo(
    outputs: tuple[Tensor, Tensor, Tensor], samples: Tensor, beta: float = 1.0
) -> Tensor:
    """Return the negative evidence lower bound: a mean over samples, in nats.

    Args:
        outputs: Logits [N, ...], and mean and logarithm of the variance of the codes.
        samples: [N, ...], values from 0 to 1.
        beta: The weight of the divergence (beta-VAE, Higgins et al. 2017,
            https://openreview.net/forum?id=Sy2fzU9gl); 1 for the bound itself.
    """
    logits, mean, log_variance = outputs
    return reconstruction_loss(logits, samples) + beta * gaussian_kl(mean, log_variance)


def corrupt(samples: Tensor, noise: float, masked: float) -> Tensor:
    """Return samples with normal noise of a deviation added, and a share of values set to 0.

    Both are drawn from torch's global generator.
    """
    if noise:
        samples = samples + noise * torch.randn_like(samples)
    if masked:
        samples = samples * (torch.rand_like(samples) >= masked)
    return samples


class AutoencoderTrainer(Trainer):
    """Trains a model to reconstruct its samples; targets in a batch are ignored.

    The arguments are those of `Trainer`. Without a `loss_func` it is `reconstruction_loss`; another
    is called with (model outputs, samples).
    """

    def __init__(self, model: Any, loss_func: Any, optimizer: Any, *args: Any, **options: Any):
        loss_func = self.default_loss if loss_func is None else loss_func
        super().__init__(model, loss_func, optimizer, *args, **options)

    def default_loss(self, outputs: Any, samples: Tensor) -> Tensor:
        """Return the loss where none is given."""
        return reconstruction_loss(outputs, samples)

    def calculate_train_batch_loss(self, batch: Any) -> dict[str, Any]:
        samples = batch[0] if isinstance(batch, (list, tuple)) else batch
        outputs = self.model(self.model_inputs(samples))
        loss = self.loss_func(outputs, samples)  # type: ignore[misc]
        return {"loss": loss, "model_outputs": outputs, "batch_size": len(samples)}

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        return self.calculate_train_batch_loss(batch)

    def model_inputs(self, samples: Tensor) -> Tensor:
        """Return what the model gets of the samples."""
        return samples


class DenoisingAutoencoderTrainer(AutoencoderTrainer):
    """Trains a model to reconstruct samples from corrupted ones, in evaluation too.

    Vincent et al. 2010, https://jmlr.org/papers/v11/vincent10a.html.

    Args:
        noise: The deviation of normal noise that is added.
        masked: The share of values that are set to 0.
        args: Those of `Trainer`.
        options: Likewise.
    """

    def __init__(self, *args: Any, noise: float = 0.3, masked: float = 0.0, **options: Any) -> None:
        if noise < 0 or not 0 <= masked < 1 or not (noise or masked):
            raise ValueError(
                f"noise={noise}, masked={masked}; expected a deviation above 0, a share below 1, "
                "or both."
            )
        self.noise, self.masked = noise, masked
        super().__init__(*args, **options)

    def model_inputs(self, samples: Tensor) -> Tensor:
        """Return the corrupted samples."""
        return corrupt(samples, self.noise, self.masked)


class VaeTrainer(AutoencoderTrainer):
    """Trains a variational autoencoder by `negative_elbo`.

    Args:
        beta: The weight of the divergence.
        args: Those of `Trainer`.
        options: Likewise.
    """

    def __init__(self, *args: Any, beta: float = 1.0, **options: Any) -> None:
        if not beta >= 0:
            raise ValueError(f"beta={beta} has to be 0 or greater.")
        self.beta = beta
        super().__init__(*args, **options)

    def default_loss(self, outputs: Any, samples: Tensor) -> Tensor:
        """Return the negative evidence lower bound."""
        return negative_elbo(outputs, samples, self.beta)


class AutoencoderInferrer(Inferrer):
    """Encodes, decodes, reconstructs and interpolates with a trained autoencoder.

    Args:
        model: The autoencoder, with `encode` and `decode`.
        device_id: N for cuda:N, below 0 for the CPU.
        activation: Makes values of what the decoder gives; by default those of logits.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        device_id: int = -1,
        *,
        activation: Callable[[Tensor], Tensor] = torch.sigmoid,
    ) -> None:
        super().__init__(model, device_id)
        self.activation = activation

    def encode(self, samples: Tensor) -> Tensor:
        """Return the codes of samples, [N, code_size]."""
        codes: Tensor = self.call(self.get_model().encode, samples)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Return samples of codes: values from 0 to 1, unless `activation` gives others."""
        return self.activation(self.call(self.get_model().decode, codes))

    def reconstruct(self, samples: Tensor) -> Tensor:
        """Return samples as they come out of their codes."""
        return self.decode(self.encode(samples))

    def interpolate(self, first: Tensor, last: Tensor, steps: int = 8) -> Tensor:
        """Return samples [steps, ...] whose codes lie in a line from one sample's to another's.

        Args:
            first: One sample.
            last: Another.
            steps: How many, both ends included.
        """
        start, end = self.encode(torch.stack([first, last]))
        shares = torch.linspace(0, 1, steps, device=start.device)[:, None]
        return self.decode(start + (end - start) * shares)

    def generate(self, num_samples: int, seed: int | None = None) -> Tensor:
        """Return samples of codes drawn from a standard normal, which those of a VAE follow.

        Args:
            num_samples: How many.
            seed: Decides the codes; without it they come from torch's global generator.
        """
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        model: Any = self.get_model()
        size = num_samples, model.code_size
        return self.decode(torch.randn(size, generator=generator, dtype=floats_of(model)))
