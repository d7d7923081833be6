class LookupProtection:
    """Which blocks are kept because somebody was just told that they are there."""
