"""Trainers of adversarial autoencoders, and using what they trained.

Makhzani et al. 2016, https://arxiv.org/abs/1511.05644.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from loopwright.trainers.autoencoders import AutoencoderInferrer, reconstruction_loss
from loopwright.trainers.gans import GanTrainer, samples_of
from loopwright.trainers.inferrer import floats_of


class AdversarialAutoencoderTrainer(GanTrainer):
    """Trains an autoencoder whose codes follow a standard normal distribution.

    A step reconstructs the samples, teaches the discriminator to tell their codes from drawn ones,
    and then the encoder to give such codes that it cannot. Targets in a batch are ignored. An
    evaluation gives the loss of the reconstructions.

    Args:
        args: Those of `GanTrainer`; the optimizers are `reconstruction` (encoder and decoder),
            `discriminator` and `regularization` (encoder). A `loss_func` takes the place of
            `reconstruction_loss` and is called with (model outputs, samples).
        options: Those of `GanTrainer`.
    """

    inferrer_class = AutoencoderInferrer
    takes_a_loss = True

    def __init__(self, model: Any, loss_func: Any, *args: Any, **options: Any) -> None:
        loss_func = reconstruction_loss if loss_func is None else loss_func
        super().__init__(model, loss_func, *args, **options)

    def train_step(self, batch: Any) -> dict[str, Any]:
        model, output = self.model, self.calculate_eval_batch_loss(batch)
        samples = samples_of(batch)
        self.update(output["loss"], "reconstruction")
        codes = model.encode(samples)
        drawn = model.discriminator(torch.randn_like(codes))
        loss = self.discriminator_loss(drawn, model.discriminator(codes.detach()))
        self.update(loss, "discriminator")
        self.update(self.generator_loss(model.discriminator(codes)), "regularization")
        return output

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        samples = samples_of(batch)
        outputs = self.model(samples)
        loss = self.loss_func(outputs, samples)  # type: ignore[misc]
        return {"loss": loss, "model_outputs": outputs, "batch_size": len(samples)}


class SemiSupervisedAaeTrainer(AdversarialAutoencoderTrainer):
    """Trains an adversarial autoencoder that keeps the class apart from the style (section 5).

    A batch is (samples, labels), where a label below 0 says that the class is not known. Beside
    the phases of `AdversarialAutoencoderTrainer`, in which the classes of codes are held to drawn
    ones as the styles are, the encoder learns the labels.

    Args:
        args: Those of `AdversarialAutoencoderTrainer`, with a fourth optimizer `classification`
            (encoder).
        options: Those of `GanTrainer`.
    """

    def train_step(self, batch: Any) -> dict[str, Any]:
        output = self.calculate_eval_batch_loss(batch)
        samples, labels = batch
        self.update(output["loss"], "reconstruction")
        logits, styles = self.model.encode_parts(samples)
        codes = logits.softmax(dim=1), styles
        self.update(self._loss_of_both(self._draw(codes), codes), "discriminator")
        judged = self._judge(codes)
        self.update(sum(map(self.generator_loss, judged)), "regularization")  # type: ignore[arg-type]
        logits, _ = self.model.encode_parts(samples)
        known = (labels >= 0).sum()
        self.update(known_label_loss(logits, labels), "classification", num_items=known)
        return output

    def _draw(self, codes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return as many classes and styles, drawn from their distributions."""
        classes, styles = codes
        labels = torch.randint(classes.shape[1], (len(classes),), device=classes.device)
        return self.model.draw_classes(labels), torch.randn_like(styles)

    def _judge(self, codes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        classes, styles = codes
        return self.model.class_discriminator(classes), self.model.style_discriminator(styles)

    def _loss_of_both(self, drawn: tuple[Tensor, Tensor], codes: tuple[Tensor, Tensor]) -> Tensor:
        (classes, styles), detached = self._judge(drawn), (codes[0].detach(), codes[1].detach())
        made_classes, made_styles = self._judge(detached)
        loss = self.discriminator_loss(classes, made_classes)
        return loss + self.discriminator_loss(styles, made_styles)


def known_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy as a mean over the samples whose class is known; 0 without any.

    Args:
        logits: [N, classes].
        labels: [N], below 0 where the class is not known.
    """
    known = labels.clamp(min=-1)
    summed = functional.cross_entropy(logits, known, ignore_index=-1, reduction="sum")
    return summed / (labels >= 0).sum().clamp(min=1)


class SemiSupervisedAaeInferrer(AutoencoderInferrer):
    """Uses a trained autoencoder that keeps the class apart from the style."""

    def classify(self, samples: Tensor) -> Tensor:
        """Return the likeliest class of each sample, [N]."""
        logits, _ = self.call(self.get_model().encode_parts, samples)
        classes: Tensor = logits.argmax(dim=1)
        return classes

    def generate(
        self, num_samples: int, seed: int | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """Return samples of drawn codes.

        Args:
            num_samples: How many.
            seed: Decides the codes; without it they come from torch's global generator.
            labels: Their classes [num_samples]; drawn too where they are left out.
        """
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        model: Any = self.get_model()
        if labels is None:
            labels = torch.randint(model.classes, (num_samples,), generator=generator)
        size = model.code_size - model.classes
        styles = torch.randn(num_samples, size, generator=generator, dtype=floats_of(model))
        return self.decode(torch.cat([model.draw_classes(labels.cpu()), styles], dim=1))


SemiSupervisedAaeTrainer.inferrer_class = SemiSupervisedAaeInferrer
