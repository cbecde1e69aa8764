# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights of words and long prompts, as tiny pipelines' text encoders read them."""

import pytest
import torch

from server.priors import BUNDLED_MODEL, load
from server.priors.conditions import Views
from server.priors.prompts import tokenize, view_prompts
from tests.priors.test_stable_diffusion_xl import folder as xl  # noqa: F401  a fixture

WORDS = "ab cd ef gh ij kl mn op qr st".split()
LONG = " ".join(WORDS[n % 10] for n in range(200))  # with a letter a token


@pytest.fixture(scope="module", params=["sd", "xl"])
def prior(request, folders):
    return load(request.getfixturevalue("xl") if request.param == "xl" else folders["epsilon"], "cpu")


def encoded(prior, window):
    """The hidden states and the pooled text of one window of ids, by the encoders themselves."""
    ids = torch.tensor([window])
    if not hasattr(prior, "text_encoder_2"):
        return prior.text_encoder(ids)[0], None
    first = prior.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
    second = prior.text_encoder_2(ids, output_hidden_states=True)
    return torch.cat([first, second.hidden_states[-2]], dim=-1), second[0]


def plain(prior, prompt):
    return prior.text_condition([prompt], guidance_scale=1)


def empty(prior):
    return encoded(prior, tokenize(prior.tokenizer, "", prior.tokens).ids[0])[0]


def test_a_word_moves_away_from_the_empty_text_by_its_weight(prior):
    got, expected = plain(prior, "ab (cd:1.3) [ef], front view"), plain(prior, "ab cd ef, front view")
    weights = torch.ones(1, prior.tokens, 1)
    weights[:, 3:5], weights[:, 5:7] = 1.3, 1 / 1.1  # after the start and two letters
    moved = empty(prior) + weights * (expected.embeddings - empty(prior))
    torch.testing.assert_close(got.embeddings, moved, atol=1e-6, rtol=1e-6)
    same = (weights == 1).flatten()
    assert torch.equal(got.embeddings[:, same], expected.embeddings[:, same])
    assert not torch.allclose(got.embeddings, expected.embeddings, atol=1e-3)
    assert got.pooled is expected.pooled is None or torch.equal(got.pooled, expected.pooled)


def test_a_weight_of_zero_is_the_empty_text(prior):
    torch.testing.assert_close(plain(prior, "(ab:0)").embeddings[:, 1:3], empty(prior)[:, 1:3])


@pytest.mark.parametrize("prompt", ["ab cd", "", r"ab \(cd\)", "ab (cd:1)"])
def test_without_weights_the_bits_are_the_encoders_own(prior, prompt):
    text = prompt.replace("\\", "").replace("(cd:1)", "cd")
    ids = prior.tokenizer(text, padding="max_length", max_length=prior.tokens).input_ids
    hidden, pooled = encoded(prior, ids)
    condition = plain(prior, prompt)
    if not text and pooled is not None:
        hidden, pooled = torch.zeros_like(hidden), torch.zeros_like(pooled)
    assert torch.equal(condition.embeddings, hidden)
    assert pooled is None or torch.equal(condition.pooled, pooled)


def test_each_view_of_a_long_prompt_is_a_condition_of_its_own(prior):
    views = Views(torch.tensor([*range(0, 360, 45), 0.0]), torch.tensor([*[0.0] * 8, 90.0]))
    condition = prior.condition(views, LONG, "ab", 4.0)
    assert len({tuple(each.flatten().tolist()) for each in condition.embeddings}) == 9
    windows = condition.embeddings.shape[1] // prior.tokens
    assert windows == 6 and condition.negative.shape == condition.embeddings.shape
    assert not prior.prompt_warnings(LONG)
    x = torch.randn(9, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    denoised = prior.denoise(x, torch.ones(9), condition)
    assert denoised.isfinite().all()
    torch.testing.assert_close(
        prior.denoise(x[:1], torch.ones(1), prior.text_condition([f"{LONG}, front view"], "ab", 4.0)),
        denoised[:1],
        atol=1e-5,
        rtol=1e-5,
    )


def test_windows_are_encoded_one_by_one_and_the_last_has_the_view(prior):
    (text,) = view_prompts(LONG, 90, 0)
    tokens = tokenize(prior.tokenizer, text, prior.tokens, prior.windows)
    assert not tokens.cut
    assert prior.tokenizer.decode(tokens.ids[-1], skip_special_tokens=True).replace(" ", "").endswith("rightsideview")
    expected = torch.cat([encoded(prior, window)[0] for window in tokens.ids], dim=1)
    condition = plain(prior, text)
    assert torch.equal(condition.embeddings, expected)
    (one,) = tokenize(prior.tokenizer, text, prior.tokens).ids  # with the view, and without the end of the prompt
    pooled = encoded(prior, one)[1]
    assert condition.pooled is pooled is None or torch.equal(condition.pooled, pooled)


def test_the_shorter_of_prompt_and_negative_prompt_is_followed_by_the_empty_text(prior):
    condition = prior.text_condition([LONG, "ab"], "cd", 4.0)
    filling = prior.text_condition([""], guidance_scale=1).embeddings
    rest = condition.embeddings.shape[1] - prior.tokens
    for short, text in ((condition.embeddings[1:], "ab"), (condition.negative[:1], "cd")):
        assert torch.equal(short[:, : prior.tokens], plain(prior, text).embeddings)
        assert torch.equal(short[:, prior.tokens :], filling.repeat(1, rest // prior.tokens, 1))
    longer = prior.text_condition(["ab"], LONG, 4.0)
    assert torch.equal(longer.negative, condition.embeddings[:1])


def test_the_words_that_eight_windows_have_no_room_for_are_said(prior):
    (warning,) = prior.prompt_warnings("ab " * 330)
    assert "reads 600 tokens, the view's words among them" in warning
    views = Views(torch.arange(0, 360, 45.0), torch.zeros(8))
    condition = prior.condition(views, "ab " * 330, guidance_scale=1)
    assert len({tuple(each.flatten().tolist()) for each in condition.embeddings}) == 8


def test_the_bundled_models_one_window_stays():
    prior = load(BUNDLED_MODEL, "cpu")
    assert prior.windows == 1 and plain(prior, "a red chair " * 30).embeddings.shape[1] == prior.tokens
    assert not prior.prompt_warnings("a (red:1.3) chair")
