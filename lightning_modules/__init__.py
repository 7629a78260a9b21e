"""The stages as Lightning modules, what they have in common, and the commands `vsd` and `dream`."""
