"""``python -m swerex`` is ``swerex-remote``."""

from swerex.server import main

if __name__ == "__main__":
    main()
