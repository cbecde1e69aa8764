# SPDX-License-Identifier: GPL-3.0-or-later
"""Multi-view priors on tiny folders with random weights."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.embeddings import TimestepEmbedding
from safetensors.torch import load_file, save_file

from msd_blender.protocol import JobRequest
from server.guidance import create
from server.optimize import Settings
from server.priors import PriorError, Views, check, load
from server.priors.base import MultiViewPrior
from server.priors.conditions import MultiViewCondition, views_at_once
from server.priors.families.multi_view import JointAttention, camera_to_world
from server.rendering import cameras
from tests.optimize.jobs import request_of, stop_and_go_on

VIEWS = 4


def make_folder(source, path, seed=5, **settings):
    """A copy of a folder with a multiview.json and random weights for cameras, beside the U-Net."""
    shutil.copytree(source, path)
    (path / "multiview.json").write_text(json.dumps({"views": VIEWS, **settings}))
    torch.manual_seed(seed)
    embedding = TimestepEmbedding(16, load(source).unet.time_embedding.linear_2.out_features)
    save_file(embedding.state_dict(), path / "camera_embedding.safetensors")
    return path


@pytest.fixture(scope="module")
def folder(folders, tmp_path_factory):
    return make_folder(folders["v_prediction"], tmp_path_factory.mktemp("multi") / "model", view_words=True)


@pytest.fixture(scope="module")
def prior(folder):
    return load(folder)


@pytest.fixture(scope="module")
def inside(folder, tmp_path_factory):
    """The same model with the cameras' projection in the U-Net, as its class embedding."""
    path = shutil.copytree(folder, tmp_path_factory.mktemp("inside") / "model")
    config = json.loads((path / "unet" / "config.json").read_text())
    config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
    (path / "unet" / "config.json").write_text(json.dumps(config))
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    cameras = load_file(path / "camera_embedding.safetensors")
    save_file(load_file(weights) | {f"class_embedding.{name}": value for name, value in cameras.items()}, weights)
    (path / "camera_embedding.safetensors").unlink()
    return path


def latents(prior, batch=VIEWS, seed=0):
    return torch.randn(batch, *prior.latent_shape, generator=torch.Generator().manual_seed(seed))


