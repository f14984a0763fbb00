"""A device that is not there: its tensors compute on the CPU, and it reports what a GPU would refuse, or wait for.

The label of the device is ``meta``, which PyTorch accepts without a driver. Unlike its own meta tensors these have values, so
whole runs can be compared with those of the CPU, bit by bit.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["DEVICE", "SimulatedDevice", "WrongDeviceError", "on_cpu", "simulated_device"]

DEVICE = torch.device("meta")
aten = torch.ops.aten
CPUGenerator, forward_pass, current_stream = torch.Generator, torch.func.jvp, torch.cuda.current_stream

# What makes a CPU wait until a GPU has come to this operation, beyond reading a number.
WAITS = {
    aten._local_scalar_dense.default,
    aten._linalg_check_errors.default,
    aten._linalg_eigh.default,
    aten._linalg_svd.default,
    aten.equal.default,
    aten.linalg_eig.default,
    aten.linalg_lstsq.default,
    aten.masked_select.default,
    aten.multinomial.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten.unique_dim.default,
    aten._unique2.default,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# These may take a CPU tensor by its value.
COPIES = {aten.copy_.default, aten._to_copy.default, aten.copy.default}

PHYSICAL = {aten._conj.default: aten.conj_physical.default, aten._neg_view.default: aten.neg.default}  # Nothing is put off.


class WrongDeviceError(AssertionError):
    """Tensors of two devices met."""


class DeviceTensor(Tensor):
    """A tensor that says it is on the device, and has its values on the CPU."""

    stored: Tensor
    is_cuda = True

    @staticmethod
    def __new__(cls, values: Tensor) -> DeviceTensor:
        places: dict[str, Any] = {"dtype": values.dtype, "device": DEVICE, "requires_grad": values.requires_grad}
        if values.layout == torch.strided:  # Sparse ones are told apart by their values alone.
            places |= {"strides": values.stride(), "storage_offset": values.storage_offset()}
        made: DeviceTensor = Tensor._make_wrapper_subclass(cls, values.size(), **places)
        made.stored = values
        return made

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.stored!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {}, None)


class DeviceGenerator(torch.Generator):
    """Any generator made while the device is there. Those of the device draw the numbers of the CPU."""

    place = torch.device("cpu")

    def __new__(cls, device: torch.device | str = "cpu") -> DeviceGenerator:
        made = super().__new__(cls, "cpu")  # pyright: ignore[reportCallIssue]
        made.place = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.place


class Generators(TorchFunctionMode):
    """Holds that numbers are drawn where their generator is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if isinstance(generator, DeviceGenerator):
            like = next((value.device for value in args if isinstance(value, Tensor)), "cpu")
            device = torch.device(kwargs.get("device") or like)
            if device.type != generator.device.type:
                raise WrongDeviceError(f"{func}: a generator on {generator.device} for numbers on {device}")
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):  # Of numbers, PyTorch would make tensors without values.
            given = args[0].device if func is Tensor.new_tensor else getattr(args[0], "device", "cpu")
            device = torch.device(kwargs.get("device") or given)
            if func is Tensor.new_tensor:
                args, kwargs = args[1:], {"dtype": args[0].dtype, **kwargs}
            made = torch.as_tensor(*args, **{name: value for name, value in kwargs.items() if name != "device"})
            return made.to(device)
        if func in (Tensor.__getitem__, Tensor.__setitem__):  # Lists are indices on the CPU, likewise.
            where = args[1] if isinstance(args[1], tuple) else (args[1],)
            where = tuple(torch.as_tensor(index) if isinstance(index, list) else index for index in where)
            args = (args[0], where, *args[2:])
        if func is Tensor.tolist and isinstance(args[0], DeviceTensor):
            return args[0].cpu().tolist()
        return func(*args, **kwargs)


