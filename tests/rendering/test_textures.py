# SPDX-License-Identifier: GPL-3.0-or-later
"""Meshes with textures and physical shading, normals, cameras' ranges and backgrounds."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh

from msd_blender.protocol import BACKGROUNDS
from server.rendering import cameras
from server.rendering.colour import srgb_to_linear
from server.rendering.normals import face_normals, vertex_normals
from server.rendering.render import render, turntable
from server.rendering.shading import Lights, backgrounds
from server.rendering.textures import MaterialMaps, UVCharts, UVTextures


def ball(subdivisions=3):
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.8)
    return (
        torch.tensor(np.asarray(sphere.vertices), dtype=torch.float32),
        torch.tensor(np.asarray(sphere.faces), dtype=torch.int32),
    )


def box():
    """(positions, faces, uvs): a cube whose six sides each show the whole texture, as its faces see it."""
    shape = trimesh.creation.box((1, 1, 1))
    positions = torch.tensor(np.asarray(shape.vertices), dtype=torch.float32)
    faces = torch.tensor(np.asarray(shape.faces), dtype=torch.int32)
    normals = torch.tensor(np.asarray(shape.face_normals), dtype=torch.float32)
    up = torch.where(normals[:, 2:].abs() > 0.5, torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 1]))
    right = torch.linalg.cross(up, normals)
    corners = positions[faces.long()]
    uvs = torch.stack([(corners * right[:, None]).sum(-1), (corners * up[:, None]).sum(-1)], dim=-1) + 0.5
    return positions, faces, uvs


def picture(rasterizer, positions, faces, colours, views, lights=None, size=48, **settings):
    grey = torch.full((len(views), 3), 0.5)
    return render(
        rasterizer, positions, faces, colours, views, lights or Lights.headlight(views), grey, size, **settings
    )


def test_a_texture_of_one_colour_looks_like_vertex_colours(rasterizer):
    positions, faces = ball()
    views, colour = cameras.orbit(2), torch.tensor([0.8, 0.3, 0.1])
    charts = UVCharts.from_faces(faces, torch.rand(len(faces), 3, 2, generator=torch.Generator().manual_seed(0)))
    for flat in (False, True):
        ours = picture(
            rasterizer, positions, faces, UVTextures(charts, [MaterialMaps(colour.expand(8, 8, 3))]), views, flat=flat
        )
        theirs = picture(rasterizer, positions, faces, colour.expand(len(positions), 3), views, flat=flat)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_texture_is_the_right_way_up_on_the_side_that_it_was_unwrapped_for(rasterizer):
    positions, faces, uvs = box()
    corner = torch.zeros(32, 32, 3)
    corner[:16, :16, 0], corner[16:, 16:, 2] = 1, 1  # red below on the left, blue above on the right
    views = cameras.orbit(4, elevation=0)
    seen = picture(
        rasterizer, positions, faces, UVTextures(UVCharts.from_faces(faces, uvs), [MaterialMaps(corner)]), views
    )
    for view in seen:
        assert view[19, 19].argmax() == 0 and view[28, 28].argmax() == 2
        assert view[19, 28].max() < 0.05 and view[28, 19].max() < 0.05


def test_each_face_shows_its_slots_texture_and_sends_its_gradient_there(rasterizer):
    positions, faces, uvs = box()
    views = cameras.orbit(1, elevation=0)  # sees the side at -Y alone
    front = torch.tensor(np.asarray(trimesh.creation.box((1, 1, 1)).face_normals))[:, 1] < -0.5
    charts = UVCharts.from_faces(faces, uvs, front.int())
    green, red = torch.zeros(8, 8, 3), torch.zeros(4, 16, 3)
    green[..., 1] = red[..., 0] = 0.9
    green.requires_grad_(), red.requires_grad_()
    seen = picture(rasterizer, positions, faces, UVTextures(charts, [MaterialMaps(green), MaterialMaps(red)]), views)
    assert (seen[0, 24, 24, 0] > 0.5) and seen[0, 24, 24, 1] < 0.1
    to_green, to_red = torch.autograd.grad(seen.sum(), [green, red], allow_unused=True)
    assert to_green is None and to_red.abs().sum() > 0  # of a slot that no pixel shows nothing is drawn


def test_seams_split_chart_vertices_and_nothing_else():
    positions, faces, uvs = box()
    normals = torch.tensor(np.asarray(trimesh.creation.box((1, 1, 1)).face_normals), dtype=torch.float32)
    uvs = uvs + 2 * (normals @ torch.tensor([1.0, 2, 3]))[:, None, None]  # each side in a place of its own
    charts = UVCharts.from_faces(faces, uvs)
    assert len(charts.uvs) == 24 and torch.equal(charts.uvs[charts.faces.long()], uvs)
    assert (charts.handedness == 1).all()
    mirrored = UVCharts.from_faces(faces, uvs * torch.tensor([-1.0, 1.0]))
    assert (mirrored.handedness == -1).all()


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_a_normal_map_tilts_along_the_uvs(rasterizer, mirror):
    positions, faces, uvs = box()
    charts = UVCharts.from_faces(faces, uvs * torch.tensor([mirror, 1.0]))
    textures = UVTextures(charts, [MaterialMaps(torch.zeros(1, 1, 3))])
    clip = cameras.orbit(1, elevation=0).clip(positions).contiguous()
    rast = rasterizer.rasterize(clip, faces, (32, 32))
    inside = rast[..., 3] > 0
    normals = torch.tensor([0.0, -1, 0]).expand(1, 32, 32, 3)  # the front: u grows along +X, v along +Z
    for tilt, expected in (
        ((0.6, 0, 0.8), (0.6 * mirror, -0.8, 0)),
        ((0, 0.6, 0.8), (0, -0.8, 0.6)),
        ((0, 0, 1), (0, -1, 0)),
    ):
        colours = ((torch.tensor(tilt).float() + 1) / 2).expand(1, 32, 32, 3)
        bent = textures.apply_normal_map(normals, colours, rasterizer, positions, rast, faces)[inside]
        torch.testing.assert_close(bent, torch.tensor(expected).float().expand_as(bent), atol=1e-5, rtol=0)


def test_uvs_without_area_leave_the_normals_and_the_gradients_whole(rasterizer):
    positions, faces = ball()
    flat_uvs = torch.full((len(faces), 3, 2), 0.5)
    normal = torch.tensor([0.7, 0.4, 0.9]).repeat(4, 4, 1).requires_grad_()
    textures = UVTextures(
        UVCharts.from_faces(faces, flat_uvs), [MaterialMaps(torch.full((4, 4, 3), 0.5), normal=normal)]
    )
    positions.requires_grad_()
    picture(rasterizer, positions, faces, textures, cameras.orbit(1)).sum().backward()
    assert positions.grad.isfinite().all() and normal.grad.isfinite().all()


def material(base, roughness, metallic, lights, normals, toward):
    shape = (*normals.shape[:-1], 1)
    return srgb_to_linear(
        lights.shade_physically(
            torch.full_like(normals, base), normals, toward, torch.full(shape, roughness), torch.full(shape, metallic)
        )
    )


def facing():
    """(normals, toward) (1, N, 3): the camera above, normals from head on to grazing."""
    angle = torch.linspace(0, 1.5, 50)
    normals = torch.stack([angle.sin(), 0 * angle, angle.cos()], dim=1)[None]
    return normals, torch.tensor([0.0, 0, 1]).expand_as(normals)


@pytest.mark.parametrize("roughness", [0.1, 0.4, 0.7, 1.0])
def test_an_even_environment_is_neither_lost_nor_made(roughness):
    one = torch.ones(1)
    lights = Lights(torch.tensor([[0.0, 0, 1]]), one, 0 * one)
    for metallic in (0.0, 1.0):
        seen = material(1.0, roughness, metallic, lights, *facing())
        assert seen.max() <= 1.001 and seen.min() > 0.95


def test_the_lobe_is_where_the_mirror_image_is_and_tightens_with_smoothness():
    normals, toward = facing()
    lamp = torch.tensor([[math.sin(1.0), 0, math.cos(1.0)]])  # mirrored toward the camera where the tilt is 0.5
    lights = Lights(lamp, torch.zeros(1), torch.full((1,), 0.05))
    peaks = []
    for roughness in (0.2, 0.4):
        lobe = material(0.5, roughness, 1.0, lights, normals, toward)[0, :, 0]
        assert abs(float(torch.linspace(0, 1.5, 50)[lobe.argmax()]) - 0.5) < 0.07
        peaks.append(float(lobe.max()))
    assert peaks[0] > 2 * peaks[1]


@pytest.mark.parametrize("roughness", [0.2, 0.5, 1.0])
def test_the_lobes_height_is_that_of_ggx(roughness):
    """A white metal, mirror-like: pi D = 1 / alpha^2, Smith's shadowing by Schlick with k = alpha / 2."""
    lamp = torch.tensor([[math.sin(1.0), 0, math.cos(1.0)]])
    normals, toward = torch.tensor([[[math.sin(0.5), 0, math.cos(0.5)]]]), torch.tensor([[[0.0, 0, 1]]])
    lights = Lights(lamp, torch.zeros(1), torch.full((1,), 1e-3))
    alpha, cosine = roughness**2, math.cos(0.5)
    single = cosine / alpha**2 / (4 * (cosine * (1 - alpha / 2) + alpha / 2) ** 2)
    whole = single / (1 - 0.55 * roughness)  # Karis's fit for what one bounce gives back of white
    seen = float(material(1.0, roughness, 1.0, lights, normals, toward)[0, 0, 0])
    assert seen == pytest.approx(1e-3 * whole, rel=1e-3)


