# SPDX-License-Identifier: GPL-3.0-or-later
"""What is put on a model: LoRAs, and ControlNets that follow a mesh."""
