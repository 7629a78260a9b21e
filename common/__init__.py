"""What every package may use: errors, the cache folder, random numbers, files, pixels, means over ranks."""
