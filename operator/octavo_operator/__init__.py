"""The operator: reconciles `LLMDeployment` resources into replicas, as pods of a cluster or as processes of this machine.

What a replica does inside is left to the engine, which replica gets a request to the gateway.
"""
