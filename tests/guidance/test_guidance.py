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
from server.guidance import GUIDANCES, create

every_guidance = pytest.mark.parametrize("name", GUIDANCES)


@every_guidance
def test_same_seed_same_bytes(name, mixture):
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(9))

    def targets(seed):
        generator, guidance = torch.Generator().manual_seed(seed), create(name)
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
    level_settings = {"msd": {"bandwidth": level}, "sds": {"sigma_min": level, "sigma_max": level}}
    guidance = create(name, **level_settings.get(name, {}))
    x = torch.tensor([[value, 0.0], [0.0, -value]], dtype=dtype)
    step = guidance.step(prior, x, progress=progress, generator=torch.Generator().manual_seed(0))
    assert step.target.isfinite().all() and step.gradient.isfinite().all()


@every_guidance
def test_counts_what_the_condition_costs(name, mixture):
    guided = SimpleNamespace(denoiser_calls=2)  # as under classifier-free guidance
    step = create(name).step(mixture, torch.zeros(1, 2), guided, generator=torch.Generator().manual_seed(0))
    assert step.denoiser_calls == 2 * len(mixture.levels)


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
