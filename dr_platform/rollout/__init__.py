"""How a service gets from what runs to what should run: records, decisions, and the loop that acts."""
