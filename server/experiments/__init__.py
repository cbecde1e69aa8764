# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements of the guidances, on densities in closed form and on pictures: ``python -m server.experiments NAME``."""
