# SPDX-License-Identifier: GPL-3.0-or-later
"""What is put on a model: LoRAs, ControlNets that follow a mesh, and IP-Adapters that follow a picture."""
