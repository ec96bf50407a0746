"""Where the gateway's catalogue comes from: a file that the local runtime writes, or the Kubernetes API.

Both keep the last known catalogue when their source is out; applying it is left to `fleet`.
"""
