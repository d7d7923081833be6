"""The memory pool: fabric, pages, index, policy and store; no RESP, no transports."""
