"""All that is used of torch without being promised: each name looked up late, with a way out."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from loopwright.execution.obstacles import NotCapturableError

Program = Callable[..., Sequence[torch.Tensor]]


def find(module: str, name: str) -> Any:
    """Return a name of a module of torch; None where this version has no such name."""
    try:
        return getattr(import_module(module), name, None)
    except ImportError:
        return None


def record_operations(function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> Any:
    """Run a function on tensors, and return the operations that it ran as a graph module.

    Args:
        function: Called with `inputs`; returns a tuple of tensors.
        inputs: The tensors that become the inputs of the graph. They are worked on as they are,
            in place where the function does so; all others that it meets become constants.

    Raises:
        NotCapturableError: The function needs the value of a tensor, or fails.
    """
    make_fx = find("torch.fx.experimental.proxy_tensor", "make_fx")
    if make_fx is None:
        raise NotCapturableError(f"torch {torch.__version__} has no tracer that is known here")
    try:
        with warnings.catch_warnings(), _as_if_compiling(), _in_one_thread():
            warnings.simplefilter("ignore")
            return make_fx(function, tracing_mode="real")(*inputs)
    except NotCapturableError:
        raise
    except Exception as error:
        raise NotCapturableError(_why_not_traced(error)) from error


def _why_not_traced(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    if "get value out of a tracing tensor" in text or "aten._local_scalar_dense" in text:
        return (
            "a graph break: the step reads the value of a tensor (`.item()`, `float(tensor)`, "
            "`if tensor:`)"
        )
    return f"an exception while it was traced: {type(error).__name__}: {text}"


@contextmanager
def _as_if_compiling() -> Iterator[None]:
    """Let optimizers choose the form of their step that reads no value of a tensor."""
    before = getattr(torch.compiler, "_is_compiling_flag", None)
    if before is None:
        yield  # optimizers that ask for the flag fail, which is reported as the reason
        return
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


@contextmanager
def _in_one_thread() -> Iterator[None]:
    """Run backward in the thread that records."""
    with torch.autograd.set_multithreading_enabled(False):
        yield


def num_dispatched(run: Callable[[], Any]) -> int:
    """Call something, and return how many operations it runs; 0 where torch does not tell."""
    mode: Any = find("torch.utils._python_dispatch", "TorchDispatchMode")
    if mode is None:
        run()
        return 0
    called: list[Any] = []

    class Counter(mode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            called.append(function)
            return function(*args, **(kwargs or {}))

    with Counter():
        run()
    return len(called)


def compile_graph(graph: Any, inputs: Sequence[torch.Tensor], folder: Path | None) -> Program:
    """Return a compiled form of a graph that `record_operations` made.

    Args:
        graph: The graph module; its inputs may be changed in place.
        inputs: Tensors like those that it will be called with; not changed.
        folder: Where compiled code is kept from run to run; None for a temporary folder.

    Raises:
        NotCapturableError: It cannot be compiled here.
    """
    try:
        with warnings.catch_warnings(), code_in(folder), _compiling_here(), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                with _trusting_the_compiler():
                    return _compiled(graph, inputs)
            except Exception as error:
                if not _is_of_compiler(error):
                    raise
                return _compiled(graph, inputs)  # with what it knows of the processor
    except Exception as error:
        text = str(error).partition("\n")[0]
        if "compiler" in type(error).__name__.lower() or "compiler" in text.lower():
            raise NotCapturableError(f"no C++ compiler that works: {text}") from error
        raise NotCapturableError(
            f"an exception while it was compiled: {type(error).__name__}: {text}"
        ) from error


def _is_of_compiler(error: BaseException | None) -> bool:
    """Whether C++ did not compile, or what came of it could not be loaded."""
    while error is not None:
        if isinstance(error, OSError) or type(error).__name__ == "CppCompileError":
            return True
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return False


def _compiled(graph: Any, inputs: Sequence[torch.Tensor]) -> Program:
    keeping = find("torch._inductor", "standalone_compile")  # finds what earlier runs compiled
    fresh = find("torch._inductor", "compile")
    program: Any
    if keeping is not None:
        program = keeping(graph, list(inputs), dynamic_shapes="from_example_inputs")
    elif fresh is not None:
        program = fresh(graph, list(inputs))
    else:
        program = torch.compile(graph, fullgraph=True, dynamic=False)
        program(*(each.clone() for each in inputs))  # compiles at the first call
    compiled: Program = program
    return compiled


COMPILE_OPTIONS: Any = {"fallback_random": True}
"""For `torch.compile`: with the random draws of eager."""


@contextmanager
def compiled_model(model: Any) -> Iterator[None]:
    """Let calls of a module run compiled: forward and backward, each shape by itself."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"step_mode='compile' needs a torch.nn.Module, not {type(model).__name__}.")
    own = vars(model)
    before: dict[str, Any] = {
        name: own[name] for name in ("forward", "_compiled_call_impl") if name in own
    }
    if str(getattr(model.forward, "__module__", None)).startswith("torch."):
        own["forward"] = partial(_compiled_forward(model), model)
    else:
        model.compile(dynamic=False, options=COMPILE_OPTIONS)
    try:
        yield
    finally:
        own.pop("forward", None)
        own.pop("_compiled_call_impl", None)
        own.update(before)


_COMPILED: WeakKeyDictionary[torch.nn.Module, Callable[..., Any]] = WeakKeyDictionary()


def _compiled_forward(model: torch.nn.Module) -> Callable[..., Any]:
    """Return the compiled `forward` of a module of torch's own, to be called with the module.

    Torch compiles no call that begins in its own code, and keeps what it compiled with the code
    that was called: so each module has a function of its own around the call.
    """

    def forward(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        return type(module).forward(module, *args, **kwargs)

    if model not in _COMPILED:
        forward.__code__ = forward.__code__.replace()
        _COMPILED[model] = torch.compile(forward, dynamic=False, options=COMPILE_OPTIONS)
    return _COMPILED[model]


@contextmanager
def code_in(folder: Path | None) -> Iterator[None]:
    """Let compiled code be kept in a folder, unless the user chose one for torch."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    default = find("torch._inductor.runtime.cache_dir_utils", "default_cache_dir")
    before = os.environ.get(name)
    if before is not None and (default is None or before != default()):
        yield
        return
    # Torch writes its own default into the environment when it is first asked for.
    chosen = str(folder) if folder is not None else tempfile.mkdtemp(prefix="loopwright-")
    os.environ[name] = chosen
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
        if folder is None:
            shutil.rmtree(chosen, ignore_errors=True)


@contextmanager
def _compiling_here() -> Iterator[None]:
    """Compile in this process: starting others takes longer than a program of a step."""
    config = find("torch._inductor", "config")
    patch = getattr(config, "patch", None)
    if patch is None or not hasattr(config, "compile_threads"):
        yield
        return
    with patch(compile_threads=1):
        yield


@contextmanager
def _trusting_the_compiler() -> Iterator[None]:
    """Take it that the C++ compiler knows the vector instructions of the processor.

    Torch tries each kind out in seconds of compiling; a compiler that does not know them fails.
    """
    patch = getattr(find("torch._inductor", "config"), "patch", None)
    known = find("torch._inductor.cpu_vec_isa", "valid_vec_isa_list")
    forget = getattr(known, "cache_clear", None)
    if patch is None or forget is None:
        yield
        return
    forget()
    try:
        with patch({"cpp.vec_isa_ok": True}):
            yield
    finally:
        forget()
