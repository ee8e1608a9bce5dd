"""Images made earlier, which a discriminator sees among the newest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from loopwright.events import TrainerCallback

if TYPE_CHECKING:
    from loopwright.trainer import Trainer


class ImagePool(nn.Module):
    """Keeps images, and gives an earlier one in the place of half of those that come in.

    Shrivastava et al. 2017 (https://arxiv.org/abs/1612.07828), section 2.3, as CycleGAN uses it:
    until the pool is full every image is kept and given back; from then on a coin decides whether
    an image changes places with a random one of the pool. An image that is not finite, as a step
    that is undone may make, is given back and not kept. The draws come from torch's global
    generator, and nothing reads the device.

    Args:
        size: How many images are kept; 0 gives back what comes in.
        shape: Of an image.
    """

    images: Tensor
    count: Tensor

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__()
        if size < 0:
            raise ValueError(f"size is {size}; expected 0 or more images.")
        self.size = size
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def exchange(self, images: Tensor) -> Tensor:
        """Return images [N, ...] without gradients, some of them earlier ones."""
        if not self.size:
            return images.detach()
        chances = torch.rand(2, len(images), device=images.device)
        draws = zip(images.to(self.images.dtype), *chances, strict=True)
        return torch.stack([self._one(*each) for each in draws])

    def _one(self, image: Tensor, coin: Tensor, place: Tensor) -> Tensor:
        is_full = self.count == self.size
        is_finite = image.isfinite().all()
        swaps = is_full & is_finite & (coin < 0.5)
        index = torch.where(is_full, (place * self.size).long(), self.count)[None]
        kept = self.images.index_select(0, index)[0]
        takes = is_finite & (swaps | ~is_full)
        self.images.index_copy_(0, index, torch.where(takes, image, kept)[None])
        self.count.add_((takes & ~is_full).long())
        return torch.where(swaps, kept, image)


class PoolsCallback(TrainerCallback):
    """Keeps the pools of a trainer in its checkpoints, and on its device.

    Args:
        pools: The pools.
    """

    def __init__(self, pools: nn.Module) -> None:
        self.pools = pools

    def on_training_run_start(self, trainer: Trainer, **kwargs: Any) -> None:
        self.pools.to(trainer.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the images for checkpoints."""
        return dict(self.pools.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the images that `state_dict` returned."""
        self.pools.load_state_dict(state)
