"""``python -m scatflow`` is the command ``scatflow``."""

from scatflow.cli import main

if __name__ == "__main__":
    main()
