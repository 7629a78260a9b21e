"""Measures of quality: what a run has made, held against the true world and the prior's own samples."""
