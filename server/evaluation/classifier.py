# SPDX-License-Identifier: GPL-3.0-or-later
"""The judge: a small network that reads noun, colour, view and finish from a picture.

Trained on the procedural corpus, so that what the bundled prior and text-to-3D make can be counted, not admired:
``python -m server.evaluation.classifier`` trains it anew and prints how it does on renders with other
proportions, colours, cameras and backgrounds, which it has not seen.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..bundled_prior import objects, shapes
from ..bundled_prior.train import Recipe, corpus
from ..paths import expanded
from ..priors.prompts import DIRECTIONS, VIEWS

WEIGHTS = Path(__file__).parent / "classifier.safetensors"
LABELS: dict[str, list[str]] = {
    "noun": list(shapes.NOUNS),
    "colour": list(shapes.COLOURS),
    "view": list(VIEWS),
    "finish": list(shapes.FINISHES),
}
# Nouns whose view can be read; the others look alike from several sides.
FRONTED = ("chair", "car", "house", "robot", "bear", "duck", "airplane", "sofa")
FEATURES = 32


class Judge(nn.Module):
    """A convolutional classifier with a head for each of `LABELS` on one feature vector."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside, stride in ((3, 32, 2), (32, 64, 2), (64, 128, 1), (128, 128, 2), (128, 160, 2)):
            layers += [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(160 * 16, FEATURES))
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, len(words)) for name, words in LABELS.items()})

    def features(self, pictures: Tensor) -> Tensor:
        """(B, 32) of pictures (B, 3, H, W), sRGB in [0, 1]; they are averaged down to 64 pixels."""
        size = (objects.RESOLUTION,) * 2
        if pictures.shape[2:] != size:
            pictures = F.interpolate(pictures, size=size, mode="area")
        return self.trunk(4 * pictures - 2)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits over each list of `LABELS`, (B, n)."""
        features = self.features(pictures)
        return {name: head(features.relu()) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[dict[str, str]]:
        """The likeliest word of each of `LABELS`, for each picture."""
        best = {name: logits.argmax(dim=1).tolist() for name, logits in self(pictures).items()}
        return [{name: LABELS[name][best[name][i]] for name in LABELS} for i in range(len(pictures))]


@cache
def load(path: Path = WEIGHTS) -> Judge:
    """The trained judge, on the CPU. Raises ValueError where there is none."""
    if not path.is_file():
        raise ValueError(
            f"The judge's weights are not in {path}: train them by python -m server.evaluation.classifier."
        )
    judge = Judge()
    judge.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
    )
    return judge.eval().requires_grad_(False)


def frechet_distance(ours: Tensor, theirs: Tensor) -> float:
    """Squared Fréchet distance of two feature sets (N, d), (M, d), as Gaussians (Heusel et al. 2017, equation 6)."""
    a, b = ours.double(), theirs.double()
    covariances = torch.cov(a.T).numpy(), torch.cov(b.T).numpy()
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    apart = float((a.mean(dim=0) - b.mean(dim=0)).square().sum())
    return apart + float(np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


def distort(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """What a picture that an optimization made may differ in: place, scale, sharpness, contrast, noise."""
    batch = len(pictures)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, 1, 1, 1, generator=generator)

    scale, shift = uniform(0.9, 1.2), torch.cat([uniform(-0.12, 0.12), uniform(-0.12, 0.12)], dim=1)
    place = torch.cat([scale[:, 0] * torch.eye(2), shift[:, :, 0]], dim=2)  # (B, 2, 3)
    moved = F.grid_sample(
        pictures,
        F.affine_grid(place, list(pictures.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    blurred = F.avg_pool2d(F.pad(moved, (2, 2, 2, 2), mode="replicate"), 5, 1)
    moved = blurred + (moved - blurred) * uniform(-0.6, 1.3).clamp(min=0)
    moved = (moved - 0.5) * uniform(0.8, 1.3) + 0.5 + uniform(-0.08, 0.08)
    noise = torch.randn(pictures.shape, generator=generator)
    return (moved + uniform(0, 0.06) * noise).clamp(0, 1)


def train(recipe: Recipe, epochs: int = 8, batch: int = 64, rate: float = 3e-3) -> Judge:
    """Train on the corpus of a recipe, AdamW on a cosine, distorted pictures, bfloat16 where the CPU has it."""
    pictures, labels = corpus(recipe)
    torch.manual_seed(recipe.seed)
    judge, generator = Judge(), torch.Generator().manual_seed(recipe.seed)
    judge.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(judge.parameters(), lr=rate, weight_decay=0.02)
    total = epochs * (len(pictures) // batch)
    for step in range(total):
        if step % (len(pictures) // batch) == 0:
            order = torch.randperm(len(pictures), generator=generator).numpy()
        picked = np.sort(order[:batch])
        order = order[batch:]
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 200) * (1 + math.cos(math.pi * step / total)) / 2
        shown = distort(_pixels(pictures[picked]), generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.half):
            said = judge(shown)
        truth = torch.from_numpy(labels[picked].astype(np.int64))
        loss = sum(F.cross_entropy(said[name].float(), truth[:, i]) for i, name in enumerate(LABELS))
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99 or step + 1 == total:
            print(f"judge {step + 1}/{total}, loss {loss.item():.3f}", flush=True)
    return judge.eval()


@torch.no_grad()
def measure(judge: Judge, recipe: Recipe) -> dict[str, float]:
    """Share read right of a corpus: the view on `FRONTED` nouns only, and `near`, the view or one beside it."""
    pictures, labels = corpus(recipe)
    said = [judge(_pixels(pictures[i : i + 200])) for i in range(0, len(pictures), 200)]
    read = {name: torch.cat([each[name] for each in said]).argmax(dim=1).numpy() for name in LABELS}
    right = {name: read[name] == labels[:, i] for i, name in enumerate(LABELS)}
    views, fronted = LABELS["view"], np.isin(labels[:, 0], [LABELS["noun"].index(noun) for noun in FRONTED])
    beside = np.array([near(views[a], views[b]) for a, b in zip(read["view"], labels[:, 2])])
    return {
        "noun": right["noun"].mean(),
        "colour": right["colour"].mean(),
        "view": right["view"][fronted].mean(),
        "near": beside[fronted].mean(),
        "finish": right["finish"].mean(),
    }


def near(one: str, other: str) -> bool:
    """Whether two of `VIEWS` are the same or directions an eighth of a turn apart."""
    if one == other or "overhead" in (one, other):
        return one == other
    return (DIRECTIONS.index(one) - DIRECTIONS.index(other)) % 8 in (1, 7)


def _pixels(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures.copy()).movedim(-1, 1).float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m server.evaluation.classifier",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=expanded, default=Recipe.work, help="where the corpus is, or is rendered")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    seen = Recipe(work=given.work, images=given.images)
    held_out = replace(seen, work=given.work / "held-out", images=6_000, seed=2)
    for recipe in (seen, held_out):
        recipe.work.mkdir(parents=True, exist_ok=True)
    judge = train(seen, given.epochs)
    save_file(
        {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in judge.state_dict().items()
        },
        WEIGHTS,
    )
    for name, share in measure(load(), held_out).items():
        print(f"{name}: {share:.1%} of the held-out renders read right")


if __name__ == "__main__":
    main()
