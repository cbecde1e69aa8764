# SPDX-License-Identifier: GPL-3.0-or-later
"""The text-to-image prior that comes with the server: its corpus, its training and its weights.

- things and pictures: `primitives`, `shapes` (by theme), `objects`; their words: `captions`, `tokenizer`
- what a picture shows, in words and numbers: `descriptions`; its objects: `scenes`; contact sheets of them: `sheets`
- training: `config` (its settings), `corpus`, `vae`, `denoiser`, `fitting` (the loop), `workers`, `export`, `train`;
  `multi_view` has the corpus of descriptions and what several views need
- use: `pipeline` (the exported folder in diffusers), `model/` (the weights and their model card)
"""
