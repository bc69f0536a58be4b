"""Racing engines: here, in fresh processes, in another environment or a container; what the machine did meanwhile."""