def test_the_skys_light_is_its_mean_over_the_hemisphere():
    generator = torch.Generator().manual_seed(0)
    sky, normal = torch.tensor([[0.3, -0.5, 0.6]]), torch.tensor([0.6, 0.0, 0.8])
    lights = Lights(torch.tensor([[0.0, 0, 1]]), torch.full((1,), 0.3), torch.zeros(1), sky)
    directions = F.normalize(torch.randn(400_000, 3, generator=generator), dim=1)
    cosine = (directions @ normal).clamp(min=0)
    mean = 0.3 * (cosine * (1 + directions @ sky[0])).sum() / cosine.sum()
    shaded = lights.shade(torch.ones(1, 1, 3), normal.view(1, 1, 3))
    torch.testing.assert_close(srgb_to_linear(shaded)[0, 0], mean.expand(3), atol=2e-3, rtol=0)


def test_a_rough_dielectric_is_nearly_lambert():
    normals, toward = facing()
    lights = Lights(
        torch.tensor([[0.0, 0, 1]]), torch.full((1,), 0.4), torch.full((1,), 0.4), torch.tensor([[0.5, 0.0, 0.3]])
    )
    lambert = srgb_to_linear(lights.shade(torch.full_like(normals, 0.5), normals))
    assert (material(0.5, 1.0, 0.0, lights, normals, toward) - lambert).abs().max() < 0.04


