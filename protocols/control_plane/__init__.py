"""The control plane as pure objects: its messages, who may do what, and how jobs begin, run and end exactly once."""
