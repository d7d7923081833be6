"""Steps of requests that change nothing. All of it is C functions of the engine (see lookup.pxd); Python has nothing to call here."""
