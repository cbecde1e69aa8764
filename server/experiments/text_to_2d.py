# SPDX-License-Identifier: GPL-3.0-or-later
"""Text to pictures: every guidance optimizes coordinate networks on a text-to-image prior, at equal denoiser calls.

The setting of the paper's text-to-2D comparison (arXiv 2502.15989, Figure 4): a picture is a small network of its
coordinates, so a method can not paint pixels one by one; reference are samples of the same prior.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .. import guidance, priors
from ..bundled import judge, objects
from ..priors.sampling import sample

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "MSD": ("msd", {}),
    "SDS": ("sds", {}),
    "SDS, annealed": ("sds", {"anneal": True}),
    "SDI": ("sdi", {}),
    "VSD": ("vsd", {}),
}


class Pictures(nn.Module):
    """N pictures, each an own network of Fourier features of the coordinates (Tancik et al. 2020, equation 5).

    features: random frequencies, standard deviation `bandwidth` periods per picture edge.
    """

    frequencies: Tensor

    def __init__(self, count: int, generator: torch.Generator, features: int = 64, width: int = 64,
                 bandwidth: float = 4.0):
        super().__init__()
        self.register_buffer("frequencies", bandwidth * torch.randn(2, features, generator=generator))
        sizes = [2 * features, width, width, 3]
        self.weights = nn.ParameterList(
            [nn.Parameter((2 / fan) ** 0.5 * torch.randn(count, fan, out, generator=generator))
             for fan, out in itertools.pairwise(sizes)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(count, 1, out)) for out in sizes[1:]])

    def forward(self, size: int) -> Tensor:
        """(N, 3, size, size) sRGB in [0, 1]."""
        axis = (torch.arange(size, device=self.frequencies.device) + 0.5) / size
        place = torch.cartesian_prod(axis, axis)                    # (size^2, 2): row, column
        angles = 2 * torch.pi * place @ self.frequencies
        values = torch.cat([angles.sin(), angles.cos()], dim=1).expand(len(self.weights[0]), -1, -1)
        for weight, bias in zip(self.weights, self.biases):
            values = torch.baddbmm(bias, values.relu() if weight is not self.weights[0] else values, weight)
        return values.sigmoid().movedim(2, 1).unflatten(2, (size, size))


@dataclass
class Curve:
    """One method's pictures at rising numbers of denoiser calls, and what is measured on them."""

    calls: list[int] = field(default_factory=list)
    pictures: list[Tensor] = field(default_factory=list)            # each (N, 3, H, W)
    seconds: float = 0.0


def optimize(prior: Any, guide: guidance.Guidance, prompts: list[str], calls: int, scale: float,
             seed: int, updates: int = 1, learning_rate: float = 0.01, stops: int = 4) -> Curve:
    """Pictures of the prompts, one each, after `calls` denoiser calls per picture and at `stops` on the way.

    updates: Adam steps toward each target that the guidance finds.
    """
    generator = torch.Generator().manual_seed(seed)
    pictures = Pictures(len(prompts), generator).to(prior.device)
    optimizer = torch.optim.Adam(pictures.parameters(), lr=learning_rate)
    condition = prior.condition(prompts, "", scale)
    curve, spent, start = Curve(), 0, time.perf_counter()
    while spent < calls:
        latents = prior.encode(pictures(prior.resolution))
        step = guide.step(prior, latents, condition, spent / calls, generator)
        for i in range(updates):
            if i:
                latents = prior.encode(pictures(prior.resolution))
            latents.backward(latents.detach() - step.target)
            optimizer.step()
            optimizer.zero_grad()
        spent += step.denoiser_calls
        if spent >= calls * (len(curve.calls) + 1) / stops:
            with torch.no_grad():
                curve.calls.append(spent)
                curve.pictures.append(pictures(prior.resolution).cpu())
    curve.seconds = time.perf_counter() - start
    return curve


