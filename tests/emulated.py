# SPDX-License-Identifier: GPL-3.0-or-later
"""An accelerator emulated in Python: arithmetic of the CPU behind a device that refuses what CUDA refuses.

PyTorch's PrivateUse1 hooks give the device its guard and its autograd queue. Values and gradients are real; mixing
devices raises as it does on a card, and so does `.numpy()`. The host's waits for the device are counted: copies that
block, and operations whose output has a size that only the device knows.
"""

from __future__ import annotations

import traceback
from collections import Counter
from contextlib import contextmanager

import cholespy
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("emulated")
torch.emulated.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]  # gradient checkpointing asks
DEVICE = torch.device("emulated:0")

FLOAT64 = {0: True}  # whether the device has it; Apple's has not

aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._to_copy.default)
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)
# Their output's size, or the value itself, goes to the host. `bincount` and `repeat_interleave` look at a maximum.
WAITING = (
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.masked_select.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten.equal.default,
    aten._coalesce.default,
)


class Waits:
    """The host's waits for the device: how many, and from which lines of the project."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self.places.total()

    def add(self) -> None:
        lines = [frame for frame in traceback.extract_stack() if "/server/" in frame.filename]
        self.places[
            " < ".join(f"{frame.filename.rpartition('/server/')[2]}:{frame.lineno}" for frame in reversed(lines[-2:]))
        ] += 1


WAITS: list[Waits] = []


@contextmanager
def counted_waits():
    """The `Waits` of a block."""
    WAITS.append(Waits())
    try:
        yield WAITS[-1]
    finally:
        WAITS.pop()


def _wait() -> None:
    for waits in WAITS:
        waits.add()


class EmulatedTensor(torch.Tensor):
    """A tensor on the device; `held` has its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held):
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            dtype=held.dtype,
            storage_offset=held.storage_offset(),
            device=DEVICE,
        )
        self.held = held
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return Emulation()(function, args, kwargs)

    def tolist(self):
        _wait()
        return self.held.detach().tolist()

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def __repr__(self, **_):
        return f"EmulatedTensor({self.held!r})"


class Emulation(TorchDispatchMode):
    """While it is on, tensors can be made on `DEVICE`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return self(function, args, kwargs)

    def __call__(self, function, args, kwargs):
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        mine = [tensor for tensor in tensors if isinstance(tensor, EmulatedTensor)]
        others = [tensor for tensor in tensors if not isinstance(tensor, EmulatedTensor)]
        to = "" if kwargs.get("device") is None else torch.device(kwargs["device"]).type
        if to == DEVICE.type:
            kwargs["device"] = "cpu"
        indexed = function in INDEXED and isinstance(args[0], EmulatedTensor)
        if mine and function not in COPIES and not indexed and any(tensor.ndim for tensor in others):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
                f"and cpu! ({function})"
            )
        if self._waits(function, args, kwargs, mine, others, to):
            _wait()

        def held(value):
            return value.held if isinstance(value, EmulatedTensor) else value

        out = function(*tree_map(held, args), **tree_map(held, kwargs))
        if function._schema.name.endswith("_") and isinstance(args[0], torch.Tensor):
            return args[0]
        if to != "cpu" and (mine or to == DEVICE.type):
            made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
            if not FLOAT64[0] and any(leaf.dtype == torch.float64 for leaf in made):
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it.")
            return tree_map(lambda value: EmulatedTensor(value) if isinstance(value, torch.Tensor) else value, out)
        return out

    @staticmethod
    def _waits(function, args, kwargs, mine, others, to) -> bool:
        if function in COPIES:
            here = bool(mine) or to == DEVICE.type
            crosses = here and (bool(others) and (bool(mine) or to == DEVICE.type) or to == "cpu")
            return crosses and not (kwargs.get("non_blocking") or function is COPIES[0] and len(args) > 2 and args[2])
        if not mine:
            return False
        if function in INDEXED:  # a mask becomes numbers first, a tensor of the host is copied
            places = [each for each in args[1] if each is not None]
            masked = any(each.dtype in (torch.bool, torch.uint8) for each in places)
            filled = function is not aten.index.Tensor and args[2].ndim == 0 and not any(args[3:4])
            return masked and not filled or any(not isinstance(each, EmulatedTensor) for each in places)
        return function in WAITING


_library = torch.library.Library("aten", "IMPL")  # what C++ asks for behind the dispatcher's back


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return EmulatedTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source, target, non_blocking=False):
    if not non_blocking:
        _wait()
    getattr(target, "held", target).copy_(getattr(source, "held", source))
    return target


_library.impl("empty_strided", _empty_strided, "PrivateUse1")
_library.impl("_copy_from", _copy_from, "PrivateUse1")


class EmulatedCholespy:
    """cholespy, whose solver takes tensors of one device: contiguous, int32 and float64."""

    MatrixType = cholespy.MatrixType

    class CholeskySolverD:
        def __init__(self, size, rows, columns, values, kind):
            _check_array(rows, torch.int32)
            _check_array(columns, torch.int32)
            _check_array(values, torch.float64)
            self._solver = cholespy.CholeskySolverD(size, rows.held, columns.held, values.held, kind)

        def solve(self, b, x):
            _check_array(b, torch.float64)
            _check_array(x, torch.float64)
            self._solver.solve(b.held, x.held)


def _check_array(tensor, dtype):
    assert isinstance(tensor, EmulatedTensor) and tensor.dtype == dtype and tensor.is_contiguous()


def emulated_launch(launch):
    """Warp's launches on the device: all arrays must be there, in order, and the kernel runs on what they hold."""

    def launch_there(kernel, dim, *arguments):
        for each in arguments:
            if isinstance(each, torch.Tensor):
                assert isinstance(each, EmulatedTensor) and each.is_contiguous(), kernel.key
        launch(kernel, dim, *(each.held if isinstance(each, EmulatedTensor) else each for each in arguments))

    return launch_there