class SimulatedDevice(TorchDispatchMode):
    """While it is entered, tensors can be made on, and moved to, ``DEVICE``.

    Attributes:
        reads: How often the CPU waited for a number of the device, by the line that did.
        uploads: How often tensors other than single numbers were copied to the device, likewise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {}, self)


@contextmanager
def simulated_device() -> Iterator[SimulatedDevice]:
    """Enter a :class:`SimulatedDevice`, with generators on it."""
    torch.Generator = DeviceGenerator  # type: ignore[misc]
    torch.func.jvp = two_reverse_passes
    try:
        with SimulatedDevice() as device, Generators():
            torch.cuda.current_stream = lambda _=None: SimpleNamespace(synchronize=lambda: device.reads.update([place()]))  # type: ignore[assignment]
            yield device
    finally:
        torch.Generator = CPUGenerator  # type: ignore[misc]
        torch.func.jvp, torch.cuda.current_stream = forward_pass, current_stream


def two_reverse_passes(
    function: Callable[[Tensor], Tensor], primals: tuple[Tensor], tangents: tuple[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the value and the directional derivative: the forward mode of PyTorch takes meta tensors to have no values."""
    again = torch.is_grad_enabled() and tangents[0].requires_grad
    with torch.enable_grad():
        x = primals[0].detach().requires_grad_()
        y = function(x)
        weight = torch.zeros_like(y).requires_grad_()
        (pulled,) = torch.autograd.grad(y, x, weight, create_graph=True)
        (product,) = torch.autograd.grad(pulled, weight, tangents[0], create_graph=again)
    return y.detach(), product.clone()


def dispatch(func: Any, args: Any, kwargs: dict[str, Any], counts: SimulatedDevice | None) -> Any:
    func = PHYSICAL.get(func, func)
    flat, _ = tree_flatten((args, kwargs))
    tensors = [value for value in flat if isinstance(value, Tensor)]
    ours = [value for value in tensors if isinstance(value, DeviceTensor)]
    wanted = kwargs.get("device")
    wanted = None if wanted is None else torch.device(wanted)
    if not ours and (wanted is None or wanted.type != DEVICE.type):
        return func(*args, **kwargs)
    if ours:
        check(func, args, kwargs, tensors, ours)
    if func in (aten.copy_.default, aten.copy.default):
        to_device = isinstance(args[0], DeviceTensor)
    else:
        to_device = wanted.type == DEVICE.type if wanted is not None else True
    if counts is not None:
        count(func, args, tensors, ours, to_device, counts)
    if wanted is not None:
        kwargs = {**kwargs, "device": "cpu"}
    plain_args, plain_kwargs = tree_map(on_cpu, (args, kwargs))
    plain_kwargs.pop("pin_memory", None)
    found = func(*plain_args, **plain_kwargs)
    if func is aten._to_copy.default and any(found is value for value in tree_flatten(plain_args)[0]):
        found = found.clone()
    if not to_device:
        return found
    made = tree_map(lambda value: DeviceTensor(value) if isinstance(value, Tensor) else value, found)
    return return_and_correct_aliasing(func, args, kwargs, made) if ours else made


def check(func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], ours: list[Any]) -> None:
    if func in COPIES:
        return
    strangers = [value for value in tensors if not isinstance(value, DeviceTensor)]
    if any(value.device.type == DEVICE.type for value in strangers):
        raise WrongDeviceError(f"{func}: a tensor without values")
    if func in INDEXING:
        if not isinstance(args[0], DeviceTensor):
            raise WrongDeviceError(f"{func}: indices on the device for a tensor on the CPU")
        strangers = [] if func is aten.index.Tensor else [v for v in [args[2]] if not isinstance(v, DeviceTensor)]
    pointwise = torch.Tag.pointwise in func.tags or func in INDEXING
    if any(value.ndim > 0 or not pointwise for value in strangers):
        shapes = [f"{tuple(v.shape)} on {'the device' if isinstance(v, DeviceTensor) else 'the CPU'}" for v in tensors]
        raise WrongDeviceError(f"{func}: {', '.join(shapes)}")


def count(func: Any, args: Any, tensors: list[Tensor], ours: list[Any], to_device: bool, counts: SimulatedDevice) -> None:
    masked = func in INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    if ours and (func in WAITS or masked or (func in COPIES and not to_device)):
        counts.reads[place()] += 1
    if to_device and func in COPIES:
        source = args[1] if func is not aten._to_copy.default else args[0]
        if not isinstance(source, DeviceTensor) and source.ndim > 0:
            counts.uploads[place()] += 1
    if func in INDEXING and any(i is not None and not isinstance(i, DeviceTensor) for i in args[1]):
        counts.uploads[place()] += 1


def place() -> str:
    """Return the innermost line of the library on the stack."""
    frames = [f for f in traceback.extract_stack() if "/invdiff/" in f.filename or "/operators/" in f.filename]
    if not frames:
        return "outside the library"
    return f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno} {frames[-1].line}"


def on_cpu(value: Any) -> Any:
    """Return the values of a tensor of the device; anything else as it is."""
    return value.stored if isinstance(value, DeviceTensor) else value
