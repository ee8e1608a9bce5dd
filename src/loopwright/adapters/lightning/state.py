"""What a run of a `LightningModule` adds to a checkpoint: counters, callbacks, logged values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from loopwright.adapters.lightning.upstream import Metadata, Metric, ResultMetric, Sync
from loopwright.events import TrainerCallback

if TYPE_CHECKING:
    from loopwright.adapters.lightning.engine import Engine

_KEPT_BY_OUR_CHECKPOINT = ("state_dict", "optimizer_states", "lr_schedulers")
_HYPER_PARAMETERS = ("hparams_name", "hyper_parameters")
_LOGGED = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics")
_POSITION = ("_first_loop_iter", "_current_fx")


class LightningState(TrainerCallback):
    """Puts into a checkpoint what Lightning's format holds, and what is logged inside an epoch.

    Args:
        engine: Whose.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def state_dict(self) -> dict[str, Any]:
        """Return the state as a tree for a checkpoint."""
        owner, engine = self._engine.owner, self._engine
        lightning = owner._checkpoint_connector.dump_checkpoint(weights_only=False)
        for key in list(lightning):
            if key in _KEPT_BY_OUR_CHECKPOINT or key.endswith(_HYPER_PARAMETERS):
                del lightning[key]
        lightning["loops"] = lightning["loops"]["fit_loop"]
        lightning["loops"]["state_dict"].pop("combined_loader", None)
        connector = owner._logger_connector
        return {
            "lightning": lightning,
            "is_inside_epoch": engine.progress.phase == "train",
            "validation_is_due": engine.validation_is_due,
            "should_stop": owner.should_stop,
            "accumulate_grad_batches": owner.accumulate_grad_batches,
            "results": [*_results(owner.fit_loop.epoch_loop._results)],
            "metrics": {name: _metric_state(each) for name, each in _metrics(engine.model)},
            "logged": {name: dict(getattr(connector, name)) for name in _LOGGED},
            "position": {name: getattr(connector, name) for name in _POSITION},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        engine, owner = self._engine, self._engine.owner
        lightning = state["lightning"] | {"state_dict": engine.model.state_dict()}
        connector = owner._checkpoint_connector
        connector._loaded_checkpoint = lightning
        owner.fit_loop.load_state_dict(lightning["loops"])
        owner.fit_loop.restarting = False
        owner.fit_loop.on_iteration_done()
        owner.fit_loop.epoch_loop.on_iteration_done()
        connector.restore_precision_plugin_state()
        connector.restore_datamodule()
        connector.restore_callbacks()
        owner.lightning_module.on_load_checkpoint(lightning)
        connector._loaded_checkpoint = {}
        engine.goes_on_inside_epoch = state["is_inside_epoch"]
        engine.validation_is_due = state["validation_is_due"]
        owner.should_stop = state["should_stop"]
        owner.accumulate_grad_batches = state["accumulate_grad_batches"]
        metrics = dict(_metrics(engine.model))
        for name, values in state["metrics"].items():
            restore_metric(metrics[name], values)
        results = owner.fit_loop.epoch_loop._results
        results.clear()
        for each in state["results"]:
            results[each["key"]] = _result(each, metrics, owner.strategy.reduce)
        for name in _LOGGED:
            setattr(owner._logger_connector, name, dict(state["logged"][name]))
        for name in _POSITION:
            setattr(owner._logger_connector, name, state["position"][name])


def _metrics(module: Any) -> Iterator[tuple[str, Any]]:
    return ((name, each) for name, each in module.named_modules() if isinstance(each, Metric))


def _metric_state(metric: Any) -> dict[str, Any]:
    """Return what a metric has summed up, which its own `state_dict` leaves out by default."""
    names = (*metric._defaults, "_update_count", "_forward_cache", "_computed")
    return {name: getattr(metric, name) for name in names}


def restore_metric(metric: Any, values: Mapping[str, Any]) -> None:
    """Give a metric what it had summed up, on the device that it is on now."""
    vars(metric).update(values)
    metric.to(metric.device)


_META = tuple(field.name for field in fields(Metadata) if field.name not in ("reduce_fx", "_sync"))


def _results(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for key, result in results.items():
        meta = {name: getattr(result.meta, name) for name in _META}
        yield {
            "key": key,
            "meta": meta | {"reduce_fx": result.meta.reduce_fx.__name__},
            "values": _metric_state(result) if result.is_tensor else {},
            "has_reset": result.has_reset,
            "rank_zero_only": result.meta.sync.rank_zero_only,
        }


def _result(state: dict[str, Any], metrics: Mapping[str, Any], reduce: Any) -> Any:
    meta = Metadata(**state["meta"])
    meta.sync = Sync(fn=reduce, rank_zero_only=state["rank_zero_only"])
    result = ResultMetric(meta, is_tensor=bool(state["values"]))
    if not result.is_tensor:
        result.value = metrics[meta.metric_attribute]
    vars(result).update(state["values"], has_reset=state["has_reset"])
    return result
