"""What `self.log` sums up, at less cost: a value that comes again is added and no more."""

from typing import Any

import torch
from torch import Tensor

from loopwright.adapters.lightning.upstream import ResultCollectionBase, ResultMetric


class Results(ResultCollectionBase):
    """Sums up what is logged; of each name the first call is checked, and those that differ."""

    def __init__(self, training: bool) -> None:
        super().__init__(training)
        self._options: dict[str, dict[str, Any]] = {}

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # as Lightning's
    def log(
        self, fx: str, name: str, value: Any, *, batch_size: int | None = None, **options: Any
    ) -> None:
        """Take in a value, as `LightningModule.log` hands it over."""
        key = f"{fx}.{name}"
        if options.get("add_dataloader_idx", True) and self.dataloader_idx is not None:
            key += f".{self.dataloader_idx}"
        metric = self.get(key)
        is_known = metric is not None and self._options.get(key) == options
        if not is_known or not isinstance(value, Tensor) or options.get("enable_graph"):
            super().log(fx, name, value, batch_size=batch_size, **options)
            self._options[key] = options
            return
        assert metric is not None
        if metric.value.device != value.device:
            metric.to(value.device)
        metric._computed = None
        metric._update_count += 1
        ResultMetric.update(
            metric, value, self._extract_batch_size(metric, batch_size, metric.meta)
        )
        metric.has_reset = False
