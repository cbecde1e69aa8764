# SPDX-License-Identifier: GPL-3.0-or-later
"""ControlNets beside diffusers' own pipelines, tiny and with random weights; what they see; jobs; bad files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from msd_blender.protocol import FILES, JobRequest, ProtocolError
from server.guidance import create
from server.optimize import generate
from server.priors import BUNDLED_MODEL, PriorError, Selection, Views, load, load_cached
from server.priors.additions.control_files import find
from server.priors.additions.control_pictures import canny_picture, depth_picture, normal_picture
from server.rendering import rasterize
from server.rendering.cameras import orbit
from server.rendering.render import depth_and_normals
from tests.optimize.jobs import ball, short
from tests.priors.pipelines import answers_of_the_pipeline
from tests.priors.test_stable_diffusion_xl import folder as xl_folder  # noqa: F401

HINT_CHANNELS = (4, 8)  # one halving: the tiny pipelines' latents have half the pictures' edge
VIEWS = 2


def save_control(unet, path, seed, union=False):
    """A ControlNet whose last layers are random instead of zero, so that it has an effect."""
    from diffusers import ControlNetModel, ControlNetUnionModel

    torch.manual_seed(seed)
    network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=HINT_CHANNELS)
    if union:
        config = {name: value for name, value in network.config.items() if name != "mid_block_type"}
        config |= {"num_trans_channel": 8, "num_proj_channel": 8, "num_trans_head": 2, "addition_time_embed_dim": 4}
        network = ControlNetUnionModel.from_config(config)
    for weight in network.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.5)
    network.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def models(folders, xl_folder):  # noqa: F811
    return {"sd": folders["v_prediction"], "xl": xl_folder}


@pytest.fixture(scope="module")
def controls(models, tmp_path_factory):
    """Family -> name -> folder of a ControlNet."""
    root = tmp_path_factory.mktemp("control")
    return {
        family: {
            name: save_control(load(model, "cpu").unet, root / family / name, seed, name == "union")
            for seed, name in enumerate(("depth", "normal", "canny", "union"))
        }
        for family, model in models.items()
    }


@pytest.fixture(scope="module")
def views():
    mesh = ball()
    positions, faces = torch.from_numpy(0.8 * mesh.positions), torch.from_numpy(mesh.faces)
    cameras = orbit(VIEWS)
    device = torch.device("cpu")
    depth, normals = depth_and_normals(rasterize.create("cpu", device), positions, faces, cameras, 16)
    angles = cameras.azimuth.rad2deg(), cameras.elevation.rad2deg()
    return Views(*angles, depth=depth.flip(1), normals=normals.flip(1))


def compare(prior, pipeline, hints, views, **options):
    """Assert that each answer of the pipeline, as clean latents, is the prior's."""
    condition = prior.condition(views, "a cat", "ugly", 4.0)
    plain = prior.text_condition(["a cat"] * VIEWS, "ugly", 4.0)
    scheduler = pipeline.scheduler
    condition = replace(plain, hints=condition.hints)  # the pipeline's prompts have no words for a view
    given = {"control_image" if "control_mode" in options else "image": hints, "controlnet_conditioning_scale": 0.7}
    for output, timestep, noisy in answers_of_the_pipeline(pipeline, **given, **options):
        expected = scheduler.step(output, timestep, noisy).pred_original_sample
        abar = scheduler.alphas_cumprod[timestep]
        sigma = ((1 - abar) / abar).sqrt().repeat(VIEWS)
        got = prior.denoise(noisy / abar.sqrt(), sigma, condition)
        assert (got - expected).norm() <= 1e-4 * expected.norm()
        without = prior.denoise(noisy / abar.sqrt(), sigma, plain)
        assert (without - expected).norm() > 1e-3 * expected.norm()


