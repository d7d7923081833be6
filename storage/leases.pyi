class Leases:
    """Bytes leased in one pool, by the term in which their leases end."""
