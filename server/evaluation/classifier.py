# SPDX-License-Identifier: GPL-3.0-or-later
"""A classifier of pictures: noun, colour, view and finish.

``python -m server.evaluation.classifier`` trains it anew on the bundled prior's corpus and prints its accuracy on
renders that it has not seen, with other proportions, colours, cameras and backgrounds.
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
from ..bundled_prior.config import TrainConfig
from ..bundled_prior.corpus import load_corpus
from ..paths import expanded
from ..priors.prompts import DIRECTIONS, VIEWS

WEIGHTS = Path(__file__).parent / "classifier.safetensors"
LABELS: dict[str, list[str]] = {
    "noun": list(shapes.NOUNS),
    "colour": list(shapes.COLOURS),
    "view": list(VIEWS),
    "finish": list(shapes.FINISHES),
}
# Nouns whose pictures show the view; the others look alike from several sides.
NOUNS_WITH_FRONT = ("chair", "car", "house", "robot", "bear", "duck", "airplane", "sofa")
FEATURES = 32


class Classifier(nn.Module):
    """A convolutional network with one feature vector and a linear head on it for each of `LABELS`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside, stride in ((3, 32, 2), (32, 64, 2), (64, 128, 1), (128, 128, 2), (128, 160, 2)):
            layers += [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(160 * 16, FEATURES))
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, len(words)) for name, words in LABELS.items()})

    def features(self, pictures: Tensor) -> Tensor:
        """(B, 32) of pictures (B, 3, H, W), sRGB in [0, 1], which are averaged down to 64 pixels."""
        size = (objects.RESOLUTION,) * 2
        if pictures.shape[2:] != size:
            pictures = F.interpolate(pictures, size=size, mode="area")
        return self.trunk(4 * pictures - 2)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits (B, n) over the words of each of `LABELS`."""
        features = self.features(pictures)
        return {name: head(features.relu()) for name, head in self.heads.items()}

    @torch.no_grad()
    def predict(self, pictures: Tensor) -> list[dict[str, str]]:
        """For each picture the most likely word of each of `LABELS`."""
        best = {name: logits.argmax(dim=1).tolist() for name, logits in self(pictures).items()}
        return [{name: LABELS[name][best[name][i]] for name in LABELS} for i in range(len(pictures))]


@cache
def load_classifier(path: Path = WEIGHTS) -> Classifier:
    """The trained classifier, on the CPU, in evaluation mode. Raises ValueError where `path` is no file."""
    if not path.is_file():
        raise ValueError(
            f"The classifier's weights are not in {path}: train it with python -m server.evaluation.classifier."
        )
    classifier = Classifier()
    classifier.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
    )
    return classifier.eval().requires_grad_(False)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Fréchet distance of two feature sets (N, d), (M, d), as Gaussians (Heusel et al. 2017, equation 6)."""
    a, b = first.double(), second.double()
    covariances = torch.cov(a.T).numpy(), torch.cov(b.T).numpy()
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    apart = float((a.mean(dim=0) - b.mean(dim=0)).square().sum())
    return apart + float(np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, H, W) with random shift, scale, sharpness, contrast, brightness and noise.

    Optimized objects differ from the corpus in these.
    """
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


def train(config: TrainConfig, epochs: int = 8, batch: int = 64, rate: float = 3e-3) -> Classifier:
    """Train on augmented pictures of a configuration's corpus, by AdamW, a cosine decay and summed cross-entropies."""
    pictures, labels = load_corpus(config)
    torch.manual_seed(config.seed)
    classifier, generator = Classifier(), torch.Generator().manual_seed(config.seed)
    classifier.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=rate, weight_decay=0.02)
    total = epochs * (len(pictures) // batch)
    for step in range(total):
        if step % (len(pictures) // batch) == 0:
            order = torch.randperm(len(pictures), generator=generator).numpy()
        picked = np.sort(order[:batch])
        order = order[batch:]
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 200) * (1 + math.cos(math.pi * step / total)) / 2
        shown = augment(_pixels(pictures[picked]), generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            logits = classifier(shown)
        truth = torch.from_numpy(labels[picked].astype(np.int64))
        loss = sum(F.cross_entropy(logits[name].float(), truth[:, i]) for i, name in enumerate(LABELS))
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99 or step + 1 == total:
            print(f"classifier {step + 1}/{total}, loss {loss.item():.3f}", flush=True)
    return classifier.eval()


@torch.no_grad()
def accuracies(classifier: Classifier, config: TrainConfig) -> dict[str, float]:
    """The share of a configuration's corpus that is classified right, for each of `LABELS`.

    The view counts for `NOUNS_WITH_FRONT` only, once by itself and once with its neighbours (`are_adjacent`).
    """
    pictures, labels = load_corpus(config)
    logits = [classifier(_pixels(pictures[i : i + 200])) for i in range(0, len(pictures), 200)]
    predicted = {name: torch.cat([each[name] for each in logits]).argmax(dim=1).numpy() for name in LABELS}
    right = {name: predicted[name] == labels[:, i] for i, name in enumerate(LABELS)}
    views, with_front = LABELS["view"], np.isin(labels[:, 0], [LABELS["noun"].index(n) for n in NOUNS_WITH_FRONT])
    adjacent = np.array([are_adjacent(views[a], views[b]) for a, b in zip(predicted["view"], labels[:, 2])])
    return {
        "noun": right["noun"].mean(),
        "colour": right["colour"].mean(),
        "view": right["view"][with_front].mean(),
        "view or one beside it": adjacent[with_front].mean(),
        "finish": right["finish"].mean(),
    }


def are_adjacent(one: str, other: str) -> bool:
    """Whether two of `VIEWS` are the same, or directions an eighth of a turn apart."""
    if one == other or "overhead" in (one, other):
        return one == other
    return (DIRECTIONS.index(one) - DIRECTIONS.index(other)) % 8 in (1, 7)


def _pixels(pictures: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pictures.copy()).movedim(-1, 1).float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m server.evaluation.classifier",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=expanded, default=TrainConfig.work, help="where the corpus is, or is rendered")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=8)
    given = parser.parse_args()
    seen = TrainConfig(work=given.work, images=given.images)
    held_out = replace(seen, work=given.work / "held-out", images=6_000, seed=2)
    for config in (seen, held_out):
        config.work.mkdir(parents=True, exist_ok=True)
    classifier = train(seen, given.epochs)
    save_file(
        {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in classifier.state_dict().items()
        },
        WEIGHTS,
    )
    for name, share in accuracies(load_classifier(), held_out).items():
        print(f"{name}: {share:.1%} of the held-out renders")


if __name__ == "__main__":
    main()
