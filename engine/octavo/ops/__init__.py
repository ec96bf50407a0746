"""One word an operation, the same here, in `csrc` and in the tests: a reference in torch and the dispatch to compiled kernels."""
