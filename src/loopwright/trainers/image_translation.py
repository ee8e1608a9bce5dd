"""Trainers that learn to make an image of another image, and using what they trained."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwright.default_callbacks import DEFAULT_CALLBACKS
from loopwright.events import TrainerCallback
from loopwright.trainers.gan_losses import GanLoss
from loopwright.trainers.gans import GanTrainer
from loopwright.trainers.image_pool import ImagePool, PoolsCallback
from loopwright.trainers.inferrer import Inferrer, floats_of


class Pix2PixTrainer(GanTrainer):
    """Trains a generator on pairs of images: a batch is (sources, targets).

    Isola et al. 2017 (https://arxiv.org/abs/1611.07004). The generator's loss is `gan_loss` and
    the weighed distance to the target; the discriminator's is halved. An evaluation gives the
    distance alone.

    Args:
        args: Those of `GanTrainer`; the optimizers are `generator` and `discriminator`. A
            `loss_func` takes the place of the L1 distance and is called with (made, targets).
        distance_weight: Of the distance, beside `gan_loss`.
        options: Those of `GanTrainer`.
    """

    takes_a_loss = True

    def __init__(
        self, model: Any, loss_func: Any, *args: Any, distance_weight: float = 100.0, **options: Any
    ) -> None:
        _check_weights(distance_weight=distance_weight)
        self.distance_weight = distance_weight
        loss_func = functional.l1_loss if loss_func is None else loss_func
        super().__init__(model, loss_func, *args, **options)

    def train_step(self, batch: Any) -> dict[str, Any]:
        output = self.calculate_eval_batch_loss(batch)
        (sources, targets), made = _pair_of(batch), output["model_outputs"]
        real = self._judge(sources, targets)
        loss = self.discriminator_loss(real, self._judge(sources, made.detach()))
        self.update(0.5 * loss, "discriminator")
        loss = self.generator_loss(self._judge(sources, made))
        self.update(loss + self.distance_weight * output["loss"], "generator")
        return output

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        sources, targets = _pair_of(batch)
        made = self.model(sources)
        loss = self.loss_func(made, targets)  # type: ignore[misc]
        return {"loss": loss, "model_outputs": made, "batch_size": len(sources)}

    def _judge(self, sources: Tensor, images: Tensor) -> Tensor:
        logits: Tensor = self.model.discriminator(torch.cat([sources, images], dim=1))
        return logits


class CycleGanTrainer(GanTrainer):
    """Trains generators both ways between two kinds of images, without pairs.

    Zhu et al. 2017 (https://arxiv.org/abs/1703.10593). A batch is (images of kind a, of kind b),
    as many of both; which stand beside each other does not matter. The loss of the generators is
    `gan_loss` of what they make, the weighed L1 distance of images that went both ways, and that of
    images which were of the wanted kind already. The discriminators' are halved, and see earlier
    images among the newest. An evaluation gives the distance after both ways.

    Args:
        model: As `loopwright.models.cyclegan` makes it.
        loss_func: Takes the place of the L1 distance; called with (made, images).
        optimizer: A dict with `generators` and `discriminators`.
        callbacks: As in `Trainer`.
        args: The other arguments of `Trainer`.
        cycle_weight: Of the distance after both ways.
        identity_weight: Of that of images of the wanted kind, as a part of `cycle_weight`; 0
            leaves it out.
        pool_size: Images of each kind that the discriminators may see again.
        gan_loss: As in `GanTrainer`.
        options: Those of `GanTrainer`.
    """

    takes_a_loss = True

    def __init__(
        self,
        model: Any,
        loss_func: Any,
        optimizer: Any,
        callbacks: Iterable[TrainerCallback | type[TrainerCallback]] = DEFAULT_CALLBACKS,
        *args: Any,
        cycle_weight: float = 10.0,
        identity_weight: float = 0.5,
        pool_size: int = 50,
        gan_loss: GanLoss = "least_squares",
        **options: Any,
    ) -> None:
        _check_weights(cycle_weight=cycle_weight, identity_weight=identity_weight)
        self.cycle_weight, self.identity_weight = cycle_weight, identity_weight
        shape = getattr(model, "input_shape", None)
        if shape is None and pool_size:
            raise ValueError(
                f"The {type(model).__name__} has no input_shape, which the pools of earlier images "
                "need. Set model.input_shape = (channels, height, width), or give pool_size=0."
            )
        self.pools = nn.ModuleDict({kind: ImagePool(pool_size, shape or ()) for kind in "ab"})
        loss_func = functional.l1_loss if loss_func is None else loss_func
        callbacks = [*callbacks, PoolsCallback(self.pools)]
        super().__init__(
            model, loss_func, optimizer, callbacks, *args, gan_loss=gan_loss, **options
        )
        self.pools.to(floats_of(self.model))

    def train_step(self, batch: Any) -> dict[str, Any]:
        model, (a, b) = self.model, _pair_of(batch)
        made_b, made_a = model.a_to_b(a), model.b_to_a(b)
        played = self.generator_loss(model.discriminator_b(made_b))
        played = played + self.generator_loss(model.discriminator_a(made_a))
        cycle = self._distance(model.b_to_a(made_b), a) + self._distance(model.a_to_b(made_a), b)
        loss = played + self.cycle_weight * cycle
        if self.identity_weight:
            same = self._distance(model.b_to_a(a), a) + self._distance(model.a_to_b(b), b)
            loss = loss + self.cycle_weight * self.identity_weight * same
        self.update(loss, "generators")
        loss = self._loss_of(model.discriminator_a, a, self._earlier("a", made_a))
        loss = loss + self._loss_of(model.discriminator_b, b, self._earlier("b", made_b))
        self.update(0.5 * loss, "discriminators")
        return {"loss": cycle, "model_outputs": made_b, "batch_size": len(a)}

    def calculate_eval_batch_loss(self, batch: Any) -> dict[str, Any]:
        model, (a, b) = self.model, _pair_of(batch)
        made_b = model.a_to_b(a)
        back = model.b_to_a(made_b), model.a_to_b(model.b_to_a(b))
        loss = self._distance(back[0], a) + self._distance(back[1], b)
        return {"loss": loss, "model_outputs": made_b, "batch_size": len(a)}

    def _loss_of(self, discriminator: nn.Module, real: Tensor, made: Tensor) -> Tensor:
        return self.discriminator_loss(discriminator(real), discriminator(made))

    def _distance(self, made: Tensor, images: Tensor) -> Tensor:
        distance: Tensor = self.loss_func(made, images)  # type: ignore[misc]
        return distance

    def _earlier(self, kind: str, made: Tensor) -> Tensor:
        pool: Any = self.pools[kind]
        images: Tensor = pool.exchange(made)
        return images


def _pair_of(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the two images [N, channels, height, width] of each sample in a batch."""
    parts = batch if isinstance(batch, (list, tuple)) else (batch,)
    if len(parts) != 2 or not all(isinstance(each, Tensor) and each.ndim == 4 for each in parts):
        held = [list(each.shape) if isinstance(each, Tensor) else type(each) for each in parts]
        raise ValueError(
            f"A batch holds {', '.join(map(str, held))}; expected two tensors of images "
            "[N, channels, height, width]. Give a data set whose samples are pairs of images."
        )
    return parts[0], parts[1]


def _check_weights(**weights: float) -> None:
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} is {weight}; expected 0 or greater.")


class Pix2PixInferrer(Inferrer):
    """Makes images of images with a trained generator."""

    def translate(self, sources: Tensor) -> Tensor:
        """Return what is made of sources [N, ...]: values from 0 to 1."""
        made: Tensor = self.forward(sources)
        return made


class CycleGanInferrer(Inferrer):
    """Makes images of either kind of those of the other."""

    def translate(
        self, images: Tensor, direction: Literal["a_to_b", "b_to_a"] = "a_to_b"
    ) -> Tensor:
        """Return what is made of images [N, ...] in a direction: values from 0 to 1.

        Raises:
            ValueError: There is no such direction.
        """
        if direction not in ("a_to_b", "b_to_a"):
            raise ValueError(f"direction is {direction!r}; expected 'a_to_b' or 'b_to_a'.")
        made: Tensor = self.call(getattr(self.get_model(), direction), images)
        return made

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return images of the first kind that went both ways."""
        return self.translate(self.translate(images), "b_to_a")


Pix2PixTrainer.inferrer_class = Pix2PixInferrer
CycleGanTrainer.inferrer_class = CycleGanInferrer
