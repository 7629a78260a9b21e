"""What the stages look at."""
