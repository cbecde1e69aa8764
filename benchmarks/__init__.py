# SPDX-License-Identifier: GPL-3.0-or-later
"""Benchmarks: `make bench` runs most of them."""
