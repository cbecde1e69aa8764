# SPDX-License-Identifier: GPL-3.0-or-later
"""The text-to-image prior that comes with the server: its corpus, its training and its weights.

`primitives`, `shapes`: the things, as signed-distance objects. `objects`: their distances and pictures. `captions`: their
words. `tokenizer`, `corpus`, `vae`, `denoiser`, `fitting`, `workers`, `export`, `train`: the training, with its settings
in `config`. `pipeline`: the exported model as a diffusers pipeline. `model/`: the weights, with their model card.
"""
