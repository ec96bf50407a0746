"""One word an operation, the same here, in `csrc` and in the tests.

Each file has the operation, which checks its arguments and calls the compiled kernel of the tensor's device, and
`reference`, the same in plain torch: what the tests compare with, and what runs where there is no kernel.
"""
