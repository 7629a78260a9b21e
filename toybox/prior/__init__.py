"""The toybox prior: its architecture, its training, and the gates that it must pass."""
