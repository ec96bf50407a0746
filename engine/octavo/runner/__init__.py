"""Turns one `SchedulerOutput` into sampled tokens on one device: permanent request rows, the forward pass, the sampler."""
