"""Heat maps of attention, one file per sentence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loopwright.results.arrays import to_array
from loopwright.results.metric import AbstractBaseMetric
from loopwright.results.plots import plot_attention, save_figure


class AttentionHeatMap(AbstractBaseMetric):
    """Draws attention matrices; its value is the list of files `attn_plot_N.png`.

    Args:
        attention_matrices: One array [target, source] per sentence; rows past the target's last
            token are left out.
        source_sentences: The tokens of each source.
        target_sentences: The tokens of each translation.
        plot_save_dir: Where the folder `attention_heatmaps` is made.
    """

    def __init__(
        self,
        attention_matrices: Sequence[Any],
        source_sentences: Sequence[Sequence[str]],
        target_sentences: Sequence[Sequence[str]],
        plot_save_dir: str | Path,
    ) -> None:
        lengths = len(attention_matrices), len(source_sentences), len(target_sentences)
        if len(set(lengths)) != 1:
            raise ValueError(
                f"There are {lengths[0]} matrices, {lengths[1]} sources and {lengths[2]} "
                "translations; give as many of each."
            )
        self.attention_matrices = attention_matrices
        self.source_sentences = source_sentences
        self.target_sentences = target_sentences
        self.plot_save_dir = Path(plot_save_dir).expanduser()
        super().__init__(None, None, metric_name="Attention_HeatMap", np_array=False)

    def calculate_metric(self) -> list[str]:
        folder = self.plot_save_dir / "attention_heatmaps"
        folder.mkdir(parents=True, exist_ok=True)
        sentences = zip(
            self.attention_matrices, self.source_sentences, self.target_sentences, strict=True
        )
        files = []
        for index, (matrix, source, target) in enumerate(sentences):
            weights = np.asarray(to_array(matrix))[: len(target), : len(source)]
            path = folder / f"attn_plot_{index}.png"
            files.append(str(save_figure(plot_attention(weights, source, target), path)))
        return files
