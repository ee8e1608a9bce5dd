"""Answers for a trained experiment over HTTP, the requests of many clients put together."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from loopwright.artifact import Artifact
from loopwright.datasets import Array, Samples
from loopwright.extras import require
from loopwright.fitted import Fitted
from loopwright.inputs import BadInputError, from_csv, from_images, from_json
from loopwright.preprocessors.pipeline import joined

require("fastapi", "serve")  # says how to install it, before the import below fails without a hint

from fastapi import Depends, FastAPI, HTTPException, Request, Response  # noqa: E402
from fastapi.responses import JSONResponse, PlainTextResponse  # noqa: E402
from starlette.exceptions import HTTPException as ParsingError  # noqa: E402

__all__ = ["Batcher", "make_server"]

Columns = dict[str, list[Any]]
_Request = tuple[Samples, asyncio.Future[Columns]]

_LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Batcher:
    """Runs a model for many clients at once.

    While the model works, requests wait; when it is done, all that wait go through it together, up
    to `max_batch_size` samples. Nobody waits for company: a lone request goes at once.

    Args:
        predict: takes raw samples, gives columns with one item per sample.
        max_batch_size: samples that go through the model at once.
    """

    def __init__(self, predict: Callable[[Samples], Columns], max_batch_size: int = 256) -> None:
        self._predict = predict
        self._max_batch_size = max_batch_size
        self._waiting: list[_Request] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loopwright-model")
        self._worker: asyncio.Task[None] | None = None
        self.num_batches = 0

    async def run(self, samples: Samples) -> Columns:
        """Return the columns for raw samples."""
        future: asyncio.Future[Columns] = asyncio.get_running_loop().create_future()
        self._waiting.append((samples, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            await self._answer(self._take())

    async def _answer(self, batch: list[_Request]) -> None:
        self.num_batches += 1
        loop = asyncio.get_running_loop()
        try:
            inputs = joined([samples for samples, _ in batch])
            columns = await loop.run_in_executor(self._thread, self._predict, inputs)
        except Exception as error:  # told to the client, and the server goes on
            if len(batch) > 1:  # one of them may be at fault, and not the others
                for request in batch:
                    await self._answer([request])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        end = 0
        for samples, future in batch:
            start, end = end, end + len(samples)
            if not future.done():  # the client may have left
                future.set_result({name: each[start:end] for name, each in columns.items()})

    def _take(self) -> list[_Request]:
        """Take what goes through the model next: at least one request, even a large one."""
        count, end = len(self._waiting[0][0]), 1
        while end < len(self._waiting):
            count += len(self._waiting[end][0])
            if count > self._max_batch_size:
                break
            end += 1
        batch, self._waiting = self._waiting[:end], self._waiting[end:]
        return batch

    def close(self) -> None:
        """Let the model's thread end."""
        self._thread.shutdown(wait=True, cancel_futures=True)


class Counts:
    """Counts requests, in the text form that Prometheus reads."""

    def __init__(self) -> None:
        self.requests: dict[int, int] = {}
        self.samples = 0
        self._buckets = [0] * (len(_LATENCY_BOUNDS) + 1)
        self._seconds = 0.0

    def add(self, status: int, seconds: float) -> None:
        """Count an answer."""
        self.requests[status] = self.requests.get(status, 0) + 1
        self._buckets[int(np.searchsorted(_LATENCY_BOUNDS, seconds))] += 1
        self._seconds += seconds

    def text(self, num_batches: int) -> str:
        """Return all counts."""
        name = "loopwright_predict"
        lines = [f"# TYPE {name}_requests_total counter"]
        for status, count in sorted(self.requests.items()):
            lines.append(f'{name}_requests_total{{status="{status}"}} {count}')
        for what, value in (("samples", self.samples), ("batches", num_batches)):
            lines += [f"# TYPE {name}_{what}_total counter", f"{name}_{what}_total {value}"]
        lines.append(f"# TYPE {name}_seconds histogram")
        total = 0
        for bound, count in zip((*_LATENCY_BOUNDS, "+Inf"), self._buckets, strict=True):
            total += count
            lines.append(f'{name}_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"{name}_seconds_sum {self._seconds:.6f}", f"{name}_seconds_count {total}"]
        return "\n".join(lines) + "\n"


def make_server(
    artifact: Artifact,
    *,
    token: str | None = None,
    max_bytes: int = 16 * 2**20,
    max_batch_size: int = 256,
) -> FastAPI:
    """Return the application: `POST /predict`, `/info`, `/health`, `/metrics` and its description.

    Args:
        artifact: what was loaded.
        token: clients have to send it as `Authorization: Bearer TOKEN`, but for `/health`.
        max_bytes: of a request; larger ones are answered with 413.
        max_batch_size: samples that go through the model at once.
    """
    fitted, about = artifact.fitted, artifact.about
    fitted.model.eval()
    batcher, counts = Batcher(partial(_predicted, fitted), max_batch_size), Counts()
    info = _info(artifact)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()

    # Not async, it would run in a thread: longer than all else that is done for a request.
    async def check_token(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            detail = "Send the token: Authorization: Bearer TOKEN."
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})

    app = FastAPI(
        title=info["title"], version=str(about["versions"]["loopwright"]), lifespan=lifespan
    )
    guarded = [Depends(check_token)]

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        """Show no traceback to a client; the server's log has it."""
        return JSONResponse({"detail": "The server failed; its log says why."}, 500)

    @app.post(
        "/predict",
        openapi_extra=_request_body(fitted),
        responses=_RESPONSES,
        dependencies=guarded,
    )
    async def predict(request: Request) -> Response:
        """Predict for raw samples: JSON, CSV, or images as files of a form."""
        began, status = time.perf_counter(), 500
        try:
            samples = await _samples_in(request, fitted, max_bytes)
            if len(samples):
                columns = await batcher.run(samples)
            else:
                columns = _columns(fitted, fitted.empty_outputs())
            if False in columns["finite"]:
                row = columns["finite"].index(False)
                raise BadInputError(f"The model gives no finite number for sample {row}.")
            counts.samples += len(samples)
            del columns["finite"]
            answer = JSONResponse(columns)
            status = 200
            return answer
        except BadInputError as error:
            status = 422
            raise HTTPException(422, str(error)) from None
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            counts.add(status, time.perf_counter() - began)

    @app.get("/info", dependencies=guarded)
    async def show_info() -> dict[str, Any]:
        """Tell what goes in, what comes out, and what the model reached."""
        return info

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Tell that the server answers."""
        return {"status": "ok"}

    @app.get("/metrics", dependencies=guarded)
    async def metrics() -> Response:
        """Return counts and latencies in the text form of Prometheus."""
        return PlainTextResponse(counts.text(batcher.num_batches))

    return app


_RESPONSES: dict[int | str, dict[str, Any]] = {
    413: {"description": "The request is too large."},
    422: {"description": "The input is wrong; `detail` says how."},
}


async def _samples_in(request: Request, fitted: Fitted, max_bytes: int) -> Samples:
    """Return the raw samples of a request.

    Raises:
        BadInputError: they cannot be read, or have another shape.
        HTTPException: 413, the request is too large.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    body = await _body(request, max_bytes)
    try:
        if kind == "application/json":
            inputs = from_json(body)
        elif kind == "text/csv":
            inputs = from_csv(body.decode(), fitted.features)
        elif kind == "multipart/form-data":
            inputs = await _from_form(request, fitted.features)
        else:
            raise BadInputError(
                f"The content type is {kind!r:.80}; expected application/json, text/csv or "
                "multipart/form-data."
            )
        return fitted.as_samples(inputs)
    except UnicodeDecodeError as error:
        raise BadInputError(f"The body is no text in UTF-8: {error}.") from None
    except BadInputError:
        raise
    except ValueError as error:
        raise BadInputError(str(error)) from None


