# SPDX-License-Identifier: GPL-3.0-or-later
import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from server.bundled_prior import captions, corpus, denoiser, pipeline, shapes, tokenizer, train
from server.bundled_prior.config import TrainConfig
from server.bundled_prior.vae import build_vae, whiten

TINY = TrainConfig(
    images=48,
    vae_steps=3,
    steps=3,
    batch=4,
    vae_batch=4,
    channels=(32, 32),
    hidden=32,
    vae_channels=(8, 8, 8),
    workers=1,
    sheet=(),
)


def _tiny(folder):
    return dataclasses.replace(TINY, work=folder, output=folder / "model")


def _assert_same(one, two):
    # Some CPU kernels round by the memory's alignment, which differs from run to run; a lost optimizer state or a
    # shifted seed shows as differences of a step's size, 6e-4.
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        if not key.startswith("optimizer."):
            assert torch.allclose(tensor, two[key], rtol=0, atol=1e-4), key


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = dataclasses.replace(_tiny(tmp_path_factory.mktemp("prior")), sheet=("red",))
    train.train(config)
    return config


@pytest.mark.slow
def test_a_run_exports_a_pipeline_that_draws(finished):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(finished.output, local_files_only=True, dtype=torch.float32)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    picture = pipe(["a red mushroom"], num_inference_steps=2, output_type="np").images
    assert picture.shape == (1, 64, 64, 3) and np.isfinite(picture).all()
    assert (finished.work / "sheet.png").exists()
    assert (finished.output / "words.json").read_bytes() == (pipeline.MODEL / "words.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("halt", [1, 2])
def test_an_interrupted_run_ends_in_the_same_state(finished, tmp_path, halt):
    config = _tiny(tmp_path)
    train.train(config, halt=halt)  # stops inside the VAE stage
    assert not config.output.exists()
    train.train(config)
    for name in ("vae.safetensors", "denoiser.safetensors"):
        _assert_same(load_file(finished.work / name), load_file(tmp_path / name))


@pytest.mark.slow
def test_an_exported_model_is_trained_further(finished, tmp_path):
    from diffusers import StableDiffusionPipeline

    config = dataclasses.replace(_tiny(tmp_path), start=finished.output, steps=1, rate=1e-6)
    train.train(config)
    before, after = (
        StableDiffusionPipeline.from_pretrained(r.output, local_files_only=True, dtype=torch.float32)
        for r in (finished, config)
    )
    _assert_same(before.vae.state_dict(), after.vae.state_dict())
    _assert_same(before.unet.state_dict(), after.unet.state_dict())  # one step of a tiny rate away
    assert after.vae.config.scaling_factor == 1
    assert str(tmp_path.parent) not in (config.output / "vae" / "config.json").read_text()


def test_words_that_a_model_knows_keep_their_meaning(tmp_path, monkeypatch):
    new = tokenizer.build_tokenizer(tmp_path / "new")
    known = [word for word in captions.vocabulary() if word.isalpha()][::2]
    monkeypatch.setattr(tokenizer, "vocabulary", lambda: known)
    old = tokenizer.build_tokenizer(tmp_path / "old")
    before, after = (denoiser.build_denoiser(TINY, each)["text_encoder"] for each in (old, new))
    denoiser.transfer_text_encoder(before, old, after, new)
    text = " ".join(known[:8])
    with torch.no_grad():
        one, two = (
            encoder(torch.tensor([each(text, padding="max_length").input_ids]))[0]
            for encoder, each in ((before, old), (after, new))
        )
    assert torch.equal(one, two)


@pytest.mark.slow
def test_two_workers_share_the_batch(tmp_path):
    config = dataclasses.replace(_tiny(tmp_path), workers=2, vae_steps=1, steps=1)
    train.train(config)
    alone = dataclasses.replace(config, work=tmp_path / "alone", output=tmp_path / "alone" / "model", workers=1)
    train.train(alone)
    shared, single = (load_file(r.work / "denoiser.safetensors") for r in (config, alone))
    assert shared.keys() == single.keys()
    assert all(tensor.isfinite().all() for tensor in shared.values())
    assert any(not torch.equal(shared[k], single[k]) for k in shared)  # each worker draws its own samples


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_a_card_trains_too(tmp_path):
    from diffusers import StableDiffusionPipeline

    config = dataclasses.replace(_tiny(tmp_path), device="cuda", bfloat16=True)
    train.train(config, halt=1)
    train.train(config)
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "denoiser.safetensors").values())
    StableDiffusionPipeline.from_pretrained(config.output, local_files_only=True)


def test_every_caption_word_is_one_token_and_unknown_words_survive(tmp_path):
    words = tokenizer.build_tokenizer(tmp_path)
    assert words.get_vocab() == tokenizer.build_tokenizer(tmp_path / "again").get_vocab()
    for word in filter(str.isalpha, captions.vocabulary()):
        assert len(words(word).input_ids) == 3, word
    assert words("A Red MUSHROOM").input_ids == words("a red mushroom").input_ids
    letters = words.tokenize("zebra œ7!")
    assert "".join(letters).startswith("zebra</w>") and words.unk_token not in letters
    long = words("a photorealistic ornamental candelabra", max_length=tokenizer.TOKENS, truncation=True)
    assert len(long.input_ids) == tokenizer.TOKENS


def test_whitening_moves_the_latents_and_leaves_the_pictures():
    torch.manual_seed(0)
    model = build_vae(TINY)
    x = torch.rand(6, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = model.encode(x).latent_dist.mean
        picture = model.decode(before).sample
        latents = whiten(model, before)
        after = model.encode(x).latent_dist.mean
        assert torch.allclose(after, latents, atol=1e-3)
        assert torch.allclose(model.decode(after).sample, picture, atol=1e-3)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3
    assert latents.square().mean().item() == pytest.approx(1, abs=1e-2)
    spread = [torch.linalg.eigvalsh(torch.cov(z.movedim(1, -1).reshape(-1, 4).T)) for z in (before, latents)]
    assert spread[1][-1] / spread[1][0] < spread[0][-1] / spread[0][0]


def test_captions_are_dropped_at_the_set_rate():
    labels = np.zeros((4000, 4), np.uint8)
    empty = sum(c == "" for c in corpus.draw_captions(labels, TINY, 0))
    assert 0.10 < empty / 4000 < 0.14


def test_the_shipped_model_carries_its_words():
    """Where this fails after a change of the captions, the model does not know the new words: train it anew."""
    words = json.loads((pipeline.MODEL / "words.json").read_text(encoding="utf-8"))
    assert (words["things"], words["words"]) == (list(shapes.NOUNS), captions.vocabulary())
    assert len(words["examples"]) == len(shapes.NOUNS)


def test_shipped_model_loads_and_is_small():
    from diffusers import StableDiffusionPipeline

    if not (pipeline.MODEL / "model_index.json").exists():
        pytest.skip("server/bundled_prior/model has not been trained yet; run python -m server.bundled_prior.train")
    assert sum(f.stat().st_size for f in pipeline.MODEL.rglob("*") if f.is_file()) <= 16e6
    pipe = StableDiffusionPipeline.from_pretrained(pipeline.MODEL, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    picture = pipe(
        "a red sphere, front view", num_inference_steps=8, guidance_scale=4.0, output_type="np", generator=generator
    ).images[0]
    red, green, blue = picture[24:40, 24:40].reshape(-1, 3).mean(0)
    assert red > 1.5 * max(green, blue)
