"""Which store tests run over verbs in every guest run; under emulation the whole suite takes minutes."""

# They touch every kind of request, count each operation, and collide.
IN_EVERY_RUN = ("test_counts", "test_collisions", "test_stored_bytes")
