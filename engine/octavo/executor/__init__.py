"""Runs the scheduler's steps on workers, one a device. How a step is computed is left to `octavo.runner`."""