def prompts_of(count: int) -> list[tuple[str, str]]:
    """`count` (colour, noun) pairs that go through all nouns and colours evenly."""
    nouns, colours = list(objects.NOUNS), list(objects.COLOURS)
    return [(colours[(i + i // len(nouns)) % len(colours)], nouns[i % len(nouns)]) for i in range(count)]


def score(pictures: Tensor, pairs: list[tuple[str, str]], reference: Tensor) -> dict[str, float]:
    """Fréchet distance to the reference's features, and the share of nouns and colours that the judge reads right."""
    look = judge.load()
    with torch.no_grad():
        features = look.features(pictures)
    read = look.read(pictures)
    return {"frechet": judge.frechet_distance(features, reference),
            "noun": float(np.mean([r["noun"] == n for r, (_, n) in zip(read, pairs)])),
            "colour": float(np.mean([r["colour"] == c for r, (c, _) in zip(read, pairs)])),
            "both": float(np.mean([(r["colour"], r["noun"]) == pair for r, pair in zip(read, pairs)]))}


def sheet(rows: list[Tensor], path: Path, columns: int = 16) -> None:
    """A contact sheet, a row for each batch of pictures."""
    lines = [torch.cat(list(row[:columns]), dim=2) for row in rows]
    picture = (255 * torch.cat(lines, dim=1)).round().byte().movedim(0, -1).numpy()
    Image.fromarray(picture).save(path, optimize=True)


def run(output: Path, methods: dict[str, tuple[str, dict[str, Any]]] | None = None, pictures: int = 192,
        calls: int = 400, scale: float = 5.0, batch: int = 16, model: str = "", seed: int = 0) -> dict[str, Any]:
    """Run and score the methods; writes table.json, table.md, curves.png and sheet.png, and returns the table."""
    output.mkdir(parents=True, exist_ok=True)
    prior = priors.load(model or None, "cpu")
    pairs = prompts_of(pictures)
    texts = [f"{'an' if c[0] in 'aeiou' else 'a'} {c} {n}, front view" for c, n in pairs]
    look = judge.load()

    def drawn(seed: int) -> Tensor:
        parts = [prior.decode(sample(prior, (len(chunk), *prior.latent_shape), prior.condition(chunk, "", scale), 25,
                                     torch.Generator().manual_seed(seed + i)))
                 for i, chunk in enumerate(_chunks(texts, batch))]
        return torch.cat(parts)

    reference, second = drawn(1_000_000), drawn(2_000_000)
    with torch.no_grad():
        features = look.features(reference)
    table: dict[str, Any] = {"DDIM, other seeds": {"calls": [50], "scores": [score(second, pairs, features)]}}
    rows = [reference]
    for name, (kind, settings) in (methods or METHODS).items():
        curves = [optimize(prior, guidance.create(kind, **settings), chunk, calls, scale, seed + i)
                  for i, chunk in enumerate(_chunks(texts, batch))]
        stops = [torch.cat([curve.pictures[k] for curve in curves]) for k in range(len(curves[0].calls))]
        table[name] = {"guidance": kind, "settings": {k: repr(v) for k, v in settings.items()},
                       "calls": curves[0].calls, "scores": [score(each, pairs, features) for each in stops],
                       "seconds": round(sum(curve.seconds for curve in curves), 1)}
        rows.append(stops[-1])
        print(name, table[name]["calls"][-1], table[name]["scores"][-1], f"{table[name]['seconds']} s", flush=True)
        sheet(rows, output / "sheet.png")
        _write(table, output, pictures, scale)
    return table


def _chunks(items: list[str], size: int) -> list[list[str]]:
    return [items[i:i + size] for i in range(0, len(items), size)]


def _write(table: dict[str, Any], output: Path, pictures: int, scale: float) -> None:
    (output / "table.json").write_text(json.dumps(table, indent=1) + "\n")
    lines = [f"{pictures} pictures a method, guidance scale {scale:g}.", "",
             "| method | denoiser calls | Fréchet distance | noun | colour | both |", "|---|---|---|---|---|---|"]
    for name, row in table.items():
        last = row["scores"][-1]
        lines.append(f"| {name} | {row['calls'][-1]} | {last['frechet']:.2f} | {last['noun']:.0%} | "
                     f"{last['colour']:.0%} | {last['both']:.0%} |")
    (output / "table.md").write_text("\n".join(lines) + "\n")
    _plot(table, output / "curves.png")


def _plot(table: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for (name, row), axis_pair in zip(table.items(), itertools.repeat(axes)):
        for axis, key in zip(axis_pair, ("frechet", "both")):
            values = [each[key] for each in row["scores"]]
            if "guidance" in row:
                axis.plot(row["calls"], values, marker="o", label=name)
            else:
                axis.axhline(values[0], color="black", linestyle=":", label=name)
    axes[0].set(xlabel="denoiser calls per picture", ylabel="Fréchet distance", yscale="log")
    axes[1].set(xlabel="denoiser calls per picture", ylabel="noun and colour read right", ylim=(0, 1.02))
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
