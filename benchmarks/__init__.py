"""Speed of the parts, against what they need at least or against a reference; quality is measured in `evaluation`."""
