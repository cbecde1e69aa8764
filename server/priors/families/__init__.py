# SPDX-License-Identifier: GPL-3.0-or-later
"""The families of models: how each encodes its texts and asks its network. `loading.PIPELINES` lists them."""
