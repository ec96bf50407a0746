"""One file a model family, and the layers they share. Reading files is left to `octavo.loader`, arithmetic to `octavo.ops`."""
