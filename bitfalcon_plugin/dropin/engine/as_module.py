"""YOLO objects as torch modules: scripts ask isinstance(model, torch.nn.Module), and put them into modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class AsModule(nn.Module):
    """A torch module whose one part, `model`, is the network of a YOLO object; the base after that of the object.

    What an object has itself (train, eval, to, state_dict, ...) is the object's; other methods of torch.nn.Module
    go through the network: parameters, named_modules, apply, zero_grad, ...
    """

    __setattr__ = object.__setattr__  # an object's attributes are no parts of the module
    __delattr__ = object.__delattr__

    def _become_module(self) -> None:
        nn.Module.__init__(self)
        self.training = False

    @property
    def _modules(self) -> dict[str, nn.Module]:
        network = self.model
        return {"model": network} if isinstance(network, nn.Module) else {}

    @_modules.setter
    def _modules(self, parts: Mapping[str, Any]) -> None:
        """Take nothing: the network is the only part."""
