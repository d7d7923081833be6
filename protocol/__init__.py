"""RESP framing and encoding, and the command table as data; no I/O, no storage."""
