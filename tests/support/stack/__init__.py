"""Files of the container stack as data, for the tests of the stack."""
