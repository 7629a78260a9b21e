"""The toybox: a small world of procedural objects with known truth."""

from datamodules.toybox.datamodule import ToyboxData

__all__ = ["ToyboxData"]
