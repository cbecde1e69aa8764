# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory of a run: how much it will need, and how much it held at most."""

from __future__ import annotations

import time

import psutil
import torch

from msd_blender.protocol import JobRequest

from ..assets.colour_grid import DENSE
from ..priors import HasCost, Selection, TextToImagePrior, least_memory
from ..system import peak_memory, reset_peak_memory
from .device import backend
from .settings import Phase, Settings

GIB = 2**30
# Bytes that autograd keeps of a render, for each pixel of each view; docs/models.md has the measurements.
RENDERING = {"volume": 3300, "surface": 140, "texture": 130, "refine": 150}
MAPS = 400  # more, with maps
WAITING = 500  # instead of a volume's, for a view that is rendered once more when its gradient is taken
GRADIENT = 1.6  # times as much comes and goes while a render's gradient is taken
SURFACE = 5.0  # square metres of an object before the cameras, Suzanne's
POINTS_A_CELL = 3  # of a sparse grid, for each square of the surface that is as wide as its cells
# What a process holds before it works, more with a PyTorch for cards; not as it is now, see `limit_of`.
LIBRARIES = round((0.9 if torch.version.cuda or torch.version.hip else 0.6) * GIB)
COUNTING = ("cuda", "xpu")  # types of devices with memory of their own; Apple's is the machine's
LONG = 1800.0  # seconds of a job, from which on a user is told before
SLOW = 1e10  # operations a second that any machine does
# Evaluations of the network for each latent of a step, two under classifier-free guidance counted as one.
EVALUATIONS = {"msd": 2, "sds": 1, "sdi": 3, "vsd": 3}


class PeakMemory:
    """The most bytes that were held since it was made: by PyTorch's tensors on a card, by this process elsewhere.

    Elsewhere than on a card or on Linux, only what is held whenever `bytes` is asked for is seen.

    Args:
        limit: GiB that the tensors on a card cannot exceed, and the process on the CPU is checked for.
    """

    def __init__(self, device: torch.device, limit: float | None = None):
        self._card, self._limit, self._highest = device.type, limit, 0
        if self._card in COUNTING:
            card = backend(self._card)
            total = card.get_device_properties(device).total_memory
            card.set_per_process_memory_fraction(1.0 if limit is None else min(1.0, limit * GIB / total))
            card.reset_peak_memory_stats()
        else:
            self._counted = reset_peak_memory()

    @property
    def bytes(self) -> int:
        if self._card in COUNTING:
            return int(backend(self._card).max_memory_allocated())
        self._highest = max(self._highest, psutil.Process().memory_info().rss, peak_memory() if self._counted else 0)
        return self._highest

    def check(self) -> None:
        """Raise MemoryError where the limit was not kept."""
        if self._limit is not None and self.bytes > self._limit * GIB:
            raise MemoryError(f"The job held {self.bytes / GIB:.2f} GiB, more than its limit.")


def limit_of(request: JobRequest, device: torch.device) -> int:
    """Bytes that a job may hold: as its request says, else all that the card has free or that the machine has."""
    if request.memory_limit is not None:
        return round(request.memory_limit * GIB)
    if device.type in COUNTING:
        card = backend(device.type)
        return int(card.mem_get_info()[0] + card.memory_reserved())
    return int(psutil.virtual_memory().total)  # not what is free now: the same job must take the same way every time


def check_weights(request: JobRequest, device: torch.device) -> None:
    """Raise ValueError with one sentence where the model's weights alone exceed the request's limit; loads nothing."""
    if request.memory_limit is None:
        return
    on_card = device.type == "cuda"
    least = least_memory(Selection.of(request), on_card) + (0 if on_card else LIBRARIES)
    if least > request.memory_limit * GIB:
        raise ValueError(
            f"The model alone needs {least / GIB:.1f} GiB, but the job's memory limit is {request.memory_limit:g} GiB: "
            "raise the limit, or choose a smaller model."
        )


