"""Steps of requests that change the pool. All of it is C functions of the engine (see change.pxd); Python has nothing to call here."""
