# SPDX-License-Identifier: GPL-3.0-or-later
"""Tiny pipelines of diffusion transformers with random weights, as diffusers saves them, and what pipelines answer.

Their tokenizer, first text encoder and VAE are those of `conftest.folders`.
"""

import json
import shutil

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from server.optimize import generate
from server.priors import PriorError, check, load
from tests.optimize.jobs import request_of, short

WIDTH, EDGE = 16, 8  # of CLIP's texts; of the latents
T5_WIDTH, PROJECTION = 48, 8


def base(folders):
    """The tiny Stable Diffusion whose parts are shared."""
    torch.manual_seed(3)
    return StableDiffusionPipeline.from_pretrained(folders["epsilon"], safety_checker=None)


def projected(text_encoder, width):
    config = {
        **text_encoder.config.to_dict(),
        "hidden_size": width,
        "projection_dim": PROJECTION,
        "num_hidden_layers": 2,
    }
    return CLIPTextModelWithProjection(CLIPTextConfig(**config))


def t5():
    """T5 with a letter for each token, and its tokenizer."""
    letters = [(chr(c), -3.0) for c in range(ord("a"), ord("z") + 1)] + [(",", -3.0)]
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    config = T5Config(
        vocab_size=len(words),
        d_model=T5_WIDTH,
        d_kv=8,
        d_ff=WIDTH,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config), T5TokenizerFast(vocab=words, extra_ids=0)


def save_stable_diffusion_3(folders, path, with_t5=True, shift=3.0):
    small, (encoder, tokenizer) = base(folders), t5()
    StableDiffusion3Pipeline(
        vae=small.vae,
        text_encoder=projected(small.text_encoder, WIDTH),
        text_encoder_2=projected(small.text_encoder, 2 * WIDTH),
        text_encoder_3=encoder if with_t5 else None,
        tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer,
        tokenizer_3=tokenizer if with_t5 else None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        transformer=SD3Transformer2DModel(
            sample_size=EDGE,
            in_channels=3,
            out_channels=3,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=T5_WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=2 * PROJECTION,
            pos_embed_max_size=EDGE,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
    ).save_pretrained(path)
    return path


def save_flux(folders, path, dev=True):
    small, (encoder, tokenizer) = base(folders), t5()
    FluxPipeline(
        vae=small.vae,
        text_encoder=small.text_encoder,
        text_encoder_2=encoder,
        tokenizer=small.tokenizer,
        tokenizer_2=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dev),
        transformer=FluxTransformer2DModel(
            in_channels=4 * 3,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=dev,
            axes_dims_rope=(4, 2, 2),
        ),
    ).save_pretrained(path)
    return path


def save_pixart_sigma(folders, path):
    small, (encoder, tokenizer) = base(folders), t5()
    PixArtSigmaPipeline(
        vae=small.vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False),
        transformer=PixArtTransformer2DModel(
            sample_size=EDGE,
            in_channels=3,
            out_channels=2 * 3,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            cross_attention_dim=16,
            caption_channels=T5_WIDTH,
            use_additional_conditions=False,
        ),
    ).save_pretrained(path)
    return path


def answers_of_the_pipeline(pipeline, **options):
    """(guided output, timestep, noisy latents) of every step of diffusers' own pipeline, for two pictures of a cat."""
    steps, own = [], pipeline.scheduler.step

    def step(output, timestep, sample, **more):
        steps.append((output, timestep, sample))
        return own(output, timestep, sample, **more)

    pipeline.scheduler.step = step
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        ["a cat"] * 2,
        negative_prompt=["ugly"] * 2,
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **options,
    )
    pipeline.scheduler.step = own
    return steps


def save_sana(path):
    torch.manual_seed(3)
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *map(chr, range(ord("a"), ord("z") + 1)), ","]
    encoder = Gemma2Config(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    levels = {"block_types": "ResBlock", "block_out_channels": (8, 16), "layers_per_block": (1, 1)}
    levels["qkv_multiscales"] = ((), ())
    SanaPipeline(
        tokenizer=GemmaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]),
        text_encoder=Gemma2Model(encoder),
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=8,
            scaling_factor=0.4,
            **{f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in levels.items()},
        ),
        transformer=SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=WIDTH,
            sample_size=2 * EDGE,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(path)
    return path


def euler(prior, x, times, condition):
    """x_t (B, …) carried along rectified flow from times[0] down to the last, by Euler's steps with the prior's D."""
    for t, lower in zip(times, times[1:]):
        clean = prior.denoise(x / (1 - t), torch.full((len(x),), float(t / (1 - t))), condition)
        x = x + (lower - t) * (x - clean) / t
    return x


def start(prior, batch=2):
    return torch.randn(batch, *prior.latent_shape, generator=torch.Generator().manual_seed(0))


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_refused(folder, copy, change, words):
    """A copy of a whole folder gets one sentence from the check and from the loader once it is changed."""
    shutil.copytree(folder, copy)
    check(copy)
    change(copy)
    for refuse in (check, lambda path: load(path, "cpu")):
        with pytest.raises(PriorError, match=words) as error:
            refuse(copy)
        assert "\n" not in str(error.value)


def run_job(folder, output, job, **changes):
    """A whole job of few iterations; its messages."""
    request, mesh = request_of(job, str(folder), device="cpu", **changes)
    messages = []
    generate(request, output, messages.append, lambda: False, short(request), mesh=mesh)
    assert json.loads((output / "job.json").read_text())["state"] == "finished"
    return messages