def test_physical_gradients_equal_central_differences():
    generator = torch.Generator().manual_seed(0)
    views = cameras.sample(2, generator)
    lights = Lights.sample(views, generator).under_sky(generator)
    lights = Lights(*(each.double() for each in (lights.direction, lights.ambient, lights.diffuse, lights.sky)))
    normals = F.normalize(lights.direction[:, None] + torch.randn(2, 9, 3, generator=generator).double() / 3, dim=-1)
    toward = F.normalize(views.position.double(), dim=-1)[:, None].expand_as(normals)
    base, roughness, metallic = (0.1 + 0.5 * torch.rand(2, 9, c, generator=generator).double() for c in (3, 1, 1))

    def shade(normals, base, roughness, metallic):
        return lights.shade_physically(base, F.normalize(normals, dim=-1), toward, roughness, metallic)

    leaves = [each.requires_grad_() for each in (normals, base, roughness, metallic)]
    assert torch.autograd.gradcheck(shade, leaves)


def test_the_same_albedo_under_two_lights_is_found_again(rasterizer):
    """Roughness, metalness and colour from pictures under known random lights."""
    positions, faces = ball()
    charts = UVCharts.from_faces(faces, torch.zeros(len(faces), 3, 2))
    truth = torch.tensor([0.7, 0.4, 0.2]), torch.tensor([0.35]), torch.tensor([0.6])
    logits = [torch.zeros_like(each).requires_grad_() for each in truth]
    optimizer = torch.optim.Adam(logits, lr=0.1)
    generator = torch.Generator().manual_seed(0)

    def textures(values):
        maps = [each.expand(1, 1, -1) for each in values]
        return UVTextures(charts, [MaterialMaps(*maps)])

    for _ in range(120):
        views = cameras.sample(2, generator)
        lights = Lights.sample(views, generator).under_sky(generator)
        ours = picture(
            rasterizer, positions, faces, textures([each.sigmoid() for each in logits]), views, lights, size=24
        )
        loss = (ours - picture(rasterizer, positions, faces, textures(truth), views, lights, size=24)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for found, right in zip(logits, truth):
        torch.testing.assert_close(found.sigmoid().detach(), right, atol=0.03, rtol=0)


def test_normals_of_a_ball_point_outward_with_length_one():
    positions, faces = ball(4)
    torch.testing.assert_close(vertex_normals(positions, faces), F.normalize(positions, dim=1), atol=1e-2, rtol=0)
    centres = F.normalize(positions[faces.long()].mean(dim=1), dim=1)
    torch.testing.assert_close(face_normals(positions, faces), centres, atol=1e-2, rtol=0)
    assert not face_normals(positions, torch.tensor([[0, 1, 1]])).any()  # no area


def test_flat_faces_have_one_shade_each(rasterizer):
    positions, faces = ball(1)
    views = cameras.orbit(1)
    seen = picture(rasterizer, positions, faces, torch.full_like(positions, 0.5), views, size=96, flat=True)
    rast = rasterizer.rasterize(views.clip(positions).contiguous(), faces, (96, 96))[0, ..., 3]
    same = F.pad(
        (rast[1:-1, 1:-1] == rast[1:-1, :-2])
        & (rast[1:-1, 1:-1] == rast[1:-1, 2:])
        & (rast[1:-1, 1:-1] == rast[:-2, 1:-1])
        & (rast[1:-1, 1:-1] == rast[2:, 1:-1]),
        (1, 1, 1, 1),
    )
    for f in rast.unique()[1:]:
        shades = seen[0][same & (rast == f)]
        assert not len(shades) or (shades - shades[0]).abs().max() < 1e-5


def test_a_textured_turntable(rasterizer):
    positions, faces, uvs = box()
    red = torch.tensor([0.9, 0.1, 0.1]).expand(4, 4, 3)
    strip = turntable(
        rasterizer,
        positions.numpy(),
        faces.numpy(),
        UVTextures(UVCharts.from_faces(faces, uvs), [MaterialMaps(red)]),
        size=32,
    )
    assert strip.shape == (32, 256, 3) and (strip[16, 16::32, 0] > strip[16, 16::32, 1] + 100).all()


def test_cameras_keep_to_their_ranges():
    generator = torch.Generator().manual_seed(0)
    views = cameras.sample(500, generator, elevation=(10, 20), field_of_view=60, distance=(4, 5))
    assert 10 <= views.elevation.rad2deg().min() and views.elevation.rad2deg().max() <= 20.001
    assert 4 <= views.distance.min() and views.distance.max() <= 5
    torch.testing.assert_close(views.fov, torch.full((500,), math.radians(60)))


@pytest.mark.parametrize("field_of_view", [5.0, 40.0, 120.0])
def test_a_ball_fills_as_much_of_the_picture_at_any_field_of_view(rasterizer, field_of_view):
    positions, faces = ball(4)
    views = cameras.sample(2, torch.Generator().manual_seed(0), field_of_view=field_of_view)
    assert views.distance.min() > 1
    rast = rasterizer.rasterize(views.clip(positions).contiguous(), faces, (64, 64))
    share = (rast[..., 3] > 0).float().mean()
    # the half-angle of its outline, over that of the picture
    outline = (0.8 / views.distance).asin().tan() / math.tan(math.radians(field_of_view / 2))
    assert float(share) == pytest.approx(float(math.pi / 4 * outline.square().mean()), rel=0.02)
    near_sine = 1 / views.distance / math.sin(math.radians(field_of_view / 2))
    torch.testing.assert_close(near_sine, torch.full((2,), 0.975), atol=0.06, rtol=0)


def test_backgrounds_of_every_kind():
    for kind in BACKGROUNDS:
        colours = backgrounds(4, torch.Generator().manual_seed(0), kind=kind)
        assert colours.shape == (4, 3) and colours.min() >= 0 and colours.max() <= 1
        assert (colours.unique().numel() == 1) == (kind != "random")
    with pytest.raises(ValueError, match="random, white, gray, black"):
        backgrounds(4, torch.Generator(), kind="pink")
