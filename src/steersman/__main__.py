"""``python -m steersman`` is the command ``steersman``."""

from steersman.cli.main import main

if __name__ == "__main__":
    main()
