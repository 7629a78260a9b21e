"""python -m gallery FOLDER... [--out FOLDER]."""

from gallery.command import main

if __name__ == "__main__":
    main()