@pytest.mark.parametrize("family", ["sd", "xl"])
@pytest.mark.parametrize("kinds", [["depth"], ["normal"], ["canny"], ["depth", "normal"]], ids="+".join)
def test_denoise_is_what_the_pipeline_computes(models, controls, views, family, kinds):
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline

    prior = load(models[family], "cpu")
    place = controls[family][kinds[0]] if len(kinds) == 1 else controls[family]["depth"].parent
    prior.add_control(find(kinds, str(place), Path("model")), 0.7)
    pipeline_class = StableDiffusionControlNetPipeline if family == "sd" else StableDiffusionXLControlNetPipeline
    networks = [ControlNetModel.from_pretrained(controls[family][kind]) for kind in kinds]
    more = {"safety_checker": None} if family == "sd" else {}
    pipeline = pipeline_class.from_pretrained(
        models[family], controlnet=networks if len(kinds) > 1 else networks[0], **more
    )
    hints = [prior.condition(views, "a cat").hints[:, i] for i in range(len(kinds))]
    scale = {"controlnet_conditioning_scale": [0.7] * len(kinds)} if len(kinds) > 1 else {}
    assert not scale or list(prior.control.networks)[0] is not list(prior.control.networks)[1]
    compare(prior, pipeline, hints if len(kinds) > 1 else hints[0], views)


@pytest.mark.parametrize("kinds", [["canny"], ["depth", "normal"]], ids="+".join)
def test_a_union_network_is_told_what_it_sees(models, controls, views, kinds):
    from diffusers import ControlNetUnionModel, StableDiffusionXLControlNetUnionPipeline

    prior = load(models["xl"], "cpu")
    prior.add_control(find(kinds, str(controls["xl"]["union"]), Path("model")), 0.7)
    pipeline = StableDiffusionXLControlNetUnionPipeline.from_pretrained(
        models["xl"], controlnet=ControlNetUnionModel.from_pretrained(controls["xl"]["union"])
    )
    hints = prior.condition(views, "a cat").hints
    numbers = [{"depth": 1, "canny": 3, "normal": 4}[kind] for kind in kinds]
    compare(prior, pipeline, [hints[:, i] for i in range(len(kinds))], views, control_mode=numbers)


def test_a_network_without_effect_changes_nothing(models, controls, views, tmp_path):
    shutil.copytree(controls["sd"]["depth"], tmp_path / "depth")
    file = next((tmp_path / "depth").glob("*.safetensors"))
    weights = load_file(file)
    save_file({name: 0 * w if "controlnet_" in name else w for name, w in weights.items()}, file)
    prior = load(models["sd"], "cpu")
    x, sigma = torch.randn(VIEWS, *prior.latent_shape), torch.full((VIEWS,), 2.0)
    before = prior.denoise(x, sigma, prior.condition(views, "a cat"))
    prior.add_control(find(["depth"], str(tmp_path / "depth"), Path("model")))
    assert torch.equal(prior.denoise(x, sigma, prior.condition(views, "a cat")), before)


