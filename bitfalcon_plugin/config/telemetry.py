"""Libraries that report their use over the network are kept from it: nothing is sent at run time."""

from __future__ import annotations

import os
import sys

# Packages that only send; the libraries that call them go on without them.
SENDERS = ("openvino_telemetry",)  # `import openvino` sends an event with it, and keeps an id in the home folder
SWITCHES = {"ORT_DISABLE_TELEMETRY": "1"}  # onnxruntime since 1.32 keeps an id in the home folder, and sends


def refuse_telemetry() -> None:
    """Keep libraries from sending in this process and those it starts. To be called before they are imported.

    A switch that the user has set stays as it is.
    """
    for name in SENDERS:
        sys.modules.setdefault(name, None)
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