def predicted_peak(request: JobRequest, settings: Settings, prior: TextToImagePrior, device: torch.device) -> int:
    """The most bytes that a run will hold, as `PeakMemory` counts them; 0 for a prior that does not know its cost."""
    if not isinstance(prior, HasCost):
        return 0
    cost = prior.cost()
    thrifty = settings.one_by_one or device.type != "cpu"
    together = settings.views_at_once if settings.one_by_one else settings.views
    kept = settings.views * (cost.encode_thrifty if thrifty else cost.encode)
    guided = 1 if settings.guidance_scale == 1 else 2
    asking = together * (guided * cost.denoise + (cost.student if request.guidance == "vsd" else 0))
    encoding = kept + max(asking, together * cost.recomputed if thrifty else 0)
    held = cost.weights + (0 if device.type in COUNTING else LIBRARIES)
    renders = [_rendering(request, settings, phase, prior) for phase in settings.phases(request.mode).values()]
    working = max(kept + max(encoding, gradient) for kept, gradient in renders)
    return held + max(cost.visitor, _colours(request, settings) + round(working))


def _colours(request: JobRequest, settings: Settings) -> int:
    """Of the colour's sparse grids: values, gradients and Adam's two moments, and the tables of their points."""
    cells = sum(SURFACE * ((level - 1) / 2) ** 2 for level in settings.colour_levels if level > DENSE)
    return round(cells * (16 * POINTS_A_CELL * (3 + len(request.maps)) + 32))


def _rendering(request: JobRequest, settings: Settings, phase: Phase, prior: TextToImagePrior) -> tuple[float, float]:
    """Bytes that a phase's render keeps for its gradient, and that come and go while that is taken."""
    maps = MAPS if request.maps and phase.asset.name in ("texture", "refine") else 0
    pixels = (phase.resolution * prior.resolution) ** 2
    one = (RENDERING.get(phase.asset.name, 500) + maps) * pixels
    if settings.one_by_one and phase.asset.name == "volume":
        return WAITING * pixels * settings.views, (1 + GRADIENT) * one
    return one * settings.views, GRADIENT * one * settings.views


def fitting(
    request: JobRequest, settings: Settings, prior: TextToImagePrior, device: torch.device
) -> tuple[Settings, int]:
    """The settings, with less memory where they would not keep the limit, and the predicted peak in bytes.

    Raises ValueError with one sentence where the request's own limit cannot be kept. Where it names none, the last
    resort is tried even so, as a prediction may be too high.
    """
    limit = limit_of(request, device)
    while (peak := predicted_peak(request, settings, prior, device)) > limit:
        if (smaller := settings.with_less_memory()) is None:
            if request.memory_limit is None:
                break
            raise ValueError(
                f"This job needs about {peak / GIB:.1f} GiB even for one view at a time, but its memory limit is "
                f"{request.memory_limit:g} GiB: raise the limit, or choose a smaller model or texture size."
            )
        settings = smaller
    return settings, peak


def operations(request: JobRequest, settings: Settings, prior: TextToImagePrior) -> float:
    """Floating-point operations of an iteration's networks; 0 for a prior that does not know its cost."""
    if not isinstance(prior, HasCost):
        return 0.0
    cost = prior.cost()
    # The gradient of a frozen network costs one more forward pass, and with checkpointing two.
    encoding = cost.encode_operations * (3 if settings.one_by_one else 2)
    guided = 1 if settings.guidance_scale == 1 else 2
    asking = cost.denoise_operations * guided * EVALUATIONS[request.guidance]
    return settings.views * (encoding + asking)


def forecast(
    request: JobRequest, settings: Settings, prior: TextToImagePrior, device: torch.device, peak: int
) -> list[str]:
    """Sentences for the user where a job will hold much of the memory, or take long."""
    sentences = []
    if request.memory_limit is not None or 4 * peak > limit_of(request, device):
        order = ", one by one" if settings.one_by_one else " at once"
        views = f"{settings.views} views{order}" if settings.views > 1 else "one view at a time"
        sentences.append(f"The job will hold about {peak / GIB:.1f} GiB of memory, with {views}.")
    if device.type == "cpu":
        iterations, work = settings.iterations(request.mode), operations(request, settings, prior)
        if work * iterations > LONG * SLOW and work * iterations > LONG * (speed := _operations_a_second()):
            seconds = work / speed
            sentences.append(
                f"On this CPU an iteration will take about {_duration(seconds)}, and the job "
                f"{_duration(seconds * iterations)}: "
                "a card, a smaller model or fewer iterations are faster."
            )
    return sentences


def _duration(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _operations_a_second(edge: int = 1024) -> float:
    a = torch.ones(edge, edge)
    a @ a  # the first time is slower
    start = time.perf_counter()
    a @ a
    return 2 * edge**3 / (time.perf_counter() - start)
