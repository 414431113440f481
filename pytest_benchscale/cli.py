"""The `benchscale` command."""


def main() -> int:
    """Run it."""
    return 2
