"""`dockyard cp`: what is copied where, and trees as tars in both directions."""
