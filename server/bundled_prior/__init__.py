# SPDX-License-Identifier: GPL-3.0-or-later
"""The text-to-image prior that comes with the server: its corpus, its training and its weights.

- things and pictures: `primitives`, `shapes`, `objects`; their words: `captions`, `tokenizer`
- training: `config` (its settings), `corpus`, `vae`, `denoiser`, `fitting` (the loop), `workers`, `export`, `train`
- use: `pipeline` (the exported folder in diffusers), `model/` (the weights and their model card)
"""
