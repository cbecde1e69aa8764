# SPDX-License-Identifier: GPL-3.0-or-later
"""What every guidance keeps, and the registry."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import server.guidance
from msd_blender import protocol
from server.guidance import GUIDANCES, create
from server.guidance.msd import ESTIMATORS

every_guidance = pytest.mark.parametrize("name", GUIDANCES)
STEADY = {"sdi": {"anneal": False}}  # settings under which each draws something


@every_guidance
def test_same_seed_same_bytes(name, mixture):
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(9))

    def targets(seed):
        generator, guidance = torch.Generator().manual_seed(seed), create(name, **STEADY.get(name, {}))
        return torch.stack([guidance.step(mixture, x, None, p, generator).target for p in (0.0, 0.5, 1.0)])

    assert torch.equal(targets(3), targets(3))
    assert not torch.equal(targets(3), targets(4))


@every_guidance
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_shape_dtype_and_graph(name, dtype, mixture):
    x = torch.zeros(3, 2, dtype=dtype, requires_grad=True)
    step = create(name).step(mixture, x, generator=torch.Generator().manual_seed(0))
    for result in (step.target, step.gradient):
        assert result.shape == x.shape and result.dtype == dtype and not result.requires_grad
    torch.testing.assert_close(step.gradient, (x - step.target).detach(), atol=1e-2, rtol=1e-2)
    assert step.sigma.shape == (3,)
    x.backward(step.gradient)
    assert torch.equal(x.grad, step.gradient)


@every_guidance
@settings(max_examples=40, deadline=None)
@given(
    value=st.floats(-1e4, 1e4),
    level=st.floats(1e-6, 1e6),
    progress=st.floats(0, 1),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
)
def test_finite_in_finite_out(name, value, level, progress, dtype):
    """A unit Gaussian's ideal denoiser, any latents, any level."""
    prior = SimpleNamespace(denoise=lambda x, sigma, condition=None: x / (1 + sigma[:, None] ** 2))
    guidance = create(name, **({"bandwidth": level} if name == "msd" else {"sigma_min": level, "sigma_max": level}))
    x = torch.tensor([[value, 0.0], [0.0, -value]], dtype=dtype)
    step = guidance.step(prior, x, progress=progress, generator=torch.Generator().manual_seed(0))
    assert step.target.isfinite().all() and step.gradient.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(
    estimator=st.sampled_from(ESTIMATORS),
    value=st.floats(-1e4, 1e4),
    width=st.floats(1e-6, 1e6),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
)
def test_every_estimator_is_finite(estimator, value, width, dtype):
    prior = SimpleNamespace(denoise=lambda x, sigma, condition=None: x / (1 + sigma[:, None] ** 2))
    x = torch.tensor([[value, 0.0], [0.0, -value]], dtype=dtype)
    guidance = create("msd", estimator=estimator, bandwidth=width)
    step = guidance.step(prior, x, generator=torch.Generator().manual_seed(0))
    assert step.target.isfinite().all() and step.gradient.isfinite().all()


@every_guidance
def test_a_users_own_prior(name):
    """Twenty lines are a prior, and every guidance brings points to it from outside."""

    class TwoGaussians:
        means, std = torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.2

        def denoise(self, x, sigma, condition=None):
            variance = self.std**2 + sigma[:, None] ** 2
            distance = ((x[:, None] - self.means) ** 2).sum(-1)
            nearest = (-distance / (2 * variance)).softmax(-1) @ self.means
            return nearest + self.std**2 / variance * (x - nearest)

    prior, generator = TwoGaussians(), torch.Generator().manual_seed(0)
    guidance = create(name, **{"vsd": {"learning_rate": 1e-2}}.get(name, {}))
    x = start = 3 * torch.randn(100, 2, generator=generator)
    for i in range(200):
        x = x - 0.1 * guidance.step(prior, x, progress=i / 199, generator=generator).gradient
    distance = [torch.cdist(points, prior.means).min(dim=1).values.mean() for points in (start, x)]
    assert distance[1] < 0.5 * distance[0], distance


class Guided:
    """A condition under classifier-free guidance that has no form without."""

    nfe = 2

    def without_cfg(self):
        return self


@every_guidance
def test_counts_what_the_condition_costs(name, mixture):
    step = create(name).step(mixture, torch.zeros(1, 2), Guided(), generator=torch.Generator().manual_seed(0))
    student = 2 if name == "vsd" else 0  # its own network: one evaluation, one to fit it
    assert step.nfe == 2 * len(mixture.levels) + student


def test_unknown_names_and_settings():
    with pytest.raises(ValueError, match="no guidance 'msx': choose msd, sds"):
        create("msx")
    with pytest.raises(ValueError, match="no setting 'lambda_': it has estimator, bandwidth, steps"):
        create("msd", lambda_=1.0)


def test_the_readme_runs():
    text = (Path(server.guidance.__file__).parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    exec("\n".join(blocks), {})


def test_jobs_may_choose_every_guidance():
    assert tuple(GUIDANCES) == protocol.GUIDANCES
