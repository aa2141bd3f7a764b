"""``python -m scatflow.cli``."""

from scatflow.cli import main

if __name__ == "__main__":
    main()
