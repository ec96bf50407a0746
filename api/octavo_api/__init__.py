"""What the parts of Octavo say to one another, and nothing else.

Resource types, engine settings, the replica contract, the gateway's catalogue, block hashes, metric
names: the engine, the gateway and the operator import these and never each other. This package
imports no torch, opens no file and no socket; reading a model, a cluster or a port is left to them.
"""

__version__ = "0.1.0"
