# Nothing for Python: compiled code alone uses this.
