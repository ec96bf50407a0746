"""The operator: reconciles `LLMDeployment` resources into replicas, as pods of a cluster or as processes of this machine. What a replica does inside is left to the engine."""
