# SPDX-License-Identifier: GPL-3.0-or-later
"""MVDream's published layout, at a tiny width with random weights, beside its network written out by hand."""

import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from scripts import original_layout
from server.priors import PriorError, Views, check, load
from server.priors.families.mvdream import diffusers_names, unet_config
from server.priors.files.single_file import examine
from tests.optimize.jobs import request_of, stop_and_go_on
from tests.priors import single_files

WIDTH, CHANNELS, CONTEXT, HEAD = 32, 3, 16, 8  # published: 320, 4, 1024, 64
MULTIPLES, BLOCKS, ATTENDS = (1, 2, 4, 4), 2, (True, True, True, False)  # as published


def shapes(camera=16):
    """Name -> shape of every weight of the published U-Net."""
    found = {}

    def layer(name, *shape, bias=True):
        found[f"{name}.weight"] = shape
        if bias:
            found[f"{name}.bias"] = shape[:1]

    def residual(name, a, b):
        layer(f"{name}.in_layers.0", a)
        layer(f"{name}.in_layers.2", b, a, 3, 3)
        layer(f"{name}.emb_layers.1", b, 4 * WIDTH)
        layer(f"{name}.out_layers.0", b)
        layer(f"{name}.out_layers.3", b, b, 3, 3)
        if a != b:
            layer(f"{name}.skip_connection", b, a, 1, 1)

    def transformer(name, c):
        layer(f"{name}.norm", c)
        layer(f"{name}.proj_in", c, c)
        inner = f"{name}.transformer_blocks.0"
        for attention, width in (("attn1", c), ("attn2", CONTEXT)):
            layer(f"{inner}.{attention}.to_q", c, c, bias=False)
            for part in "kv":
                layer(f"{inner}.{attention}.to_{part}", c, width, bias=False)
            layer(f"{inner}.{attention}.to_out.0", c, c)
        layer(f"{inner}.ff.net.0.proj", 8 * c, c)
        layer(f"{inner}.ff.net.2", c, 4 * c)
        for i in (1, 2, 3):
            layer(f"{inner}.norm{i}", c)
        layer(f"{name}.proj_out", c, c)

    for name, first in (("time_embed", WIDTH), ("camera_embed", camera)):
        layer(f"{name}.0", 4 * WIDTH, first)
        layer(f"{name}.2", 4 * WIDTH, 4 * WIDTH)
    layer("input_blocks.0.0", WIDTH, CHANNELS, 3, 3)
    skips, c, block = [WIDTH], WIDTH, 1
    for level, multiple in enumerate(MULTIPLES):
        for _ in range(BLOCKS):
            residual(f"input_blocks.{block}.0", c, multiple * WIDTH)
            c = multiple * WIDTH
            if ATTENDS[level]:
                transformer(f"input_blocks.{block}.1", c)
            skips.append(c)
            block += 1
        if level + 1 < len(MULTIPLES):
            layer(f"input_blocks.{block}.0.op", c, c, 3, 3)
            skips.append(c)
            block += 1
    residual("middle_block.0", c, c)
    transformer("middle_block.1", c)
    residual("middle_block.2", c, c)
    block = 0
    for level in reversed(range(len(MULTIPLES))):
        for i in range(BLOCKS + 1):
            residual(f"output_blocks.{block}.0", c + skips.pop(), MULTIPLES[level] * WIDTH)
            c = MULTIPLES[level] * WIDTH
            if ATTENDS[level]:
                transformer(f"output_blocks.{block}.1", c)
            if level and i == BLOCKS:
                layer(f"output_blocks.{block}.{1 + ATTENDS[level]}.conv", c, c, 3, 3)
            block += 1
    layer("out.0", WIDTH)
    layer("out.2", CHANNELS, WIDTH, 3, 3)
    return found


def random_weights(camera=16):
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(shape, generator=generator) * (0.1 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5)
        + (name.endswith("weight") and len(shape) == 1)
        for name, shape in shapes(camera).items()
    }