def around(start=20.0, elevation=15.0, objects=1):
    """Views of objects, four of each at right angles."""
    azimuth = torch.cat([start + 7.0 * i + 90.0 * torch.arange(VIEWS) for i in range(objects)])
    return Views(azimuth, torch.full_like(azimuth, elevation))


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def concatenated(unet, objects):
    """The U-Net with joint attention written out: tokens of an object's views are put side by side, one by one."""

    def attend(attn):
        def forward(hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
            asked = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            if encoder_hidden_states is None:
                rows = hidden_states.chunk(objects)
                hidden = [torch.cat(list(views), dim=0) for views in rows]
                asked = [torch.cat(list(views), dim=0) for views in rows]
            else:
                hidden, asked = list(hidden_states), list(encoder_hidden_states)
            answers = []
            for tokens, others in zip(hidden, asked):
                q, k, v = attn.to_q(tokens), attn.to_k(others), attn.to_v(others)
                width = q.shape[-1] // attn.heads
                parts = []
                for head in range(attn.heads):
                    each = slice(head * width, (head + 1) * width)
                    weights = (q[:, each] @ k[:, each].T / width**0.5).softmax(dim=-1)
                    parts.append(weights @ v[:, each])
                answers.append(attn.to_out[0](torch.cat(parts, dim=-1)))
            return torch.cat(answers).reshape(hidden_states.shape)

        return forward

    for module in unet.modules():
        if type(module).__name__ == "Attention":
            module.forward = attend(module)
    return unet


@pytest.mark.parametrize("objects", [1, 2])
def test_joint_attention_is_that_over_the_views_tokens_side_by_side(prior, folder, objects):
    """And classifier-free guidance mixes neither its two branches nor two objects."""
    x, views = latents(prior, VIEWS * objects), around(objects=objects)
    condition = prior.condition(views, "a red chair", "ugly", 4.0)
    sigma = torch.full((len(x),), 1.3)
    scale = prior.noise.input_scale(sigma).reshape(-1, 1, 1, 1)
    unet = concatenated(UNet2DConditionModel.from_pretrained(folder / "unet"), objects)
    unet.class_embedding = TimestepEmbedding(16, unet.time_embedding.linear_2.out_features)
    unet.class_embedding.load_state_dict(load_file(folder / "camera_embedding.safetensors"))
    matrices = torch.stack([matrix(a, e) for a, e in zip(views.azimuth.tolist(), views.elevation.tolist())])
    with torch.no_grad():
        negative, positive = (
            unet(x * scale, prior.noise.timestep(sigma), text, class_labels=matrices.flatten(1)).sample
            for text in (condition.negative, condition.embeddings)
        )
    expected = prior.noise.denoised(negative + 4.0 * (positive - negative), x, sigma)
    torch.testing.assert_close(prior.denoise(x, sigma, condition), expected, atol=1e-5, rtol=1e-5)


def matrix(azimuth, elevation):
    """The camera's own matrix in the renderer, seen from distance 1 and the other way round."""
    angles = (torch.tensor([angle]).deg2rad() for angle in (azimuth, elevation))
    return cameras.Cameras(*angles, torch.ones(1), torch.ones(1)).view()[0].inverse()


def test_cameras_are_matrices_from_camera_to_world():
    """Front, right side, and from above; our front stands at -Y, MVDream's at +X."""
    views = Views(torch.tensor([0.0, 90.0, 0.0]), torch.tensor([0.0, 0.0, 30.0]))
    front, right, above = camera_to_world(views).view(-1, 4, 4)
    torch.testing.assert_close(front[:3, 3], torch.tensor([0.0, -1.0, 0.0]))
    torch.testing.assert_close(front[:3, 0], torch.tensor([1.0, 0.0, 0.0]))  # its right is +X
    torch.testing.assert_close(right[:3, 3], torch.tensor([1.0, 0.0, 0.0]))
    assert above[2, 3] == pytest.approx(0.5) and above[2, 1] > 0  # it stands higher, and its up is up
    turned = camera_to_world(views, front=90.0).view(-1, 4, 4)
    torch.testing.assert_close(turned[0, :3, 3], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(turned[1, :3, 3], torch.tensor([0.0, 1.0, 0.0]))
    for azimuth, elevation in ((0.0, 0.0), (37.0, 25.0), (250.0, -40.0)):
        got = camera_to_world(Views(torch.tensor([azimuth]), torch.tensor([elevation])))
        torch.testing.assert_close(got.view(4, 4), matrix(azimuth, elevation), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(got.view(4, 4), published_matrix(azimuth, elevation), atol=1e-6, rtol=1e-6)


def published_matrix(azimuth, elevation):
    """MVDream's camera at an azimuth of its own: Y up with azimuth 0 at +Z, looking along -Z, then turned to Z up."""
    a, e = torch.tensor([azimuth]).deg2rad(), torch.tensor([elevation]).deg2rad()
    position = torch.cat([e.cos() * a.sin(), e.sin(), e.cos() * a.cos()])
    right = torch.nn.functional.normalize(torch.linalg.cross(-position, torch.tensor([0.0, 1.0, 0.0])), dim=0)
    result = torch.eye(4)
    result[:3] = torch.stack([right, torch.linalg.cross(right, -position), position, position], dim=1)
    return torch.stack([result[0], -result[2], result[1], result[3]])


def test_pictures_without_cameras_are_those_of_the_plain_model_to_the_bit(prior, folder, folders, inside):
    plain, x = load(folders["v_prediction"]), latents(prior)
    sigma = torch.tensor([0.1, 1.0, 3.0, 9.0])
    for model in (prior, load(inside)):
        for condition in (None, plain.text_condition(["a cat"], "ugly", 5.0)):
            assert torch.equal(model.denoise(x, sigma, condition), plain.denoise(x, sigma, condition))
    assert torch.equal(prior.denoise(x[:1], sigma[:1]), plain.denoise(x[:1], sigma[:1]))
    stock = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    stock.set_progress_bar_config(disable=True)
    single = StableDiffusionPipeline.from_pretrained(folders["v_prediction"], safety_checker=None)
    single.set_progress_bar_config(disable=True)
    draw = {"num_inference_steps": 2, "output_type": "np", "prompt": "a cat"}
    first, second = (pipe(**draw, generator=torch.Generator().manual_seed(0)).images.copy() for pipe in (stock, single))
    assert (first == second).all()
    needs_cameras = StableDiffusionPipeline.from_pretrained(inside, safety_checker=None, local_files_only=True)
    with pytest.raises(ValueError, match="class_labels should be provided"):
        needs_cameras(**draw)


def test_one_view_at_once_is_the_plain_network_with_cameras(folders, tmp_path):
    path = make_folder(folders["epsilon"], tmp_path / "model", views=1)
    prior = load(path)
    x, sigma = latents(prior), torch.ones(VIEWS)
    condition = prior.condition(around(), "a cat", guidance_scale=1)
    processor = prior.unet.attn_processors
    together = prior.denoise(x, sigma, condition)
    assert all(isinstance(each, JointAttention) for each in processor.values())
    prior.unet.set_attn_processor(AttnProcessor2_0())
    prior._inputs = lambda text: {"class_labels": text.cameras}
    assert torch.equal(prior.denoise(x, sigma, condition), together)


def test_both_layouts_are_one_model(prior, inside):
    x, sigma, views = latents(prior), torch.full((VIEWS,), 0.8), around()
    other = load(inside)
    assert isinstance(other, MultiViewPrior) and not isinstance(load(), MultiViewPrior)
    expected = prior.denoise(x, sigma, prior.condition(views, "a cat"))
    assert torch.equal(other.denoise(x, sigma, other.condition(views, "a cat")), expected)


def test_views_may_come_in_any_order_and_see_each_other(prior):
    x, views, order = latents(prior), around(), torch.tensor([2, 0, 3, 1])
    sigma = torch.full((VIEWS,), 0.8)
    clean = prior.denoise(x, sigma, prior.condition(views, "a cat"))
    turned = Views(views.azimuth[order], views.elevation[order])
    again = prior.denoise(x[order], sigma, prior.condition(turned, "a cat"))
    torch.testing.assert_close(again, clean[order], atol=1e-5, rtol=1e-5)
    unmoved = prior.denoise(x[order], sigma, prior.condition(views, "a cat"))
    assert (unmoved - clean[order]).abs().max() > 1e-4  # the cameras matter
    x[1] += 1
    assert (prior.denoise(x, sigma, prior.condition(views, "a cat"))[0] - clean[0]).abs().max() > 1e-5


def test_prompts_have_the_words_and_the_end_that_the_model_was_trained_with(folders, prior, tmp_path):
    texts = prior._view_texts(around(0.0), "a cat, side view", "ugly", torch.tensor([True] * VIEWS))
    assert texts[0] == [f"a cat, {side} view" for side in ("front", "right side", "back", "left side")]
    assert texts[1] == ["a cat, overhead view, ugly"] * VIEWS
    plain = load(make_folder(folders["epsilon"], tmp_path / "plain", suffix=", 3d asset"))
    assert plain._view_texts(around(), "a cat, side view", "ugly", torch.tensor([True] * VIEWS)) == (
        ["a cat, 3d asset"],
        ["ugly"],
    )
    own = ["a dog", *["a cat"] * 3]  # the first of a group stands near a placed camera
    assert prior._view_texts(around(0.0), own, "ugly", torch.tensor([True] * VIEWS)) == (
        ["a dog, front view", *texts[0][1:]],
        ["a dog, overhead view, ugly", *texts[1][1:]],
    )
    assert plain._view_texts(around(), own, "ugly", None) == (
        ["a dog, 3d asset", *["a cat, 3d asset"] * 3],
        ["ugly"] * VIEWS,
    )
    fits = "w" * 55  # with a view's words, and 75 tokens at most
    assert not prior.prompt_warnings(fits) and plain.prompt_warnings(fits)


def test_a_prompt_without_view_words_has_their_room(folders, prior, tmp_path):
    plain = load(make_folder(folders["epsilon"], tmp_path / "plain"))
    room = next(n for n in range(800) if prior.prompt_warnings("w" * n))  # too long with the longest view
    assert not plain.prompt_warnings("w" * room)
    (warning,) = plain.prompt_warnings("w" * 800)
    assert "shorten the prompt" in warning and "view's words" not in warning


@pytest.mark.parametrize("name", ["msd", "sds", "sdi", "vsd"])
def test_every_guidance_works_on_groups_of_views(prior, name):
    x, condition = latents(prior, 2 * VIEWS), prior.condition(around(objects=2), "a cat", "ugly", 4.0)
    assert views_at_once(condition) == views_at_once(condition.without_cfg()) == VIEWS
    assert torch.equal(condition.without_cfg().cameras, condition.cameras)
    guide = create(name, **({} if name == "msd" else {"anneal": False}))
    step = guide.step(prior, x, condition, 0.5, torch.Generator().manual_seed(4))
    assert step.target.isfinite().all() and step.gradient.any()
    first, second = step.sigma.chunk(2)
    assert (first == first[0]).all() and (second == second[0]).all()  # one object, one noise level
    assert name == "msd" or first[0] != second[0]


def test_a_student_keeps_the_cameras(prior):
    x, sigma, condition = latents(prior), torch.ones(VIEWS), prior.condition(around(), "a cat", "ugly", 4.0)
    student = prior.student()
    before = student.denoise(x, sigma, condition)
    assert torch.equal(before, prior.denoise(x, sigma, condition.without_cfg()))
    student.denoise(x, sigma, condition).square().sum().backward()
    assert all(weight.grad is not None for weight in student.parameters())


@pytest.mark.parametrize("together", [1, 4])
def test_cameras_are_drawn_at_right_angles(together):
    drawn = cameras.sample(8, torch.Generator().manual_seed(3), elevation=(0, 30), together=together)
    azimuth, *others = (each.view(-1, together) for each in (drawn.azimuth, drawn.elevation, drawn.distance, drawn.fov))
    turns = (azimuth - azimuth[:, :1]).rad2deg()
    torch.testing.assert_close(turns, (360.0 / together * torch.arange(together)).expand_as(turns))
    for each in others:
        assert (each == each[:, :1]).all()
    assert len(drawn.elevation.unique()) == len(drawn.distance.unique()) == 8 // together
    assert 0 <= drawn.elevation.min() and drawn.elevation.rad2deg().max() <= 30


@pytest.mark.parametrize("job", ["msd", "vsd", "texture with maps", "refine, locked"])
def test_a_job_runs_through_it(folder, tmp_path, job):
    request, mesh = request_of(job, str(folder), device="cpu")
    stop_and_go_on(request, mesh, tmp_path)
    record = json.loads((tmp_path / "job.json").read_text())
    assert (record["settings"]["views"], record["settings"]["views_at_once"]) == (4, 4)


@pytest.mark.parametrize("words", [True, False])
def test_a_job_with_a_prompt_of_a_camera_runs_through_it(folders, tmp_path, words):
    place = make_folder(folders["v_prediction"], tmp_path / "model", view_words=words)
    prior, cameras = load(place), ["-90,10:a blue door", "90,10"]
    condition = prior.condition(around(), ["a dog", *["a cat"] * 3], "ugly", 4.0)
    different = prior.condition(around(), "a cat", "ugly", 4.0)
    answers = [prior.denoise(latents(prior), torch.ones(VIEWS), each) for each in (condition, different)]
    assert (answers[0] - answers[1])[0].abs().max() > 1e-4
    request, mesh = request_of("texture with maps", str(place), device="cpu", cameras=cameras)
    (tmp_path / "out").mkdir()
    stop_and_go_on(request, mesh, tmp_path / "out")


def test_a_job_takes_whole_groups_from_the_models_own_elevations(folders, tmp_path):
    prior = load(make_folder(folders["epsilon"], tmp_path / "model", elevation=[0, 30]))
    request = JobRequest("a cat", device="cpu")
    for halvings in (0, 1, 2):
        settings = Settings.of(request, halvings).suiting(prior)
        assert (settings.views, settings.views_at_once, settings.elevation) == (4, 4, (0.0, 30.0))
    own = Settings.of(JobRequest("a cat", device="cpu", elevation=[10, 20])).suiting(prior)
    assert own.elevation == (10.0, 20.0)


def test_too_few_views_get_a_sentence(prior):
    sigma = torch.ones(3)
    condition = prior.condition(Views(torch.zeros(3), torch.zeros(3)), "a cat")
    with pytest.raises(PriorError, match="a multiple of 4 latents and a camera each, not 3 latents and 3 cameras"):
        prior.denoise(latents(prior, 3), sigma, condition)
    alike = MultiViewCondition(**vars(prior.text_condition(["a cat"])), cameras=torch.ones(4, 16), views_at_once=4)
    with pytest.raises(PriorError, match="not 8 latents and 4 cameras"):
        prior.denoise(latents(prior, 8), torch.ones(8), alike)


def change_weights(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "multiview.json").write_text("{}"), "says no number of views"),
        (lambda f: edit(f / "multiview.json", views=0), "says no number of views"),
        (lambda f: edit(f / "multiview.json", elevation=[30, 0]), "elevation in .* is .30, 0."),
        (lambda f: edit(f / "multiview.json", front="north"), "front is a number of degrees"),
        (lambda f: (f / "multiview.json").write_text("four"), "is not JSON"),
        (lambda f: (f / "camera_embedding.safetensors").unlink(), "nothing that takes cameras"),
        (lambda f: (f / "camera_embedding.safetensors").write_bytes(b"x"), "damaged|cut short"),
        (
            lambda f: (f / "camera_embedding.safetensors").rename(f / "camera_embedding.pt"),
            "nothing that takes cameras: it needs camera_embedding.safetensors",
        ),
        (
            lambda f: change_weights(f / "camera_embedding.safetensors", lambda w: w.pop("linear_1.weight")),
            "lacks linear_1.weight",
        ),
        (
            lambda f: change_weights(
                f / "camera_embedding.safetensors", lambda w: w.update({"linear_1.weight": torch.zeros(32, 12)})
            ),
            "takes cameras of 12 numbers",
        ),
        (lambda f: edit(f / "unet" / "config.json", class_embed_type="timestep"), "class_embed_type is timestep"),
        (
            lambda f: edit(
                f / "unet" / "config.json", class_embed_type="projection", projection_class_embeddings_input_dim=12
            ),
            "takes cameras of 12 numbers",
        ),
        (lambda f: edit(f / "model_index.json", _class_name="StableDiffusionXLPipeline"), "XLPipeline with multiview"),
        (lambda f: shutil.rmtree(f / "vae"), "has no vae folder"),
    ],
)
def test_a_wrong_folder_gets_a_sentence(folder, tmp_path, change, words):
    copy = shutil.copytree(folder, tmp_path / "model")
    check(copy)
    change(copy)
    for refuse in (check, load):
        with pytest.raises(PriorError, match=words) as error:
            refuse(copy)
        assert "\n" not in str(error.value)


def test_cameras_weights_that_are_no_numbers_stop_the_load(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "model")
    change_weights(copy / "camera_embedding.safetensors", lambda w: w["linear_2.bias"].fill_(float("nan")))
    with pytest.raises(PriorError, match="camera_embedding.safetensors are NaN"):
        load(copy)
