"""Pages that show runs: index.html in a run folder, and one page that compares many; they open without a network."""
