# SPDX-License-Identifier: GPL-3.0-or-later
"""The guidances measured: on densities with known truth, and on pictures. ``python -m server.experiments NAME``."""