@pytest.mark.parametrize("name", ["msd", "sds", "sdi", "vsd"])
def test_every_guidance_hands_the_pictures_on(models, controls, views, name):
    prior = load(models["sd"], "cpu")
    prior.add_control(find(["depth"], str(controls["sd"]["depth"]), Path("model")))
    x = torch.randn(VIEWS, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    condition = prior.condition(views, "a cat", "", 4.0)

    def target(strength):
        prior.control.strength = strength
        return create(name).step(prior, x, condition, 0.5, torch.Generator().manual_seed(4)).target

    assert not torch.allclose(target(0.0), target(1.0), rtol=1e-3)
    assert condition.without_cfg().hints is condition.hints


def test_a_single_file_is_the_folder(models, controls, views, tmp_path):
    """One that lies alone, without a config.json, as ComfyUI and A1111 keep them."""
    for family, name in (("sd", "depth"), ("xl", "normal"), ("xl", "union")):
        kind = "canny" if name == "union" else name
        alone = tmp_path / f"{family}_{name}.safetensors"
        shutil.copy(next(controls[family][name].glob("*.safetensors")), alone)
        answers = []
        for place in (controls[family][name], alone):
            prior = load(models[family], "cpu")
            prior.add_control(find([kind], str(place), Path("model")))
            x = torch.ones(VIEWS, *prior.latent_shape)
            answers.append(prior.denoise(x, torch.full((VIEWS,), 2.0), prior.condition(views, "a cat")))
        assert torch.equal(*answers)


def test_pictures_of_a_ball(views):
    depth, normals = depth_picture(views.depth), normal_picture(views.normals)
    inside = views.depth.isfinite()
    assert inside.any() and not inside.all()
    assert depth.amax() == 1 and depth[inside].amin() == 0.5 and not depth[~inside].any()
    middle = depth[:, 7:9, 7:9].mean((1, 2))
    assert (middle > 0.95).all()  # the nearest point is in the middle
    # "blue is front, red is left, green is top": of each picture, rows from the top, columns from the left
    red, green, blue = normals.unbind(1)
    assert (red[:, 8, 4] > 0.6).all() and (red[:, 8, 11] < 0.4).all()
    assert (green[:, 4, 8] > 0.6).all() and (green[:, 11, 8] < 0.4).all()
    assert (blue[:, 8, 8] > 0.95).all()
    assert torch.equal(normals.movedim(1, -1)[~inside].unique(dim=0), torch.tensor([[0.5, 0.5, 1.0]]))
    edges = canny_picture(views.depth, views.normals)
    assert set(edges.unique().tolist()) == {0, 1}
    assert edges.any() and not edges[:, 0].any()


def test_depth_and_normals_are_those_of_a_ray():
    """Of a tilted plane, whose distance along each pixel's ray is known; its back shows the side that is seen."""
    corners = torch.tensor([[-9.0, 0.3, -9.0], [9.0, 0.3, -9.0], [9.0, 0.3, 9.0], [-9.0, 0.3, 9.0]])
    corners[:, 1] += 0.2 * corners[:, 0]
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    cameras = orbit(8, 10.0)
    kept = [0, 1, 4, 5]
    rasterizer = rasterize.create("cpu", torch.device("cpu"))
    depth, normals = depth_and_normals(rasterizer, corners, faces, cameras, 8)
    origins, rays = cameras.rays(8)
    plane = torch.nn.functional.normalize(torch.tensor([-0.2, 1.0, 0.0]), dim=0)
    right, up, backward = cameras.axes()
    distance = (plane @ corners[0] - origins @ plane)[:, None, None] / (rays @ plane)
    along = distance * -(rays * backward[:, None, None]).sum(-1)
    assert depth[kept].isfinite().all()
    torch.testing.assert_close(depth[kept], along[kept], rtol=1e-4, atol=1e-4)
    assert (
        normals[kept] * torch.stack([(rays * axis[:, None, None]).sum(-1) for axis in (right, up, backward)], -1)[kept]
    ).sum(-1).amax() < 0
    world = torch.einsum("bij,bhwi->bhwj", torch.stack([right, up, backward], 1), normals)[kept]
    torch.testing.assert_close((world @ plane).abs(), torch.ones(4, 8, 8))


def run(folder, model, mode, **options):
    """The bytes of a short job's mesh."""
    request = JobRequest("a red chair", mode=mode, mesh="x", model=str(model), texture_size=64, device="cpu", **options)
    mesh = ball(colours=np.full((len(ball().positions), 3), 128, np.uint8))
    folder.mkdir()
    generate(request, folder, lambda message: None, lambda: False, short(request), mesh=mesh)
    assert set(FILES) - {"texture.png"} <= {path.name for path in folder.iterdir()}
    return (folder / "mesh.glb").read_bytes()


@pytest.mark.parametrize("family", ["sd", "xl"])
@pytest.mark.parametrize("mode", ["texture", "refine"])
def test_a_job_follows_the_mesh(models, controls, family, mode, tmp_path):
    kinds, place = ["depth", "normal", "canny"], str(controls[family]["depth"].parent)
    controlled = run(tmp_path / "1", models[family], mode, control=kinds, control_model=place)
    assert controlled != run(tmp_path / "2", models[family], mode)


def test_a_job_with_the_bundled_network(tmp_path):
    request = JobRequest("a red mushroom", mode="texture", mesh="x", control=["depth"], texture_size=64, device="cpu")
    generate(request, tmp_path, lambda message: None, lambda: False, short(request), mesh=ball())
    assert set(FILES) <= {path.name for path in tmp_path.iterdir()}
    assert json.loads((tmp_path / "job.json").read_text())["request"]["control"] == ["depth"]


def test_the_loaded_model_is_the_selections(models, controls):
    place = str(controls["sd"]["depth"])
    options = {"mode": "texture", "mesh": "x", "model": str(models["sd"]), "control_model": place}
    plain = load_cached(Selection.of(JobRequest("a cat", **options)), torch.device("cpu"))
    assert plain.control is None
    options["control"] = ["depth"]
    steered = load_cached(Selection.of(JobRequest("a cat", **options)), torch.device("cpu"))
    assert steered.control.kinds == ["depth"] and steered.control.strength == 1
    assert load_cached(Selection.of(JobRequest("a dog", **options)), torch.device("cpu")) is steered
    options["control_strength"] = 0.5
    assert load_cached(Selection.of(JobRequest("a cat", **options)), torch.device("cpu")).control.strength == 0.5


def test_mode_generate_has_no_mesh_to_follow():
    with pytest.raises(ProtocolError, match="follows a mesh"):
        JobRequest("a cat", control=["depth"]).validate()


def break_weights(change):
    def edit(folder):
        file = next(folder.glob("*.safetensors"))
        save_file(change(load_file(file)), file)

    return edit


def without(name):
    return break_weights(lambda weights: {k: w for k, w in weights.items() if not k.startswith(name)})


def truncate(folder):
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncate, "cut short"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not JSON"),
        (without("mid_block"), "lacks mid_block"),
        (break_weights(lambda w: {k: v / 0 for k, v in w.items()}), "NaN or infinite"),
        (break_weights(lambda w: {"other": torch.ones(1)}), "no ControlNet"),
        (without("controlnet_cond_embedding.conv_in"), "no ControlNet"),
        (break_weights(lambda w: {**w, "conv_in.weight": w["conv_in.weight"][:, :1].contiguous()}), "does not fit"),
        (lambda f: next(f.glob("*.safetensors")).rename(f / "x.bin"), "There is no|has no"),
        (shutil.rmtree, "There is no ControlNet"),
    ],
)
def test_a_bad_network_gets_a_sentence(models, controls, tmp_path, change, words):
    copy = shutil.copytree(controls["sd"]["depth"], tmp_path / "depth")
    change(copy)
    with pytest.raises(PriorError, match=words) as error:
        load_cached(Selection(str(models["sd"]), control=("depth",), control_model=str(copy)), torch.device("cpu"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kinds", "place", "model", "words"),
    [
        (("depth",), "xl/depth", "sd", "is for texts of width 48, but the model's have 16"),
        (("depth",), "", "sd", "brings no ControlNet"),
        (("canny",), "", "", "for depth only, not for canny"),
        (("depth", "normal"), "sd/depth", "sd", "takes one picture, but 2 are chosen"),
        (("depth",), "two", "sd", 'has 2 ControlNets with "depth"'),
        (("normal",), "two", "sd", 'has no ControlNets with "normal"'),
        (("depth",), "model/unet", "sd", "no ControlNet"),
        (("depth",), "pickle.pth", "sd", "never read"),
    ],
)
def test_a_choice_that_does_not_fit_gets_a_sentence(models, controls, tmp_path, kinds, place, model, words):
    root = controls["sd"]["depth"].parent.parent
    for name in ("depth_a", "depth_b"):
        shutil.copytree(root / "sd" / "depth", tmp_path / "two" / name)
    (tmp_path / "pickle.pth").write_bytes(b"x")
    (tmp_path / "model").symlink_to(models["sd"])
    path = next((base / place for base in (root, tmp_path) if (base / place).exists()), None) if place else ""
    with pytest.raises(PriorError, match=words) as error:
        load_cached(
            Selection(str(models[model]) if model else "", control=kinds, control_model=str(path)), torch.device("cpu")
        )
    assert "\n" not in str(error.value)


def test_a_variant_and_shards_are_read(models, controls, tmp_path):
    weights = load_file(next(controls["sd"]["depth"].glob("*.safetensors")))
    names = sorted(weights)
    folder = tmp_path / "depth"
    folder.mkdir()
    shutil.copy(controls["sd"]["depth"] / "config.json", folder)
    for i, half in enumerate((names[::2], names[1::2]), 1):
        part = {name: weights[name].half() for name in half}
        save_file(part, folder / f"diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors")
    prior = load(models["sd"], "cpu")
    prior.add_control(find(["depth"], str(folder), Path("model")))
    (network,) = prior.control.networks
    assert network.dtype == torch.float32
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(weight, weights[name], atol=1e-3, rtol=1e-3)


def test_the_bundled_network_is_small_and_for_the_bundled_model():
    file = find(["depth"], "", BUNDLED_MODEL)["depth"]
    assert sum(path.stat().st_size for path in file.place.iterdir()) <= 6e6
    prior = load(BUNDLED_MODEL, "cpu")
    prior.add_control({"depth": file})
