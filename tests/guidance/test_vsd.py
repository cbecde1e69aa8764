# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
import torch

from server.guidance import create


@pytest.mark.slow
def test_the_student_learns_the_particles(mixture):
    """Fitted to particles of N(m, s^2), the student is that Gaussian's ideal denoiser."""
    generator, guidance = (
        torch.Generator().manual_seed(0),
        create("vsd", sigma_min=0.3, sigma_max=3.0, updates=5, learning_rate=3e-3),
    )
    centre, std = torch.tensor([1.0, -0.5]), 0.4
    for _ in range(300):
        particles = centre + std * torch.randn(64, 2, generator=generator)
        guidance.step(mixture, particles, generator=generator)
    sigma = torch.full((500,), 0.8)
    clean = centre + std * torch.randn(500, 2, generator=generator)
    noisy = clean + 0.8 * torch.randn(500, 2, generator=generator)
    ideal = centre + std**2 / (std**2 + 0.64) * (noisy - centre)
    with torch.no_grad():
        error = (guidance._fitted[0].denoise(noisy, sigma) - ideal).square().mean().sqrt()
    assert error < 0.1 < (noisy - ideal).square().mean().sqrt()


def test_no_force_where_the_student_is_the_prior(mixture):
    """Particles that the prior describes as well as the student does stay where they are, whatever the noise."""
    mixture.student = lambda: Same(mixture)
    step = create("vsd").step(mixture, torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    assert step.gradient.abs().max() < 1e-6


class Same(torch.nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.prior, self.shift = prior, torch.nn.Parameter(torch.zeros(()))

    def denoise(self, x, sigma, condition=None):
        return self.prior.denoise(x, sigma) + 0 * self.shift


@pytest.mark.slow
def test_it_pushes_from_the_particles_to_the_data(mixture):
    """A cloud beside the data's one Gaussian moves to it and keeps its spread, where SDS would collapse it."""
    mixture.means, mixture.std = torch.tensor([[0.0, 0.0]]), 0.5
    generator = torch.Generator().manual_seed(0)
    x = 1.5 + 0.3 * torch.randn(256, 2, generator=generator)
    guidance = create("vsd", sigma_min=0.2, sigma_max=2.0, learning_rate=3e-3, updates=2)
    for _ in range(600):
        x = x - 0.05 * guidance.step(mixture, x, generator=generator).gradient
    assert x.mean(dim=0).norm() < 0.25 and 0.25 < x.std() < 0.8


def test_bad_settings():
    with pytest.raises(ValueError, match="updates >= 1"):
        create("vsd", updates=0)