class Published:
    """The published network, asked by the names of its weights."""

    def __init__(self, weights):
        self.weights = weights

    def linear(self, name, x):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def conv(self, name, x, stride=1):
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)

    def norm(self, name, x, eps=1e-5):
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.group_norm(x, 32, weight, bias, eps) if x.ndim == 4 else F.layer_norm(x, x.shape[-1:], weight, bias)

    def residual(self, name, x, embedding):
        h = self.conv(f"{name}.in_layers.2", F.silu(self.norm(f"{name}.in_layers.0", x)))
        h = h + self.linear(f"{name}.emb_layers.1", F.silu(embedding))[:, :, None, None]
        h = self.conv(f"{name}.out_layers.3", F.silu(self.norm(f"{name}.out_layers.0", h)))
        return h + (self.conv(f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in self.weights else x)

    def attention(self, name, x, others):
        q, k, v = self.linear(f"{name}.to_q", x), *(self.linear(f"{name}.to_{part}", others) for part in "kv")
        heads = [
            (q[..., i : i + HEAD] @ k[..., i : i + HEAD].mT * HEAD**-0.5).softmax(-1) @ v[..., i : i + HEAD]
            for i in range(0, q.shape[-1], HEAD)
        ]
        return self.linear(f"{name}.to_out.0", torch.cat(heads, -1))

    def transformer(self, name, x, text, views):
        b, c, h, w = x.shape
        tokens = self.linear(f"{name}.proj_in", self.norm(f"{name}.norm", x, 1e-6).flatten(2).mT)
        inner = f"{name}.transformer_blocks.0"
        joined = torch.stack([torch.cat(list(each)) for each in tokens.split(views)])  # all views' tokens in a row
        normed = self.norm(f"{inner}.norm1", joined)
        joined = joined + self.attention(f"{inner}.attn1", normed, normed)
        tokens = torch.cat(
            [each.chunk(views) for each in joined] and [torch.stack(each.chunk(views)) for each in joined]
        )
        tokens = tokens + self.attention(f"{inner}.attn2", self.norm(f"{inner}.norm2", tokens), text)
        value, gate = self.linear(f"{inner}.ff.net.0.proj", self.norm(f"{inner}.norm3", tokens)).chunk(2, -1)
        tokens = tokens + self.linear(f"{inner}.ff.net.2", value * F.gelu(gate))
        return x + self.linear(f"{name}.proj_out", tokens).mT.reshape(b, c, h, w)

    def block(self, name, h, embedding, text, views):
        if f"{name}.0.op.weight" in self.weights:
            return self.conv(f"{name}.0.op", h, stride=2)
        h = self.residual(f"{name}.0", h, embedding)
        if f"{name}.1.norm.weight" in self.weights:
            h = self.transformer(f"{name}.1", h, text, views)
        for up in (f"{name}.1.conv", f"{name}.2.conv"):
            if f"{up}.weight" in self.weights:
                h = self.conv(up, F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return h

    def __call__(self, x, timestep, text, cameras, views):
        angles = timestep[:, None] * torch.exp(-math.log(10000) * torch.arange(WIDTH // 2) / (WIDTH // 2))
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        embedding = sum(
            self.linear(f"{name}.2", F.silu(self.linear(f"{name}.0", each)))
            for name, each in (("time_embed", waves), ("camera_embed", cameras))
        )
        h = self.conv("input_blocks.0.0", x)
        skips = [h]
        inputs = {name.split(".")[1] for name in self.weights if name.startswith("input_blocks.")}
        for i in range(1, len(inputs)):
            h = self.block(f"input_blocks.{i}", h, embedding, text, views)
            skips.append(h)
        h = self.residual("middle_block.0", h, embedding)
        h = self.residual("middle_block.2", self.transformer("middle_block.1", h, text, views), embedding)
        for i in range(len(inputs)):
            h = self.block(f"output_blocks.{i}", torch.cat([h, skips.pop()], 1), embedding, text, views)
        return self.conv("out.2", F.silu(self.norm("out.0", h)))


def make_folder(source, path, weights):
    """A folder as the port to diffusers has it: MVDream's own U-Net beside Stable Diffusion's other parts."""
    shutil.copytree(source, path)
    shutil.rmtree(path / "unet")
    (path / "unet").mkdir()
    save_file(weights, path / "unet" / "diffusion_pytorch_model.safetensors")
    config = {
        "_class_name": "MultiViewUNetModel",
        "image_size": 8,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "model_channels": WIDTH,
        "attention_resolutions": [4, 2, 1],
        "num_res_blocks": BLOCKS,
        "channel_mult": MULTIPLES,
        "num_head_channels": HEAD,
        "transformer_depth": 1,
        "context_dim": CONTEXT,
        "camera_dim": 16,
        "ip_dim": 0,
    }
    (path / "unet" / "config.json").write_text(json.dumps(config))
    edit(path / "model_index.json", _class_name="MVDreamPipeline", unet=["mv_unet", "MultiViewUNetModel"])
    return path


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module")
def folder(folders, weights, tmp_path_factory):
    return make_folder(folders["epsilon"], tmp_path_factory.mktemp("mvdream") / "model", weights)


@pytest.fixture(scope="module")
def prior(folder):
    return load(folder)


def test_every_weight_has_one_place(weights):
    converted = diffusers_names(weights, unet_config(weights, HEAD, 8))
    assert len(converted) == len(weights)
    assert {id(value) for value in converted.values()} == {id(value) for value in weights.values()}
    unet = UNet2DConditionModel.from_config(unet_config(weights, HEAD, 8))
    assert {name: value.shape for name, value in unet.state_dict().items()} == {
        name: value.shape for name, value in converted.items()
    }
    assert converted["class_embedding.linear_1.weight"] is weights["camera_embed.0.weight"]


def test_the_published_size_is_read_off_the_shapes():
    """Stable Diffusion 2.1's, as its own config.json has it, and 16 numbers for a camera."""
    with torch.device("meta"):
        published = {
            name: torch.empty(
                [320 // WIDTH * n if n >= WIDTH else {CHANNELS: 4, CONTEXT: 1024}.get(n, n) for n in shape]
            )
            if not name.startswith("camera_embed.0.weight")
            else torch.empty(1280, 16)
            for name, shape in shapes().items()
        }
    config = unet_config(published)
    assert config["block_out_channels"] == [320, 640, 1280, 1280] and config["layers_per_block"] == 2
    assert config["attention_head_dim"] == [5, 10, 20, 20] and config["use_linear_projection"]
    assert config["down_block_types"] == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert config["up_block_types"] == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    assert (config["cross_attention_dim"], config["sample_size"], config["in_channels"]) == (1024, 32, 4)
    assert config["projection_class_embeddings_input_dim"] == 16
    first = published | {"middle_block.1.proj_in.weight": torch.empty(1280, 1280, 1, 1, device="meta")}
    assert unet_config(first)["attention_head_dim"] == [8, 8, 8, 8]  # that of Stable Diffusion 1.5


@pytest.mark.parametrize("objects", [1, 2])
def test_denoise_is_the_published_network(prior, weights, objects):
    azimuth = torch.cat([30.0 + 10.0 * i + 90.0 * torch.arange(4) for i in range(objects)])
    views = Views(azimuth, torch.full_like(azimuth, 15.0))
    x = torch.randn(len(views), *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    condition = prior.condition(views, "a red chair, side view", "ugly", 4.0)
    sigma = torch.full((len(x),), 1.7)
    scale, timestep = prior.noise.input_scale(sigma).reshape(-1, 1, 1, 1), prior.noise.timestep(sigma)
    text = prior.text_condition(["a red chair, 3d asset"], "ugly", 4.0)
    network = Published(weights)
    with torch.no_grad():
        negative, positive = (
            network(x * scale, timestep, each.expand(len(x), -1, -1), published_cameras(azimuth, 15.0), 4)
            for each in (text.negative, text.embeddings)
        )
    expected = x - sigma.reshape(-1, 1, 1, 1) * (negative + 4.0 * (positive - negative))
    torch.testing.assert_close(prior.denoise(x, sigma, condition), expected, atol=1e-4, rtol=1e-4)


def published_cameras(azimuth, elevation):
    """(B, 16) of our azimuths, by the published formula.

    It has Y up and then turns to Z up, by (x, y, z) -> (x, -z, y); its front, which 3D programs that go on from its
    pictures take for azimuth 0, is its azimuth 90.
    """
    rows = []
    for a in (azimuth + 90).deg2rad().tolist():
        e = math.radians(elevation)
        position = torch.tensor([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])
        right = F.normalize(torch.linalg.cross(-position, torch.tensor([0.0, 1.0, 0.0])), dim=0)
        columns = torch.stack([right, torch.linalg.cross(right, -position), position, position], dim=1)
        x, y, z = columns
        rows.append(torch.stack([x, -z, y, torch.tensor([0.0, 0.0, 0.0, 1.0])]).flatten())
    return torch.stack(rows)


@pytest.fixture(scope="module")
def file(folders, weights, tmp_path_factory):
    """All parts in one file, as published, and beside it the configurations of a model of unusual size."""
    return write_file(folders["epsilon"], tmp_path_factory.mktemp("file") / "sd-v2.1-base-4view.safetensors", weights)


def write_file(source, path, weights):
    parts = original_layout.parts("StableDiffusionPipeline", single_files.networks(source))
    parts["unet"] = {f"model.diffusion_model.{name}": value for name, value in weights.items()}
    sidecar = path.with_suffix(".config")
    shutil.copytree(source, sidecar, ignore=shutil.ignore_patterns("*.safetensors"))
    edit(sidecar / "unet" / "config.json", num_head_channels=HEAD, image_size=8)
    original_layout.write_list(sidecar, parts)
    save_file({name: value.contiguous() for inside in parts.values() for name, value in inside.items()}, path)
    return path


def test_one_file_is_the_same_model(file, prior):
    check(file)
    whole = load(file)
    assert type(whole) is type(prior) and whole.latent_shape == prior.latent_shape
    x = torch.randn(4, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    views = Views(90.0 * torch.arange(4), torch.full((4,), 15.0))
    one, two = (each.denoise(x, torch.ones(4), each.condition(views, "a cat", "ugly")) for each in (whole, prior))
    assert torch.equal(one, two)


def test_a_file_of_the_published_size_is_told_by_its_header(tmp_path):
    """Stable Diffusion 2.1's file with two more layers: four views of 256 pixels that predict noise."""
    cameras = {f"model.diffusion_model.camera_embed.{name}": (1280,) for name in ("0.bias", "2.bias")}
    cameras |= {"model.diffusion_model.camera_embed.0.weight": (1280, 16)}
    cameras |= {"model.diffusion_model.camera_embed.2.weight": (1280, 1280)}
    published = single_files.shipped_shapes("stable-diffusion-2") | cameras
    path = single_files.sparse(tmp_path / "published.safetensors", published)
    check(path)
    found = examine(path)
    assert (found.pipeline, found.resolution, found.contents.family) == ("MVDreamPipeline", 256, "SD 2.x")
    assert found.configuration("scheduler").get("prediction_type", "epsilon") == "epsilon"
    picture = {"model.diffusion_model.image_embed.proj_in.weight": (1024, 1280)}
    other = single_files.sparse(tmp_path / "imagedream.safetensors", published | picture)
    with pytest.raises(PriorError, match="needs a picture beside the prompt"):
        check(other)


def test_a_pickled_file_and_one_that_lacks_weights_get_a_sentence(file, folders, weights, tmp_path):
    pickled = tmp_path / "sd-v2.1-base-4view.pt"
    pickled.write_bytes(b"PK")
    less = {name: value for name, value in weights.items() if name != "camera_embed.2.weight"}
    lacking = write_file(folders["epsilon"], tmp_path / "lacking.safetensors", less)
    for path, words in ((pickled, "pickled checkpoint, which can run code"), (lacking, "lacks camera_embed.2.weight")):
        with pytest.raises(PriorError, match=words):
            load(path)


def test_it_asks_for_its_own_views(prior):
    assert prior.views_at_once == 4 and prior.elevation == (0.0, 30.0) and prior.resolution == 16


def test_a_job_runs_through_it(folder, tmp_path):
    request, mesh = request_of("msd", str(folder), device="cpu")
    stop_and_go_on(request, mesh, tmp_path)
    assert json.loads((tmp_path / "job.json").read_text())["settings"]["elevation"] == [0.0, 30.0]


def change_weights(folder, change):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def rename(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("sd-v2.1-base-4view.pt"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename, "only pickled weights, which can run code and are never read"),
        (lambda f: edit(f / "unet" / "config.json", camera_dim=12), "takes cameras of 12 numbers"),
        (lambda f: edit(f / "unet" / "config.json", ip_dim=16), "needs a picture beside the prompt"),
        (lambda f: edit(f / "unet" / "config.json", context_dim=24), "text of width 24, but its text encoder gives 16"),
        (lambda f: shutil.rmtree(f / "text_encoder"), "has no text_encoder folder"),
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("camera_embed.0.weight"), "lacks camera_embed.0.weight"),
        (lambda w: w.pop("camera_embed.2.bias"), "lacks camera_embed.2.bias"),
        (
            lambda w: w.pop("output_blocks.3.0.in_layers.2.weight"),
            "lacks 1 of its 6.. weights .up_blocks.1.resnets.0.conv1",
        ),
        (lambda w: w.pop("middle_block.1.proj_in.weight"), "lacks middle_block.1.proj_in.weight"),
        (lambda w: w.update({"out.0.bias": torch.zeros(5)}), "conv_norm_out.bias has the shape .5,., not .32,."),
        (lambda w: w.update({"camera_embed.0.weight": torch.zeros(128, 12)}), "takes cameras of 12 numbers"),
        (lambda w: w["out.0.bias"].fill_(float("inf")), "conv_norm_out.bias. are NaN or infinite"),
    ],
)
def test_wrong_weights_get_a_sentence(folder, tmp_path, change, words):
    copy = shutil.copytree(folder, tmp_path / "model")
    change_weights(copy, change)
    with pytest.raises(PriorError, match=words) as error:
        load(copy)
    assert "\n" not in str(error.value)
