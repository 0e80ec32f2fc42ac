"""What stands below databases and services on this machine: supervised processes and their start."""
