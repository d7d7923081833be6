"""Scans: what walks through the index of one node; compiled callers only (see scans.pxd)."""
