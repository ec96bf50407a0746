"""The gateway: one endpoint for all models, in front of replicas that come and go.

Which replicas there are is told by the catalogue; making them is left to the operator.
"""
