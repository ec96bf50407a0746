"""The figures Octavo claims, one command a table. Every row is kept in `results/` with machine, versions and commit."""