async def _body(request: Request, max_bytes: int) -> bytes:
    """Return the body, of which no more than is allowed is ever held."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise HTTPException(413, f"A request may have {max_bytes} bytes at most.")
        parts.append(part)
    request._body = body = b"".join(parts)  # where `form` looks for it
    return body


async def _from_form(request: Request, features: Array) -> np.ndarray | list[np.ndarray]:
    try:
        async with request.form(max_files=1000, max_fields=0) as form:
            parts = [each for _, each in form.multi_items() if not isinstance(each, str)]
            files = [await part.read() for part in parts]
    except ParsingError as error:
        raise BadInputError(f"The form cannot be read: {error.detail}.") from None
    if not files:
        raise BadInputError("The form holds no file. Send each image as a file.")
    return from_images(files, features)


def _predicted(fitted: Fitted, samples: Samples) -> Columns:
    return _columns(fitted, fitted.forward(samples))


def _columns(fitted: Fitted, outputs: Tensor) -> Columns:
    """Return what the answer to a request holds, and which samples have finite outputs."""
    finite = outputs.isfinite().flatten(1).all(1) if outputs.ndim > 1 else outputs.isfinite()
    predictions = fitted.as_predictions(outputs)
    columns: Columns = {"finite": finite.tolist(), "predictions": predictions.tolist()}
    if names := fitted.class_names:
        columns["labels"] = [names[index] for index in predictions]
    if fitted.is_probabilistic:
        columns["probabilities"] = fitted.as_probabilities(outputs).tolist()
    return columns


def _info(artifact: Artifact) -> dict[str, Any]:
    fitted, spec = artifact.fitted, artifact.spec
    return {
        "title": f"{spec['model']['model']['type']} on {spec['dataset']['dataset']['type']}",
        "input": {
            "shape": list(fitted.features.shape),
            "dtype": str(fitted.features.dtype).removeprefix("torch."),
        },
        "output": _output_info(fitted),
        "metrics": dict(fitted.metrics),
        "created": artifact.about["created"],
        "versions": artifact.about["versions"],
        "licence": artifact.about["licence"],
    }


def _output_info(fitted: Fitted) -> dict[str, Any]:
    if inference := fitted.inference:
        return {"description": inference.description}
    if names := fitted.class_names:
        return {"labels": list(names)}
    return {"shape": list(fitted.labels.shape)}


def _request_body(fitted: Fitted) -> dict[str, Any]:
    """Return the description of what `/predict` takes, made from the shape of a sample."""
    features, inference = fitted.features, fitted.inference
    takes_texts = inference.takes_texts if inference else features.dtype is str
    sample: dict[str, Any] = {"type": "string" if takes_texts else "number"}
    for size in reversed(() if takes_texts else features.shape):
        bounds = {} if size is None else {"minItems": size, "maxItems": size}
        sample = {"type": "array", "items": sample, **bounds}
    if any(features.categories):
        columns = zip(features.names, features.categories, strict=True)
        known = {
            name: {"enum": list(values)} if values else sample["items"] for name, values in columns
        }
        sample = {"type": "object", "properties": known, "additionalProperties": False}
    inputs = {"type": "array", "items": sample}
    content: dict[str, Any] = {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "additionalProperties": False,
                "properties": {"inputs": inputs},
            }
        },
        "text/csv": {"schema": {"type": "string"}},
    }
    if len(features.shape) == 3:
        file = {"type": "string", "format": "binary"}
        content["multipart/form-data"] = {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "array", "items": file}},
            }
        }
    return {"requestBody": {"required": True, "content": content}}
