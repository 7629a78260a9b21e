"""The toybox: a small world of procedural objects with known truth, and a diffusion prior of it."""
