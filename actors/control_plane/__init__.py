"""The half of the control plane that touches the world: ZeroMQ, processes, keys on disk. Start reading at `broker` and `agent`.

Not responsible for what messages mean and who may do what: that is `holloway.protocols.control_plane`.
"""
